// What attend_decode and attend_clusters share: a warp's ring of tiles, the softmax over a tile, and fresh tokens.
#pragma once

#include "attend.cuh"
#include "turn.cuh"

#include <type_traits>

namespace quire::cuda {

inline constexpr uint32_t kTile = kDecodeTile;

template <int kHead> constexpr uint32_t kWarps = kHead <= 128 ? 4 : 2;
// Those of E4M3 are half as large.
template <class Element, int kHead>
constexpr uint32_t kStages = sizeof(Element) == 1 ? (kHead <= 128 ? 5 : 4) : (kHead <= 64 ? 4 : 3);
template <class Element, int kHead>
constexpr uint32_t kPlaneBytes = kTile* kKvPitch<Element, kHead>; // K or V of a stage
// A stage: K, then V.
template <class Element, int kHead> using Stage = unsigned char[2][kPlaneBytes<Element, kHead>];

// The step's own token, where it comes without rope and kv_store.
template <int kHead> struct Fresh {
  alignas(16) __half q[16][kHead];        // rotated
  alignas(16) unsigned char k[kHead * 2]; // the token's own, as the cache holds them
  alignas(16) unsigned char v[kHead * 2];
  float2 turns[kHead / 2];
};

__device__ __forceinline__ void add_to(float4& sum, float weight, const float4& v) {
  sum.x = __fmaf_rn(weight, v.x, sum.x);
  sum.y = __fmaf_rn(weight, v.y, sum.y);
  sum.z = __fmaf_rn(weight, v.z, sum.z);
  sum.w = __fmaf_rn(weight, v.w, sum.w);
}
__device__ __forceinline__ void store4(__half* to, const float4& v, float scale) {
  *reinterpret_cast<uint2*>(to) =
      make_uint2(pack_half2(v.x * scale, v.y * scale), pack_half2(v.z * scale, v.w * scale));
}

__device__ __forceinline__ void put(__half* to, float x) { *to = to_half(x); }
__device__ __forceinline__ void put(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }
__device__ __forceinline__ void put(E4m3* to, float x) { *to = to_e4m3(x); }
// Where the cache has element `col` of a row.
template <class Element, int kHead> __device__ __forceinline__ uint32_t place_of(uint32_t col) {
  return std::is_same_v<Element, E4m3> ? e4m3_place(col, kHead) : col;
}

// Two elements of a token's rows, which rope turns together: rows of queries, `group` many, then k, then v.
struct FreshPair {
  uint32_t row, pair;
  uint32_t first, second; // elements
  bool is_turned;
};
template <int kHead>
__device__ __forceinline__ FreshPair pair_of(uint32_t index, uint32_t group, uint32_t turns, bool interleaved) {
  const uint32_t row = index / (kHead / 2), pair = index % (kHead / 2);
  const bool is_turned = row <= group && pair < turns, is_split = is_turned && !interleaved;
  return {row, pair, is_split ? pair : 2 * pair, is_split ? pair + turns : 2 * pair + 1, is_turned};
}
template <class Element, int kHead>
__device__ __forceinline__ void put_pair(Fresh<kHead>& fresh, const FreshPair& pair, uint32_t group, __half first,
                                         __half second) {
  float2 x = make_float2(__half2float(first), __half2float(second));
  if (pair.is_turned) x = rotate(x.x, x.y, fresh.turns[pair.pair]);
  if (pair.row < group) {
    put(fresh.q[pair.row] + pair.first, x.x), put(fresh.q[pair.row] + pair.second, x.y);
  } else {
    auto* to = reinterpret_cast<Element*>(pair.row == group ? fresh.k : fresh.v);
    put(to + place_of<Element, kHead>(pair.first), x.x), put(to + place_of<Element, kHead>(pair.second), x.y);
  }
}

// An item's tiles of 16 positions, of which a warp has every kOf-th.
template <uint32_t kOf> struct WarpTiles {
  uint32_t origin, warp;
  int all, own;

  __device__ __forceinline__ WarpTiles(const DecodeItem& item, uint32_t of_warp)
      : origin(item.begin / kTile * kTile), warp(of_warp),
        all(static_cast<int>((item.end - origin + kTile - 1) / kTile)),
        own((all - static_cast<int>(warp) + static_cast<int>(kOf) - 1) / static_cast<int>(kOf)) {}
  // Where the warp's tile `index` begins.
  __device__ __forceinline__ uint32_t position(int index) const {
    return origin + (static_cast<uint32_t>(index) * kOf + warp) * kTile;
  }
};

// The 16 positions from `first` of a KV head: zeros outside begin .. end. halves: the blocks of the first eight
// positions and of the others; head_bytes: where the head begins within K and V of a block.
template <class Element, int kHead>
__device__ __forceinline__ void fetch_tile(Stage<Element, kHead>& ring, const KvLayer& kv, const uint32_t (&halves)[2],
                                           uint32_t head_bytes, uint32_t first, uint32_t begin, uint32_t end) {
  constexpr uint32_t kPieces = kRowBytes<Element, kHead> / 16, kCopies = (kTile * kPieces + 31) / 32;
  [[maybe_unused]] constexpr uint32_t kCopiesAtOnce = kHead > 128 ? 4 : kCopies; // all addresses at once would spill
  const uint32_t lane = threadIdx.x % 32;
#pragma unroll kCopiesAtOnce
  for (uint32_t i = 0; i < kCopies; ++i) {
    const uint32_t index = i * 32 + lane, row = index / kPieces, piece = index % kPieces;
    if (kTile * kPieces % 32 != 0 && row >= kTile) break;
    const uint32_t position = first + row;
    const bool valid = position >= begin && position < end;
    // Known at compile time where rows are a power of two of pieces.
    const bool is_second = 32 % kPieces == 0 ? i * 32 / kPieces >= 8 : row >= 8;
    const uint32_t block = halves[is_second ? 1 : 0];
    const std::byte* from = kv.base + uint64_t{block} * kv.block_bytes + head_bytes +
                            (position & (kv.block_size - 1)) * kRowBytes<Element, kHead> + piece * 16;
    copy_async16(ring[0] + kv_piece_at<Element, kHead>(row, piece), from + kv.k_offset, valid);
    copy_async16(ring[1] + kv_piece_at<Element, kHead>(row, piece), from + kv.v_offset, valid);
  }
}

// The token's own key and value into the cache, for the steps to come: by `threads` threads, of which this is number
// `thread`.
template <class Element, int kHead>
__device__ __forceinline__ void store_fresh(const Fresh<kHead>& fresh, const KvLayer& kv, uint32_t block,
                                            uint32_t head_bytes, uint32_t position, uint32_t thread, uint32_t threads) {
  constexpr uint32_t kPieces = kRowBytes<Element, kHead> / 16;
  std::byte* row = kv.base + uint64_t{block} * kv.block_bytes + head_bytes +
                   (position & (kv.block_size - 1)) * kRowBytes<Element, kHead>;
  for (uint32_t i = thread; i < 2 * kPieces; i += threads)
    *reinterpret_cast<uint4*>(row + (i < kPieces ? kv.k_offset : kv.v_offset) + i % kPieces * 16) =
        *reinterpret_cast<const uint4*>((i < kPieces ? fresh.k : fresh.v) + i % kPieces * 16);
}

// The token's own key and value as row `row` of a tile.
template <class Element, int kHead>
__device__ __forceinline__ void put_fresh(Stage<Element, kHead>& ring, const Fresh<kHead>& fresh, uint32_t row) {
  constexpr uint32_t kPieces = kRowBytes<Element, kHead> / 16;
  for (uint32_t i = threadIdx.x % 32; i < 2 * kPieces; i += 32)
    *reinterpret_cast<uint4*>(ring[i / kPieces] + kv_piece_at<Element, kHead>(row, i % kPieces)) =
        *reinterpret_cast<const uint4*>((i < kPieces ? fresh.k : fresh.v) + i % kPieces * 16);
}

// A tile of positions from `first` on into a warp's softmax: 16 rows of sums, largest and sum of the rows g and g + 8.
template <class Element, int kHead, int kRows, bool kSoftcap>
__device__ __forceinline__ void attend_tile(float (&sums)[kHead / 8][4], float (&largest)[kRows / 8],
                                            float (&sum)[kRows / 8], const uint32_t (&q)[kHead / 16][4],
                                            const Stage<Element, kHead>& ring, uint32_t first, const DecodeItem& item,
                                            const AttendArgs& a) {
  constexpr int kHalves = kRows / 8;
  [[maybe_unused]] const uint32_t t = threadIdx.x % 4;
  float scores[2][4] = {}; // [16 rows, 16 positions]
  multiply_keys<Element, kHead, kTile>(scores, q, ring[0], 0);
  float unit = a.scale * kLog2e;
  if constexpr (kSoftcap) {
    unit = 1;
#pragma unroll
    for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = in_base2(scores[i / 4][i % 4], a.scale, a.softcap);
  }
  if (first < item.begin || first + kTile > item.end) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const uint32_t position = first + i / 4 * 8 + 2 * t + i % 2;
      if (position < item.begin || position >= item.end) scores[i / 4][i % 4] = -kInfinity;
    }
  }
  bool rose = false;
  float keep[kHalves];
