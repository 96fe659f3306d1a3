// The block transfers that the step being built needs, collected so that each kind is one launch.
//
// A block that a transfer is still to fill is pending: whoever reads it meanwhile (another copy, a swap out) is given
// the transfer's own source instead, so no chain forms and no call both reads and writes a block. A pending block that
// is freed takes its transfer with it. Not thread safe: the engine thread owns it.
#pragma once

#include <span>
#include <vector>

#include "kv/types.hpp"

namespace quire {

class Transfers {
 public:
  explicit Transfers(std::span<const std::uint32_t> blocks_of_group);

  // Fills `to` with what `from` will hold when the step starts.
  void copy(std::uint32_t group, BlockId from, BlockId to);
  void swap_in(std::uint32_t group, BlockId slot, BlockId to);
  // Saves what `block` will hold when the step starts, which no swap in is pending for.
  void swap_out(std::uint32_t group, BlockId block, BlockId slot);
  // The host slot that `block` is pending from, or kNoBlock.
  BlockId pending_slot(std::uint32_t group, BlockId block) const;
  bool pending(std::uint32_t group, BlockId block) const { return pending_[group][block] != kNothing; }
  // `block` was freed: whatever would have filled it isn't needed.
  void drop(std::uint32_t group, BlockId block) {
    if (pending_[group][block] != kNothing) drop_pending(group, block);
  }

  // Moves what was collected into `out` (cleared first): the caller hands it to the device before the step.
  void take(KvTransfers& out);
  const KvTransfers& list() const { return list_; }

 private:
  enum Pending : std::uint8_t { kNothing, kCopy, kSwapIn };
  void drop_pending(std::uint32_t group, BlockId block);
  static quire_block_copy* find_to(std::vector<quire_block_copy>& list, std::uint32_t group, BlockId to);

  KvTransfers list_;
  std::vector<std::vector<std::uint8_t>> pending_; // [groups][blocks]
};

} // namespace quire
