// attend_combine: folds the partial results of a token's segments in their order, as attend does for an item of several segments.
//
// Grid: x = heads, y = tokens that were split.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "attend.glsl"

void main() {
  if (gl_WorkGroupID.y >= step_groups[p.group].num_combines) return;
  const CombineItem item = CombineItems(step_groups[p.group].combines).at[gl_WorkGroupID.y];
  const uint head = gl_WorkGroupID.x;
  for (uint e = gl_LocalInvocationID.x; e < p.v_dim; e += gl_WorkGroupSize.x) {
    float running_max = uintBitsToFloat(0xFF800000u), sum = 0.0, value = 0.0;
    for (uint i = 0; i < item.count; ++i) {
      ReadFloat partial = ReadFloat(p.partials + (uint64_t(item.first + i) * p.heads + head) * p.partial_stride * 4);
      const vec2 weights = fold_weights(running_max, partial.at[p.v_row]);
      sum = fold(sum, partial.at[p.v_row + 1], weights);
      value = fold(value, partial.at[e], weights);
    }
    write_at(p.y, item.token, p.y_stride).at[head * p.v_dim + e] = value * last_weight(running_max, sum, head);
  }
}
