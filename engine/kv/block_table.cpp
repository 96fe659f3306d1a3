#include "kv/block_table.hpp"

#include <algorithm>

namespace quire {

void BlockTable::release(KvGroup& group, Transfers& transfers, BlockId block, Ticket last) {
  if (group.pool.references(block) == 1) {
    group.host.unpair_block(block);
    transfers.drop(group.index, block);
  }
  group.pool.release(block, last);
}

std::uint32_t BlockTable::needed(const KvGroup& group, std::uint32_t num_slots, std::uint32_t count) const {
  if (count == 0) return 0;
  const std::uint32_t total = group.blocks_for(std::uint64_t{num_slots} + count);
  const bool copy = num_slots % group.block_size != 0 && !group.pool.writable(blocks_[num_slots / group.block_size]);
  return total - size() + (copy ? 1 : 0);
}

bool BlockTable::append(KvGroup& group, Transfers& transfers, std::uint32_t num_slots, std::uint32_t count,
                        Ticket building) {
  if (count == 0) return false;
  assert(size() == group.blocks_for(num_slots));
  const std::uint32_t block_size = group.block_size;
  bool changed = false;
  if (const std::uint32_t filled = num_slots % block_size; filled != 0) {
    BlockId tail = blocks_.back();
    if (!group.pool.writable(tail)) {
      copy_tail(group, transfers, building);
      changed = true;
      tail = blocks_.back();
    } else if (group.pool.mirror(tail) != kNoBlock) {
      group.host.unpair_block(tail);
    }
    group.pool.set_filled(tail, std::min(filled + count, block_size));
  }
  const std::uint32_t total = group.blocks_for(std::uint64_t{num_slots} + count);
  while (size() < total) {
    const BlockId block = group.policy->allocate(grant_, size());
    assert(block != kNoBlock);
    group.pool.set_filled(block, std::min(num_slots + count - size() * block_size, block_size));
    blocks_.push_back(block);
  }
  return changed;
}

void BlockTable::copy_tail(KvGroup& group, Transfers& transfers, Ticket building) {
  const BlockId tail = blocks_.back(), copy = group.policy->allocate(grant_, size() - 1);
  assert(copy != kNoBlock);
  transfers.copy(group.index, tail, copy);
  group.pool.touch(tail, building);
  group.pool.set_filled(copy, group.pool.filled(tail));
  release(group, transfers, tail, building);
  blocks_.back() = copy;
}

void BlockTable::share(KvGroup& group, std::span<const BlockId> blocks) {
  assert(blocks_.empty() && slots_.empty() && first_live_ == 0);
  blocks_.assign(blocks.begin(), blocks.end());
  while (first_live_ < size() && blocks_[first_live_] == kNoBlock) ++first_live_;
  for (std::uint32_t i = first_live_; i < size(); ++i) group.pool.share(blocks_[i]);
}

void BlockTable::fork(KvGroup& group, const BlockTable& other, std::uint32_t count) {
  assert(blocks_.empty() && slots_.empty());
  blocks_.assign(other.blocks_.begin(), other.blocks_.begin() + count);
  first_live_ = std::min(other.first_live_, count);
  for (std::uint32_t i = first_live_; i < count; ++i) group.pool.share(blocks_[i]);
}

void BlockTable::fork_by_copy(KvGroup& group, Transfers& transfers, const BlockTable& other, std::uint32_t count,
                              Ticket building) {
  assert(blocks_.empty() && other.first_live_ == 0);
  while (size() < count) {
    const BlockId from = other.blocks_[size()], to = group.policy->allocate(grant_, size());
    transfers.copy(group.index, from, to);
    group.pool.touch(from, building);
    group.pool.set_filled(to, group.pool.filled(from));
    blocks_.push_back(to);
  }
}

void BlockTable::replace(KvGroup& group, Transfers& transfers, std::uint32_t i, BlockId block, Ticket last) {
  assert(i >= first_live_);
  group.pool.share(block);
  release(group, transfers, blocks_[i], last);
  blocks_[i] = block;
}

void BlockTable::truncate(KvGroup& group, Transfers& transfers, std::uint32_t count, std::uint32_t num_slots,
                          Ticket last) {
  while (size() > count) {
    if (blocks_.back() != kNoBlock) release(group, transfers, blocks_.back(), last);
    blocks_.pop_back();
  }
  first_live_ = std::min(first_live_, count);
  const std::uint32_t filled = num_slots % group.block_size;
  if (filled != 0 && group.pool.writable(blocks_.back())) group.pool.set_filled(blocks_.back(), filled);
}

bool BlockTable::free_behind(KvGroup& group, Transfers& transfers, std::uint32_t first, Ticket last) {
  const std::uint32_t before = first_live_;
  for (; first_live_ < first && first_live_ < size(); ++first_live_) {
    release(group, transfers, blocks_[first_live_], last);
    blocks_[first_live_] = kNoBlock;
  }
  return first_live_ != before;
}

std::uint32_t BlockTable::needed_host(const KvGroup& group, const Transfers& transfers) const {
  std::uint32_t count = 0;
  for (std::uint32_t i = first_live_; i < size(); ++i)
    count += group.host.slot_of(blocks_[i]) == kNoBlock && transfers.pending_slot(group.index, blocks_[i]) == kNoBlock;
  return count;
}

void BlockTable::swap_out(KvGroup& group, Transfers& transfers, Ticket building) {
  assert(slots_.empty());
  slots_.assign(size(), kNoBlock);
  for (std::uint32_t i = size(); i-- > first_live_;) {
    const BlockId block = blocks_[i];
    BlockId slot = transfers.pending_slot(group.index, block);
    if (slot == kNoBlock) slot = group.host.slot_of(block);
    if (slot != kNoBlock) {
      group.host.share(slot);
    } else {
      slot = group.host.allocate();
      assert(slot != kNoBlock);
      transfers.swap_out(group.index, block, slot);
      group.pool.touch(block, building);
      group.host.pair(slot, block);
    }
    slots_[i] = slot;
    release(group, transfers, block, building);
  }
  blocks_.clear();
}

void BlockTable::swap_in(KvGroup& group, Transfers& transfers, std::span<const BlockId> cached, std::uint32_t num_slots,
                         Ticket building) {
  assert(blocks_.empty());
  blocks_.assign(slots_.size(), kNoBlock);
  // What is there is taken first: an allocation could evict it.
  for (std::uint32_t i = first_live_; i < slots_.size(); ++i) {
    BlockId block = cached[i - first_live_];
    if (block == kNoBlock) block = group.host.block_of(slots_[i]);
    if (block != kNoBlock) group.pool.share(block);
    blocks_[i] = block;
  }
  for (std::uint32_t i = first_live_; i < slots_.size(); ++i) {
    const BlockId slot = slots_[i];
    if (blocks_[i] == kNoBlock) {
      const BlockId block = group.policy->allocate(grant_, i);
      assert(block != kNoBlock);
      group.pool.set_filled(block, std::min(num_slots - i * group.block_size, group.block_size));
      transfers.swap_in(group.index, slot, block);
      if (group.host.slots().references(slot) > 1) group.host.pair(slot, block); // others will come back for it
      blocks_[i] = block;
    }
    group.host.release(slot, building);
  }
  slots_.clear();
}

void BlockTable::drop_host(KvGroup& group, Ticket building) {
  for (std::uint32_t i = first_live_; i < slots_.size(); ++i) group.host.release(slots_[i], building);
  slots_.clear();
  first_live_ = 0;
}

} // namespace quire
