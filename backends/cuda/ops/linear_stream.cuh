// How linear_chain's warps bring weights through shared memory and multiply them: one Stream a kind of layout.
//
// A stage is 16 rows of W by kColumns, copied by one warp for itself; stages lie in a ring of the warp. x is the rows
// of activations as fp16 in shared memory: a block of 32 columns is 64 bytes, of which lane 4 g + t reads piece t of 16
// bytes, the elements that belong to its fragments.
#pragma once

#include "linear.cuh"

namespace quire::cuda {

__device__ __forceinline__ uint4 read16(const unsigned char* p) { return *reinterpret_cast<const uint4*>(p); }

// fp16 rows. Up to 8 rows of activations: the columns of the B operand. Tile: 16 rows of a part, or with glu 8 of gate
// above 8 of up.
struct PlainStream {
  static constexpr uint32_t kColumns = 64, kStageBytes = 16 * 128;
  const __half* half[2] = {}; // row lane / 8 of each half of the tile, at the lane's columns
  uint32_t stride4 = 0, cols = 0;
  bool valid[2][2] = {};

  __device__ __forceinline__ void place(const LinearArgs& a, uint32_t item, uint32_t lane) {
    const PartTile<16> place(a, a.glu ? 0 : item);
    const uint32_t first = a.glu ? item * 8 : place.tile * 16;
    cols = a.parts[0].weight.cols;
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
      const Weight& w = a.parts[a.glu ? h : place.part].weight;
      const uint32_t row = first + lane / 8 + (a.glu ? 0 : 8 * h);
      half[h] = reinterpret_cast<const __half*>(w.data) + size_t{row} * w.stride + lane % 8 * 8;
      stride4 = 4 * w.stride;
      valid[h][0] = row < w.rows, valid[h][1] = row + 4 < w.rows;
    }
  }
  __device__ __forceinline__ void issue(const LinearArgs&, uint32_t unit, unsigned char* to, uint32_t lane) const {
    const uint32_t col = unit * kColumns;
    const bool inside = col + lane % 8 * 8 < cols;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t row = lane / 8 + 4 * i; // of the tile
      const bool copies = inside && valid[i / 2][i % 2];
      copy_async16(to + row * 128 + (lane % 8 ^ row % 2 * 4) * 16,
                   copies ? half[i / 2] + (i % 2 != 0 ? stride4 : 0) + col : half[0], copies);
    }
  }
  // sums: rows of W g, g + 8 by rows of activations 2t, 2t + 1.
  static __device__ __forceinline__ void consume(const unsigned char* from, const unsigned char* x, uint32_t pitch,
                                                 uint32_t rows, uint32_t unit, uint32_t lane, float (&sums)[4]) {
    const uint32_t g = lane / 4, t = lane % 4;
#pragma unroll
    for (uint32_t c = 0; c < 2; ++c) {
      const unsigned char* piece = from + g * 128 + ((4 * c + t) ^ g % 2 * 4) * 16;
      const uint4 top = read16(piece), bottom = read16(piece + 8 * 128);
      const uint4 b = g < rows ? read16(x + g * pitch + (2 * unit + c) * 64 + t * 16) : make_uint4(0, 0, 0, 0);
      matrix_multiply<__half>(sums, {top.x, bottom.x, top.y, bottom.y}, {b.x, b.y});
      matrix_multiply<__half>(sums, {top.z, bottom.z, top.w, bottom.w}, {b.z, b.w});
    }
  }
};

// Where a tile's planes begin, in registers: what a warp copies is asked for all the time.
struct TilePlanes {
  const std::byte *first, *second; // of quants: q4 or q8 or q2, then q2 or q1
  const std::byte *scales, *super;
  uint32_t units, format;

  __device__ __forceinline__ void place(const Weight& w, uint32_t tile) {
    const size_t unit = size_t{tile} * w.units;
    const BlockFormat planes = block_format(w.format);
    const bool upper = w.q2 != nullptr && w.q4 != nullptr;
    first = w.q4 != nullptr   ? w.q4 + unit * planes.q4_bytes
            : w.q8 != nullptr ? w.q8 + unit * planes.q8_bytes
                              : w.q2 + unit * planes.q2_bytes;
    second = upper ? w.q2 + unit * planes.q2_bytes : w.q1 + (w.q1 != nullptr ? unit * planes.q1_bytes : 0);
    scales = w.scales + unit * planes.scale_bytes;
    super = w.super + (w.super != nullptr ? size_t{tile} * (w.units / 2) * planes.super_bytes : 0);
    units = w.units, format = w.format;
  }
};

