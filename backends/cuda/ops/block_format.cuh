// Reading weights in block formats on the device: as A fragments of a warp (Unit), and element by element.
//
// Scales plane, per row and unit of 128 columns: Q4_0, Q5_0, Q8_0: d of each block in fp16; Q4_1, Q5_1: d, m in fp16;
// Q4_K, Q5_K: four scales, four minimums, bytes; Q2_K: eight bytes, scale | minimum << 4, one a 16 columns; Q3_K, Q6_K:
// eight scales + 128, bytes, one a 16 columns. A dequantised element is rounded to fp16: scale * q by half arithmetic,
// q exact. Source of the formats: ggml's block layouts.
#pragma once

#include "launch.hpp"
#include "weight.hpp"

namespace quire::cuda {

constexpr int offset_of(uint32_t format) {
  switch (format) {
  case QUIRE_Q4_0:
    return 8;
  case QUIRE_Q5_0:
    return 16;
  case QUIRE_Q8_0:
    return 128;
  case QUIRE_Q3_K:
    return 4;
  case QUIRE_Q6_K:
    return 32;
  default:
    return 0;
  }
}

constexpr bool has_minimum(uint32_t format) {
  return format == QUIRE_Q4_1 || format == QUIRE_Q5_1 || format == QUIRE_Q2_K || format == QUIRE_Q4_K ||
         format == QUIRE_Q5_K;
}

__device__ __forceinline__ __half2 splat_low(__half2 h) { return __low2half2(h); }
__device__ __forceinline__ __half2 splat_high(__half2 h) { return __high2half2(h); }

// What a lane holds of one tile (16 rows) and unit (128 columns).
template <uint32_t kFormat> struct Unit {
  static constexpr BlockFormat kBlocks = block_format(kFormat);
  static constexpr bool kQ4 = kBlocks.q4_bytes != 0, kQ8 = kBlocks.q8_bytes != 0, kQ2 = kBlocks.q2_bytes != 0,
                        kQ1 = kBlocks.q1_bytes != 0;
  static constexpr bool kSuper = kBlocks.super_bytes != 0, kWide = kBlocks.scale_bytes == 16 * 16;

  uint4 q4[2], q8[2][2], q2;
  uint2 q1, scales[2];
  uint4 wide[2];
  uint32_t super[2];

  // tile_unit: tile * units + unit, over all experts.
  __device__ __forceinline__ void load(const Weight& w, uint32_t tile, uint32_t unit, uint32_t lane) {
    const size_t tile_unit = size_t{tile} * w.units + unit;
    const uint32_t g = lane / 4;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if constexpr (kQ4) q4[h] = load_stream(w.q4 + ((tile_unit * 2 + h) * 32 + lane) * 16);
      if constexpr (kQ8)
#pragma unroll
        for (int j = 0; j < 2; ++j) q8[h][j] = load_stream(w.q8 + (((tile_unit * 2 + h) * 2 + j) * 32 + lane) * 16);
      const uint32_t row = 8 * h + g;
      if constexpr (kWide)
        wide[h] = load_stream(w.scales + (tile_unit * 16 + row) * 16);
      else
        scales[h] = load_stream8(w.scales + (tile_unit * 16 + row) * 8);
      if constexpr (kSuper)
        super[h] = load_stream4(w.super + ((size_t{tile} * (w.units / 2) + unit / 2) * 16 + row) * 4);
    }
    if constexpr (kQ2) q2 = load_stream(w.q2 + (tile_unit * 32 + lane) * 16);
    if constexpr (kQ1) q1 = load_stream8(w.q1 + (tile_unit * 32 + lane) * 8);
  }

