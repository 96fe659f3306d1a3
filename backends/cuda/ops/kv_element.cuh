// An element of a cache in E4M3 (plugin.h): how it is made, where it lies, and its way to the tensor cores.
//
// Of a row of a head (a multiple of 16 elements) each 16 lie in the order of a fragment (device_code.cuh): lane t's
// four, 2t, 2t + 1, 2t + 8 and 2t + 9, side by side. So ldmatrix, which deals out bytes in fours, gives each lane of
// the B fragment what it multiplies, once widened to fp16; that is exact. Rows of another length are in plain order.
#pragma once

#include "device_code.cuh"

#include <cstdint>

namespace quire::cuda {

struct E4m3 {
  uint8_t bits;
};

// Where element `col` of a row of `dim` lies.
__host__ __device__ __forceinline__ uint32_t e4m3_place(uint32_t col, uint32_t dim) {
  return dim % 16 != 0 ? col : (col & ~15u) | (col & 6u) << 1 | (col & 8u) >> 2 | (col & 1u);
}

// Rounded to nearest, ties to even; beyond the range +-448; NaN stays NaN.
__device__ __forceinline__ E4m3 to_e4m3(float x) {
#if QUIRE_SM >= 890 && !defined(QUIRE_CUDA_EMULATED)
  uint16_t r;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(0.f), "f"(x));
  return {static_cast<uint8_t>(r)};
#else
  const uint32_t bits = __float_as_uint(x), magnitude = bits & 0x7fffffffu;
  uint32_t r;
  if (magnitude >= 0x43e00000u) // 448
    r = magnitude > 0x7f800000u ? 0x7f : 0x7e;
  else if (magnitude < 0x3c800000u) // 2^-6; below, steps of 2^-9, those of floats at 2^14
    r = __float_as_uint(__uint_as_float(magnitude) + 16384.f) - __float_as_uint(16384.f);
  else
    r = (magnitude - (120u << 23) + 0x7ffffu + (magnitude >> 20 & 1)) >> 20;
  return {static_cast<uint8_t>(r | (bits >> 24 & 0x80))};
#endif
}

__device__ __forceinline__ float to_float(E4m3 x) {
  const uint32_t magnitude = x.bits & 0x7fu;
  if (magnitude == 0x7f) return __uint_as_float(0x7fffffffu);
  // Moved to float32's place it is 2^120 times too small, subnormals too.
  return __uint_as_float((x.bits & 0x80u) << 24 | magnitude << 20) * 1329227995784915872903807060280344576.f;
}

// Elements 0, 1 and 2, 3 of `four` as fp16.
__device__ __forceinline__ void widen(uint32_t four, uint32_t& low, uint32_t& high) {
#if QUIRE_SM >= 890 && !defined(QUIRE_CUDA_EMULATED)
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(low) : "h"(static_cast<uint16_t>(four)));
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(high) : "h"(static_cast<uint16_t>(four >> 16)));
#else
  const auto two = [](uint32_t bytes) { // in the upper half of each fp16
    const uint32_t magnitude = bytes >> 1 & 0x3f803f80u;
    // In fp16's place it is 2^8 times too small, subnormals too; -0 keeps the sign of zero.
    const __half2 scaled =
        fma_half2(half2_of(magnitude | (bytes & 0x80008000u)), half2_of(0x5c005c00u), half2_of(0x80008000u));
    return bits_of(scaled) | ((magnitude + 0x00800080u) >> 1 & 0x20002000u); // 0x7f: a NaN
  };
  low = two(__byte_perm(four, 0, 0x1404));
  high = two(__byte_perm(four, 0, 0x3424));
#endif
}

} // namespace quire::cuda
