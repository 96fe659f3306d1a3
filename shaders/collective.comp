// collective: y = x, as one device is one rank. Grid: x = columns / invocations, y = rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(set = 0, binding = 0, std140) uniform Launch { ElementParams p; };

void main() {
  const uint row = gl_WorkGroupID.y;
  if (row >= row_count(p.count)) return;
  ReadFloat in_a = read_at(p.a, row, p.a_stride);
  WriteFloat out_y = write_at(p.y, row, p.y_stride);
  for (uint i = gl_GlobalInvocationID.x; i < p.columns; i += gl_NumWorkGroups.x * gl_WorkGroupSize.x)
    out_y.at[i] = in_a.at[i];
}