  // q - offset of a pair: block 0..3, pair 0..3, half h (row g or g + 8). All arguments must be constants after
  // unrolling.
  __device__ __forceinline__ __half2 integers(int block, int pair, int h) const {
    constexpr float kBias = 1024.f + offset_of(kFormat);
    if constexpr (kQ8) {
      const uint4 v = q8[h][block / 2];
      const uint32_t word = block % 2 == 0 ? (pair < 2 ? v.x : v.y) : (pair < 2 ? v.z : v.w);
      return __hsub2(half2_of(__byte_perm(word, 0x64646464u, pair % 2 == 0 ? 0x4140 : 0x4342)),
                     __float2half2_rn(kBias));
    } else {
      uint32_t bits; // 0x6400 | q in each half: 1024 + q
      if constexpr (kQ4) {
        const uint4 v = q4[h];
        const uint32_t word = block == 0 ? v.x : block == 1 ? v.y : block == 2 ? v.z : v.w;
        if constexpr (!kQ1 && !kQ2) {
          const uint32_t w = pair < 2 ? word : word >> 8;
          if (pair % 2 == 0) return __hsub2(half2_of(and_or<0x000f000fu, 0x64006400u>(w)), __float2half2_rn(kBias));
          // 1024 + 16 q: divided by 16, less 64.
          return fma_half2(half2_of(and_or<0x00f000f0u, 0x64006400u>(w)), __float2half2_rn(1.f / 16),
                           __float2half2_rn(-64.f - offset_of(kFormat)));
        }
        bits = and_or<0x000f000fu, 0x64006400u>(word >> (4 * pair));
        if constexpr (kQ2) {
          const uint32_t extra = h == 0 ? (block < 2 ? q2.x : q2.y) : (block < 2 ? q2.z : q2.w);
          const int at = 2 * (4 * (block % 2) + pair);
          bits |= (at >= 4 ? extra >> (at - 4) : extra << (4 - at)) & 0x00300030u;
        } else if constexpr (kQ1) {
          const uint32_t extra = h == 0 ? q1.x : q1.y;
          const int at = 4 * block + pair;
          bits |= (at >= 4 ? extra >> (at - 4) : extra << (4 - at)) & 0x00100010u;
        }
      } else {
        const uint32_t word = h == 0 ? (block < 2 ? q2.x : q2.y) : (block < 2 ? q2.z : q2.w);
        bits = and_or<0x00030003u, 0x64006400u>(word >> (2 * (4 * (block % 2) + pair)));
        if constexpr (kQ1) {
          const uint32_t extra = h == 0 ? q1.x : q1.y;
          const int at = 4 * block + pair;
          bits |= (at >= 2 ? extra >> (at - 2) : extra << (2 - at)) & 0x00040004u;
        }
      }
      return __hsub2(half2_of(bits), __float2half2_rn(kBias));
    }
  }

  // Scale, and what is added, of a block and half, for its first and second 16 columns.
  struct Scales {
    __half2 scale[2], minimum[2];
  };
  __device__ __forceinline__ Scales block_scales(int block, int h) const {
    Scales s;
    if constexpr (kWide) {
      const uint4 v = wide[h];
      const __half2 both = half2_of(block == 0 ? v.x : block == 1 ? v.y : block == 2 ? v.z : v.w);
      s.scale[0] = s.scale[1] = splat_low(both);
      s.minimum[0] = s.minimum[1] = splat_high(both);
    } else if constexpr (!kSuper) {
      const __half2 both = half2_of(block < 2 ? scales[h].x : scales[h].y);
      s.scale[0] = s.scale[1] = block % 2 == 0 ? splat_low(both) : splat_high(both);
      s.minimum[0] = s.minimum[1] = __float2half2_rn(0.f);
    } else if constexpr (kFormat == QUIRE_Q4_K || kFormat == QUIRE_Q5_K) {
      const uint32_t selected = __byte_perm(scales[h].x, scales[h].y, static_cast<unsigned>(block | (4 + block) << 8));
      // selected: scale in byte 0, minimum in 2 (the selector's second digit is 0, its fourth 0: masked off)
      const __half2 integers = __hsub2(half2_of(and_or<0x00ff00ffu, 0x64006400u>(selected)), __float2half2_rn(1024.f));
      const __half2 both = __hmul2(integers, half2_of(super[h] ^ 0x80000000u)); // d, -dmin
      s.scale[0] = s.scale[1] = splat_low(both);
      s.minimum[0] = s.minimum[1] = splat_high(both);
    } else {
      const uint32_t word = block < 2 ? scales[h].x : scales[h].y;
      const uint32_t bytes =
          __byte_perm(word, 0x64646464u, block % 2 == 0 ? 0x4140 : 0x4342); // 1024 + byte, two of them
      const __half2 d = splat_low(half2_of(super[h]));
      if constexpr (kFormat == QUIRE_Q2_K) {
        const __half2 minus_dmin = splat_high(half2_of(super[h] ^ 0x80000000u));
        const __half2 low =
            __hmul2(__hsub2(half2_of(and_or<0x000f000fu, 0x64006400u>(bytes)), __float2half2_rn(1024.f)), d);
        const __half2 high = __hmul2(
            __hsub2(half2_of(and_or<0x000f000fu, 0x64006400u>(bytes >> 4)), __float2half2_rn(1024.f)), minus_dmin);
        s.scale[0] = splat_low(low), s.scale[1] = splat_high(low);
        s.minimum[0] = splat_low(high), s.minimum[1] = splat_high(high);
      } else {
        const __half2 both = __hmul2(__hsub2(half2_of(bytes), __float2half2_rn(1152.f)), d);
        s.scale[0] = splat_low(both), s.scale[1] = splat_high(both);
        s.minimum[0] = s.minimum[1] = __float2half2_rn(0.f);
      }
    }
    return s;
  }

