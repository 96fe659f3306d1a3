// attend: y [T, heads, v_dim] = causal attention of q [T, heads, dim] over the paged cache, a subgroup an item of the work list and a
// tile of heads that share a KV head.
//
// Scores: a lane a context token; values: a lane a pair of dimensions. Order of summation, the same for decode and prefill whatever
// shares the item: dimensions in order; an online softmax over tiles of max(32, lanes) absolute positions, a lane its own tokens of
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
layout(constant_id = 5) const uint v_words = 1; // pairs of v's dimensions a lane
layout(constant_id = 6) const uint tiled = 0;   // which work list

const uint queries = tile_tokens * tile_heads;
const uint context_tiles = lanes < 32 ? 32 / lanes : 1;
const uint tile = context_tiles * lanes;
const uint hand = lanes < 8 ? lanes : 8;
const uint x_registers = 8 / hand;
const uint num_scores = queries * context_tiles;
const uint num_values = queries * v_words;
const uint num_held = queries * x_registers;
#define minus_infinity uintBitsToFloat(0xFF800000u)

// Elements 2 i and 2 i + 1 of a cache row.
vec2 cache_pair(uint64_t row, uint i) {
  if (kv_format == 0) return uintBitsToFloat(ReadUint2(row).at[i]);
  const uint word = ReadUint(row).at[i];
  if (kv_format == 1) return unpackHalf2x16(word);
  return vec2(uintBitsToFloat(word << 16), uintBitsToFloat(word & 0xFFFF0000u));
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
  vec2 all_values[num_values];
  [[unroll]] for (uint v = 0; v < queries; ++v) {
    all_max[v] = minus_infinity;
    all_sum[v] = 0.0;
  }
  [[unroll]] for (uint i = 0; i < num_values; ++i) all_values[i] = vec2(0.0);

  for (uint segment = item.segment_begin; segment < item.segment_end; ++segment) {
    float seg_max[queries], seg_sum[queries];
    vec2 values[num_values];
    [[unroll]] for (uint v = 0; v < queries; ++v) {
      seg_max[v] = minus_infinity;
      seg_sum[v] = 0.0;
    }
    [[unroll]] for (uint i = 0; i < num_values; ++i) values[i] = vec2(0.0);
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
          [[unroll]] for (uint j = 0; j < 4; ++j) {
            const vec2 k = cache_pair(row, j);
            [[unroll]] for (uint v = 0; v < queries; ++v) {
              const float first = subgroupShuffle(held[v * x_registers + 2 * j / hand], 2 * j % hand);
              const float second = subgroupShuffle(held[v * x_registers + (2 * j + 1) / hand], (2 * j + 1) % hand);
              scores[v * context_tiles + n] = fma(second, k.y, fma(first, k.x, scores[v * context_tiles + n]));
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
        [[unroll]] for (uint w = 0; w < v_words; ++w) values[v * v_words + w] *= correction;
      }
      [[unroll]] for (uint n = 0; n < context_tiles; ++n) {
        const uint count = min(lanes, max(end, tile0 + n * lanes) - (tile0 + n * lanes));
        for (uint t = 0; t < count; ++t) {
          const uvec2 base = uvec2(subgroupShuffle(uint(rows[n]), t), subgroupShuffle(uint(rows[n] >> 32), t));
          const uint slot = subgroupShuffle(slots[n], t);
          const uint64_t row = (uint64_t(base.y) << 32 | base.x) + p.v_offset + uint64_t(slot * p.v_row) * element_bytes;
          float weights[queries];
          [[unroll]] for (uint v = 0; v < queries; ++v) weights[v] = subgroupShuffle(scores[v * context_tiles + n], t);
          [[unroll]] for (uint w = 0; w < v_words; ++w) {
            const uint pair = min(w * lanes + lane, p.v_row / 2 - 1);
            const vec2 value = cache_pair(row, pair);
            [[unroll]] for (uint v = 0; v < queries; ++v)
              values[v * v_words + w] = fma(vec2(weights[v]), value, values[v * v_words + w]);
          }
        }
      }
    }
    [[unroll]] for (uint v = 0; v < queries; ++v) {
      const float sum = lanes_sum(seg_sum[v]);
      if (item.partial != 0) {
        if (v < tile_heads && head0 + v < group_heads) {
          WriteFloat partial = WriteFloat(p.partials + (uint64_t(item.partial - 1) * p.heads + kv_head * group_heads + head0 + v) *
                                                           p.partial_stride * 4);
          [[unroll]] for (uint w = 0; w < v_words; ++w)
            if (w * lanes + lane < p.v_row / 2) {
              partial.at[2 * (w * lanes + lane)] = values[v * v_words + w].x;
              partial.at[2 * (w * lanes + lane) + 1] = values[v * v_words + w].y;
            }
          if (lane == 0) {
            partial.at[p.v_row] = seg_max[v];
            partial.at[p.v_row + 1] = sum;
          }
        }
      } else {
        const vec2 weights = fold_weights(all_max[v], seg_max[v]);
        all_sum[v] = fold(all_sum[v], sum, weights);
        [[unroll]] for (uint w = 0; w < v_words; ++w) {
          all_values[v * v_words + w].x = fold(all_values[v * v_words + w].x, values[v * v_words + w].x, weights);
          all_values[v * v_words + w].y = fold(all_values[v * v_words + w].y, values[v * v_words + w].y, weights);
        }
      }
    }
  }
  if (item.partial != 0) return;
  [[unroll]] for (uint v = 0; v < queries; ++v)
    if (v / tile_heads < item.tokens && head0 + v % tile_heads < group_heads) {
      const uint head = kv_head * group_heads + head0 + v % tile_heads;
      const float weight = last_weight(all_max[v], all_sum[v], head);
      WriteFloat y = WriteFloat(p.y + (uint64_t(item.token + v / tile_heads) * p.y_stride + head * p.v_dim) * 4);
      [[unroll]] for (uint w = 0; w < v_words; ++w) {
        const uint e = 2 * (w * lanes + lane);
        if (e < p.v_dim) y.at[e] = all_values[v * v_words + w].x * weight;
        if (e + 1 < p.v_dim) y.at[e + 1] = all_values[v * v_words + w].y * weight;
      }
    }
}
