#include "support/block_formats.hpp"

#include "quire/plugin.h"

#include <bit>
#include <cmath>
#include <cstring>

namespace quire::tests {
namespace {

uint16_t read16(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }
double half_at(const uint8_t* p) { return half_value(read16(p)); }
void write16(uint8_t* p, uint16_t bits) {
  p[0] = static_cast<uint8_t>(bits);
  p[1] = static_cast<uint8_t>(bits >> 8);
}

// The 6-bit scale and minimum of sub-block j of Q4_K and Q5_K.
struct ScaleMin {
  int scale, min;
};
ScaleMin scale_min(const uint8_t* s, int j) {
  if (j < 4) return {s[j] & 63, s[j + 4] & 63};
  return {(s[j + 4] & 15) | (s[j - 4] >> 6) << 4, s[j + 4] >> 4 | (s[j] >> 6) << 4};
}

void decode_32(uint32_t format, const uint8_t* b, double* y) {
  const double d = half_at(b);
  const bool has_min = format == QUIRE_Q4_1 || format == QUIRE_Q5_1;
  const double m = has_min ? half_at(b + 2) : 0;
  if (format == QUIRE_Q8_0) {
    for (int i = 0; i < 32; ++i) y[i] = d * static_cast<int8_t>(b[2 + i]);
    return;
  }
  const bool five = format == QUIRE_Q5_0 || format == QUIRE_Q5_1;
  const uint8_t* high = b + (has_min ? 4 : 2);
  const uint8_t* low = high + (five ? 4 : 0);
  for (int i = 0; i < 32; ++i) {
    int q = i < 16 ? low[i] & 15 : low[i - 16] >> 4;
    if (five) q |= (high[i / 8] >> (i % 8) & 1) << 4;
    y[i] = has_min ? d * q + m : d * (q - (five ? 16 : 8));
  }
}

void decode_q2_k(const uint8_t* b, double* y) {
  const uint8_t *scales = b, *q = b + 16;
  const double d = half_at(b + 80), dmin = half_at(b + 82);
  for (int i = 0; i < 256; ++i) {
    const int n = i / 128, j = i % 128 / 32, within = i % 32; // two bits j of byte 32 n + within
    const uint8_t s = scales[i / 16];
    y[i] = d * (s & 15) * (q[32 * n + within] >> (2 * j) & 3) - dmin * (s >> 4);
  }
}

void decode_q3_k(const uint8_t* b, double* y) {
  const uint8_t *mask = b, *q = b + 32, *s = b + 96;
  const double d = half_at(b + 108);
  for (int i = 0; i < 256; ++i) {
    const int n = i / 128, j = i % 128 / 32, within = i % 32, k = i / 16;
    const int low = k < 8 ? s[k] & 15 : s[k - 8] >> 4;
    const int scale = (low | (s[8 + k % 4] >> (2 * (k / 4)) & 3) << 4) - 32;
    const int quant = (q[32 * n + within] >> (2 * j) & 3) - ((mask[within] >> (4 * n + j) & 1) ? 0 : 4);
    y[i] = d * scale * quant;
  }
}

void decode_q45_k(bool five, const uint8_t* b, double* y) {
  const double d = half_at(b), dmin = half_at(b + 2);
  const uint8_t *scales = b + 4, *high = b + 16, *low = b + 16 + (five ? 32 : 0);
  for (int i = 0; i < 256; ++i) {
    const int j = i / 32, within = i % 32;
    const uint8_t byte = low[32 * (j / 2) + within];
    int q = j % 2 ? byte >> 4 : byte & 15;
    if (five) q |= (high[within] >> j & 1) << 4;
    const auto [scale, min] = scale_min(scales, j);
    y[i] = d * scale * q - dmin * min;
  }
}

void decode_q6_k(const uint8_t* b, double* y) {
  const uint8_t *low = b, *high = b + 128;
  const auto* scales = reinterpret_cast<const int8_t*>(b + 192);
  const double d = half_at(b + 208);
  for (int i = 0; i < 256; ++i) {
    const int n = i / 128, quarter = i % 128 / 32, within = i % 32;
    const uint8_t byte = low[64 * n + 32 * (quarter % 2) + within];
    const int q = (quarter < 2 ? byte & 15 : byte >> 4) | (high[32 * n + within] >> (2 * quarter) & 3) << 4;
    y[i] = d * scales[i / 16] * (q - 32);
  }
}

} // namespace

const FormatShape& format_shape(uint32_t format) {
  static constexpr FormatShape shapes[QUIRE_FORMAT_COUNT] = {
      {"F32", 1, 4},      {"F16", 1, 2},      {"BF16", 1, 2},    {"Q4_0", 32, 18},  {"Q4_1", 32, 20},
      {"Q5_0", 32, 22},   {"Q5_1", 32, 24},   {"Q8_0", 32, 34},  {"Q2_K", 256, 84}, {"Q3_K", 256, 110},
      {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210}};
  return shapes[format];
}

std::vector<uint32_t> all_formats() {
  std::vector<uint32_t> formats(QUIRE_FORMAT_COUNT);
  std::iota(formats.begin(), formats.end(), 0u);
  return formats;
}

uint64_t format_row_bytes(uint32_t format, uint64_t cols) {
  return cols / format_shape(format).elements * format_shape(format).bytes;
}

void decode(uint32_t format, const void* blocks, uint64_t count, double* out) {
  const FormatShape& shape = format_shape(format);
  const auto* b = static_cast<const uint8_t*>(blocks);
  for (uint64_t i = 0; i < count; i += shape.elements, b += shape.bytes, out += shape.elements) switch (format) {
    case QUIRE_F32: {
      float v;
      std::memcpy(&v, b, 4);
      *out = v;
      break;
    }
    case QUIRE_F16:
      *out = half_at(b);
      break;
    case QUIRE_BF16:
      *out = bfloat16_value(read16(b));
      break;
    case QUIRE_Q2_K:
      decode_q2_k(b, out);
      break;
    case QUIRE_Q3_K:
      decode_q3_k(b, out);
      break;
    case QUIRE_Q4_K:
      decode_q45_k(false, b, out);
      break;
    case QUIRE_Q5_K:
      decode_q45_k(true, b, out);
      break;
    case QUIRE_Q6_K:
      decode_q6_k(b, out);
      break;
    default:
      decode_32(format, b, out);
      break;
    }
}

void fill_random_blocks(uint32_t format, uint64_t count, double deviation, Random& random, uint8_t* out) {
  const FormatShape& shape = format_shape(format);
  // A large weight repeats a prime number of blocks, so that a wrong address still shows.
  constexpr uint64_t period = 262147;
  const uint64_t num_blocks = count / shape.elements;
  if (num_blocks > period) {
    fill_random_blocks(format, period * shape.elements, deviation, random, out);
    const uint64_t bytes = num_blocks * shape.bytes, step = period * shape.bytes;
    for (uint64_t at = step; at < bytes; at += step) std::memcpy(out + at, out, std::min(step, bytes - at));
    return;
  }
  if (shape.elements == 1) {
    for (uint64_t i = 0; i < count; ++i) {
      const auto value = static_cast<float>(deviation * random.normal());
      const auto bits = std::bit_cast<uint32_t>(value);
      if (format == QUIRE_F32) std::memcpy(out + 4 * i, &value, 4);
      if (format == QUIRE_F16) write16(out + 2 * i, half_bits(value));
      if (format == QUIRE_BF16) write16(out + 2 * i, static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16));
    }
    return;
  }
  // Where the block's half-precision scale and minimum lie, and the deviation and mean of the elements at scale 1 and
  // minimum 1.
  struct Fields {
    int scale, min;
    double spread, mean;
  };
  const auto fields = [&]() -> Fields {
    switch (format) {
    case QUIRE_Q4_0:
      return {0, -1, 4.6, 0};
    case QUIRE_Q4_1:
      return {0, 2, 4.6, -7.5};
    case QUIRE_Q5_0:
      return {0, -1, 9.2, 0};
    case QUIRE_Q5_1:
      return {0, 2, 9.2, -15.5};
    case QUIRE_Q8_0:
      return {0, -1, 74, 0};
    case QUIRE_Q2_K:
      return {80, 82, 14, 1.5};
    case QUIRE_Q3_K:
      return {108, -1, 43, 0};
    case QUIRE_Q4_K:
      return {0, 2, 350, 7.5};
    case QUIRE_Q5_K:
      return {0, 2, 700, 15.5};
    default:
      return {208, -1, 1400, 0};
    }
  }();
  for (uint64_t i = 0; i < count; i += shape.elements, out += shape.bytes) {
    for (uint32_t j = 0; j < shape.bytes; j += 8) {
      const uint64_t word = random.bits();
      std::memcpy(out + j, &word, std::min<size_t>(8, shape.bytes - j));
    }
    const double scale = deviation / fields.spread * random.uniform(0.5, 1.4) * (random.chance(0.5) ? 1 : -1);
    write16(out + fields.scale, half_bits(scale));
    if (fields.min >= 0) write16(out + fields.min, half_bits(scale * fields.mean * random.uniform(0.8, 1.2)));
  }
}

std::vector<uint8_t> random_blocks(uint32_t format, uint64_t count, double deviation, Random& random) {
  std::vector<uint8_t> blocks(format_row_bytes(format, count));
  fill_random_blocks(format, count, deviation, random, blocks.data());
  return blocks;
}

double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double sign = bits >> 15 ? -1 : 1;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

double bfloat16_value(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t half_bits(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::abs(value);
  if (std::isnan(value)) return 0x7E00;
  if (magnitude == 0) return sign;
  if (magnitude >= 65520) return sign | 0x7C00;
  int exponent = 0;
  std::frexp(magnitude, &exponent);              // magnitude in [2^(exponent - 1), 2^exponent)
  const int unit = std::max(exponent - 11, -24); // of the last place
  const auto steps = static_cast<int>(std::nearbyint(std::ldexp(magnitude, -unit)));
  // Steps of the smallest exponent count up from zero through the subnormals; a carry moves into the exponent by
  // itself.
  return static_cast<uint16_t>(sign | (unit == -24 ? steps : ((unit + 24) << 10) + steps));
}

} // namespace quire::tests
