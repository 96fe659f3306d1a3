// linear: y [rows, sum N] = softcap(scale * act(x [rows, K] W^T + bias)) (+ residual), or act(gate) * up of two parts (glu).
//
// Grid: x = columns of activations / cols, y = sets of panels. Bytes it must move: the weights once for every `cols` rows of x, x and
// y. Bound by the weights for few rows, by the multiply-adds for many.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "math.glsl"
#include "dot.glsl"

layout(set = 0, binding = 0, std140) uniform Launch {
  LinearParams p;
  WeightPart parts[max_parts];
};
layout(constant_id = 7) const uint shared_floats = 1;

shared float partial[shared_floats]; // [splits, sums, row_lanes]

float finish(float sum, WeightPart part, uint row, uint activation) {
  if (part.bias != 0) sum += ReadFloat(part.bias).at[row];
  return activate(sum, activation);
}

void main() {
  const uint count = row_count(p.count);
  if (count == 0) return;
  RowSet set[sets];
  [[unroll]] for (uint i = 0; i < sets; ++i) {
    // With glu the two sets are the same panel of part 0 and of part 1; without, there is one set.
    const uint panel = gl_WorkGroupID.y;
    uint part = p.glu != 0 ? i : 0;
    if (p.glu == 0)
      for (uint n = 1; n < p.num_parts; ++n) part = panel >= parts[n].first_panel ? n : part;
    set[i].part = parts[part];
    set[i].panel = p.glu != 0 ? panel : panel - parts[part].first_panel;
  }
  const uint column0 = gl_WorkGroupID.x * cols;
  Column x[num_columns];
  find_columns(p.x, p.x_stride, column0, count, x);

  float totals[num_sums];
  [[unroll]] for (uint i = 0; i < num_sums; ++i) totals[i] = 0.0;
  if (splits == 1) {
    for (uint first = 0; first < p.blocks; first += p.segment_blocks) {
      float sums[num_sums];
      [[unroll]] for (uint i = 0; i < num_sums; ++i) sums[i] = 0.0;
      add_blocks(set, x, p.columns, p.blocks, first, min(first + p.segment_blocks, p.blocks), sums);
      [[unroll]] for (uint i = 0; i < num_sums; ++i) totals[i] += sums[i];
    }
  } else {
    const uint split = gl_LocalInvocationID.x / row_lanes;
    const uint first = split * p.segment_blocks;
    float sums[num_sums];
    [[unroll]] for (uint i = 0; i < num_sums; ++i) sums[i] = 0.0;
    if (first < p.blocks) add_blocks(set, x, p.columns, p.blocks, first, min(first + p.segment_blocks, p.blocks), sums);
    [[unroll]] for (uint i = 0; i < num_sums; ++i)
      partial[(split * num_sums + i) * row_lanes + row_lane()] = sums[i];
    barrier();
    if (split != 0) return;
    [[unroll]] for (uint i = 0; i < num_sums; ++i)
      for (uint n = 0; n < splits && n * p.segment_blocks < p.blocks; ++n)
        totals[i] += partial[(n * num_sums + i) * row_lanes + row_lane()];
  }

  // One sum after the other, always in the first place: to store them from where they are would be as many stores of code.
  const uint stored = p.glu != 0 ? num_sums / sets : num_sums;
  [[dont_unroll]] for (uint i = 0; i < stored; ++i) {
    const uint column = column0 + i % cols, r = i / cols;
    const uint row = set[0].panel * panel_rows + row_lane() + r * row_lanes;
    if (row < set[0].part.rows && column < count) {
      float value;
      if (p.glu != 0) {
        value = finish(totals[0], set[0].part, row, p.glu - 1) * finish(totals[num_sums / 2], set[sets - 1].part, row, act_none);
      } else {
        value = finish(totals[0], set[0].part, row, p.activation) * p.scale;
        if (p.softcap != 0.0) value = p.softcap * tanh_of(value / p.softcap);
      }
      const uint out_column = p.glu != 0 ? row : set[0].part.out_column + row;
      if (p.residual != 0) value += read_at(p.residual, column, p.residual_stride).at[out_column];
      write_at(p.y, column, p.y_stride).at[out_column] = value;
    }
    [[unroll]] for (uint n = 0; n + 1 < num_sums; ++n) totals[n] = totals[n + 1];
  }
}
