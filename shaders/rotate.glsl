// Rotation of two neighbouring elements of a head and storing of a cache row: what rope, kv_store and their fusion share. An
// invocation has elements 2 i and 2 i + 1, so that it owns whole words of the cache.
#include "math.glsl"

layout(constant_id = 2) const uint kv_format = 1; // 0 float32, 1 binary16, 2 bfloat16

layout(set = 0, binding = 0, std140) uniform Launch { RopeParams p; };

// Element e of a head after rotation at a position.
float rotated(ReadFloat head, uint e, uint position) {
  const float own = head.at[e];
  if (e >= p.rotary_dim) return own;
  const uint half_dim = p.rotary_dim / 2;
  const bool halves = p.kind == rope_half;
  const uint pair = halves ? e % half_dim : e / 2;
  const bool second = halves ? e >= half_dim : (e & 1u) != 0;
  const float other = head.at[halves ? (second ? e - half_dim : e + half_dim) : e ^ 1u];
  // turns = position * frequency modulo one, exact to 2^-32
  const uvec2 frequency = ReadUint2(p.frequencies).at[pair];
  uint carry, unused;
  umulExtended(frequency.x, position, carry, unused);
  const vec2 angle = cos_sin_of_turn(frequency.y * position + carry) * p.magnitude;
  return second ? fma(other, angle.y, own * angle.x) : fma(other, -angle.y, own * angle.x);
}

// Address of a token's row of the layer's cache: [block, kv_head, token in block, row].
uint64_t cache_row(uint table_start, uint position, uint head, uint offset, uint row) {
  const uint slot = position & ((1u << p.block_shift) - 1u);
  const uint64_t block = ReadAddress(step_groups[p.group].addresses).at[table_start + (position >> p.block_shift)];
  return block + offset + uint64_t((head << p.block_shift | slot) * row * (kv_format == 0 ? 4u : 2u));
}

void store_pair(uint64_t row, uint i, float first, float second) {
  if (kv_format == 0) {
    WriteFloat(row).at[2 * i] = first;
    WriteFloat(row).at[2 * i + 1] = second;
  } else {
    WriteUint(row).at[i] = kv_format == 1 ? half_of(first) | half_of(second) << 16 : bfloat_of(first) | bfloat_of(second) << 16;
  }
}

// Invocation i of a token: two elements of k, rotated, or of v; pads are zero.
void store_kv(uint i, uint token, TokenInfo info) {
  const uint table_start = ReadUint(step.table_start).at[info.sequence];
  const uint k_pairs = p.k_row / 2, v_pairs = p.v_row / 2;
  if (i < p.kv_heads * k_pairs) {
    const uint h = i / k_pairs, e = i % k_pairs * 2;
    ReadFloat head = ReadFloat(p.k + (uint64_t(token) * p.k_stride + h * p.dim) * 4);
    const float first = e < p.dim ? rotated(head, e, info.position) : 0.0;
    const float second = e + 1 < p.dim ? rotated(head, e + 1, info.position) : 0.0;
    store_pair(cache_row(table_start, info.position, h, p.k_offset, p.k_row), e / 2, first, second);
    if (p.k_out != 0) {
      WriteFloat result = WriteFloat(p.k_out + (uint64_t(token) * p.k_out_stride + h * p.dim) * 4);
      if (e < p.dim) result.at[e] = first;
      if (e + 1 < p.dim) result.at[e + 1] = second;
    }
    return;
  }
  i -= p.kv_heads * k_pairs;
  if (i < p.kv_heads * v_pairs) {
    const uint h = i / v_pairs, e = i % v_pairs * 2;
    ReadFloat head = ReadFloat(p.v + (uint64_t(token) * p.v_stride + h * p.v_dim) * 4);
    const float first = e < p.v_dim ? head.at[e] : 0.0, second = e + 1 < p.v_dim ? head.at[e + 1] : 0.0;
    store_pair(cache_row(table_start, info.position, h, p.v_offset, p.v_row), e / 2, first, second);
  }
}
