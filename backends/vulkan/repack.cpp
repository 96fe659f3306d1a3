// Sources of the block layouts: the GGUF specification and ggml's definitions, restated at each case.
#include "repack.hpp"

#include "op_params.h"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

namespace quire::vulkan {

const Layout& layout_of(uint32_t format) {
  static constexpr Layout layouts[QUIRE_FORMAT_COUNT] = {
      {1, 8, 4, 0, 0}, {1, 4, 4, 0, 0}, {1, 4, 4, 0, 0},                                   // F32, F16, BF16
      {2, 1, 4, 0, 1}, {1, 1, 4, 0, 1}, {2, 1, 4, 1, 1}, {1, 1, 4, 1, 1},                  // Q4_0, Q4_1, Q5_0, Q5_1
      {2, 4, 2, 0, 1},                                                                     // Q8_0
      {8, 1, 2, 0, 5}, {8, 1, 2, 1, 4}, {8, 1, 4, 0, 4}, {8, 1, 4, 1, 4}, {8, 1, 4, 2, 5}, // Q2_K to Q6_K
  };
  assert(format < QUIRE_FORMAT_COUNT);
  return layouts[format];
}

Extent::Extent(const quire_weight& weight) {
  const Layout& layout = layout_of(weight.format);
  blocks = static_cast<uint32_t>((weight.cols + block_columns - 1) / block_columns);
  supers = (blocks + layout.super_blocks - 1) / layout.super_blocks;
  expert_panels = (weight.rows + panel_rows - 1) / panel_rows;
  panels = expert_panels * std::max<uint64_t>(weight.experts, 1);
  quant_bytes = uint64_t{blocks} * layout.quant_units * layout.quant_words * 4 * panel_rows;
  high_bytes = uint64_t{blocks} * layout.high_words * 4 * panel_rows;
  aux_bytes = uint64_t{supers} * layout.aux_words * 4 * panel_rows;
}

uint64_t file_bytes(const quire_weight& weight) {
  const BlockFormat& format = *block_format(weight.format);
  return std::max<uint64_t>(weight.experts, 1) * weight.rows * (weight.cols / format.block_elements) *
         format.block_bytes;
}

namespace {

using Bytes = const uint8_t*;

uint32_t half_at(Bytes from) { return from[0] | static_cast<uint32_t>(from[1]) << 8; }
uint32_t word_at(Bytes from) {
  uint32_t word;
  std::memcpy(&word, from, 4);
  return word;
}

// 32 nibbles that lie in 32 bytes, at the given shift, to 16 bytes: element i low in byte i, element 16 + i high.
void gather_nibbles(Bytes from, uint32_t shift, uint32_t out[4]) {
  uint8_t bytes[16];
  for (uint32_t i = 0; i < 16; ++i)
    bytes[i] = static_cast<uint8_t>((from[i] >> shift & 15) | (from[16 + i] >> shift & 15) << 4);
  std::memcpy(out, bytes, 16);
}
// 32 pairs of bits in 32 bytes, at the given shift, to 2 words: element i at bits 2 (i % 16) of word i / 16.
void gather_pairs(Bytes from, uint32_t shift, uint32_t out[2]) {
  for (uint32_t g = 0; g < 2; ++g) {
    out[g] = 0;
    for (uint32_t i = 0; i < 16; ++i) out[g] |= (from[16 * g + i] >> shift & 3u) << (2 * i);
  }
}
// 32 bits in 32 bytes, at the given shift, to a word.
uint32_t gather_bits(Bytes from, uint32_t shift) {
  uint32_t word = 0;
  for (uint32_t i = 0; i < 32; ++i) word |= (from[i] >> shift & 1u) << i;
  return word;
}

// Block b of a row: its quants [quant_units * quant_words] and high words.
void take_block(uint32_t format, Bytes row, uint32_t cols, uint32_t b, uint32_t* quants, uint32_t* high) {
  const uint32_t s = b % 8; // within a super-block of 256
  switch (format) {
  case QUIRE_F32:
  case QUIRE_F16:
  case QUIRE_BF16: {
    const uint32_t size = format == QUIRE_F32 ? 4 : 2;
    const uint32_t count = std::min(block_columns, cols - b * block_columns);
    std::memset(quants, 0, std::size_t{block_columns} * size);
    std::memcpy(quants, row + std::size_t{b} * block_columns * size, std::size_t{count} * size);
    break;
  }
  case QUIRE_Q4_0: // d, 16 bytes
    std::memcpy(quants, row + std::size_t{b} * 18 + 2, 16);
    break;
  case QUIRE_Q4_1: // d, m, 16 bytes
    std::memcpy(quants, row + std::size_t{b} * 20 + 4, 16);
    break;
  case QUIRE_Q5_0: // d, 4 bytes of fifth bits, 16 bytes
    std::memcpy(quants, row + std::size_t{b} * 22 + 6, 16);
    high[0] = word_at(row + std::size_t{b} * 22 + 2);
    break;
  case QUIRE_Q5_1: // d, m, 4 bytes of fifth bits, 16 bytes
    std::memcpy(quants, row + std::size_t{b} * 24 + 8, 16);
    high[0] = word_at(row + std::size_t{b} * 24 + 4);
    break;
  case QUIRE_Q8_0: // d, 32 bytes
    std::memcpy(quants, row + std::size_t{b} * 34 + 2, 32);
    break;
  case QUIRE_Q2_K: { // 16 scales, 64 bytes: element 128 h + 32 j + l is bits 2 j of byte 32 h + l, then d, dmin
    Bytes block = row + std::size_t{b / 8} * 84;
    gather_pairs(block + 16 + s / 4 * 32, s % 4 * 2, quants);
    break;
  }
  case QUIRE_Q3_K: { // 32 bytes of third bits: element 32 j + l is bit j of byte l; 64 bytes as in Q2_K, 12 of scales,
                     // d
    Bytes block = row + std::size_t{b / 8} * 110;
    gather_pairs(block + 32 + s / 4 * 32, s % 4 * 2, quants);
    high[0] = gather_bits(block, s);
    break;
  }
  case QUIRE_Q4_K: { // d, dmin, 12 bytes of scales, 128 bytes: element 64 j + 32 k + l is nibble k of byte 32 j + l
    Bytes block = row + std::size_t{b / 8} * 144;
    gather_nibbles(block + 16 + s / 2 * 32, s % 2 * 4, quants);
    break;
  }
  case QUIRE_Q5_K: { // as Q4_K with 32 bytes of fifth bits before the 128: element 32 j + l is bit j of byte l
    Bytes block = row + std::size_t{b / 8} * 176;
    gather_nibbles(block + 48 + s / 2 * 32, s % 2 * 4, quants);
    high[0] = gather_bits(block + 16, s);
    break;
  }
  case QUIRE_Q6_K: { // 128 bytes: element 128 h + 64 k + 32 j + l is nibble k of byte 64 h + 32 j + l; 64 bytes as in
                     // Q2_K; 16 scales, d
    Bytes block = row + std::size_t{b / 8} * 210;
    gather_nibbles(block + s / 4 * 64 + s % 2 * 32, s % 4 / 2 * 4, quants);
    gather_pairs(block + 128 + s / 4 * 32, s % 4 * 2, high);
    break;
  }
  default:
    assert(false && "no such format");
  }
}

// Super-block i of a row: its aux words.
void take_aux(uint32_t format, Bytes row, uint32_t blocks, uint32_t i, uint32_t* aux) {
  switch (format) {
  case QUIRE_Q4_0:
  case QUIRE_Q5_0:
  case QUIRE_Q8_0: { // the scales of two blocks
    const std::size_t bytes = block_format(format)->block_bytes;
    aux[0] = half_at(row + 2 * i * bytes);
    if (2 * i + 1 < blocks) aux[0] |= half_at(row + (2 * i + 1) * bytes) << 16;
    break;
  }
  case QUIRE_Q4_1:
    aux[0] = word_at(row + std::size_t{i} * 20);
    break;
  case QUIRE_Q5_1:
    aux[0] = word_at(row + std::size_t{i} * 24);
    break;
  case QUIRE_Q2_K:
    aux[0] = word_at(row + std::size_t{i} * 84 + 80);
    std::memcpy(aux + 1, row + std::size_t{i} * 84, 16);
    break;
  case QUIRE_Q3_K:
    aux[0] = half_at(row + std::size_t{i} * 110 + 108);
    std::memcpy(aux + 1, row + std::size_t{i} * 110 + 96, 12);
    break;
  case QUIRE_Q4_K:
    std::memcpy(aux, row + std::size_t{i} * 144, 16);
    break;
  case QUIRE_Q5_K:
    std::memcpy(aux, row + std::size_t{i} * 176, 16);
    break;
  case QUIRE_Q6_K:
    aux[0] = half_at(row + std::size_t{i} * 210 + 208);
    std::memcpy(aux + 1, row + std::size_t{i} * 210 + 192, 16);
    break;
  default:
    break;
  }
}

} // namespace

void repack(const quire_weight& weight, uint64_t first, uint64_t count, std::byte* quants, std::byte* high,
            std::byte* aux) {
  const Layout& layout = layout_of(weight.format);
  const Extent extent(weight);
  const BlockFormat& format = *block_format(weight.format);
  const uint64_t row_bytes = weight.cols / format.block_elements * format.block_bytes;
  const auto* data = static_cast<Bytes>(weight.planes[0].data);
  for (uint64_t p = 0; p < count; ++p) {
    const uint64_t expert = (first + p) / extent.expert_panels;
    const uint64_t row0 = (first + p) % extent.expert_panels * panel_rows;
    const auto rows = static_cast<uint32_t>(std::min<uint64_t>(panel_rows, weight.rows - row0));
    Bytes source = data + (expert * weight.rows + row0) * row_bytes;
    auto* quant_out = reinterpret_cast<uint32_t*>(quants + p * extent.quant_bytes);
    auto* high_out = reinterpret_cast<uint32_t*>(high + p * extent.high_bytes);
    auto* aux_out = reinterpret_cast<uint32_t*>(aux + p * extent.aux_bytes);
    if (rows < panel_rows) {
      std::memset(quant_out, 0, extent.quant_bytes);
      if (extent.high_bytes != 0) std::memset(high_out, 0, extent.high_bytes);
      if (extent.aux_bytes != 0) std::memset(aux_out, 0, extent.aux_bytes);
    }
    for (uint32_t b = 0; b < extent.blocks; ++b)
      for (uint32_t r = 0; r < rows; ++r) {
        uint32_t block_quants[32], block_high[2] = {};
        take_block(weight.format, source + r * row_bytes, static_cast<uint32_t>(weight.cols), b, block_quants,
                   block_high);
        for (uint32_t u = 0; u < layout.quant_units; ++u)
          std::memcpy(quant_out + ((std::size_t{b} * layout.quant_units + u) * panel_rows + r) * layout.quant_words,
                      block_quants + u * layout.quant_words, std::size_t{layout.quant_words} * 4);
        for (uint32_t w = 0; w < layout.high_words; ++w)
          high_out[(std::size_t{b} * panel_rows + r) * layout.high_words + w] = block_high[w];
      }
    for (uint32_t i = 0; i < extent.supers && layout.aux_words != 0; ++i)
      for (uint32_t r = 0; r < rows; ++r) {
        uint32_t words[5];
        take_aux(weight.format, source + r * row_bytes, extent.blocks, i, words);
        for (uint32_t w = 0; w < layout.aux_words; ++w)
          aux_out[(std::size_t{i} * layout.aux_words + w) * panel_rows + r] = words[w];
      }
  }
}

void repack_floats(const quire_weight& weight, float* out) {
  const uint64_t count = std::max<uint64_t>(weight.experts, 1) * weight.rows * weight.cols;
  const auto* data = static_cast<Bytes>(weight.planes[0].data);
  if (weight.format == QUIRE_F32) {
    std::memcpy(out, data, count * 4);
    return;
  }
  for (uint64_t i = 0; i < count; ++i) {
    const uint32_t bits = half_at(data + 2 * i);
    if (weight.format == QUIRE_BF16) {
      out[i] = std::bit_cast<float>(bits << 16);
      continue;
    }
    const uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 31u, mantissa = bits & 0x3FFu;
    if (exponent == 0) { // subnormal: steps of 2^-24
      out[i] = static_cast<float>(mantissa) * 0x1p-24f * (sign != 0 ? -1.0f : 1.0f);
    } else {
      const uint32_t widened = exponent == 31 ? 255u : exponent + 112u;
      out[i] = std::bit_cast<float>(sign | widened << 23 | mantissa << 13);
    }
  }
}

} // namespace quire::vulkan
