// attend_prefill: chunks of query tokens over the paged cache on mma.sync.
//
// Shapes: q [T, heads, kHead], cache [block, kv_head, token in block, kHead] for K and V, out [T, heads, kHead].
// Operations: 4 * kHead a query, head and position seen. Bytes: q and out once, K and V once a block of rows (from the
// L2). FlashAttention-2 (Dao 2023): a row is a query token and one of the heads that share the KV head. A warp holds 32
// rows (16 for heads of 256), so that each fragment of K and V that it reads from shared memory feeds two products;
// queries stay in shared memory. Tiles of KV are twice buffered by cp.async, their block addresses found a tile ahead.
// A row's largest score is followed loosely: values are only rescaled once it has risen by 2^8. Work with most
// positions first, all KV heads of it side by side.
#include "attend.cuh"

#include <cassert>

namespace quire::cuda {
namespace {

constexpr uint32_t kWarps = 4, kThreads = kWarps * 32;
template <int kHead> constexpr int kTilesOfRows = kHead <= 128 ? 2 : 1; // of 16 rows, a warp
template <int kHead> constexpr uint32_t kRows = kWarps * 16 * kTilesOfRows<kHead>;
// Positions a tile: as many as the registers allow.
template <int kHead, bool kSoftcap> constexpr int kKeys = kHead > 128 || (kSoftcap && kHead >= 96) ? 32 : 64;
template <class Element, int kHead, bool kSoftcap>
constexpr uint32_t kPlaneBytes = kKeys<kHead, kSoftcap>* kKvPitch<Element, kHead>;
constexpr uint32_t kMostBlocks = 8;                 // that a tile touches
[[maybe_unused]] constexpr float kLoose = 8;        // log2 of what a row's values may exceed 1 by
[[maybe_unused]] constexpr float kNothing = -1e30f; // largest of no scores: finite, so that differences are no NaNs

template <class Element, int kHead, bool kSoftcap> struct Shared {
  alignas(128) unsigned char q[kRows<kHead> * kPitch<kHead>];
  unsigned char kv[2][2][kPlaneBytes<Element, kHead, kSoftcap>]; // stage, K and V
  uint32_t blocks[2][kMostBlocks];                               // ids
};

template <class Element, int kHead, bool kSoftcap>
__global__ void __launch_bounds__(kThreads, 2) attend_prefill_kernel(const PrefillItem* items, AttendArgs a) {
#if QUIRE_SM >= 800 // before, attend_any does it all
  constexpr int kM = kTilesOfRows<kHead>;
  constexpr uint32_t kTile = kKeys<kHead, kSoftcap>, kPieces = kHead / 8; // kPieces: of q
  constexpr uint32_t kKvPieces = kRowBytes<Element, kHead> / 16,
                     kCopies = (kTile * kKvPieces + kThreads - 1) / kThreads;
  // Of the steps of q k and of the copies, side by side: all of them would spill.
  [[maybe_unused]] constexpr bool kIsNarrow = std::is_same_v<Element, E4m3>;
  [[maybe_unused]] constexpr uint32_t kCopiesAtOnce = kIsNarrow && QUIRE_SM == 890 ? 1 : kCopies;
  [[maybe_unused]] constexpr int kUnrolled = kIsNarrow && QUIRE_SM < 900                    ? 1
                                             : kHead == 128 && QUIRE_SM >= 1000 && kSoftcap ? 2
                                             : kHead == 128 && kIsNarrow                    ? 4
                                                                                            : kHead / 16;
  auto& shared = *reinterpret_cast<Shared<Element, kHead, kSoftcap>*>(dynamic_shared());
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const PrefillItem item = items[blockIdx.y];
  const uint32_t kv_head = blockIdx.x, group = a.q.heads / a.kv.kv_heads;
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;

  // Positions that any row sees: [live, end). Those before may have no block.
  const uint32_t last_row = min(item.first_row + kRows<kHead>, item.rows) - 1;
  const uint32_t first_position = item.position + item.first_row / group;
  const uint32_t live = a.kv.window != 0 && first_position + 1 > a.kv.window ? first_position + 1 - a.kv.window : 0;
  const uint32_t end = item.position + last_row / group + 1, begin = live / kTile * kTile;
  const uint32_t num_tiles = (end - begin + kTile - 1) / kTile;
  const uint32_t block_size = a.kv.block_size, shift = static_cast<uint32_t>(__ffs(static_cast<int>(block_size)) - 1);

  const auto find_blocks = [&](uint32_t tile) { // a thread an id; what is not seen stands for what may not be there
    if (threadIdx.x >= kMostBlocks) return;
    const uint32_t position = min(max(begin + tile * kTile + threadIdx.x * block_size, live), end - 1);
    copy_async4(&shared.blocks[tile % 2][threadIdx.x], a.table + item.table + (position >> shift));
  };
  const std::byte* const keys_of_head = a.kv.base + a.kv.k_offset + kv_head * block_size * kRowBytes<Element, kHead>;
  const uint64_t v_from_k = a.kv.v_offset - a.kv.k_offset;
  const auto fetch = [&](uint32_t tile) {
    const uint32_t first = begin + tile * kTile, stage = tile % 2;
    const uint32_t first_block = first >> shift;
#pragma unroll kCopiesAtOnce
    for (uint32_t i = 0; i < kCopies; ++i) {
      const uint32_t index = i * kThreads + threadIdx.x, row = index / kKvPieces, piece = index % kKvPieces;
      if (kTile * kKvPieces % kThreads != 0 && row >= kTile) break;
      const uint32_t position = first + row;
      const bool valid = position >= live && position < end;
      const std::byte* from = keys_of_head +
                              uint64_t{shared.blocks[stage][(position >> shift) - first_block]} * a.kv.block_bytes +
                              (position & (block_size - 1)) * kRowBytes<Element, kHead> + piece * 16;
      copy_async16(shared.kv[stage][0] + kv_piece_at<Element, kHead>(row, piece), from, valid);
      copy_async16(shared.kv[stage][1] + kv_piece_at<Element, kHead>(row, piece), from + v_from_k, valid);
    }
  };

  find_blocks(0);
  find_blocks(1);
  copy_async_commit();
#pragma unroll
  for (uint32_t i = 0; i < kRows<kHead> * kPieces / kThreads; ++i) {
    const uint32_t index = i * kThreads + threadIdx.x, row = index / kPieces, piece = index % kPieces;
    const uint32_t at = item.first_row + row, inside = min(at, item.rows - 1);
    const __half* from = static_cast<const __half*>(a.q.data) + size_t{item.token + inside / group} * a.q.stride +
                         (kv_head * group + inside % group) * kHead + piece * 8;
    copy_async16(shared.q + piece_at<kHead>(row, piece), from, at < item.rows);
  }
  copy_async_commit();
  copy_async_wait<1>();
  __syncthreads(); // the block ids
  fetch(0);
  copy_async_commit();
  if constexpr (std::is_same_v<Element, __nv_bfloat16>) { // each thread what it has copied itself
    copy_async_wait<1>();
#pragma unroll
    for (uint32_t i = 0; i < kRows<kHead> * kPieces / kThreads; ++i) {
      const uint32_t index = i * kThreads + threadIdx.x, row = index / kPieces, piece = index % kPieces;
      auto* const words = reinterpret_cast<uint32_t*>(shared.q + piece_at<kHead>(row, piece));
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float2 f = __half22float2(half2_of(words[w]));
        words[w] = pack_bfloat2(f.x, f.y);
      }
    }
  }

