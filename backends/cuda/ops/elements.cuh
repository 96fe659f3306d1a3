// Reading and writing activations of either storage type, one or four elements at a time, and the activation functions.
#pragma once

#include "launch.hpp"
#include "ops.hpp"

namespace quire::cuda {

template <int kWidth> struct Elements { float x[kWidth]; };

// Elements [col, col + kWidth) of a row; kWidth 4 needs the alignment that `wide` below promises.
template <int kWidth>
__device__ __forceinline__ Elements<kWidth> load(const Tensor& tensor, uint32_t row, uint32_t col) {
  Elements<kWidth> e;
  const size_t at = size_t{row} * tensor.stride + col;
  if (tensor.type == Type::f16) {
    const __half* p = static_cast<const __half*>(tensor.data) + at;
    if constexpr (kWidth == 4) {
      const uint2 v = *reinterpret_cast<const uint2*>(p);
      const float2 a = __half22float2(half2_of(v.x)), b = __half22float2(half2_of(v.y));
      e.x[0] = a.x, e.x[1] = a.y, e.x[2] = b.x, e.x[3] = b.y;
    } else {
      e.x[0] = __half2float(*p);
    }
  } else {
    const float* p = static_cast<const float*>(tensor.data) + at;
    if constexpr (kWidth == 4) {
      const float4 v = *reinterpret_cast<const float4*>(p);
      e.x[0] = v.x, e.x[1] = v.y, e.x[2] = v.z, e.x[3] = v.w;
    } else {
      e.x[0] = *p;
    }
  }
  return e;
}

template <int kWidth>
__device__ __forceinline__ void store(const Tensor& tensor, uint32_t row, uint32_t col, const Elements<kWidth>& e) {
  const size_t at = size_t{row} * tensor.stride + col;
  if (tensor.type == Type::f16) {
    __half* p = static_cast<__half*>(tensor.data) + at;
    if constexpr (kWidth == 4)
      *reinterpret_cast<uint2*>(p) = make_uint2(pack_half2(e.x[0], e.x[1]), pack_half2(e.x[2], e.x[3]));
    else
      *p = to_half(e.x[0]);
  } else {
    float* p = static_cast<float*>(tensor.data) + at;
    if constexpr (kWidth == 4)
      *reinterpret_cast<float4*>(p) = make_float4(e.x[0], e.x[1], e.x[2], e.x[3]);
    else
      *p = e.x[0];
  }
}

// Whether every row of the tensor can be read four elements at a time.
inline bool wide(const Tensor& tensor) {
  if (!tensor) return true;
  const uint64_t alignment = 4 * bytes_of(tensor.type);
  return reinterpret_cast<uintptr_t>(tensor.data) % alignment == 0 && tensor.stride % 4 == 0 && tensor.dim % 4 == 0;
}

// act(x) of quire_activation. silu: Elfwing et al. 2017; gelu and its tanh form: Hendrycks and Gimpel 2016.
__device__ __forceinline__ float activate(uint32_t activation, float x) {
  // The usual one apart, out of the compiler's sight: the others are a jump through a table in constant memory, which
  // is slow where that is cold.
  if (not_kept(activation) == QUIRE_ACT_SILU) return __fdividef(x, 1.f + __expf(-x));
  switch (activation) {
  case QUIRE_ACT_GELU_TANH: {
    const float y = 0.7978845608f * (x + 0.044715f * x * x * x); // sqrt(2 / pi)
    return 0.5f * x * (1.f + tanhf(y));
  }
  case QUIRE_ACT_GELU_ERF:
    return 0.5f * x * (1.f + erff(x * 0.70710678f));
  case QUIRE_ACT_RELU:
    return x < 0.f ? 0.f : x; // NaN stays NaN
  default:
    return x;
  }
}

} // namespace quire::cuda
