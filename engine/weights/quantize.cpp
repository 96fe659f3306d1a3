// float32 → blocks. Scales come from the extremes of each group, not from a search: valid blocks whose error is bounded
// (see tests/weights/quantize_test.cpp for the bounds), good enough for dummy weights and tests. Values should be
// finite and their scales within binary16; larger ones are cut to its range.
#include "weights/blocks.hpp"
#include "weights/formats.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

namespace quire {
namespace {

using namespace blocks;

constexpr float half_max = 65504.0f;

float stored(Half& half, float value) {
  half.set(std::clamp(value, -half_max, half_max));
  return half.get();
}

// value * inverse, rounded to the nearest integer, within [low, high].
int nearest(float value, int low, int high) {
  return static_cast<int>(std::lrintf(std::clamp(value, static_cast<float>(low), static_cast<float>(high))));
}

float inverse(float value) { return value == 0.0f ? 0.0f : 1.0f / value; }

// The element of largest magnitude, with its sign.
float extreme(const float* x, int count) {
  float found = 0.0f;
  for (int i = 0; i < count; ++i)
    if (std::fabs(x[i]) > std::fabs(found)) found = x[i];
  return found;
}

template <class Block> void set_nibbles(Block& b, const uint8_t q[32]) {
  for (int i = 0; i < 16; ++i) b.qs[i] = static_cast<uint8_t>((q[i] & 15) | (q[16 + i] << 4));
}

template <class Block> void set_fifth_bits(Block& b, const uint8_t q[32]) {
  uint32_t high = 0;
  for (uint32_t i = 0; i < 32; ++i) high |= uint32_t(q[i] >> 4) << i;
  std::memcpy(b.qh, &high, 4);
}

// Q4_0, Q5_0: the extreme is q = 0, which stands for -half.
template <class Block, int Half_> void symmetric(const float* x, Block& b) {
  const float d = stored(b.d, extreme(x, 32) / -Half_);
  const float inv = inverse(d);
  uint8_t q[32];
  for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(nearest(x[i] * inv + Half_, 0, 2 * Half_ - 1));
  set_nibbles(b, q);
  if constexpr (Half_ == 16) set_fifth_bits(b, q);
}

// Q4_1, Q5_1: from the smallest to the largest in `Steps` steps.
template <class Block, int Steps> void affine(const float* x, Block& b) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  const float d = stored(b.d, (*high - *low) / Steps);
  const float m = stored(b.m, *low);
  const float inv = inverse(d);
  uint8_t q[32];
  for (int i = 0; i < 32; ++i) q[i] = static_cast<uint8_t>(nearest((x[i] - m) * inv, 0, Steps));
  set_nibbles(b, q);
  if constexpr (Steps == 31) set_fifth_bits(b, q);
}

void one(const float* x, Q4_0& b) { symmetric<Q4_0, 8>(x, b); }
void one(const float* x, Q5_0& b) { symmetric<Q5_0, 16>(x, b); }
void one(const float* x, Q4_1& b) { affine<Q4_1, 15>(x, b); }
void one(const float* x, Q5_1& b) { affine<Q5_1, 31>(x, b); }

void one(const float* x, Q8_0& b) {
  const float inv = inverse(stored(b.d, std::fabs(extreme(x, 32)) / 127));
  for (int i = 0; i < 32; ++i) b.qs[i] = static_cast<int8_t>(nearest(x[i] * inv, -127, 127));
}

// Groups of Q2_K, Q4_K and Q5_K: x ≈ d * scale * q - dmin * min, scale and min integers up to `Levels`, q up to
// `Steps`.
template <int Groups, int Levels, int Steps>
void affine_groups(const float* x, Half& d_half, Half& dmin_half, uint8_t* scales, uint8_t* mins, uint8_t* q) {
  constexpr int size = 256 / Groups;
  float scale[Groups], min[Groups];
  for (int g = 0; g < Groups; ++g) {
    const auto [low, high] = std::minmax_element(x + g * size, x + (g + 1) * size);
    min[g] = std::max(0.0f, -*low);
    scale[g] = (std::max(0.0f, *high) + min[g]) / Steps;
  }
  const float d = stored(d_half, *std::max_element(scale, scale + Groups) / Levels);
  const float dmin = stored(dmin_half, *std::max_element(min, min + Groups) / Levels);
  for (int g = 0; g < Groups; ++g) {
    scales[g] = static_cast<uint8_t>(nearest(scale[g] * inverse(d), 0, Levels));
    mins[g] = static_cast<uint8_t>(nearest(min[g] * inverse(dmin), 0, Levels));
    const float inv = inverse(d * static_cast<float>(scales[g]));
    const float offset = dmin * static_cast<float>(mins[g]);
    for (int i = g * size; i < (g + 1) * size; ++i)
      q[i] = static_cast<uint8_t>(nearest((x[i] + offset) * inv, 0, Steps));
  }
}

// Groups of 16 of Q3_K and Q6_K: x ≈ d * scale * q, scale in [-ScaleHalf, ScaleHalf - 1], q in [-Half_, Half_ - 1]; q
// is given plus Half_.
template <int ScaleHalf, int Half_>
void symmetric_groups(const float* x, Half& d_half, int8_t scales[16], uint8_t q[256]) {
  float scale[16];
  for (int g = 0; g < 16; ++g) scale[g] = extreme(x + 16 * g, 16) / -Half_;
  const float d = stored(d_half, extreme(scale, 16) / -ScaleHalf);
  for (int g = 0; g < 16; ++g) {
    scales[g] = static_cast<int8_t>(nearest(scale[g] * inverse(d), -ScaleHalf, ScaleHalf - 1));
    const float inv = inverse(d * static_cast<float>(scales[g]));
    for (int i = 16 * g; i < 16 * g + 16; ++i)
      q[i] = static_cast<uint8_t>(nearest(x[i] * inv, -Half_, Half_ - 1) + Half_);
  }
}

// Bits 0 and 1 of q, in the order of Q2_K and Q3_K.
void set_two_bits(const uint8_t q[256], uint8_t qs[64]) {
  for (int h = 0; h < 2; ++h)
    for (int l = 0; l < 32; ++l) {
      const uint8_t* from = q + 128 * h + l;
      qs[32 * h + l] =
          static_cast<uint8_t>((from[0] & 3) | (from[32] & 3) << 2 | (from[64] & 3) << 4 | (from[96] & 3) << 6);
    }
}

void one(const float* x, Q2_K& b) {
  uint8_t scales[16], mins[16], q[256];
  affine_groups<16, 15, 3>(x, b.d, b.dmin, scales, mins, q);
  for (int g = 0; g < 16; ++g) b.scales[g] = static_cast<uint8_t>(scales[g] | mins[g] << 4);
  set_two_bits(q, b.qs);
}

void one(const float* x, Q3_K& b) {
  int8_t scales[16];
  uint8_t q[256], biased[16];
  symmetric_groups<32, 4>(x, b.d, scales, q);
  for (int g = 0; g < 16; ++g) biased[g] = static_cast<uint8_t>(scales[g] + 32);
  pack_q3_scales(biased, b.scales);
  set_two_bits(q, b.qs);
  for (int l = 0; l < 32; ++l) {
    int mask = 0;
    for (int j = 0; j < 8; ++j) mask |= (q[32 * j + l] >> 2) << j;
    b.hmask[l] = static_cast<uint8_t>(mask);
  }
}

void set_long_nibbles(const uint8_t q[256], uint8_t qs[128]) {
  for (int j = 0; j < 4; ++j)
    for (int l = 0; l < 32; ++l) qs[32 * j + l] = static_cast<uint8_t>((q[64 * j + l] & 15) | q[64 * j + 32 + l] << 4);
}

void one(const float* x, Q4_K& b) {
  uint8_t scales[8], mins[8], q[256];
  affine_groups<8, 63, 15>(x, b.d, b.dmin, scales, mins, q);
  pack_scales(scales, mins, b.scales);
  set_long_nibbles(q, b.qs);
}

void one(const float* x, Q5_K& b) {
  uint8_t scales[8], mins[8], q[256];
  affine_groups<8, 63, 31>(x, b.d, b.dmin, scales, mins, q);
  pack_scales(scales, mins, b.scales);
  set_long_nibbles(q, b.qs);
  for (int l = 0; l < 32; ++l) {
    int high = 0;
    for (int j = 0; j < 8; ++j) high |= (q[32 * j + l] >> 4) << j;
    b.qh[l] = static_cast<uint8_t>(high);
  }
}

void one(const float* x, Q6_K& b) {
  uint8_t q[256];
  symmetric_groups<128, 32>(x, b.d, b.scales, q);
  for (int h = 0; h < 2; ++h)
    for (int l = 0; l < 32; ++l) {
      const uint8_t* from = q + 128 * h + l;
      b.ql[64 * h + l] = static_cast<uint8_t>((from[0] & 15) | from[64] << 4);
      b.ql[64 * h + 32 + l] = static_cast<uint8_t>((from[32] & 15) | from[96] << 4);
      b.qh[32 * h + l] =
          static_cast<uint8_t>(from[0] >> 4 | (from[32] >> 4) << 2 | (from[64] >> 4) << 4 | (from[96] >> 4) << 6);
    }
}

template <class Block, int Elements> void pack(const float* values, uint64_t count, void* blocks) {
  assert(count % Elements == 0);
  auto* out = static_cast<uint8_t*>(blocks);
  for (uint64_t i = 0; i < count / Elements; ++i) {
    Block block;
    one(values + i * Elements, block);
    std::memcpy(out + i * sizeof block, &block, sizeof block);
  }
}

template <uint16_t (*Convert)(float)> void narrow(const float* values, uint64_t count, void* blocks) {
  auto* out = static_cast<uint8_t*>(blocks);
  for (uint64_t i = 0; i < count; ++i) {
    const uint16_t bits = Convert(values[i]);
    std::memcpy(out + 2 * i, &bits, 2);
  }
}

} // namespace

