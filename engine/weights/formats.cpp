#include "weights/formats.hpp"

#include "weights/half.hpp"

#include <array>
#include <bit>
#include <cassert>

namespace quire {

static_assert(std::endian::native == std::endian::little, "weight files are little-endian and mapped as they are");

namespace {

constexpr std::array<FormatInfo, QUIRE_FORMAT_COUNT> formats = {{
    {"F32", 1, 4, false},
    {"F16", 1, 2, false},
    {"BF16", 1, 2, false},
    {"Q4_0", 32, 18, true},
    {"Q4_1", 32, 20, true},
    {"Q5_0", 32, 22, true},
    {"Q5_1", 32, 24, true},
    {"Q8_0", 32, 34, true},
    {"Q2_K", 256, 84, true},
    {"Q3_K", 256, 110, true},
    {"Q4_K", 256, 144, true},
    {"Q5_K", 256, 176, true},
    {"Q6_K", 256, 210, true},
}};

constexpr char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

} // namespace

const FormatInfo& format_info(uint32_t format) {
  assert(format < QUIRE_FORMAT_COUNT);
  return formats[format];
}

std::optional<uint32_t> format_from_name(std::string_view name) {
  for (uint32_t format = 0; format < QUIRE_FORMAT_COUNT; ++format) {
    const std::string_view known = formats[format].name;
    if (known.size() != name.size()) continue;
    size_t same = 0;
    while (same < name.size() && upper(name[same]) == known[same]) ++same;
    if (same == name.size()) return format;
  }
  return std::nullopt;
}

const char* format_names() { return "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K"; }

uint64_t row_bytes(uint32_t format, uint64_t cols) {
  const FormatInfo& info = format_info(format);
  assert(cols % info.block_elements == 0);
  return cols / info.block_elements * info.block_bytes;
}

std::optional<uint64_t> weight_bytes(uint32_t format, uint64_t experts, uint64_t rows, uint64_t cols) {
  const FormatInfo& info = format_info(format);
  if (cols % info.block_elements != 0) return std::nullopt;
  uint64_t bytes = cols / info.block_elements;
  if (__builtin_mul_overflow(bytes, info.block_bytes, &bytes) || __builtin_mul_overflow(bytes, rows, &bytes) ||
      __builtin_mul_overflow(bytes, experts, &bytes) || bytes > uint64_t(INT64_MAX))
    return std::nullopt;
  return bytes;
}

float half_to_float(uint16_t bits) { return half::from_half(bits); }
uint16_t float_to_half(float value) { return half::to_half(value); }
float bfloat16_to_float(uint16_t bits) { return half::from_bfloat16(bits); }
uint16_t float_to_bfloat16(float value) { return half::to_bfloat16(value); }
float e4m3_to_float(uint8_t bits) { return half::from_e4m3(bits); }
uint8_t float_to_e4m3(float value) { return half::to_e4m3(value); }

} // namespace quire
