// A matrix on the device [N, K], in the one layout that serves all its users.
//
// fp16, bf16 and float32 files become fp16, row major with `stride` elements a row. (bf16 has 8 significant bits, fp16
// 11: exact for 2^-14 <= |w| <= 65504, off by at most 2^-25 below.) Block formats keep their integers and scales and
// are only moved about: rows in tiles of 16, columns in units of 128, and within a tile and unit the bits in the order
// in which the lanes of a warp hold them as the A operand of mma.m16n8k16 (device_code.cuh). Lane 4 g + t has rows g
// and g + 8 (half 0 and 1) and of each block of 32 columns the eight 2t, 2t+1, 2t+8, 2t+9, then 16 further: pairs 0
// to 3. Planes, where a format has them (w = scale * (q - offset) - minimum):
//   q4: 4 bits of q: [tile][unit][half][lane] 16 bytes, a word a block; pair i at bits 4i and 16 + 4i
//   q8: 8 bits:      [tile][unit][half][two blocks][lane] 16 bytes: a block is 8 bytes, pair i at bytes 2i, 2i+1
//   q2: 2 bits (of Q6_K, the upper two): [tile][unit][lane][half] 8 bytes: word j for blocks 2j, 2j+1; pair p of the
//   word's 8 at bits 2p, 16 + 2p q1: the top bit: [tile][unit][lane][half] 4 bytes: pair p of the unit's 16 at bits p
//   and 16 + p scales: [tile][unit][row of 16], 8 or 16 bytes (block_format.cuh);  super: [tile][unit / 2][row of 16] 4
//   bytes: d, dmin in fp16
// Rows are padded to a tile, columns to a unit, with zero scales. Threads: plain data.
#pragma once

#include <quire/plugin.h>

#include <cstddef>
#include <cstdint>

namespace quire::cuda {

inline constexpr uint32_t kTileRows = 16;
inline constexpr uint32_t kUnitColumns = 128;

struct Weight {
  uint32_t format = QUIRE_F16; // QUIRE_F16 or a block format
  uint32_t rows = 0;           // N, of one expert
  uint32_t cols = 0;           // K
  uint32_t experts = 1;
  const std::byte* data = nullptr; // fp16, or the first plane
  // fp16
  uint32_t stride = 0; // elements from row to row, a multiple of 8; columns beyond K are zero
  // block formats; every plane holds all experts, one after another
  uint32_t tiles = 0; // ceil(N / 16), of one expert
  uint32_t units = 0; // ceil(K / 128)
  const std::byte* q4 = nullptr;
  const std::byte* q8 = nullptr;
  const std::byte* q2 = nullptr;
  const std::byte* q1 = nullptr;
  const std::byte* scales = nullptr;
  const std::byte* super = nullptr;
};

// What a block format is made of. Bytes of the planes are for one tile and unit (super: two units).
struct BlockFormat {
  uint32_t block_bytes = 0;    // in the file
  uint32_t block_elements = 0; // 32 or 256
  uint32_t q4_bytes = 0, q8_bytes = 0, q2_bytes = 0, q1_bytes = 0, scale_bytes = 0, super_bytes = 0;

  constexpr uint32_t unit_bytes() const {
    return q4_bytes + q8_bytes + q2_bytes + q1_bytes + scale_bytes + super_bytes / 2;
  }
};

constexpr bool is_block_format(uint32_t format) { return format >= QUIRE_Q4_0 && format < QUIRE_FORMAT_COUNT; }

constexpr BlockFormat block_format(uint32_t format) {
  constexpr uint32_t q4 = 1024, q8 = 2048, q2 = 512, q1 = 256, s8 = 16 * 8, s16 = 16 * 16, super = 16 * 4;
  switch (format) {
  case QUIRE_Q4_0:
    return {18, 32, q4, 0, 0, 0, s8, 0};
  case QUIRE_Q4_1:
    return {20, 32, q4, 0, 0, 0, s16, 0};
  case QUIRE_Q5_0:
    return {22, 32, q4, 0, 0, q1, s8, 0};
  case QUIRE_Q5_1:
    return {24, 32, q4, 0, 0, q1, s16, 0};
  case QUIRE_Q8_0:
    return {34, 32, 0, q8, 0, 0, s8, 0};
  case QUIRE_Q2_K:
    return {84, 256, 0, 0, q2, 0, s8, super};
  case QUIRE_Q3_K:
    return {110, 256, 0, 0, q2, q1, s8, super};
  case QUIRE_Q4_K:
    return {144, 256, q4, 0, 0, 0, s8, super};
  case QUIRE_Q5_K:
    return {176, 256, q4, 0, 0, q1, s8, super};
  case QUIRE_Q6_K:
    return {210, 256, q4, 0, q2, 0, s8, super};
  default:
    return {};
  }
}

// Bytes of a row of K elements in the file; 0 where the format can't hold K.
constexpr uint64_t file_row_bytes(uint32_t format, uint64_t cols) {
  switch (format) {
  case QUIRE_F32:
    return 4 * cols;
  case QUIRE_F16:
  case QUIRE_BF16:
    return 2 * cols;
  default:
    break;
  }
  const BlockFormat blocks = block_format(format);
  return blocks.block_elements == 0 || cols % blocks.block_elements != 0
             ? 0
             : cols / blocks.block_elements * blocks.block_bytes;
}

} // namespace quire::cuda
