// Quantising makes valid blocks within the error that each layout's arithmetic allows.
#include "weights/formats.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

namespace quire {
namespace {

// The largest |x - dequantize(quantize(x))| that element may have, from its block's values.
//
// A stored scale is within 2^-11 of what was computed, relatively, or 2^-25 where it is subnormal; `steps` of it make
// the value. So each bound below, in exact arithmetic, grows by slack = 2^-10 * the largest magnitude in the block +
// levels * 2^-24.
//  Q4_0, Q5_0: d = |extreme| / half; half a step, but one side ends a step early (q <= 2 half - 1): one step.
//  Q8_0: d = extreme / 127: half a step.            Q4_1, Q5_1: d = range / steps: half a step.
//  K-quants with mins: group scale s and min m are rounded to multiples of d = max s / levels, dmin = max m / levels:
//  each is off by
//   at most half of that. Within q's range: half a step of the rounded scale (s + d / 2) / 2; at its ends: steps * d /
//   2 + dmin / 2.
//  K-quants without: s rounded likewise, in [-h, h - 1] (the opposite end is cut: a whole d). One step s + d inside; at
//  the ends
//   half * d more.
double bound(uint32_t format, const std::vector<float>& block) {
  const auto span = [&](size_t first, size_t count) {
    const auto [low, high] =
        std::minmax_element(block.begin() + static_cast<long>(first), block.begin() + static_cast<long>(first + count));
    return std::pair<double, double>(*low, *high);
  };
  const auto [low, high] = span(0, block.size());
  const double most = std::max(std::fabs(low), std::fabs(high));
  const auto slack = [&](double levels) { return std::ldexp(most, -10) + levels * 0x1p-24; };
  const auto affine = [&](size_t group, double levels, double steps) {
    double scale = 0, min = 0;
    for (size_t g = 0; g < block.size(); g += group) {
      const auto [l, h] = span(g, group);
      min = std::max(min, std::max(0.0, -l));
      scale = std::max(scale, (std::max(0.0, h) + std::max(0.0, -l)) / steps);
    }
    const double d = scale / levels, dmin = min / levels;
    return std::max((scale + d / 2) / 2, steps * d / 2) + dmin / 2 + 2 * slack(levels * steps);
  };
  const auto symmetric = [&](double levels, double half) {
    const double scale = most / half, d = scale / levels;
    return scale + d + half * d + slack(levels * half);
  };
  switch (format) {
  case QUIRE_F32:
    return 0;
  case QUIRE_F16:
    return std::max(std::ldexp(most, -11), 0x1p-25);
  case QUIRE_BF16:
    return std::ldexp(most, -8);
  case QUIRE_Q4_0:
    return most / 8 + slack(8);
  case QUIRE_Q5_0:
    return most / 16 + slack(16);
  case QUIRE_Q8_0:
    return most / 127 / 2 + slack(127);
  case QUIRE_Q4_1:
    return (high - low) / 15 / 2 + 2 * slack(15);
  case QUIRE_Q5_1:
    return (high - low) / 31 / 2 + 2 * slack(31);
  case QUIRE_Q2_K:
    return affine(16, 15, 3);
  case QUIRE_Q4_K:
    return affine(32, 63, 15);
  case QUIRE_Q5_K:
    return affine(32, 63, 31);
  case QUIRE_Q3_K:
    return symmetric(32, 4);
  case QUIRE_Q6_K:
    return symmetric(128, 32);
  default:
    return -1;
  }
}

std::vector<float> round_trip(uint32_t format, const std::vector<float>& values) {
  std::vector<uint8_t> blocks(row_bytes(format, values.size()) + 1, 0xee);
  quantize(format, values.data(), values.size(), blocks.data());
  EXPECT_EQ(blocks.back(), 0xee) << "wrote past its blocks";
  std::vector<float> out(values.size());
  dequantize(format, blocks.data(), values.size(), out.data());
  return out;
}

RC_GTEST_PROP(Quantize, ErrorStaysWithinTheLayoutsBound, ()) {
  std::mt19937 random(*rc::gen::arbitrary<uint32_t>());
  const int shape = *rc::gen::inRange(0, 4); // normal; one-sided; one outlier; groups of different size
  const double size = std::pow(10.0, *rc::gen::inRange(-4, 4));
  for (uint32_t format = 0; format < QUIRE_FORMAT_COUNT; ++format) {
    std::vector<float> block(format_info(format).block_elements);
    std::normal_distribution<double> normal;
    for (size_t i = 0; i < block.size(); ++i) {
      double x = normal(random) * size;
      if (shape == 1) x = std::fabs(x) + size;
      if (shape == 3) x *= std::pow(4.0, static_cast<double>(i / 16 % 4) - 3);
      block[i] = static_cast<float>(x);
    }
    if (shape == 2) block[random() % block.size()] = static_cast<float>(-20 * size);
    const auto out = round_trip(format, block);
    const double allowed = bound(format, block);
    for (size_t i = 0; i < block.size(); ++i)
      if (!(std::fabs(double(out[i]) - block[i]) <= allowed))
        RC_FAIL(std::string(format_info(format).name) + ": " + std::to_string(block[i]) + " became " +
                std::to_string(out[i]) + ", allowed " + std::to_string(allowed));
  }
}

// Typical weights: the RMS error relative to the RMS of N(0, 0.02). Uniform rounding of b bits over ±3 sigma gives
// 6 / (2^b sqrt(12)): 2 bits 0.43, 3 bits 0.22, 4 bits 0.108, 5 bits 0.054, 6 bits 0.027, 8 bits 0.0068; a float with b
// bits of fraction at most 2^-(b + 1) / sqrt(3): binary16 2.9e-4, bfloat16 2.3e-3.
TEST(Quantize, NormalWeightsKeepTheirFormatsPrecision) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  std::vector<float> values(256 * 256);
  for (float& v : values) v = normal(random);
  const double expected[QUIRE_FORMAT_COUNT] = {0,      2.9e-4, 2.3e-3, 0.108, 0.108, 0.054, 0.054,
                                               0.0068, 0.43,   0.22,   0.108, 0.054, 0.027};
  for (uint32_t format = 0; format < QUIRE_FORMAT_COUNT; ++format) {
    const auto out = round_trip(format, values);
    double error = 0, power = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      error += std::pow(double(out[i]) - values[i], 2);
      power += std::pow(double(values[i]), 2);
    }
    const double relative = std::sqrt(error / power);
    EXPECT_LE(relative, expected[format]) << format_info(format).name;
    EXPECT_GE(relative, 0.25 * expected[format]) << format_info(format).name << " is too good to be true";
  }
}

TEST(Quantize, ZerosStayZerosAndConstantsStayConstant) {
  for (uint32_t format = 0; format < QUIRE_FORMAT_COUNT; ++format) {
    for (const float x : {0.0f, 1.0f, -1.0f}) {
      const std::vector<float> values(512, x);
      for (const float y : round_trip(format, values))
        ASSERT_NEAR(y, x, std::fabs(x) / 512) << format_info(format).name;
    }
  }
}

} // namespace
} // namespace quire
