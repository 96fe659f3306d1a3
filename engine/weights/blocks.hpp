// The block layouts of ggml as structs of bytes: no padding, no alignment, little-endian (source: the GGUF
// specification and the layouts that PyPI's `gguf` reads). d and m are binary16.
#pragma once

#include "weights/half.hpp"

#include <cstdint>
#include <cstring>

namespace quire::blocks {

struct Half {
  uint8_t bytes[2];
  float get() const {
    uint16_t bits;
    std::memcpy(&bits, bytes, 2);
    return half::from_half(bits);
  }
  void set(float value) {
    const uint16_t bits = half::to_half(value);
    std::memcpy(bytes, &bits, 2);
  }
};

// 32 elements. Element i < 16 is the low nibble of qs[i], element 16 + i the high one; its fifth bit is bit i of qh.
struct Q4_0 { // d * (q - 8)
  Half d;
  uint8_t qs[16];
};
struct Q4_1 { // d * q + m
  Half d, m;
  uint8_t qs[16];
};
struct Q5_0 { // d * (q - 16)
  Half d;
  uint8_t qh[4], qs[16];
};
struct Q5_1 { // d * q + m
  Half d, m;
  uint8_t qh[4], qs[16];
};
struct Q8_0 { // d * q
  Half d;
  int8_t qs[32];
};

// 256 elements.
struct Q2_K { // d * (scales & 15) * q - dmin * (scales >> 4), a scale for 16 elements
  uint8_t scales[16];
  uint8_t qs[64]; // element 128 h + 32 j + l: bits 2 j of qs[32 h + l]
  Half d, dmin;
};
struct Q3_K {         // d * (scale - 32) * q, q in [-4, 3], a scale for 16 elements
  uint8_t hmask[32];  // element 32 j + l: bit j of hmask[l]; clear means - 4
  uint8_t qs[64];     // as in Q2_K
  uint8_t scales[12]; // 16 of 6 bits: i's low nibble in byte i % 8, high bits in byte 8 + i % 4
  Half d;
};
struct Q4_K { // d * scale * q - dmin * min, a pair for 32 elements
  Half d, dmin;
  uint8_t scales[12]; // 8 scales and 8 mins of 6 bits, see unpack_scales
  uint8_t qs[128];    // element 64 j + 32 k + l: nibble k of qs[32 j + l]
};
struct Q5_K { // as Q4_K, with a fifth bit
  Half d, dmin;
  uint8_t scales[12];
  uint8_t qh[32]; // element 32 j + l: bit j of qh[l]
  uint8_t qs[128];
};
struct Q6_K {      // d * scale * (q - 32), a scale for 16 elements
  uint8_t ql[128]; // element 128 h + 64 k + 32 j + l: nibble k of ql[64 h + 32 j + l]
  uint8_t qh[64];  // element 128 h + 32 j + l: bits 2 j of qh[32 h + l]
  int8_t scales[16];
  Half d;
};

static_assert(sizeof(Q4_0) == 18 && sizeof(Q4_1) == 20 && sizeof(Q5_0) == 22 && sizeof(Q5_1) == 24);
static_assert(sizeof(Q8_0) == 34 && sizeof(Q2_K) == 84 && sizeof(Q3_K) == 110 && sizeof(Q4_K) == 144);
static_assert(sizeof(Q5_K) == 176 && sizeof(Q6_K) == 210);

// Scales and mins of Q4_K and Q5_K: pair i < 4 lies in the low 6 bits of bytes i and 4 + i; of pair 4 + i the low
// nibbles share byte 8 + i and the high two bits are the spare ones of bytes i and 4 + i.
inline void unpack_scales(const uint8_t packed[12], uint8_t scales[8], uint8_t mins[8]) {
  for (int i = 0; i < 4; ++i) {
    scales[i] = packed[i] & 63;
    mins[i] = packed[4 + i] & 63;
    scales[4 + i] = static_cast<uint8_t>((packed[8 + i] & 15) | ((packed[i] >> 6) << 4));
    mins[4 + i] = static_cast<uint8_t>((packed[8 + i] >> 4) | ((packed[4 + i] >> 6) << 4));
  }
}

inline void pack_scales(const uint8_t scales[8], const uint8_t mins[8], uint8_t packed[12]) {
  for (int i = 0; i < 4; ++i) {
    packed[i] = static_cast<uint8_t>(scales[i] | ((scales[4 + i] >> 4) << 6));
    packed[4 + i] = static_cast<uint8_t>(mins[i] | ((mins[4 + i] >> 4) << 6));
    packed[8 + i] = static_cast<uint8_t>((scales[4 + i] & 15) | ((mins[4 + i] & 15) << 4));
  }
}

// The 16 scales of Q3_K, 0 to 63.
inline void unpack_q3_scales(const uint8_t packed[12], uint8_t scales[16]) {
  for (int i = 0; i < 16; ++i)
    scales[i] =
        static_cast<uint8_t>(((packed[i % 8] >> (i / 8 * 4)) & 15) | (((packed[8 + i % 4] >> (i / 4 * 2)) & 3) << 4));
}

inline void pack_q3_scales(const uint8_t scales[16], uint8_t packed[12]) {
  std::memset(packed, 0, 12);
  for (int i = 0; i < 16; ++i) {
    packed[i % 8] |= static_cast<uint8_t>((scales[i] & 15) << (i / 8 * 4));
    packed[8 + i % 4] |= static_cast<uint8_t>((scales[i] >> 4) << (i / 4 * 2));
  }
}

} // namespace quire::blocks
