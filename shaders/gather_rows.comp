// gather_rows: y [R, ...] = the rows of x [T, ...] that the step asks for. Grid: x = columns / invocations, y = rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(set = 0, binding = 0, std140) uniform Launch { ElementParams p; };

void main() {
  const uint row = gl_WorkGroupID.y;
  if (row >= step.num_rows) return;
  const uint token = ReadUint(step.rows).at[row];
  ReadUint x = ReadUint(p.a + uint64_t(token) * p.a_stride * 4);
  WriteUint y = WriteUint(p.y + uint64_t(row) * p.y_stride * 4);
  for (uint i = gl_GlobalInvocationID.x; i < p.columns; i += gl_NumWorkGroups.x * gl_WorkGroupSize.x) y.at[i] = x.at[i];
}
