// What the linear kernels share: finding the part of a tile, and what is done to a finished sum.
#pragma once

#include "block_format.cuh"
#include "elements.cuh"
#include "linear.hpp"

#include <string>
#include <type_traits>

namespace quire::cuda {

// Row tiles of kRows rows, counted over the parts.
template <uint32_t kRows> struct PartTile {
  uint32_t part, tile; // tile within the part

  __device__ __forceinline__ PartTile(const LinearArgs& a, uint32_t index) : part(0), tile(index) {
#pragma unroll
    for (uint32_t p = 0; p + 1 < QUIRE_MAX_PARTS; ++p) {
      const uint32_t tiles = (a.parts[p].weight.rows + kRows - 1) / kRows;
      if (part == p && p + 1 < a.num_parts && tile >= tiles) {
        tile -= tiles;
        ++part;
      }
    }
  }
};

template <uint32_t kRows> uint32_t count_tiles(const LinearArgs& a) {
  uint32_t tiles = 0;
  for (uint32_t p = 0; p < (a.glu ? 1 : a.num_parts); ++p) tiles += (a.parts[p].weight.rows + kRows - 1) / kRows;
  return tiles;
}

// What is added to the sum of output n of a part: where there is no bias -0, which leaves every sum as it is.
__device__ __forceinline__ float bias_of(const LinearPart& part, uint32_t n) {
  return part.bias != nullptr ? part.bias[n] : -0.f;
}
// What the op makes of a sum, in registers.
struct Finish {
  uint32_t activation;
  float scale, softcap;

  __device__ __forceinline__ explicit Finish(const LinearArgs& a)
      : activation(a.activation), scale(a.scale), softcap(a.softcap) {}
  __device__ __forceinline__ float operator()(float sum, float bias) const {
    sum += bias;
    if (activation != QUIRE_ACT_NONE) sum = activate(activation, sum);
    sum *= scale;
    if (softcap != 0.f) sum = softcap * tanhf(sum / softcap);
    return sum;
  }
};
// The sum of output n of a part as the op wants it.
__device__ __forceinline__ float finish(const LinearArgs& a, const LinearPart& part, uint32_t n, float sum) {
  return Finish(a)(sum, bias_of(part, n));
}

__device__ __forceinline__ void put(const LinearArgs& a, uint32_t row, uint32_t col, float value) {
  const size_t at = size_t{row} * a.out.stride + col;
  if (a.residual)
    static_cast<float*>(a.out.data)[at] += __half2float(to_half(value));
  else if (a.out.type == Type::f16)
    static_cast<__half*>(a.out.data)[at] = to_half(value);
  else
    static_cast<float*>(a.out.data)[at] = value;
}

// act(gate) * up as the unfused ops would make it of values stored in fp16.
__device__ __forceinline__ float gated(uint32_t activation, float gate, float up) {
  return activate(activation, __half2float(to_half(gate))) * __half2float(to_half(up));
}

// body(std::integral_constant of the block format); kernel: for the error.
template <class Body> void for_block_format(const char* kernel, uint32_t format, const Body& body) {
  switch (format) {
  case QUIRE_Q4_0:
    return body(std::integral_constant<uint32_t, QUIRE_Q4_0>{});
  case QUIRE_Q4_1:
    return body(std::integral_constant<uint32_t, QUIRE_Q4_1>{});
  case QUIRE_Q5_0:
    return body(std::integral_constant<uint32_t, QUIRE_Q5_0>{});
  case QUIRE_Q5_1:
    return body(std::integral_constant<uint32_t, QUIRE_Q5_1>{});
  case QUIRE_Q8_0:
    return body(std::integral_constant<uint32_t, QUIRE_Q8_0>{});
  case QUIRE_Q2_K:
    return body(std::integral_constant<uint32_t, QUIRE_Q2_K>{});
  case QUIRE_Q3_K:
    return body(std::integral_constant<uint32_t, QUIRE_Q3_K>{});
  case QUIRE_Q4_K:
    return body(std::integral_constant<uint32_t, QUIRE_Q4_K>{});
  case QUIRE_Q5_K:
    return body(std::integral_constant<uint32_t, QUIRE_Q5_K>{});
  case QUIRE_Q6_K:
    return body(std::integral_constant<uint32_t, QUIRE_Q6_K>{});
  default:
    throw Failure(QUIRE_UNSUPPORTED, std::string(kernel) + ": unknown weight format");
  }
}

} // namespace quire::cuda
