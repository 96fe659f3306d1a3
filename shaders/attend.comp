// attend: y [T, heads, v_dim] = causal attention of q [T, heads, dim] over the paged cache, a subgroup an item of the work list and a
// tile of heads that share a KV head.
//
// Scores: a lane a context token; values: a lane a pair of dimensions. Order of summation, the same for decode and prefill whatever
// shares the item: dimensions in order; an online softmax over tiles of max(16, lanes) absolute positions, a lane its own tokens of
// them, until the end of a segment of segment_tokens positions; there lanes by a fixed tree; then segments in order (attend.glsl). A
// tile in which a query sees nothing changes nothing: its weights are exactly 0, its correction exactly 1.
//
// Grid: x = KV heads * head tiles, y = items.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "attend.glsl"

layout(constant_id = 2) const uint kv_format = 1;  // 0 float32, 1 binary16, 2 bfloat16
layout(constant_id = 3) const uint tile_tokens = 1; // query tokens an item
layout(constant_id = 4) const uint tile_heads = 1;
layout(constant_id = 5) const uint v_quads = 1; // of v's dimensions a lane, four each
layout(constant_id = 6) const uint tiled = 0;   // which work list

const uint queries = tile_tokens * tile_heads;
const uint context_tiles = lanes < 16 ? 16 / lanes : 1;
const uint tile = context_tiles * lanes;
const uint hand = lanes < 8 ? lanes : 8;
const uint x_registers = 8 / hand;
const uint num_scores = queries * context_tiles;
const uint num_values = queries * v_quads;
const uint num_held = queries * x_registers;
#define minus_infinity uintBitsToFloat(0xFF800000u)

// Elements 4 i to 4 i + 3 of a cache row.
vec4 cache_quad(uint64_t row, uint i) {
  if (kv_format == 0) return uintBitsToFloat(ReadUint4(row).at[i]);
  const uint64_t words = ReadAddress(row).at[i];
  const uint low = uint(words), high = uint(words >> 32);
  if (kv_format == 1) return vec4(unpackHalf2x16(low), unpackHalf2x16(high));
  return uintBitsToFloat(uvec4(low << 16, low & 0xFFFF0000u, high << 16, high & 0xFFFF0000u));
}

