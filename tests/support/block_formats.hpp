// Weight formats, read a second time for the tests: straight from the layouts of the GGUF specification into float64,
// sharing nothing with the engine's reader; and random weights in every format.
#pragma once

#include "support/random.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace quire::tests {

struct FormatShape {
  const char* name;
  uint32_t elements; // a block
  uint32_t bytes;    // a block
};
const FormatShape& format_shape(uint32_t format);
std::vector<uint32_t> all_formats();

uint64_t format_row_bytes(uint32_t format, uint64_t cols);

// out [count] from whole blocks.
void decode(uint32_t format, const void* blocks, uint64_t count, double* out);

// Blocks for `count` elements of about the given standard deviation: every bit of the quants and sub-scales is random.
std::vector<uint8_t> random_blocks(uint32_t format, uint64_t count, double deviation, Random& random);
void fill_random_blocks(uint32_t format, uint64_t count, double deviation, Random& random, uint8_t* out);

double half_value(uint16_t bits);
double bfloat16_value(uint16_t bits);
// The nearest binary16, ties to even.
uint16_t half_bits(double value);

} // namespace quire::tests