  // A fragments of a block's two steps of 16 columns.
  __device__ __forceinline__ void fragments(int block, uint32_t (&a)[2][4]) const {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const Scales s = block_scales(block, h);
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        const int step = pair / 2;
        const __half2 q = integers(block, pair, h);
        const __half2 w =
            has_minimum(kFormat) ? fma_half2(q, s.scale[step], s.minimum[step]) : __hmul2(q, s.scale[step]);
        a[step][2 * (pair % 2) + h] = bits_of(w);
      }
    }
  }
};

// One element, scale and minimum in float32. For embed and the shapes that no fast kernel takes.
__device__ inline float block_element(const Weight& w, uint32_t row, uint32_t col) {
  const uint32_t tile = row / 16, h = row / 8 % 2, g = row % 8;
  const uint32_t unit = col / 128, block = col / 32 % 4, step = col / 16 % 2, high = col / 8 % 2, t = col % 8 / 2,
                 odd = col % 2;
  const uint32_t pair = 2 * step + high, lane = 4 * g + t;
  const size_t tile_unit = size_t{tile} * w.units + unit;
  const auto word = [](const std::byte* p, size_t index) { return reinterpret_cast<const uint32_t*>(p)[index]; };
  uint32_t q = 0, q4_bits = 0;
  if (w.q4 != nullptr) {
    q = word(w.q4, ((tile_unit * 2 + h) * 32 + lane) * 4 + block) >> (4 * pair + 16 * odd) & 15;
    q4_bits = 4;
  }
  if (w.q8 != nullptr) {
    const uint32_t packed =
        word(w.q8, (((tile_unit * 2 + h) * 2 + block / 2) * 32 + lane) * 4 + block % 2 * 2 + pair / 2);
    q = packed >> (16 * (pair % 2) + 8 * odd) & 255;
  }
  if (w.q2 != nullptr) {
    const uint32_t packed = word(w.q2, (tile_unit * 32 + lane) * 4 + 2 * h + block / 2);
    q |= (packed >> (2 * (4 * (block % 2) + pair) + 16 * odd) & 3) << q4_bits;
  }
  if (w.q1 != nullptr) {
    const uint32_t packed = word(w.q1, (tile_unit * 32 + lane) * 2 + h);
    q |= (packed >> (4 * block + pair + 16 * odd) & 1) << (w.q4 != nullptr ? 4 : 2);
  }
  const auto half_at = [](const std::byte* p, size_t index) {
    return __half2float(reinterpret_cast<const __half*>(p)[index]);
  };
  const auto byte_at = [](const std::byte* p, size_t index) {
    return static_cast<float>(reinterpret_cast<const uint8_t*>(p)[index]);
  };
  const size_t row_unit = tile_unit * 16 + row % 16;
  const size_t super = (size_t{tile} * (w.units / 2) + unit / 2) * 16 + row % 16;
  const float value = static_cast<float>(static_cast<int>(q) - offset_of(w.format));
  switch (w.format) {
  case QUIRE_Q4_1:
  case QUIRE_Q5_1:
    return value * half_at(w.scales, row_unit * 8 + 2 * block) + half_at(w.scales, row_unit * 8 + 2 * block + 1);
  case QUIRE_Q4_K:
  case QUIRE_Q5_K:
    return value * byte_at(w.scales, row_unit * 8 + block) * half_at(w.super, 2 * super) -
           byte_at(w.scales, row_unit * 8 + 4 + block) * half_at(w.super, 2 * super + 1);
  case QUIRE_Q2_K: {
    const auto packed = static_cast<uint32_t>(byte_at(w.scales, row_unit * 8 + 2 * block + step));
    return value * static_cast<float>(packed & 15) * half_at(w.super, 2 * super) -
           static_cast<float>(packed >> 4) * half_at(w.super, 2 * super + 1);
  }
  case QUIRE_Q3_K:
  case QUIRE_Q6_K:
    return value * (byte_at(w.scales, row_unit * 8 + 2 * block + step) - 128.f) * half_at(w.super, 2 * super);
  default:
    return value * half_at(w.scales, row_unit * 4 + block);
  }
}

__device__ __forceinline__ float weight_element(const Weight& w, uint32_t row, uint32_t col) {
  if (w.format == QUIRE_F16) return __half2float(reinterpret_cast<const __half*>(w.data)[size_t{row} * w.stride + col]);
  if (w.format == QUIRE_F32) return reinterpret_cast<const float*>(w.data)[size_t{row} * w.stride + col];
  return block_element(w, row, col);
}

} // namespace quire::cuda
