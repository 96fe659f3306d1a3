// attend_fixed_whole, attend_fixed_parts: attention in fixed order: a row's result is the same bits whatever else is in
// the step and however its sequence is cut into steps.
//
// Shapes: q [T, heads, kHead], cache [block, kv_head, token in block, kHead] for K and V, out [T, heads, kHead].
// Operations: 4 * kHead a query, head and position seen. Bytes: q and out once, K and V once a block of rows (from the
// L2). A block has 16 rows a warp, a row being a query token and one of the heads that share the KV head; tiles of 64
// positions pass through shared memory, twice buffered by cp.async. A row's result depends on the tiles at its absolute
// positions alone: what other rows of its block see beyond it is masked, which adds exact zeros. KV is summed in chunks
// of kKvChunk positions, which are folded upwards.
#include "attend.cuh"

#include <cassert>

namespace quire::cuda {
namespace {

template <int kHead> constexpr int kKeys = kHead <= 128 ? 64 : 16; // positions a tile: as many as the registers allow
template <class Element, int kHead> constexpr uint32_t kStageBytes = 2 * kKeys<kHead>* kKvPitch<Element, kHead>;

// kWarps 8: 128 rows. kParts: the item is one chunk of KV and leaves a partial result.
template <class Element, int kHead, int kWarps, bool kParts>
__device__ __forceinline__ void attend_item(const PrefillItem& item, uint32_t kv_head, const AttendArgs& a) {
#if QUIRE_SM >= 800 // before, attend_any does it all
  constexpr uint32_t kThreads = kWarps * 32, kTile = kKeys<kHead>;
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t kv_heads = a.kv.kv_heads, group = a.q.heads / kv_heads;
  unsigned char* shared = dynamic_shared();
  const uint32_t last_row = min(item.first_row + kWarps * 16, item.rows) - 1;
  const uint32_t first_position = item.position + item.first_row / group; // of the block's first query
  uint32_t begin = a.kv.window != 0 && first_position + 1 > a.kv.window ? first_position + 1 - a.kv.window : 0;
  uint32_t end = item.position + last_row / group + 1;
  const uint32_t live = begin; // positions before may have no block
  if constexpr (kParts) {
    begin = max(begin, item.chunk * kKvChunk);
    end = min(end, (item.chunk + 1) * kKvChunk);
  }
  begin = begin / kTile * kTile;

  // This lane's rows g and g + 8 of the warp: their positions.
  uint32_t row_of[2], position_of[2];
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    row_of[h] = item.first_row + warp * 16 + g + 8 * h;
    position_of[h] = item.position + min(row_of[h], item.rows - 1) / group;
  }
  uint32_t q[kHead / 16][4];
  load_queries<Element, kHead>(q, [&](uint32_t r) {
    const uint32_t row = item.first_row + warp * 16 + r;
    return row < item.rows ? static_cast<const __half*>(a.q.data) + size_t{item.token + row / group} * a.q.stride +
                                 (kv_head * group + row % group) * kHead
                           : nullptr;
  });

  constexpr uint32_t kPieces = kRowBytes<Element, kHead> / 16, kCopies = (kTile * kPieces + kThreads - 1) / kThreads;
  // Addresses side by side: of a warp alone, all of them would spill there.
  [[maybe_unused]] constexpr uint32_t kCopiesAtOnce = QUIRE_SM >= 1000 && kParts ? 4 : kCopies;
  const uint32_t shift = static_cast<uint32_t>(__ffs(static_cast<int>(a.kv.block_size)) - 1);
  const uint32_t head_bytes = kv_head * a.kv.block_size * kRowBytes<Element, kHead>;
  const auto stage = [&](uint32_t tile, uint32_t into) {
    unsigned char* keys = shared + into * kStageBytes<Element, kHead>;
    unsigned char* values = keys + kTile * kKvPitch<Element, kHead>;
#pragma unroll kCopiesAtOnce
    for (uint32_t i = 0; i < kCopies; ++i) {
      const uint32_t index = i * kThreads + threadIdx.x, row = index / kPieces, piece = index % kPieces,
                     position = tile + row;
      if (kTile * kPieces % kThreads != 0 && row >= kTile) break;
      const bool valid = position >= live && position < end;
      const uint32_t block_id = valid ? a.table[item.table + (position >> shift)] : 0;
      const std::byte* block = a.kv.base + uint64_t{block_id} * a.kv.block_bytes + head_bytes +
                               (position & (a.kv.block_size - 1)) * kRowBytes<Element, kHead> + piece * 16;
      copy_async16(keys + kv_piece_at<Element, kHead>(row, piece), block + a.kv.k_offset, valid);
      copy_async16(values + kv_piece_at<Element, kHead>(row, piece), block + a.kv.v_offset, valid);
    }
  };