  // What the warp's rows see at least and at most.
  const uint32_t first_of_warp = item.first_row + warp * 16 * kM;
  const auto position_of = [&](uint32_t row) { return item.position + min(row, item.rows - 1) / group; };
  const uint32_t lowest = position_of(first_of_warp), highest = position_of(first_of_warp + 16 * kM - 1);

  float sums[kM][kHead / 8][4] = {};
  float largest[kM][2], sum[kM][2];
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) largest[m][h] = kNothing, sum[m][h] = 0;
  const float unit = kSoftcap ? 1.f : a.scale * kLog2e; // of scores and `largest`: to base 2

  for (uint32_t tile = 0; tile < num_tiles; ++tile) {
    copy_async_wait<0>();
    __syncthreads();
    if (tile + 1 < num_tiles) {
      fetch(tile + 1);
      find_blocks(tile + 2); // where this tile's were
    }
    copy_async_commit();
    const uint32_t first = begin + tile * kTile;
    if (first <= highest) {
      const unsigned char* const keys = shared.kv[tile % 2][0];
      const unsigned char* const values = shared.kv[tile % 2][1];
      float scores[kM][kTile / 8][4] = {};
#pragma unroll kUnrolled
      for (int k = 0; k < kHead / 16; ++k) {
        uint32_t q[kM][4];
#pragma unroll
        for (int m = 0; m < kM; ++m)
          load_matrix(q[m], shared.q + piece_at<kHead>(warp * 16 * kM + 16 * m + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (uint32_t n = 0; n < kTile / 16; ++n) {
          uint32_t b[4];
          load_keys<Element, kHead>(b, keys, 16 * n, k);
#pragma unroll
          for (int m = 0; m < kM; ++m) {
            matrix_multiply<Operand<Element>>(scores[m][2 * n], q[m], {b[0], b[1]});
            matrix_multiply<Operand<Element>>(scores[m][2 * n + 1], q[m], {b[2], b[3]});
          }
        }
      }
      if constexpr (kSoftcap) {
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (uint32_t i = 0; i < kTile / 2; ++i)
            scores[m][i / 4][i % 4] = in_base2(scores[m][i / 4][i % 4], a.scale, a.softcap);
      }
      if (first + kTile - 1 > lowest || (a.kv.window != 0 && first + a.kv.window <= highest)) {
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (uint32_t i = 0; i < kTile / 2; ++i) {
            const uint32_t at = first + i / 4 * 8 + 2 * t + i % 2,
                           own = position_of(first_of_warp + 16 * m + g + 8 * (i / 2 % 2));
            if (at > own || (a.kv.window != 0 && at + a.kv.window <= own)) scores[m][i / 4][i % 4] = -kInfinity;
          }
      }
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        float keep[2];
        bool rose = false;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          float top = fmaxf(scores[m][0][2 * h], scores[m][0][2 * h + 1]);
#pragma unroll
          for (uint32_t n = 1; n < kTile / 8; ++n)
            top = fmaxf(top, fmaxf(scores[m][n][2 * h], scores[m][n][2 * h + 1]));
          top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
          top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
          top *= unit;
          const bool rises = top > largest[m][h] + kLoose;
          keep[h] = rises ? exp2_fast(largest[m][h] - top) : 1.f;
          if (rises) largest[m][h] = top;
          rose |= rises;
        }
        if (__any_sync(kAllLanes, rose)) {
#pragma unroll
          for (int h = 0; h < 2; ++h) sum[m][h] *= keep[h];
#pragma unroll
          for (int d = 0; d < kHead / 8; ++d)
#pragma unroll
            for (int c = 0; c < 4; ++c) sums[m][d][c] *= keep[c / 2];
        }
      }
#pragma unroll
      for (uint32_t n = 0; n < kTile / 16; ++n) {
        uint32_t p[kM][4];
#pragma unroll
        for (int m = 0; m < kM; ++m)
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int h = i % 2;
            float(&s)[4] = scores[m][2 * n + i / 2];
            const float x = exp2_fast(__fmaf_rn(s[2 * h], unit, -largest[m][h])),
                        y = exp2_fast(__fmaf_rn(s[2 * h + 1], unit, -largest[m][h]));
            sum[m][h] += x + y;
            p[m][i] = pack2<Operand<Element>>(x, y);
          }
#pragma unroll
        for (int d = 0; d < kHead / 16; ++d) {
          uint32_t b[4];
          load_values<Element, kHead>(b, values, 16 * n, d);
#pragma unroll
          for (int m = 0; m < kM; ++m) {
            matrix_multiply<Operand<Element>>(sums[m][2 * d], p[m], {b[0], b[1]});
            matrix_multiply<Operand<Element>>(sums[m][2 * d + 1], p[m], {b[2], b[3]});
          }
        }
      }
    }
  }
  copy_async_wait<0>();

