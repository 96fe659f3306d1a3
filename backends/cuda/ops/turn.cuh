// Rotating a pair of elements by its position: the same arithmetic in rope and in attend_decode.
//
// Angles are formed in double and reduced there: at position 100,000 a float32 product would be off by 0.004 radians.
// Source: Su et al. 2021, in the two pairings of quire_rope_kind.
#pragma once

#include "launch.hpp"

namespace quire::cuda {

// (cos, sin) of the angle, times the magnitude.
__device__ __forceinline__ float2 turn_of(uint32_t position, float frequency, float magnitude) {
  constexpr double kHalfTurns = 0.318309886183790671538; // a radian
  const double half_turns = static_cast<double>(position) * static_cast<double>(frequency) * kHalfTurns;
  float s, c;
  sincospif(static_cast<float>(half_turns - 2 * rint(half_turns * 0.5)), &s, &c);
  return make_float2(c * magnitude, s * magnitude);
}

__device__ __forceinline__ float2 rotate(float x, float y, const float2& turn) {
  return make_float2(__fmaf_rn(x, turn.x, -__fmul_rn(y, turn.y)), __fmaf_rn(y, turn.x, __fmul_rn(x, turn.y)));
}

} // namespace quire::cuda
