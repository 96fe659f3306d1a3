// Sizes, narrow floats, and dequantising against PyPI `gguf` (goldens/dequantize.bin, see make_dequantize_goldens.py).
#include "weights/formats.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

namespace quire {
namespace {

TEST(Formats, NamesAreFoundInAnyCase) {
  for (uint32_t format = 0; format < QUIRE_FORMAT_COUNT; ++format) {
    std::string name = format_info(format).name;
    EXPECT_EQ(format_from_name(name), format);
    for (char& c : name) c = static_cast<char>(std::tolower(c));
    EXPECT_EQ(format_from_name(name), format);
    EXPECT_NE(std::string(format_names()).find(format_info(format).name), std::string::npos);
  }
  EXPECT_FALSE(format_from_name("q4_k_m"));
  EXPECT_FALSE(format_from_name(""));
}

TEST(Formats, BytesAreCountedAndOverflowIsSeen) {
  EXPECT_EQ(row_bytes(QUIRE_Q4_1, 576), 360u);
  EXPECT_EQ(weight_bytes(QUIRE_Q4_1, 1, 1536, 576), 552960u);
  EXPECT_EQ(weight_bytes(QUIRE_Q6_K, 8, 3, 256), 8u * 3 * 210);
  EXPECT_FALSE(weight_bytes(QUIRE_Q4_K, 1, 1, 128));
  EXPECT_FALSE(weight_bytes(QUIRE_F32, 1, uint64_t(1) << 32, uint64_t(1) << 30));
  EXPECT_FALSE(weight_bytes(QUIRE_F16, uint64_t(1) << 62, 1, 1));
}

// By the definition of E4M3, in double.
double e4m3_value(uint8_t bits) {
  const int exponent = (bits >> 3) & 15, fraction = bits & 7;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return bits & 0x80 ? -magnitude : magnitude;
}

TEST(NarrowFloats, E4m3IsReadExactlyAndWrittenToTheNearestEven) {
  for (uint32_t i = 0; i < 256; ++i) {
    const auto bits = static_cast<uint8_t>(i);
    const float value = e4m3_to_float(bits);
    if ((i & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_EQ(float_to_e4m3(value) & 0x7f, 0x7f);
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), e4m3_value(bits)) << i;
    ASSERT_EQ(std::signbit(value), i >= 0x80) << i;
    ASSERT_EQ(float_to_e4m3(value), bits) << i;
    if (i >= 0x7e) continue;
    const auto middle = static_cast<float>((e4m3_value(bits) + e4m3_value(bits + 1)) / 2);
    ASSERT_EQ(float_to_e4m3(middle), i % 2 == 0 ? i : i + 1) << i;
    ASSERT_EQ(float_to_e4m3(std::nextafter(middle, 0.0f)), i) << i;
    ASSERT_EQ(float_to_e4m3(std::nextafter(middle, 1e9f)), i + 1) << i;
    ASSERT_EQ(float_to_e4m3(-middle), (i % 2 == 0 ? i : i + 1) | 0x80) << i;
  }
  for (const float large : {448.1f, 480.0f, 1e9f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(float_to_e4m3(large), 0x7e) << large;
    EXPECT_EQ(float_to_e4m3(-large), 0xfe) << large;
  }
  EXPECT_EQ(float_to_e4m3(std::numeric_limits<float>::denorm_min()), 0);
}

// By the definition of binary16, in double.
double half_value(uint16_t bits) {
  const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return bits & 0x8000 ? -magnitude : magnitude;
}

TEST(NarrowFloats, EveryHalfIsReadExactlyAndWrittenBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = half_to_float(half);
    if ((bits & 0x7c00) == 0x7c00) {
      EXPECT_EQ(std::isnan(value), (bits & 1023) != 0);
      EXPECT_EQ(std::isinf(value), (bits & 1023) == 0);
      EXPECT_EQ(std::isnan(half_to_float(float_to_half(value))), std::isnan(value));
      continue;
    }
    ASSERT_EQ(static_cast<double>(value), half_value(half)) << bits;
    ASSERT_EQ(std::signbit(value), (bits & 0x8000) != 0) << bits;
    ASSERT_EQ(float_to_half(value), half) << bits;
  }
}

TEST(NarrowFloats, HalvesRoundToNearestEven) {
  // Between every two neighbours: the midpoint goes to the even one, its float neighbours to the nearer one.
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {
    const auto low = static_cast<uint16_t>(bits), high = static_cast<uint16_t>(bits + 1);
    const auto middle = static_cast<float>((half_value(low) + half_value(high)) / 2); // exact: one bit more
    ASSERT_EQ(float_to_half(middle), bits % 2 == 0 ? low : high) << bits;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 0.0f)), low) << bits;
    ASSERT_EQ(float_to_half(std::nextafter(middle, 1e9f)), high) << bits;
    ASSERT_EQ(float_to_half(-middle), (bits % 2 == 0 ? low : high) | 0x8000) << bits;
  }
  EXPECT_EQ(float_to_half(65519.996f), 0x7bff);
  EXPECT_EQ(float_to_half(65520.0f), 0x7c00);
  EXPECT_EQ(float_to_half(1e30f), 0x7c00);
  EXPECT_EQ(float_to_half(-std::numeric_limits<float>::infinity()), 0xfc00);
  EXPECT_EQ(float_to_half(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_TRUE(std::isnan(half_to_float(float_to_half(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(NarrowFloats, Bfloat16RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7f7f; ++bits) {
    const auto low = static_cast<uint16_t>(bits);
    const uint32_t middle = (bits << 16) | 0x8000u;
    ASSERT_EQ(bfloat16_to_float(low), std::bit_cast<float>(bits << 16));
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(bits << 16)), low);
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(middle)), bits % 2 == 0 ? bits : bits + 1);
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(middle - 1)), bits);
    ASSERT_EQ(float_to_bfloat16(std::bit_cast<float>(middle + 1)), bits + 1);
  }
  EXPECT_EQ(float_to_bfloat16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(float_to_bfloat16(-std::numeric_limits<float>::infinity()), 0xff80);
  EXPECT_TRUE(std::isnan(bfloat16_to_float(float_to_bfloat16(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_TRUE(
      std::isnan(bfloat16_to_float(float_to_bfloat16(std::bit_cast<float>(0x7f800001u))))); // payload in low bits
}

TEST(Dequantize, EveryFormatEqualsGgufToTheBit) {
  const char* root = std::getenv("QUIRE_TEST_DATA");
  ASSERT_NE(root, nullptr) << "run by `meson test`";
  std::ifstream file(std::string(root) + "/weights/goldens/dequantize.bin", std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  ASSERT_FALSE(bytes.empty());
  size_t at = 0;
  uint32_t formats = 0;
  while (at < bytes.size()) {
    uint32_t head[4];
    ASSERT_LE(at + sizeof head, bytes.size());
    std::memcpy(head, bytes.data() + at, sizeof head);
    const auto [format, num_blocks, block_bytes, block_elements] = head;
    at += sizeof head;
    const FormatInfo& info = format_info(format);
    EXPECT_EQ(info.block_bytes, block_bytes) << info.name;
    EXPECT_EQ(info.block_elements, block_elements) << info.name;
    const uint64_t count = uint64_t(num_blocks) * block_elements;
    const char* blocks = bytes.data() + at;
    at += uint64_t(num_blocks) * block_bytes;
    ASSERT_LE(at + 4 * count, bytes.size());
    std::vector<float> expected(count), out(count, -1.0f);
    std::memcpy(expected.data(), bytes.data() + at, 4 * count);
    at += 4 * count;
    dequantize(format, blocks, count, out.data());
    for (uint64_t i = 0; i < count; ++i) {
      if (std::isnan(expected[i]))
        ASSERT_TRUE(std::isnan(out[i])) << info.name << " element " << i;
      else
        ASSERT_EQ(std::bit_cast<uint32_t>(out[i]), std::bit_cast<uint32_t>(expected[i]))
            << info.name << " element " << i;
    }
    // The same blocks from an odd address, one block at a time: no alignment is assumed, no neighbour is read.
    std::vector<char> moved(bytes.size() + 1);
    std::memcpy(moved.data() + 1, blocks, uint64_t(num_blocks) * block_bytes);
    std::vector<float> again(count);
    for (uint64_t b = 0; b < num_blocks; ++b)
      dequantize(format, moved.data() + 1 + b * block_bytes, block_elements, again.data() + b * block_elements);
    EXPECT_EQ(std::memcmp(again.data(), out.data(), 4 * count), 0) << info.name;
    ++formats;
  }
  EXPECT_EQ(formats, QUIRE_FORMAT_COUNT - 1u); // all but F32
}

} // namespace
} // namespace quire
