// The small words of the KV core: block ids, tickets, and the transfers that precede a step.
//
// Nothing here touches device memory: a block is a number. Units are tokens unless a name says otherwise.
#pragma once

#include <cstdint>
#include <vector>

#include "quire/plugin.h"

namespace quire {

using BlockId = std::uint32_t; // of a KV group's device blocks, or a slot of its host pool
using Ticket = std::uint64_t;  // of a submitted step; from 1, rising by one; 0 = no step

inline constexpr BlockId kNoBlock = UINT32_MAX; // in a table: freed behind a window (the ABI's UINT32_MAX)
inline constexpr std::uint32_t kNoContent = UINT32_MAX;

// What the device must move before the step that is being built, each list as one call of the backend, in this order.
// No list names a block both as read and as written.
struct KvTransfers {
  std::vector<quire_block_copy> swap_out; // device block -> host slot
  std::vector<quire_block_copy> swap_in;  // host slot -> device block
  std::vector<quire_block_copy> copies;   // device block -> device block (copy-on-write)

  bool empty() const { return swap_out.empty() && swap_in.empty() && copies.empty(); }
  void clear() {
    swap_out.clear();
    swap_in.clear();
    copies.clear();
  }
};

} // namespace quire
