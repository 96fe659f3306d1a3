// glu: y = act(a) * b. Grid: x = columns / invocations, y = rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "math.glsl"

layout(set = 0, binding = 0, std140) uniform Launch { ElementParams p; };

void main() {
  const uint row = gl_WorkGroupID.y;
  if (row >= row_count(p.count)) return;
  ReadFloat in_a = read_at(p.a, row, p.a_stride);
  ReadFloat in_b = read_at(p.b, p.b_shared != 0 ? 0 : row, p.b_stride);
  WriteFloat out_y = write_at(p.y, row, p.y_stride);
  for (uint i = gl_GlobalInvocationID.x; i < p.columns; i += gl_NumWorkGroups.x * gl_WorkGroupSize.x) {
    const float a = in_a.at[i], b = in_b.at[p.b_scalar != 0 ? 0 : i];
    out_y.at[i] = activate(a, p.activation) * b;
  }
}