#pragma unroll
  for (int m = 0; m < kM; ++m) order_sums<Element>(sums[m]);
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float total = sum[m][h];
      total += __shfl_xor_sync(kAllLanes, total, 1);
      total += __shfl_xor_sync(kAllLanes, total, 2);
      const uint32_t row = first_of_warp + 16 * m + g + 8 * h;
      if (row >= item.rows) continue;
      const uint32_t head = kv_head * group + row % group;
      const float scale = normaliser(largest[m][h], total, a.sinks, head);
      __half* to =
          static_cast<__half*>(a.out.data) + size_t{item.token + row / group} * a.out.stride + head * kHead + 2 * t;
#pragma unroll
      for (int d = 0; d < kHead / 8; ++d)
        *reinterpret_cast<uint32_t*>(to + 8 * d) = pack_half2(sums[m][d][2 * h] * scale, sums[m][d][2 * h + 1] * scale);
    }
#endif
}

template <class Element, int kHead>
void run(const Queue& queue, uint32_t num_items, const PrefillItem* items, const AttendArgs& a) {
  const auto go = [&](auto* kernel, size_t shared_bytes) {
    launch("attend_prefill", kernel, dim3(a.kv.kv_heads, num_items), kThreads, shared_bytes, queue, items, a);
  };
  if (a.softcap != 0)
    go(attend_prefill_kernel<Element, kHead, true>, sizeof(Shared<Element, kHead, true>));
  else
    go(attend_prefill_kernel<Element, kHead, false>, sizeof(Shared<Element, kHead, false>));
}

template <class Element>
void run(const Queue& queue, uint32_t num_items, const PrefillItem* items, const AttendArgs& a) {
  switch (a.kv.k_dim) {
  case 64:
    return run<Element, 64>(queue, num_items, items, a);
  case 80:
    return run<Element, 80>(queue, num_items, items, a);
  case 96:
    return run<Element, 96>(queue, num_items, items, a);
  case 128:
    return run<Element, 128>(queue, num_items, items, a);
  default:
    return run<Element, 256>(queue, num_items, items, a);
  }
}

} // namespace

uint32_t prefill_rows(uint32_t head) { return head <= 128 ? kRows<128> : kRows<256>; }

void attend_prefill(const Queue& queue, uint32_t num_items, const PrefillItem* items, const AttendArgs& a) {
  assert(a.kv.k_dim == a.kv.v_dim);
  if (a.kv.format == QUIRE_BF16)
    run<__nv_bfloat16>(queue, num_items, items, a);
  else if (a.kv.format == QUIRE_KV_E4M3)
    run<E4m3>(queue, num_items, items, a);
  else
    run<__half>(queue, num_items, items, a);
}

} // namespace quire::cuda