void main() {
  if (gl_WorkGroupID.y >= (tiled != 0 ? step_groups[p.group].num_tile_items : step_groups[p.group].num_items)) return;
  const AttendItem item =
      AttendItems(tiled != 0 ? step_groups[p.group].tile_items : step_groups[p.group].items).at[gl_WorkGroupID.y];
  const uint kv_head = gl_WorkGroupID.x / p.head_tiles, group_heads = p.heads / p.kv_heads;
  const uint head0 = gl_WorkGroupID.x % p.head_tiles * tile_heads; // within the KV head's
  const uint lane = gl_SubgroupInvocationID;
  const uint element_bytes = kv_format == 0 ? 4 : 2;
  const uint last_position = item.position + item.tokens - 1;
  const uint first_seen = item.window != 0 && item.position + 1 > item.window ? item.position + 1 - item.window : 0;
  ReadAddress blocks = ReadAddress(step_groups[p.group].addresses);
  uint64_t q[queries];
  [[unroll]] for (uint v = 0; v < queries; ++v) {
    const uint token = item.token + min(v / tile_heads, item.tokens - 1);
    const uint head = kv_head * group_heads + min(head0 + v % tile_heads, group_heads - 1);
    q[v] = p.q + (uint64_t(token) * p.q_stride + head * p.dim) * 4;
  }

  float all_max[queries], all_sum[queries];
  vec4 all_values[num_values];
  [[unroll]] for (uint v = 0; v < queries; ++v) {
    all_max[v] = minus_infinity;
    all_sum[v] = 0.0;
  }
  [[unroll]] for (uint i = 0; i < num_values; ++i) all_values[i] = vec4(0.0);

  for (uint segment = item.segment_begin; segment < item.segment_end; ++segment) {
    float seg_max[queries], seg_sum[queries];
    vec4 values[num_values];
    [[unroll]] for (uint v = 0; v < queries; ++v) {
      seg_max[v] = minus_infinity;
      seg_sum[v] = 0.0;
    }
    [[unroll]] for (uint i = 0; i < num_values; ++i) values[i] = vec4(0.0);
    const uint end = min((segment + 1) * segment_tokens, last_position + 1);
    for (uint tile0 = max(segment * segment_tokens, first_seen / tile * tile); tile0 < end; tile0 += tile) {
      // A lane's tokens; those out of sight stand at one that is in sight, and count for nothing.
      uint64_t rows[context_tiles]; // their blocks
      uint slots[context_tiles];
      float scores[num_scores];
      [[unroll]] for (uint i = 0; i < num_scores; ++i) scores[i] = 0.0;
      [[unroll]] for (uint n = 0; n < context_tiles; ++n) {
        const uint position = clamp(tile0 + n * lanes + lane, first_seen, last_position);
        slots[n] = kv_head << p.block_shift | (position & ((1u << p.block_shift) - 1u));
        rows[n] = blocks.at[item.table_start + (position >> p.block_shift)];
      }
      for (uint d = 0; d < p.k_row; d += 8) {
        float held[num_held];
        [[unroll]] for (uint v = 0; v < queries; ++v)
          [[unroll]] for (uint i = 0; i < x_registers; ++i) {
            const uint own = d + i * hand + lane % hand;
            const float value = ReadFloat(q[v]).at[min(own, p.dim - 1)];
            held[v * x_registers + i] = own < p.dim ? value : 0.0;
          }
        [[unroll]] for (uint n = 0; n < context_tiles; ++n) {
          const uint64_t row = rows[n] + p.k_offset + uint64_t(slots[n] * p.k_row + d) * element_bytes;
          [[unroll]] for (uint j = 0; j < 2; ++j) {
            const vec4 k = cache_quad(row, j);
            [[unroll]] for (uint v = 0; v < queries; ++v)
              [[unroll]] for (uint i = 0; i < 4; ++i) {
                const float own = subgroupShuffle(held[v * x_registers + (4 * j + i) / hand], (4 * j + i) % hand);
                scores[v * context_tiles + n] = fma(own, k[i], scores[v * context_tiles + n]);
              }
          }
        }
      }
      [[unroll]] for (uint v = 0; v < queries; ++v) {
        const uint position = item.position + min(v / tile_heads, item.tokens - 1);
        float tile_max = minus_infinity;
        [[unroll]] for (uint n = 0; n < context_tiles; ++n) {
          const uint seen = tile0 + n * lanes + lane;
          float score = scores[v * context_tiles + n] * p.scale;
          if (p.softcap != 0.0) score = p.softcap * tanh_of(score / p.softcap);
          score = seen <= position && (item.window == 0 || seen + item.window > position) ? score : minus_infinity;
          scores[v * context_tiles + n] = score;
          tile_max = max(tile_max, score);
        }
        tile_max = max(seg_max[v], lanes_max(tile_max));
        const float correction = tile_max == seg_max[v] ? 1.0 : exp_of(seg_max[v] - tile_max);
        seg_max[v] = tile_max;
        float tile_sum = 0.0;
        [[unroll]] for (uint n = 0; n < context_tiles; ++n) {
          const float score = scores[v * context_tiles + n];
          const float weight = score == minus_infinity ? 0.0 : exp_of(score - tile_max);
          scores[v * context_tiles + n] = weight;
          tile_sum += weight;
        }
        seg_sum[v] = fma(seg_sum[v], correction, tile_sum);
        [[unroll]] for (uint w = 0; w < v_quads; ++w) values[v * v_quads + w] *= correction;
      }
      // The weights of the next tile take the place of those that are done: one piece of code serves all tiles.
      [[dont_unroll]] for (uint n = 0; n < context_tiles; ++n) {
        const uint first = tile0 + n * lanes, count = min(lanes, max(end, first) - first);
        for (uint t = 0; t < count; ++t) {
          const uvec2 base = uvec2(subgroupShuffle(uint(rows[0]), t), subgroupShuffle(uint(rows[0] >> 32), t));
          const uint slot = subgroupShuffle(slots[0], t);
          const uint64_t row = (uint64_t(base.y) << 32 | base.x) + p.v_offset + uint64_t(slot * p.v_row) * element_bytes;
          float weights[queries];
          [[unroll]] for (uint v = 0; v < queries; ++v) weights[v] = subgroupShuffle(scores[v * context_tiles], t);
          [[unroll]] for (uint w = 0; w < v_quads; ++w) {
            const vec4 value = cache_quad(row, min(w * lanes + lane, p.v_row / 4 - 1));
            [[unroll]] for (uint v = 0; v < queries; ++v)
              values[v * v_quads + w] = fma(vec4(weights[v]), value, values[v * v_quads + w]);
          }
        }
        [[unroll]] for (uint i = 0; i + 1 < num_scores; ++i) scores[i] = scores[i + 1];
        [[unroll]] for (uint i = 0; i + 1 < context_tiles; ++i) {
          rows[i] = rows[i + 1];
          slots[i] = slots[i + 1];
        }
      }
    }
    // A partial item has one segment: the fold into nothing keeps it as it is.
    [[unroll]] for (uint v = 0; v < queries; ++v) {
      const float sum = lanes_sum(seg_sum[v]);
      const vec2 weights = fold_weights(all_max[v], seg_max[v]);
      all_sum[v] = fold(all_sum[v], sum, weights);
      [[unroll]] for (uint w = 0; w < v_quads; ++w)
        [[unroll]] for (uint i = 0; i < 4; ++i)
          all_values[v * v_quads + w][i] = fold(all_values[v * v_quads + w][i], values[v * v_quads + w][i], weights);
    }
  }

  [[dont_unroll]] for (uint v = 0; v < queries; ++v) {
    if (v / tile_heads < item.tokens && head0 + v % tile_heads < group_heads) {
      const uint head = kv_head * group_heads + head0 + v % tile_heads;
      const bool partial = item.partial != 0;
      const uint64_t row = partial ? p.partials + (uint64_t(item.partial - 1) * p.heads + head) * p.partial_stride * 4
                                   : p.y + (uint64_t(item.token + v / tile_heads) * p.y_stride + head * p.v_dim) * 4;
      const uint columns = partial ? p.v_row : p.v_dim;
      float weight = 1.0;
      if (!partial) weight = last_weight(all_max[0], all_sum[0], head);
      [[unroll]] for (uint w = 0; w < v_quads; ++w) {
        vec4 value = all_values[w] * weight;
        [[dont_unroll]] for (uint i = 0; i < 4; ++i) {
          const uint e = 4 * (w * lanes + lane) + i;
          if (e < columns) WriteFloat(row).at[e] = value.x;
          value = value.yzwx;
        }
      }
      if (partial && lane == 0) {
        WriteFloat(row).at[p.v_row] = all_max[0];
        WriteFloat(row).at[p.v_row + 1] = all_sum[0];
      }
    }
    [[unroll]] for (uint i = 0; i + 1 < queries; ++i) {
      all_max[i] = all_max[i + 1];
      all_sum[i] = all_sum[i + 1];
    }
    [[unroll]] for (uint i = 0; i + v_quads < num_values; ++i) all_values[i] = all_values[i + v_quads];
  }
}