// Block formats, one row of activations. The eight columns of the B operand are eight groups of columns that share a
// scale (32 columns, or 16): in the product for group j only column j is not zero, so that one accumulator collects
// each group's sum of q * x apart, and scales are applied to those sums, not to the weights. q enters as it lies, as
// the subnormal fp16 number q * 2^-24: the tensor cores take these exactly. sum x of each group pays for offsets and
// minimums.
template <uint32_t kFormat> struct BlockStream {
  static constexpr BlockFormat kPlanes = block_format(kFormat);
  static constexpr uint32_t kColumns = 256, kStageBytes = 2 * kPlanes.unit_bytes();
  static constexpr bool kSixteen = kFormat == QUIRE_Q2_K || kFormat == QUIRE_Q3_K || kFormat == QUIRE_Q6_K;
  static constexpr bool kQ4 = kPlanes.q4_bytes != 0, kQ8 = kPlanes.q8_bytes != 0, kQ2 = kPlanes.q2_bytes != 0,
                        kQ1 = kPlanes.q1_bytes != 0;
  // Where the planes lie in a stage.
  static constexpr uint32_t kAt8 = 2 * kPlanes.q4_bytes, kAt2 = kAt8 + 2 * kPlanes.q8_bytes,
                            kAt1 = kAt2 + 2 * kPlanes.q2_bytes, kAtScales = kAt1 + 2 * kPlanes.q1_bytes,
                            kAtSuper = kAtScales + 2 * kPlanes.scale_bytes;

  template <uint32_t kBytes>
  static __device__ __forceinline__ void copy(unsigned char* to, const std::byte* from, uint32_t valid_bytes,
                                              uint32_t lane) {
#pragma unroll
    for (uint32_t i = 0; i < (kBytes / 16 + 31) / 32; ++i) {
      const uint32_t at = (i * 32 + lane) * 16;
      if (kBytes / 16 % 32 == 0 || at < kBytes) copy_async16(to + at, from + at, at < valid_bytes);
    }
  }
  // Units 2 pair and 2 pair + 1 of a tile.
  static __device__ __forceinline__ void issue(const TilePlanes& p, uint32_t pair, unsigned char* to, uint32_t lane) {
    const uint32_t units = 2 * pair + 1 < p.units ? 2 : 1;
    if constexpr (kQ4)
      copy<2 * kPlanes.q4_bytes>(to, p.first + pair * (2 * kPlanes.q4_bytes), units * kPlanes.q4_bytes, lane);
    if constexpr (kQ8)
      copy<2 * kPlanes.q8_bytes>(to + kAt8, p.first + pair * (2 * kPlanes.q8_bytes), units * kPlanes.q8_bytes, lane);
    if constexpr (kQ2)
      copy<2 * kPlanes.q2_bytes>(to + kAt2, (kQ4 ? p.second : p.first) + pair * (2 * kPlanes.q2_bytes),
                                 units * kPlanes.q2_bytes, lane);
    if constexpr (kQ1)
      copy<2 * kPlanes.q1_bytes>(to + kAt1, p.second + pair * (2 * kPlanes.q1_bytes), units * kPlanes.q1_bytes, lane);
    copy<2 * kPlanes.scale_bytes>(to + kAtScales, p.scales + pair * (2 * kPlanes.scale_bytes),
                                  units * kPlanes.scale_bytes, lane);
    if constexpr (kPlanes.super_bytes != 0)
      copy<kPlanes.super_bytes>(to + kAtSuper, p.super + pair * kPlanes.super_bytes, kPlanes.super_bytes, lane);
  }

  // What a lane holds of the quants of a unit and half.
  struct Quants {
    uint4 q4, q8[2];
    uint2 q2;
    uint32_t q1;
  };
  static __device__ __forceinline__ Quants quants(const unsigned char* from, uint32_t u, uint32_t h, uint32_t lane) {
    Quants q;
    if constexpr (kQ4) q.q4 = read16(from + u * kPlanes.q4_bytes + (h * 32 + lane) * 16);
    if constexpr (kQ8)
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j)
        q.q8[j] = read16(from + kAt8 + u * kPlanes.q8_bytes + ((h * 2 + j) * 32 + lane) * 16);
    if constexpr (kQ2) q.q2 = *reinterpret_cast<const uint2*>(from + kAt2 + u * kPlanes.q2_bytes + lane * 16 + h * 8);
    if constexpr (kQ1) q.q1 = *reinterpret_cast<const uint32_t*>(from + kAt1 + u * kPlanes.q1_bytes + lane * 8 + h * 4);
    return q;
  }
  // Pair `pair` of block `block` (constants after unrolling): q in both halves, times 16 where `sixteenfold`.
  static constexpr bool sixteenfold(int pair) { return !kSixteen && kQ4 && pair % 2 != 0; }
  static __device__ __forceinline__ uint32_t shifted(uint32_t word, int by) {
    return by >= 0 ? word >> by : word << -by;
  }
  static __device__ __forceinline__ uint32_t raw(const Quants& q, int block, int pair) {
    if constexpr (kQ8) {
      const uint4 v = q.q8[block / 2];
      const uint32_t word = block % 2 == 0 ? (pair < 2 ? v.x : v.y) : (pair < 2 ? v.z : v.w);
      return __byte_perm(word, 0, pair % 2 == 0 ? 0x4140 : 0x4342);
    } else {
      const int up = sixteenfold(pair) ? 4 : 0; // bits that this pair's q stays shifted up
      uint32_t bits = 0;
      if constexpr (kQ4) {
        const uint32_t word = block == 0 ? q.q4.x : block == 1 ? q.q4.y : block == 2 ? q.q4.z : q.q4.w;
        bits = shifted(word, 4 * pair - up) & (0x000f000fu << up);
      }
      if constexpr (kQ2) {
        const uint32_t word = block < 2 ? q.q2.x : q.q2.y;
        const int to = (kQ4 ? 4 : 0) + up;
        bits |= shifted(word, 2 * (4 * (block % 2) + pair) - to) & (0x00030003u << to);
      }
      if constexpr (kQ1) {
        const int to = (kQ4 ? 4 : 2) + up;
        bits |= shifted(q.q1, 4 * block + pair - to) & (0x00010001u << to);
      }
      return bits;
    }
  }

  static __device__ __forceinline__ float byte_of(uint32_t word, uint32_t index) { // 8388608 + byte, less 8388608
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u | index)) - 8388608.f;
  }

  // Adds to sums[0], [1] (rows g and g + 8) the lane's share: groups 2t and 2t + 1 of each eight.
  static __device__ __forceinline__ void consume(const unsigned char* from, const unsigned char* x, const float* sums32,
                                                 const float* sums16, uint32_t pair, uint32_t lane, float (&sums)[4]) {
    const uint32_t g = lane / 4, t = lane % 4;
    float lo[2][4] = {}; // [unit where groups are 16 columns, else 0 and 1: q and 16 q]
    uint4 mine;          // of the lane's group: 32 columns
    if constexpr (!kSixteen) mine = read16(x + (8 * pair + g) * 64 + t * 16);
#pragma unroll
    for (int u = 0; u < 2; ++u) {
      const Quants top = quants(from, u, 0, lane), bottom = quants(from, u, 1, lane);
      if constexpr (kSixteen) {
        const uint2 half = *reinterpret_cast<const uint2*>(x + (8 * pair + 4 * u + g / 2) * 64 + t * 16 + g % 2 * 8);
        mine = make_uint4(half.x, half.y, half.x, half.y);
      }
#pragma unroll
      for (int block = 0; block < 4; ++block) {
        uint32_t a[4][2];
#pragma unroll
        for (int p = 0; p < 4; ++p) a[p][0] = raw(top, block, p), a[p][1] = raw(bottom, block, p);
        if constexpr (kSixteen) {
#pragma unroll
          for (int step = 0; step < 2; ++step) {
            const bool here = g == static_cast<uint32_t>(2 * block + step);
            const uint32_t b[2] = {here ? mine.x : 0, here ? mine.y : 0};
            matrix_multiply<__half>(lo[u], {a[2 * step][0], a[2 * step][1], a[2 * step + 1][0], a[2 * step + 1][1]}, b);
          }
        } else {
          const bool here = g == static_cast<uint32_t>(4 * u + block);
          const uint32_t b[4] = {here ? mine.x : 0, here ? mine.y : 0, here ? mine.z : 0, here ? mine.w : 0};
          // Pairs 0 and 2 together, and 1 and 3: these may be sixteenfold.
          matrix_multiply<__half>(lo[0], {a[0][0], a[0][1], a[2][0], a[2][1]}, {b[0], b[2]});
          matrix_multiply<__half>(lo[1], {a[1][0], a[1][1], a[3][0], a[3][1]}, {b[1], b[3]});
        }
      }
    }
    constexpr float kUp = 16777216.f; // 2^24
    if constexpr (kSixteen) {
#pragma unroll
      for (uint32_t u = 0; u < 2; ++u)
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h)
          scale16(from, sums16 + 16 * pair + 8 * u + 2 * t, u, 8 * h + g, t, lo[u][2 * h] * kUp, lo[u][2 * h + 1] * kUp,
                  sums[h]);
    } else {
      constexpr float kUpHigh = kUp / (sixteenfold(1) ? 16.f : 1.f);
#pragma unroll
      for (uint32_t h = 0; h < 2; ++h)
        scale32(from, sums32 + 8 * pair + 2 * t, 8 * h + g, t, fmaf(lo[1][2 * h], kUpHigh, lo[0][2 * h] * kUp),
                fmaf(lo[1][2 * h + 1], kUpHigh, lo[0][2 * h + 1] * kUp), sums[h]);
    }
  }

 private:
  // sum += w x over the blocks of 32 columns 2t and 2t + 1, given the sums of q x of both.
  static __device__ __forceinline__ void scale32(const unsigned char* from, const float* x_sums, uint32_t row,
                                                 uint32_t t, float first, float second, float& sum) {
    const float2 xs = *reinterpret_cast<const float2*>(x_sums);
    const unsigned char* scales = from + kAtScales + t / 2 * kPlanes.scale_bytes + row * (kPlanes.scale_bytes / 16);
    if constexpr (kPlanes.super_bytes != 0) { // Q4_K, Q5_K
      const uint2 bytes = *reinterpret_cast<const uint2*>(scales);
      const uint32_t at = t % 2 * 2;
      const float2 d = __half22float2(half2_of(*reinterpret_cast<const uint32_t*>(from + kAtSuper + row * 4)));
      const float q = fmaf(byte_of(bytes.x, at), first, byte_of(bytes.x, at + 1) * second);
      const float m = fmaf(byte_of(bytes.y, at), xs.x, byte_of(bytes.y, at + 1) * xs.y);
      sum = fmaf(d.x, q, sum);
      sum = fmaf(-d.y, m, sum);
    } else if constexpr (kPlanes.scale_bytes == 256) { // d and m of each block
      const uint2 both = *reinterpret_cast<const uint2*>(scales + t % 2 * 8);
      const float2 a = __half22float2(half2_of(both.x)), b = __half22float2(half2_of(both.y));
      sum = fmaf(a.x, first, fmaf(b.x, second, sum));
      sum = fmaf(a.y, xs.x, fmaf(b.y, xs.y, sum));
    } else {
      const float2 d = __half22float2(half2_of(*reinterpret_cast<const uint32_t*>(scales + t % 2 * 4)));
      constexpr float kOffset = static_cast<float>(offset_of(kFormat));
      sum = fmaf(d.x, fmaf(-kOffset, xs.x, first), fmaf(d.y, fmaf(-kOffset, xs.y, second), sum));
    }
  }
  // The same of the groups of 16 columns 2t and 2t + 1 of unit u.
  static __device__ __forceinline__ void scale16(const unsigned char* from, const float* x_sums, uint32_t u,
                                                 uint32_t row, uint32_t t, float first, float second, float& sum) {
    const float2 xs = *reinterpret_cast<const float2*>(x_sums);
    const uint32_t bytes =
        *reinterpret_cast<const uint16_t*>(from + kAtScales + u * kPlanes.scale_bytes + row * 8 + 2 * t);
    const float2 d = __half22float2(half2_of(*reinterpret_cast<const uint32_t*>(from + kAtSuper + row * 4)));
    if constexpr (kFormat == QUIRE_Q2_K) {
      const float q = fmaf(byte_of(bytes & 0x0f0fu, 0), first, byte_of(bytes & 0x0f0fu, 1) * second);
      const float m = fmaf(byte_of(bytes >> 4 & 0x0f0fu, 0), xs.x, byte_of(bytes >> 4 & 0x0f0fu, 1) * xs.y);
      sum = fmaf(d.x, q, sum);
      sum = fmaf(-d.y, m, sum);
    } else {
      constexpr float kOffset = static_cast<float>(offset_of(kFormat));
      const float q = fmaf(byte_of(bytes, 0) - 128.f, fmaf(-kOffset, xs.x, first),
                           (byte_of(bytes, 1) - 128.f) * fmaf(-kOffset, xs.y, second));
      sum = fmaf(d.x, q, sum);
    }
  }
};

} // namespace quire::cuda