void quantize(uint32_t format, const float* values, uint64_t count, void* blocks) {
  switch (format) {
  case QUIRE_F32:
    std::memcpy(blocks, values, count * sizeof(float));
    return;
  case QUIRE_F16:
    return narrow<half::to_half>(values, count, blocks);
  case QUIRE_BF16:
    return narrow<half::to_bfloat16>(values, count, blocks);
  case QUIRE_Q4_0:
    return pack<Q4_0, 32>(values, count, blocks);
  case QUIRE_Q4_1:
    return pack<Q4_1, 32>(values, count, blocks);
  case QUIRE_Q5_0:
    return pack<Q5_0, 32>(values, count, blocks);
  case QUIRE_Q5_1:
    return pack<Q5_1, 32>(values, count, blocks);
  case QUIRE_Q8_0:
    return pack<Q8_0, 32>(values, count, blocks);
  case QUIRE_Q2_K:
    return pack<Q2_K, 256>(values, count, blocks);
  case QUIRE_Q3_K:
    return pack<Q3_K, 256>(values, count, blocks);
  case QUIRE_Q4_K:
    return pack<Q4_K, 256>(values, count, blocks);
  case QUIRE_Q5_K:
    return pack<Q5_K, 256>(values, count, blocks);
  case QUIRE_Q6_K:
    return pack<Q6_K, 256>(values, count, blocks);
  default:
    assert(!"a quire_format");
  }
}

} // namespace quire