#pragma unroll
  for (int h = 0; h < kHalves; ++h) {
    float m = fmaxf(fmaxf(scores[0][2 * h], scores[0][2 * h + 1]), fmaxf(scores[1][2 * h], scores[1][2 * h + 1]));
    m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 1));
    m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 2));
    m = fmaxf(m * unit, largest[h]);
    const float safe = finite_or_zero(m);
    keep[h] = exp2_fast(largest[h] - safe);
    rose |= m != largest[h];
    largest[h] = m;
    float now = 0;
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int c = 2 * h; c < 2 * h + 2; ++c) {
        scores[n][c] = exp2_fast(__fmaf_rn(scores[n][c], unit, -safe));
        now += scores[n][c];
      }
    sum[h] = __fmaf_rn(sum[h], keep[h], now);
  }
  if constexpr (kHalves == 1) {
#pragma unroll
    for (int n = 0; n < 2; ++n) scores[n][2] = scores[n][3] = 0.f;
  }
  if (__any_sync(kAllLanes, rose)) {
#pragma unroll
    for (int d = 0; d < kHead / 8; ++d)
#pragma unroll
      for (int h = 0; h < kHalves; ++h) sums[d][2 * h] *= keep[h], sums[d][2 * h + 1] *= keep[h];
  }
  multiply_values<Element, kHead, kTile>(sums, scores, ring[1], 0);
}

} // namespace quire::cuda
