// What the attention kernels share: tiles of K and V in shared memory, the products of a warp with them, and the online
// softmax.
//
// A tile holds rows of kHead elements in 16-byte pieces, piece p of row r at place p ^ (r % 8), so that ldmatrix meets
// no bank twice; pieces of E4M3 hold sixteen elements, in the order of kv_element.cuh. Scores are kept times log2(e):
// the softmax is of base 2. Source of the online softmax: Milakov and Gimelshein 2018; of its use in tiles: Dao et al.
// 2022.
#pragma once

#include "attend.hpp"
#include "kv_element.cuh"
#include "launch.hpp"

#include <type_traits>

namespace quire::cuda {

inline constexpr float kInfinity = __builtin_inff();
inline constexpr float kLog2e = 1.4426950408889634f;

// Four bytes to shared memory.
__device__ __forceinline__ void copy_async4(void* to, const void* from) {
#ifdef QUIRE_CUDA_EMULATED
  emulator::copy_async(to, from, 4, 4);
#elif QUIRE_SM >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(to)), "l"(from) : "memory");
#else
  *static_cast<uint32_t*>(to) = *static_cast<const uint32_t*>(from);
#endif
}

template <int kHead> constexpr int kPitch = (kHead + 63) / 64 * 128; // bytes a row

template <int kHead> __device__ __forceinline__ uint32_t piece_at(uint32_t row, uint32_t piece) {
  return row * kPitch<kHead> + ((piece ^ (row & 7)) << 4);
}

// The same of a tile as it comes from a cache of Elements.
template <class Element, int kHead> constexpr int kRowBytes = kHead* int(sizeof(Element));
template <class Element, int kHead>
constexpr uint32_t kKvPitch = kRowBytes<Element, kHead> <= 64 ? 64 : (kRowBytes<Element, kHead> + 127) / 128 * 128;

template <class Element, int kHead> __device__ __forceinline__ uint32_t kv_piece_at(uint32_t row, uint32_t piece) {
  if constexpr (kKvPitch<Element, kHead> == 64) return row * 64 + ((piece ^ (row >> 1 & 3)) << 4);
  return row * kKvPitch<Element, kHead> + ((piece ^ (row & 7)) << 4);
}

// What an Element is multiplied as.
template <class Element> using Operand = std::conditional_t<std::is_same_v<Element, E4m3>, __half, Element>;

template <class Element> __device__ __forceinline__ uint32_t pack2(float low, float high);
template <> __device__ __forceinline__ uint32_t pack2<__half>(float low, float high) { return pack_half2(low, high); }
template <> __device__ __forceinline__ uint32_t pack2<__nv_bfloat16>(float low, float high) {
  return pack_bfloat2(low, high);
}

// B fragments of 16 keys from row `first` and 16 elements, number k: {b[0], b[1]} of keys 0 to 7, {b[2], b[3]} of the
// others.
template <class Element, int kHead>
__device__ __forceinline__ void load_keys(uint32_t (&b)[4], const unsigned char* keys, uint32_t first, int k) {
  const uint32_t lane = threadIdx.x % 32;
  if constexpr (std::is_same_v<Element, E4m3>) {
    uint32_t r[2];
    load_matrix2(r, keys + kv_piece_at<Element, kHead>(first + lane % 16, k));
    widen(r[0], b[0], b[1]);
    widen(r[1], b[2], b[3]);
  } else { // matrices: keys 0-7 pieces 0, 1, keys 8-15 pieces 0, 1
    load_matrix(b, keys + piece_at<kHead>(first + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
  }
}

// B fragments of 16 values from row `first` and 16 elements, number d: {b[0], b[1]} for sums[2 d], {b[2], b[3]} for
// sums[2 d + 1].
template <class Element, int kHead>
__device__ __forceinline__ void load_values(uint32_t (&b)[4], const unsigned char* values, uint32_t first, int d) {
  const uint32_t lane = threadIdx.x % 32;
  if constexpr (std::is_same_v<Element, E4m3>) { // bytes 2g, 2g + 1 of rows 2t, 2t + 1
    uint32_t r[2];
    load_matrix2_transposed(r, values + kv_piece_at<Element, kHead>(first + lane % 16, d));
    widen(__byte_perm(r[0], 0, 0x3120), b[0], b[2]);
    widen(__byte_perm(r[1], 0, 0x3120), b[1], b[3]);
  } else { // matrices: keys 0-7, 8-15 of piece 0, then of piece 1
    load_matrix_transposed(b, values + piece_at<kHead>(first + lane % 16, 2 * d + lane / 16));
  }
}

// Of E4M3, sums[2 d] are of the places 2j of 16 and sums[2 d + 1] of the places 2j + 1: puts them in the elements'
// order.
template <class Element, int kColumns> __device__ __forceinline__ void order_sums(float (&sums)[kColumns][4]) {
  if constexpr (std::is_same_v<Element, E4m3>) {
#pragma unroll
    for (int d = 0; d < kColumns; d += 2)
#pragma unroll
      for (int h = 0; h < 4; h += 2) {
        const float other = sums[d][h + 1];
        sums[d][h + 1] = sums[d + 1][h];
        sums[d + 1][h] = other;
      }
  }
}

// A fragments of 16 query rows: q_row(r) gives row r's address or null. Converted to the cache's element.
template <class Element, int kHead, class Row>
__device__ __forceinline__ void load_queries(uint32_t (&q)[kHead / 16][4], const Row& q_row) {
  const uint32_t lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const __half* rows[2] = {q_row(g), q_row(g + 8)};
#pragma unroll
  for (int k = 0; k < kHead / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const __half* row = rows[i % 2];
      uint32_t bits = row != nullptr ? *reinterpret_cast<const uint32_t*>(row + 16 * k + 8 * (i / 2) + 2 * t) : 0;
      if constexpr (std::is_same_v<Element, __nv_bfloat16>) {
        const float2 f = __half22float2(half2_of(bits));
        bits = pack_bfloat2(f.x, f.y);
      }
      q[k][i] = bits;
    }
}

// scores of 16 queries and kKeys keys from row first_key of the tile.
template <class Element, int kHead, int kKeys>
__device__ __forceinline__ void multiply_keys(float (&scores)[kKeys / 8][4], const uint32_t (&q)[kHead / 16][4],
                                              const unsigned char* keys, uint32_t first_key) {
#pragma unroll
  for (int k = 0; k < kHead / 16; ++k)
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      uint32_t b[4];
      load_keys<Element, kHead>(b, keys, first_key + 16 * n, k);
      matrix_multiply<Operand<Element>>(scores[2 * n], q[k], {b[0], b[1]});
      matrix_multiply<Operand<Element>>(scores[2 * n + 1], q[k], {b[2], b[3]});
    }
}

// sums += p v for 16 queries, kKeys keys from row first_key of the tile. p: scores after exp2. Columns as of
// order_sums.
template <class Element, int kHead, int kKeys>
__device__ __forceinline__ void multiply_values(float (&sums)[kHead / 8][4], const float (&p)[kKeys / 8][4],
                                                const unsigned char* values, uint32_t first_key) {
#pragma unroll
  for (int n = 0; n < kKeys / 16; ++n) {
    using Factor = Operand<Element>;
    const uint32_t a[4] = {pack2<Factor>(p[2 * n][0], p[2 * n][1]), pack2<Factor>(p[2 * n][2], p[2 * n][3]),
                           pack2<Factor>(p[2 * n + 1][0], p[2 * n + 1][1]),
                           pack2<Factor>(p[2 * n + 1][2], p[2 * n + 1][3])};
#pragma unroll
    for (int d = 0; d < kHead / 16; ++d) {
      uint32_t b[4];
      load_values<Element, kHead>(b, values, first_key + 16 * n, d);
      matrix_multiply<Factor>(sums[2 * d], a, {b[0], b[1]});
      matrix_multiply<Factor>(sums[2 * d + 1], a, {b[2], b[3]});
    }
  }
}

// The score in base 2. tanh(x) as 1 - 2 / (1 + e^2x): wrong by some 1e-7, for small x too.
__device__ __forceinline__ float in_base2(float dot, float scale, float softcap) {
  if (softcap != 0.f) {
    const float power = exp2_fast(dot * (2 * kLog2e * scale / softcap));
    return softcap * kLog2e * (1.f - __fdividef(2.f, 1.f + power));
  }
  return dot * (scale * kLog2e);
}

// Running state of a row of queries: the largest score, and this lane's share of the sum.
struct RowState {
  float largest = -kInfinity;
  float sum = 0;
};

__device__ __forceinline__ float finite_or_zero(float x) { return x == -kInfinity ? 0.f : x; }

// (m, l, o) of a later part into the running one; the same arithmetic in every kernel.
__device__ __forceinline__ void fold_scales(float& m, float later_m, float& keep, float& take) {
  const float both = fmaxf(m, later_m), safe = finite_or_zero(both);
  keep = exp2_fast(m - safe);
  take = exp2_fast(later_m - safe);
  m = both;
}
__device__ __forceinline__ float fold(float value, float keep, float later, float take) {
  return __fmaf_rn(later, take, __fmul_rn(value, keep));
}

// 1 / the denominator with the sink, for sums scaled by exp2(-m); `scale` is what the sums are multiplied by.
__device__ __forceinline__ float normaliser(float m, float l, const float* sinks, uint32_t head) {
  if (sinks == nullptr) return l > 0.f || l != l ? 1.f / l : 0.f;
  const float sink = sinks[head] * kLog2e, both = fmaxf(m, sink), keep = exp2_fast(m - both);
  return keep / (l * keep + exp2_fast(sink - both));
}

} // namespace quire::cuda
