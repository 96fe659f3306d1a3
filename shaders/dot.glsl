// Rows of weights times columns of activations: each lane keeps the sums of its own rows.
//
// A workgroup is row_lanes invocations over the rows of a panel times `splits` over the K-partition. Invocation l of a set (a panel of
// a part) has the rows l, l + row_lanes, ... of it. Order of summation of a (row, column), on which bit-for-bit independence of batch
// and chunking rests: within a segment of K from the first element to the last by fused multiply-adds into one sum, then over the
// segments in order. Neither the number of columns nor of rows a lane has any part in it.
#include "weights.glsl"

layout(constant_id = 2) const uint row_lanes = 32; // divides panel_rows
layout(constant_id = 3) const uint sets = 1;       // panels a workgroup
layout(constant_id = 4) const uint cols = 1;       // columns of activations a workgroup
layout(constant_id = 5) const uint splits = 1;     // segments side by side; 1 = one after the other
layout(constant_id = 6) const uint broadcast = 1;  // 1: a lane loads one element of x and hands it to the others; needs splits = 1

const uint set_rows = panel_rows / row_lanes;
const uint num_rows = sets * set_rows;
const uint num_sums = num_rows * cols;
const uint hand = lanes < 8 ? lanes : 8;
const uint x_registers = 8 / hand;
const uint num_held = cols * x_registers;

// Of each set: where its rows lie. index: panel * blocks, panel * super-blocks.
struct RowSet {
  WeightPart part;
  uint panel; // of the part
};

uint row_lane() { return gl_LocalInvocationID.x % row_lanes; }

// Adds blocks [first, last) to sums; first is at a super-block's start.
void add_blocks(RowSet set[sets], uint64_t x[cols], uint columns, uint blocks, uint first, uint last,
                inout float sums[num_sums]) {
  const uint supers = (blocks + super_blocks - 1) / super_blocks;
  const uint lane = gl_SubgroupInvocationID % hand;
  for (uint block0 = first; block0 < last; block0 += super_blocks) {
    Aux aux[num_rows];
    [[unroll]] for (uint r = 0; r < num_rows; ++r)
      aux[r] = load_aux(set[r / set_rows].part, set[r / set_rows].panel * supers + block0 / super_blocks,
                        row_lane() + r % set_rows * row_lanes);
    for (uint s = 0; s < super_blocks && block0 + s < last; ++s) {
      const uint block = block0 + s;
      Scale scale[num_rows];
#ifndef FORMAT_WIDE
      Quants quants[num_rows];
#endif
      [[unroll]] for (uint r = 0; r < num_rows; ++r) {
        scale[r] = scale_of(aux[r], s);
#ifndef FORMAT_WIDE
        quants[r] = load_quants(set[r / set_rows].part, set[r / set_rows].panel * blocks + block,
                                row_lane() + r % set_rows * row_lanes);
#endif
      }
      // Not unrolled: on a CPU device the code of a loop has to fit its caches, and each load is many blocks of it.
      [[dont_unroll]] for (uint u = 0; u < 4; ++u) {
        const uint k = block * block_columns + 8 * u;
        float held[num_held];
        if (broadcast == 1) {
          [[unroll]] for (uint c = 0; c < cols; ++c)
            [[unroll]] for (uint i = 0; i < x_registers; ++i) {
              const uint own = k + i * hand + lane;
              const float value = ReadFloat(x[c]).at[min(own, columns - 1)];
              held[c * x_registers + i] = own < columns ? value : 0.0;
            }
        }
        Octet octet[num_rows];
        [[unroll]] for (uint r = 0; r < num_rows; ++r)
#ifdef FORMAT_WIDE
          octet[r] = load_octet(set[r / set_rows].part, set[r / set_rows].panel * blocks + block,
                                row_lane() + r % set_rows * row_lanes, u);
#else
          octet[r] = octet_of(quants[r], scale[r], u);
#endif
        [[unroll]] for (uint j = 0; j < 8; ++j) {
          float w[num_rows];
          [[unroll]] for (uint r = 0; r < num_rows; ++r) w[r] = unpack(octet[r], scale[r], j);
          [[unroll]] for (uint c = 0; c < cols; ++c) {
            float value;
            if (broadcast == 1) {
              value = subgroupShuffle(held[c * x_registers + j / hand], j % hand);
            } else {
              value = ReadFloat(x[c]).at[min(k + j, columns - 1)];
              value = k + j < columns ? value : 0.0;
            }
            [[unroll]] for (uint r = 0; r < num_rows; ++r) sums[r * cols + c] = fma(w[r], value, sums[r * cols + c]);
          }
        }
      }
    }
  }
}