  RowState state[2];
  float sums[kHead / 8][4] = {};
  RowState total_state[2];
  // What the chunks before came to, [element][thread]: registers would not hold both.
  float* totals = reinterpret_cast<float*>(shared + 2 * kStageBytes<Element, kHead>) + threadIdx.x;
  const auto fold_chunk = [&](bool is_first) {
    if constexpr (!kParts) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float sum = state[h].sum;
        sum += __shfl_xor_sync(kAllLanes, sum, 1);
        sum += __shfl_xor_sync(kAllLanes, sum, 2);
        float keep, take;
        fold_scales(total_state[h].largest, state[h].largest, keep, take);
        total_state[h].sum = fold(total_state[h].sum, keep, sum, take);
#pragma unroll
        for (int d = 0; d < kHead / 8; ++d)
#pragma unroll
          for (int c = 2 * h; c < 2 * h + 2; ++c) {
            float& total = totals[(4 * d + c) * kThreads];
            total = fold(is_first ? 0.f : total, keep, sums[d][c], take);
            sums[d][c] = 0;
          }
        state[h] = RowState{};
      }
    }
  };

  if (begin < end) stage(begin, 0);
  copy_async_commit();
  uint32_t buffer = 0;
  bool is_first = true;
  for (uint32_t tile = begin; tile < end; tile += kTile, buffer ^= 1) {
    if (tile + kTile < end) stage(tile + kTile, buffer ^ 1);
    copy_async_commit();
    copy_async_wait<1>();
    __syncthreads();
    if (!kParts && tile != begin && tile % kKvChunk == 0) {
      fold_chunk(is_first);
      is_first = false;
    }
    const unsigned char* keys = shared + buffer * kStageBytes<Element, kHead>;
    float scores[kTile / 8][4] = {};
    multiply_keys<Element, kHead, kTile>(scores, q, keys, 0);
    // Masked only where some row of the warp does not see the whole tile.
    const uint32_t lowest = item.position + (item.first_row + warp * 16) / group,
                   highest = item.position + min(item.first_row + warp * 16 + 15, item.rows - 1) / group;
    const bool whole = tile + kTile - 1 <= lowest && (a.kv.window == 0 || tile + a.kv.window > highest);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float largest = state[h].largest;
#pragma unroll
      for (uint32_t n = 0; n < kTile / 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& s = scores[n][2 * h + c];
          s = in_base2(s, a.scale, a.softcap);
          if (!whole) {
            const uint32_t at = tile + 8 * n + 2 * t + c;
            if (at > position_of[h] || (a.kv.window != 0 && at + a.kv.window <= position_of[h])) s = -kInfinity;
          }
          largest = fmaxf(largest, s);
        }
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
      const float safe = finite_or_zero(largest);
      float sum = 0;
#pragma unroll
      for (uint32_t n = 0; n < kTile / 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& s = scores[n][2 * h + c];
          s = exp2_fast(s - safe);
          sum += s;
        }
      const float keep = exp2_fast(state[h].largest - safe);
      state[h].sum = __fmaf_rn(state[h].sum, keep, sum);
      state[h].largest = largest;
#pragma unroll
      for (int d = 0; d < kHead / 8; ++d) {
        sums[d][2 * h] *= keep;
        sums[d][2 * h + 1] *= keep;
      }
    }
    multiply_values<Element, kHead, kTile>(sums, scores, keys + kTile * kKvPitch<Element, kHead>, 0);
    __syncthreads();
  }
  copy_async_wait<0>();

  if constexpr (!kParts) {
    fold_chunk(is_first);
#pragma unroll
    for (int h = 0; h < 2; ++h) state[h] = total_state[h];
#pragma unroll
    for (int d = 0; d < kHead / 8; ++d)
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[d][c] = totals[(4 * d + c) * kThreads];
  } else {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      state[h].sum += __shfl_xor_sync(kAllLanes, state[h].sum, 1);
      state[h].sum += __shfl_xor_sync(kAllLanes, state[h].sum, 2);
    }
  }
  order_sums<Element>(sums);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t row = row_of[h];
    if (row >= item.rows) continue;
    const uint32_t head = kv_head * group + row % group;
    if constexpr (kParts) {
      float* to =
          a.partials +
          ((size_t{item.partial} + size_t{row / group} * item.parts + item.chunk) * a.q.heads + head) * (kHead + 2);
#pragma unroll
      for (int d = 0; d < kHead / 8; ++d)
        *reinterpret_cast<float2*>(to + 8 * d + 2 * t) = make_float2(sums[d][2 * h], sums[d][2 * h + 1]);
      if (t == 0) to[kHead] = state[h].largest, to[kHead + 1] = state[h].sum;
    } else {
      const float scale = normaliser(state[h].largest, state[h].sum, a.sinks, head);
      __half* to = static_cast<__half*>(a.out.data) + size_t{item.token + row / group} * a.out.stride + head * kHead;
#pragma unroll
      for (int d = 0; d < kHead / 8; ++d)
        *reinterpret_cast<uint32_t*>(to + 8 * d + 2 * t) =
            pack_half2(sums[d][2 * h] * scale, sums[d][2 * h + 1] * scale);
    }
  }
#endif
}

template <class Element, int kHead>
__global__ void __launch_bounds__(256, 1) attend_whole_kernel(const PrefillItem* items, AttendArgs a) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const PrefillItem item = items[blockIdx.x / a.kv.kv_heads];
  attend_item<Element, kHead, 8, false>(item, blockIdx.x % a.kv.kv_heads, a);
}

