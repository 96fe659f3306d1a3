// Weight formats: sizes, conversion to float32 and back.
//
// A row of a weight is `cols` elements in blocks of `block_elements`, each `block_bytes` long, without padding.
// Dequantising follows ggml's block layouts to the bit: every product and sum is rounded to float32 in the order the
// layout defines (source: the GGUF specification; goldens from PyPI's `gguf`). Quantising makes valid blocks of
// reasonable error, not ggml's optimum: it serves dummy weights and tests. Errors: none; a count that is no whole
// number of blocks is a programmer's error (assert). [any]: no state.
#pragma once

#include "quire/plugin.h"

#include <cstdint>
#include <optional>
#include <string_view>

namespace quire {

struct FormatInfo {
  const char* name;        // as GGUF spells it: «Q4_K»
  uint32_t block_elements; // 1 for F32, F16 and BF16
  uint32_t block_bytes;
  bool quantised; // more than one element a block
};

// format < QUIRE_FORMAT_COUNT.
const FormatInfo& format_info(uint32_t format);
// «q4_k», «Q4_K», «bf16»; nothing for other words.
std::optional<uint32_t> format_from_name(std::string_view name);
// All names, comma-separated, for error sentences.
const char* format_names();

// Bytes of `cols` elements; cols is a multiple of block_elements.
uint64_t row_bytes(uint32_t format, uint64_t cols);
// Bytes of experts * rows rows; nothing where cols is no whole number of blocks or a product exceeds 2^63.
std::optional<uint64_t> weight_bytes(uint32_t format, uint64_t experts, uint64_t rows, uint64_t cols);

// out [count] from count / block_elements blocks; blocks needs no alignment.
void dequantize(uint32_t format, const void* blocks, uint64_t count, float* out);
// blocks from values [count]; blocks needs no alignment. Values should be finite.
void quantize(uint32_t format, const float* values, uint64_t count, void* blocks);

// IEEE 754 binary16 and bfloat16; to the narrow type by rounding to nearest, ties to even; NaN stays NaN (quiet).
float half_to_float(uint16_t bits);
uint16_t float_to_half(float value);
float bfloat16_to_float(uint16_t bits);
uint16_t float_to_bfloat16(float value);
// A KV cache's E4M3 (plugin.h), likewise; to it, what exceeds its range becomes +-448.
float e4m3_to_float(uint8_t bits);
uint8_t float_to_e4m3(float value);

} // namespace quire
