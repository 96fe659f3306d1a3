// expert_linear: y [T, k, N] = x [T, K] or [T, k, K] times the experts that each token chose, or with weights [T, k] y [T, N] = their
// weighted sum, in the order of the choices.
//
// Grid: x = panels of an expert, y = tokens, or tokens * choices without weights. Each choice reads its expert's rows anew: bound by the
// weights, so this is for few tokens.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "dot.glsl"

layout(set = 0, binding = 0, std140) uniform Launch {
  ExpertParams p;
  WeightPart pieces[max_pieces];
};

void main() {
  const uint token = p.weights != 0 ? gl_WorkGroupID.y : gl_WorkGroupID.y / p.choices;
  const uint first = p.weights != 0 ? 0 : gl_WorkGroupID.y % p.choices;
  const uint last = p.weights != 0 ? p.choices : first + 1;
  if (token >= step.num_tokens) return;
  ReadInt experts = ReadInt(p.experts + uint64_t(token) * p.expert_stride * 4);
  float totals[num_sums];
  [[unroll]] for (uint i = 0; i < num_sums; ++i) totals[i] = 0.0;
  for (uint choice = first; choice < last; ++choice) {
    const uint expert = min(uint(max(experts.at[choice], 0)), p.num_experts - 1);
    RowSet set[sets];
    set[0].part = pieces[0];
    for (uint n = 1; n < max_pieces; ++n)
      if (n == expert / p.piece_experts) set[0].part = pieces[n];
    set[0].panel = expert % p.piece_experts * p.expert_panels + gl_WorkGroupID.x;
    Column x[num_columns];
    x[0] = p.x + (uint64_t(token) * p.x_stride + choice * p.x_expert_stride) * 4;
    float sums[num_sums];
    [[unroll]] for (uint i = 0; i < num_sums; ++i) sums[i] = 0.0;
    add_blocks(set, x, p.columns, p.blocks, 0, p.blocks, sums);
    [[unroll]] for (uint r = 0; r < num_rows; ++r) {
      const uint row = gl_WorkGroupID.x * panel_rows + row_lane() + r * row_lanes;
      float value = sums[r];
      if (p.bias != 0 && row < p.rows) value += ReadFloat(p.bias).at[expert * p.rows + row];
      if (p.weights != 0) totals[r] = fma(read_at(p.weights, token, p.weight_stride).at[choice], value, totals[r]);
      else totals[r] = value;
    }
  }
  WriteFloat y = write_at(p.y, token, p.y_stride);
  [[unroll]] for (uint r = 0; r < num_rows; ++r) {
    const uint row = gl_WorkGroupID.x * panel_rows + row_lane() + r * row_lanes;
    if (row < p.rows) y.at[first * p.rows + row] = totals[r];
  }
}