template <class Element, int kHead>
__global__ void __launch_bounds__(32, 8)
    attend_parts_kernel(const std::byte* step_buffer, const ListHeader* header, AttendArgs a) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const auto* items = reinterpret_cast<const PrefillItem*>(step_buffer + header->parts);
  const uint32_t kv_heads = a.kv.kv_heads, total = header->num_parts * kv_heads;
  for (uint32_t i = blockIdx.x; i < total; i += gridDim.x) {
    const PrefillItem item = items[i / kv_heads];
    attend_item<Element, kHead, 1, true>(item, i % kv_heads, a);
    __syncwarp();
  }
}

// The chunks of each row, folded upwards: a warp a row and head.
template <int kHead>
__global__ void __launch_bounds__(128)
    fold_parts_kernel(const ListHeader* header, const PrefillItem* items, AttendArgs a) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint32_t group = a.q.heads / a.kv.kv_heads, lane = threadIdx.x % 32;
  const uint32_t most_rows = 16 * a.kv.kv_heads, total = header->num_first * most_rows;
  for (uint32_t i = blockIdx.x * 4 + threadIdx.x / 32; i < total; i += gridDim.x * 4) {
    const PrefillItem item = items[i / most_rows];
    const uint32_t row = i % most_rows % 16, head = i % most_rows / 16 * group + row % group;
    if (row >= item.rows) continue;
    const float* from =
        a.partials + ((size_t{item.partial} + size_t{row / group} * item.parts) * a.q.heads + head) * (kHead + 2);
    const uint32_t position = item.position + row / group;
    float m = -kInfinity, l = 0, sums[(kHead + 31) / 32] = {};
    // From the window's first chunk: the ones before were not computed.
    const uint32_t first = a.kv.window != 0 && position + 1 > a.kv.window ? (position + 1 - a.kv.window) / kKvChunk : 0;
    for (uint32_t p = first; p <= position / kKvChunk; ++p) {
      const float* part = from + size_t{p} * a.q.heads * (kHead + 2);
      float keep, take;
      fold_scales(m, part[kHead], keep, take);
      l = fold(l, keep, part[kHead + 1], take);
#pragma unroll
      for (int j = 0; j < (kHead + 31) / 32; ++j)
        if (32 * j + lane < kHead) sums[j] = fold(sums[j], keep, part[32 * j + lane], take);
    }
    const float scale = normaliser(m, l, a.sinks, head);
    __half* to = static_cast<__half*>(a.out.data) + size_t{item.token + row / group} * a.out.stride + head * kHead;
#pragma unroll
    for (int j = 0; j < (kHead + 31) / 32; ++j)
      if (32 * j + lane < kHead) to[32 * j + lane] = to_half(sums[j] * scale);
  }
}

template <class Element, int kHead> struct Fixed {
  static void whole(const Queue& queue, uint32_t num_items, const PrefillItem* items, const AttendArgs& a) {
    constexpr size_t kStages = 2 * kStageBytes<Element, kHead>, kTotals = 256 * kHead / 2 * 4;
    launch("attend_fixed_whole", attend_whole_kernel<Element, kHead>, num_items * a.kv.kv_heads, 256, kStages + kTotals,
           queue, items, a);
  }
  static void parts(const Queue& queue, uint32_t blocks, const std::byte* step_buffer, const ListHeader* header,
                    const PrefillItem* first, const AttendArgs& a) {
    launch("attend_fixed_parts", attend_parts_kernel<Element, kHead>, blocks, 32, 2 * kStageBytes<Element, kHead>,
           queue, step_buffer, header, a);
    launch("fold_parts", fold_parts_kernel<kHead>, blocks, 128, 0, queue, header, first, a);
  }
};

template <template <class, int> class Family, class Element, class Body>
void for_head(uint32_t head, const Body& body) {
  switch (head) {
  case 64:
    return body(Family<Element, 64>{});
  case 80:
    return body(Family<Element, 80>{});
  case 96:
    return body(Family<Element, 96>{});
  case 128:
    return body(Family<Element, 128>{});
  default:
    return body(Family<Element, 256>{});
  }
}

template <class Body> void for_shape(const AttendArgs& a, const Body& body) {
  if (a.kv.format == QUIRE_BF16)
    for_head<Fixed, __nv_bfloat16>(a.kv.k_dim, body);
  else if (a.kv.format == QUIRE_KV_E4M3)
    for_head<Fixed, E4m3>(a.kv.k_dim, body);
  else
    for_head<Fixed, __half>(a.kv.k_dim, body);
}

} // namespace

void attend_fixed_whole(const Queue& queue, uint32_t num_items, const PrefillItem* items, const AttendArgs& a) {
  for_shape(a, [&](auto kernels) { kernels.whole(queue, num_items, items, a); });
}

void attend_fixed_parts(const Queue& queue, uint32_t blocks, const std::byte* step_buffer, const ListHeader* header,
                        const PrefillItem* first_items, const AttendArgs& a) {
  for_shape(a, [&](auto kernels) { kernels.parts(queue, blocks, step_buffer, header, first_items, a); });
}

} // namespace quire::cuda
