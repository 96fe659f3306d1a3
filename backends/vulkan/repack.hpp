// The device's layout of weights, and bringing a mapped weight into it.
//
// A row is cut into blocks of 32 elements and padded with zero blocks' worth of zeros; 32 rows make a panel. Each plane
// holds, for (panel, block, unit) or (panel, super-block, unit), the units of the panel's 32 rows side by side, so that
// lanes that take a row each read neighbouring words (shaders/weights.glsl reads it). Bytes are those of the file but
// for the padding: a Q6_K super-block grows from 210 to 212, a Q3_K one from 110 to 112.
//
// Experts follow one another, each padded to whole panels. Errors: none. Threads: pure functions, [any].
#pragma once

#include <quire/plugin.h>

#include <cstddef>
#include <cstdint>

namespace quire::vulkan {

// Words (4 bytes) of each plane of a format.
struct Layout {
  uint32_t super_blocks; // blocks that share an aux record
  uint32_t quant_units;  // a block
  uint32_t quant_words;  // a unit
  uint32_t high_words;   // a block, one unit
  uint32_t aux_words;    // a super-block, one word a unit
};
const Layout& layout_of(uint32_t format);

// A weight's extent on the device.
struct Extent {
  explicit Extent(const quire_weight& weight);
  uint32_t blocks;        // a row
  uint32_t supers;        // a row
  uint64_t expert_panels; // ceil(rows / 32)
  uint64_t panels;        // of all experts
  uint64_t quant_bytes;   // a panel, and likewise:
  uint64_t high_bytes;
  uint64_t aux_bytes;
  uint64_t panel_bytes() const { return quant_bytes + high_bytes + aux_bytes; }
};

// Bytes of the weight in the file.
uint64_t file_bytes(const quire_weight& weight);

// Panels [first, first + count) to the planes, each of which starts at panel `first`.
void repack(const quire_weight& weight, uint64_t first, uint64_t count, std::byte* quants, std::byte* high,
            std::byte* aux);
// A vector, or a matrix row by row, as float32 [experts * rows * cols]; format F32, F16 or BF16.
void repack_floats(const quire_weight& weight, float* out);

} // namespace quire::vulkan
