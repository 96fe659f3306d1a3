// Copies of whole KV blocks on the device, all at once.
#pragma once

#include "queue.hpp"

#include <cstdint>

namespace quire::cuda {

inline constexpr uint32_t kMaxBlockPairs = 256;

struct BlockPairs {
  uint32_t count = 0;
  uint32_t from[kMaxBlockPairs], to[kMaxBlockPairs];
};

// block_bytes: a multiple of 16.
void copy_blocks(const Queue&, std::byte* base, uint64_t block_bytes, const BlockPairs& pairs);

} // namespace quire::cuda
