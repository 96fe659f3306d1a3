// repack: a weight's rows from the file's layout to the device's.
//
// Bytes: each read once and written once; a thread makes the words of one lane of one unit (32 columns) of one row.
// Source of the formats: ggml's block layouts.
#include "repack.hpp"

#include "block_format.cuh"

namespace quire::cuda {
namespace {

__device__ __forceinline__ uint32_t read16(const uint8_t* p) { return p[0] | static_cast<uint32_t>(p[1]) << 8; }

// q of element k of a block, before its offset is taken off.
template <uint32_t kFormat> __device__ uint32_t raw_integer(const uint8_t* block, uint32_t k) {
  [[maybe_unused]] const auto nibble = [](const uint8_t* qs, uint32_t i) -> uint32_t {
    return i < 16 ? qs[i] & 15u : qs[i - 16] >> 4;
  };
  [[maybe_unused]] const uint32_t chunk = k / 128, j = k / 32 % 4, l = k % 32; // of a super-block of 256
  if constexpr (kFormat == QUIRE_Q4_0)
    return nibble(block + 2, k);
  else if constexpr (kFormat == QUIRE_Q4_1)
    return nibble(block + 4, k);
  else if constexpr (kFormat == QUIRE_Q5_0)
    return nibble(block + 6, k) | (block[2 + k / 8] >> (k % 8) & 1u) << 4;
  else if constexpr (kFormat == QUIRE_Q5_1)
    return nibble(block + 8, k) | (block[4 + k / 8] >> (k % 8) & 1u) << 4;
  else if constexpr (kFormat == QUIRE_Q8_0)
    return block[2 + k] ^ 0x80u;
  else if constexpr (kFormat == QUIRE_Q2_K)
    return block[16 + 32 * chunk + l] >> (2 * j) & 3u;
  else if constexpr (kFormat == QUIRE_Q3_K)
    return (block[32 + 32 * chunk + l] >> (2 * j) & 3u) | (block[l] >> (4 * chunk + j) & 1u) << 2;
  else if constexpr (kFormat == QUIRE_Q4_K)
    return block[16 + 32 * (k / 64) + l] >> (4 * (j % 2)) & 15u;
  else if constexpr (kFormat == QUIRE_Q5_K)
    return (block[48 + 32 * (k / 64) + l] >> (4 * (j % 2)) & 15u) | (block[16 + l] >> (k / 32) & 1u) << 4;
  else
    return (block[64 * chunk + l + 32 * (j % 2)] >> (4 * (j / 2)) & 15u) | (block[128 + 32 * chunk + l] >> (2 * j) & 3u)
                                                                               << 4;
}

// Scale (low byte) and minimum (high byte) of group j of Q4_K and Q5_K.
__device__ uint32_t six_bit_scales(const uint8_t* s, uint32_t j) {
  const uint32_t scale = j < 4 ? s[j] & 63u : (s[j + 4] & 15u) | static_cast<uint32_t>(s[j - 4] >> 6) << 4;
  const uint32_t minimum =
      j < 4 ? s[j + 4] & 63u : static_cast<uint32_t>(s[j + 4] >> 4) | static_cast<uint32_t>(s[j] >> 6) << 4;
  return scale | minimum << 8;
}

// The scales of one row and unit; blocks: the row's first block in the file.
template <uint32_t kFormat>
__device__ void write_scales(const uint8_t* row, [[maybe_unused]] uint32_t cols, uint32_t unit, size_t row_unit,
                             [[maybe_unused]] size_t super, const Weight& to) {
  constexpr BlockFormat kBlocks = block_format(kFormat);
  uint8_t* scales =
      reinterpret_cast<uint8_t*>(const_cast<std::byte*>(to.scales)) + row_unit * (kBlocks.scale_bytes / 16);
  if constexpr (kBlocks.block_elements == 32) {
    for (uint32_t b = 0; b < 4 && unit * 128 + b * 32 < cols; ++b) {
      const uint8_t* block = row + size_t{unit * 4 + b} * kBlocks.block_bytes;
      if constexpr (kBlocks.scale_bytes == 256) {
        for (uint32_t i = 0; i < 4; ++i) scales[4 * b + i] = block[i]; // d, m
      } else {
        for (uint32_t i = 0; i < 2; ++i) scales[2 * b + i] = block[i];
      }
    }
  } else {
    const uint8_t* block = row + size_t{unit / 2} * kBlocks.block_bytes;
    const uint32_t part = unit % 2;
    uint32_t d = 0, dmin = 0;
    for (uint32_t i = 0; i < 8; ++i) {
      uint32_t value = 0;
      [[maybe_unused]] const uint32_t group = 8 * part + i; // of 16 columns
      if constexpr (kFormat == QUIRE_Q2_K) value = block[group];
      if constexpr (kFormat == QUIRE_Q3_K) {
        const uint8_t* s = block + 96;
        const uint32_t low = group < 8 ? s[group] & 15u : s[group - 8] >> 4,
                       high = s[8 + group % 4] >> (2 * (group / 4)) & 3u;
        value = (low | high << 4) + 96; // - 32 + 128
      }
      if constexpr (kFormat == QUIRE_Q6_K) value = block[192 + group] ^ 0x80u;
      if constexpr (kFormat == QUIRE_Q4_K || kFormat == QUIRE_Q5_K) {
        const uint32_t both = six_bit_scales(block + 4, 4 * part + i % 4);
        value = i < 4 ? both & 255 : both >> 8;
      }
      scales[i] = static_cast<uint8_t>(value);
    }
    if constexpr (kFormat == QUIRE_Q2_K) d = read16(block + 80), dmin = read16(block + 82);
    if constexpr (kFormat == QUIRE_Q3_K) d = read16(block + 108);
    if constexpr (kFormat == QUIRE_Q4_K || kFormat == QUIRE_Q5_K) d = read16(block), dmin = read16(block + 2);
    if constexpr (kFormat == QUIRE_Q6_K) d = read16(block + 208);
    if (part == 0) reinterpret_cast<uint32_t*>(const_cast<std::byte*>(to.super))[super] = d | dmin << 16;
  }
}

// Grid: (row, unit, t) flattened.
template <uint32_t kFormat>
__global__ void repack_blocks(const uint8_t* source, uint64_t first_row, uint64_t count, uint64_t row_bytes,
                              Weight to) {
  constexpr BlockFormat kBlocks = block_format(kFormat);
  const uint64_t index = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const auto t = static_cast<uint32_t>(index % 4);
  const auto unit = static_cast<uint32_t>(index / 4 % to.units);
  const uint64_t source_row = index / 4 / to.units;
  if (source_row >= count) return;
  const uint64_t file_row = first_row + source_row;
  const auto expert = static_cast<uint32_t>(file_row / to.rows), row = static_cast<uint32_t>(file_row % to.rows);
  const uint8_t* bytes = source + source_row * row_bytes;
  const size_t tile = size_t{expert} * to.tiles + row / 16;
  const uint32_t h = row / 8 % 2, g = row % 8, lane = 4 * g + t;
  const size_t tile_unit = tile * to.units + unit;
  const auto words = [](const std::byte* plane) { return reinterpret_cast<uint32_t*>(const_cast<std::byte*>(plane)); };
  [[maybe_unused]] uint32_t q1 = 0, q2[2] = {};
  for (uint32_t b = 0; b < 4; ++b) {
    const uint32_t first = unit * 128 + b * 32;
    [[maybe_unused]] uint32_t q4 = 0, q8[2] = {};
    if (first < to.cols)
      for (uint32_t pair = 0; pair < 4; ++pair)
        for (uint32_t odd = 0; odd < 2; ++odd) {
          const uint32_t k = first + 16 * (pair / 2) + 8 * (pair % 2) + 2 * t + odd;
          const uint8_t* block = bytes + size_t{k / kBlocks.block_elements} * kBlocks.block_bytes;
          const uint32_t q = raw_integer<kFormat>(block, k % kBlocks.block_elements);
          if constexpr (kBlocks.q8_bytes != 0) {
            q8[pair / 2] |= q << (16 * (pair % 2) + 8 * odd);
          } else if constexpr (kBlocks.q4_bytes != 0) {
            q4 |= (q & 15) << (4 * pair + 16 * odd);
            if constexpr (kBlocks.q2_bytes != 0) q2[b / 2] |= (q >> 4) << (2 * (4 * (b % 2) + pair) + 16 * odd);
            if constexpr (kBlocks.q1_bytes != 0) q1 |= (q >> 4) << (4 * b + pair + 16 * odd);
          } else {
            q2[b / 2] |= (q & 3) << (2 * (4 * (b % 2) + pair) + 16 * odd);
            if constexpr (kBlocks.q1_bytes != 0) q1 |= (q >> 2) << (4 * b + pair + 16 * odd);
          }
        }
    if constexpr (kBlocks.q4_bytes != 0) words(to.q4)[((tile_unit * 2 + h) * 32 + lane) * 4 + b] = q4;
    if constexpr (kBlocks.q8_bytes != 0)
      for (uint32_t i = 0; i < 2; ++i)
        words(to.q8)[(((tile_unit * 2 + h) * 2 + b / 2) * 32 + lane) * 4 + b % 2 * 2 + i] = q8[i];
  }
  if constexpr (kBlocks.q2_bytes != 0)
    for (uint32_t i = 0; i < 2; ++i) words(to.q2)[(tile_unit * 32 + lane) * 4 + 2 * h + i] = q2[i];
  if constexpr (kBlocks.q1_bytes != 0) words(to.q1)[(tile_unit * 32 + lane) * 2 + h] = q1;
  if (t == 0)
    write_scales<kFormat>(bytes, to.cols, unit, tile_unit * 16 + row % 16,
                          (tile * (to.units / 2) + unit / 2) * 16 + row % 16, to);
}

// fp16, bf16 and float32 rows to fp16 rows of `stride`.
template <class Element>
__global__ void repack_plain(const Element* source, uint64_t first_row, uint64_t count, Weight to,
                             uint32_t* saturated) {
  const uint64_t index = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const uint64_t row = index / to.stride;
  const auto col = static_cast<uint32_t>(index % to.stride);
  if (row >= count) return;
  const float value = col < to.cols ? static_cast<float>(source[row * to.cols + col]) : 0.f;
  if (fabsf(value) > 65504.f) *saturated = 1;
  reinterpret_cast<__half*>(const_cast<std::byte*>(to.data))[(first_row + row) * to.stride + col] = to_half(value);
}

constexpr uint32_t kThreads = 256;
uint32_t blocks_for(uint64_t threads) { return static_cast<uint32_t>((threads + kThreads - 1) / kThreads); }

template <class Element>
void plain(const Queue& queue, const std::byte* source, uint64_t first_row, uint64_t count, const Weight& to,
           uint32_t* saturated) {
  launch("repack", repack_plain<Element>, blocks_for(count * to.stride), kThreads, 0, queue,
         reinterpret_cast<const Element*>(source), first_row, count, to, saturated);
}

template <uint32_t kFormat>
void blocks(const Queue& queue, const std::byte* source, uint64_t first_row, uint64_t count, const Weight& to) {
  launch("repack", repack_blocks<kFormat>, blocks_for(count * to.units * 4), kThreads, 0, queue,
         reinterpret_cast<const uint8_t*>(source), first_row, count, file_row_bytes(kFormat, to.cols), to);
}

} // namespace

void repack(const Queue& queue, uint32_t file_format, const std::byte* source, uint64_t first_row, uint64_t count,
            const Weight& to, uint32_t* saturated) {
  switch (file_format) {
  case QUIRE_F32:
    return plain<float>(queue, source, first_row, count, to, saturated);
  case QUIRE_F16:
    return plain<__half>(queue, source, first_row, count, to, saturated);
  case QUIRE_BF16:
    return plain<__nv_bfloat16>(queue, source, first_row, count, to, saturated);
  case QUIRE_Q4_0:
    return blocks<QUIRE_Q4_0>(queue, source, first_row, count, to);
  case QUIRE_Q4_1:
    return blocks<QUIRE_Q4_1>(queue, source, first_row, count, to);
  case QUIRE_Q5_0:
    return blocks<QUIRE_Q5_0>(queue, source, first_row, count, to);
  case QUIRE_Q5_1:
    return blocks<QUIRE_Q5_1>(queue, source, first_row, count, to);
  case QUIRE_Q8_0:
    return blocks<QUIRE_Q8_0>(queue, source, first_row, count, to);
  case QUIRE_Q2_K:
    return blocks<QUIRE_Q2_K>(queue, source, first_row, count, to);
  case QUIRE_Q3_K:
    return blocks<QUIRE_Q3_K>(queue, source, first_row, count, to);
  case QUIRE_Q4_K:
    return blocks<QUIRE_Q4_K>(queue, source, first_row, count, to);
  case QUIRE_Q5_K:
    return blocks<QUIRE_Q5_K>(queue, source, first_row, count, to);
  case QUIRE_Q6_K:
    return blocks<QUIRE_Q6_K>(queue, source, first_row, count, to);
  default:
    throw Failure(QUIRE_UNSUPPORTED, "the CUDA backend doesn't know weight format " + std::to_string(file_format));
  }
}

} // namespace quire::cuda
