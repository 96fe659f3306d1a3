// Narrow floats, inline: conversions without branches, so that loops over them vectorise.
//
// binary16 → float32: the 15 low bits, moved to float32's place, are the value times 2^-112 (subnormals too), so one
// exact product restores it. float32 → binary16 rounds to nearest, ties to even, on the bits. Needs subnormal
// arithmetic (no flush to zero). Threads: [any].
#pragma once

#include <bit>
#include <cstdint>

namespace quire::half {

inline float from_half(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000u) << 16;
  const float scaled = std::bit_cast<float>(uint32_t(bits & 0x7fffu) << 13) * 0x1p112f;
  uint32_t magnitude = std::bit_cast<uint32_t>(scaled);
  magnitude |= (bits & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u; // infinity and NaN
  return std::bit_cast<float>(magnitude | sign);
}

inline uint16_t to_half(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t sign = (bits >> 16) & 0x8000u;
  // Below 2^-14 the result is subnormal, in steps of 2^-24: adding 0.5, whose steps are the same, rounds.
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - std::bit_cast<uint32_t>(0.5f);
  const uint32_t normal = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7e00u | ((magnitude >> 13) & 0x1ffu) : 0x7c00u;
  const uint32_t result = magnitude < 0x38800000u ? subnormal : magnitude >= 0x47800000u ? special : normal;
  return static_cast<uint16_t>(result | sign);
}

inline float from_bfloat16(uint16_t bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }

inline uint16_t to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40u;
  return static_cast<uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

// E4M3 has no infinity: 0x7f is NaN, 0x7e is 448. Its 7 low bits, moved to float32's place, are the value times 2^-120.
inline float from_e4m3(uint8_t bits) {
  const uint32_t sign = uint32_t(bits & 0x80u) << 24;
  const float scaled = std::bit_cast<float>(uint32_t(bits & 0x7fu) << 20) * 0x1p120f;
  uint32_t magnitude = std::bit_cast<uint32_t>(scaled);
  magnitude |= (bits & 0x7fu) == 0x7fu ? 0x7fc00000u : 0u;
  return std::bit_cast<float>(magnitude | sign);
}

inline uint8_t to_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t sign = (bits >> 24) & 0x80u;
  // Below 2^-6 the result is subnormal, in steps of 2^-9: adding 2^14, whose steps are the same, rounds.
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0x1p14f) - std::bit_cast<uint32_t>(0x1p14f);
  const uint32_t normal = (magnitude - (120u << 23) + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20;
  const uint32_t special = magnitude > 0x7f800000u ? 0x7fu : 0x7eu;
  const uint32_t result = magnitude < 0x3c800000u ? subnormal : magnitude >= 0x43e00000u ? special : normal;
  return static_cast<uint8_t>(result | sign);
}

} // namespace quire::half
