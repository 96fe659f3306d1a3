// Rows of weights times columns of activations: each lane keeps the sums of its own rows.
//
// A workgroup is row_lanes invocations over the rows of a panel times `splits` over the K-partition. Invocation l of a set (a panel of
// a part) has the rows l, l + row_lanes, ... of it. Order of summation of a (row, column), on which bit-for-bit independence of batch
// and chunking rests: within a segment of K from the first element to the last by fused multiply-adds into one sum, then over the
// segments in order. Neither the number of columns nor of rows a lane has any part in it.
//
// TEXELS is for CPU devices: weights and activations come through texel views (weights.glsl), and broadcast is 1.
#include "weights.glsl"

layout(constant_id = 2) const uint row_lanes = 32; // divides panel_rows
layout(constant_id = 3) const uint sets = 1;       // panels a workgroup
layout(constant_id = 4) const uint cols = 1;       // columns of activations a workgroup
layout(constant_id = 5) const uint splits = 1;     // segments side by side; 1 = one after the other
layout(constant_id = 6) const uint broadcast = 1;  // 1: a lane loads a part of x and hands it to the others; needs splits = 1

const uint set_rows = panel_rows / row_lanes;
const uint num_rows = sets * set_rows;
const uint num_sums = num_rows * cols;
const uint hand = lanes < 8 ? lanes : 8; // lanes that hand parts of x around

#ifdef TEXELS
// An octet is two texels of each column. Texel t of column c is slot t * cols + c; a lane fetches one slot in `hand`. As many octets
// are fetched at once as the lanes have slots for.
layout(set = 1, binding = 0) uniform usamplerBuffer inputs4;
const uint octet_slots = 2 * cols;
const uint group_octets = hand <= octet_slots ? 1 : hand / octet_slots >= 4 ? 4 : hand / octet_slots;
const uint num_held = hand <= octet_slots ? octet_slots / hand : 1;
#define Held uvec4
#define Column uint // first texel of the column that a lane fetches from
const uint num_columns = num_held;
#else
const uint x_registers = 8 / hand;
const uint group_octets = 1;
const uint num_held = cols * x_registers;
#define Held float
#define Column uint64_t // address
const uint num_columns = cols;
#endif

// Of each set: where its rows lie. index: panel * blocks, panel * super-blocks.
struct RowSet {
  WeightPart part;
  uint panel; // of the part
};

uint row_lane() { return gl_LocalInvocationID.x % row_lanes; }

// Columns [first, first + cols) of `count`; what is beyond is the last one again.
void find_columns(uint64_t base, uint stride, uint first, uint count, out Column x[num_columns]) {
  [[unroll]] for (uint i = 0; i < num_columns; ++i) {
#ifdef TEXELS
    const uint column = first + (i * hand + gl_SubgroupInvocationID % hand) % cols;
    x[i] = uint(base >> 4) + min(column, count - 1) * (stride / 4);
#else
    x[i] = base + uint64_t(min(first + i, count - 1)) * stride * 4;
#endif
  }
}

// What the lane holds of octets [u, u + group_octets) of a block.
void hold(Column x[num_columns], uint columns, uint block, uint u, out Held held[num_held]) {
  const uint lane = gl_SubgroupInvocationID % hand;
#ifdef TEXELS
  [[unroll]] for (uint i = 0; i < num_held; ++i) {
    const uint texel = block * (block_columns / 4) + 2 * u + (i * hand + lane) / cols % (2 * group_octets);
    held[i] = texelFetch(inputs4, int(x[i] + texel));
#if FORMAT <= BF16 // rows of other formats are whole blocks
    [[unroll]] for (uint n = 0; n < 4; ++n) held[i][n] = texel * 4 + n < columns ? held[i][n] : 0;
#endif
  }
#else
  if (broadcast == 1) {
    [[unroll]] for (uint c = 0; c < cols; ++c)
      [[unroll]] for (uint i = 0; i < x_registers; ++i) {
        const uint own = block * block_columns + 8 * u + i * hand + lane;
        const float value = ReadFloat(x[c]).at[min(own, columns - 1)];
        held[c * x_registers + i] = own < columns ? value : 0.0;
      }
  }
#endif
}

// Element 8 (u + o) + j of a block, of column c.
float held_value(Held held[num_held], Column x[num_columns], uint columns, uint block, uint u, uint o, uint c, uint j) {
#ifdef TEXELS
  const uint slot = (2 * o + j / 4) * cols + c;
  return uintBitsToFloat(subgroupShuffle(held[slot / hand][j % 4], slot % hand));
#else
  if (broadcast == 1) return subgroupShuffle(held[c * x_registers + j / hand], j % hand);
  const uint k = block * block_columns + 8 * u + j;
  const float value = ReadFloat(x[c]).at[min(k, columns - 1)];
  return k < columns ? value : 0.0;
#endif
}

// Adds blocks [first, last) to sums; first is at a super-block's start.
void add_blocks(RowSet set[sets], Column x[num_columns], uint columns, uint blocks, uint first, uint last,
                inout float sums[num_sums]) {
  const uint supers = (blocks + super_blocks - 1) / super_blocks;
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
      // Not unrolled: on a CPU device the code of a loop has to fit its caches, and each load is long.
      [[dont_unroll]] for (uint u = 0; u < 4; u += group_octets) {
        Held held[num_held];
        hold(x, columns, block, u, held);
        [[unroll]] for (uint o = 0; o < group_octets; ++o) {
          Octet octet[num_rows];
          [[unroll]] for (uint r = 0; r < num_rows; ++r)
#ifdef FORMAT_WIDE
            octet[r] = load_octet(set[r / set_rows].part, set[r / set_rows].panel * blocks + block,
                                  row_lane() + r % set_rows * row_lanes, u + o);
#else
            octet[r] = octet_of(quants[r], scale[r], u + o);
#endif
          [[unroll]] for (uint j = 0; j < 8; ++j) {
            float w[num_rows];
            [[unroll]] for (uint r = 0; r < num_rows; ++r) w[r] = unpack(octet[r], scale[r], j);
            [[unroll]] for (uint c = 0; c < cols; ++c) {
              const float value = held_value(held, x, columns, block, u, o, c, j);
              [[unroll]] for (uint r = 0; r < num_rows; ++r) sums[r * cols + c] = fma(w[r], value, sums[r * cols + c]);
            }
          }
        }
      }
    }
  }
}
