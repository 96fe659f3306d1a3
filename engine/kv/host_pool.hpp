// The host's slots for swapped blocks of one KV group, and which slot holds the same as which device block.
//
// A slot is counted, shared and drained as a device block is (it is a BlockPool). A pair says that a slot and a device
// block hold the same tokens, so that a block shared by several sequences is swapped once, and comes back once. A pair
// ends when either is freed or the device block is written. O(1) all over. Not thread safe: the engine thread owns it.
#pragma once

#include "kv/block_pool.hpp"

namespace quire {

class HostPool {
 public:
  HostPool(std::uint32_t num_slots, BlockPool& device) : slots_(num_slots), device_(&device) {}

  const BlockPool& slots() const { return slots_; }
  BlockId allocate() { return slots_.allocate(); }
  void share(BlockId slot) { slots_.share(slot); }
  // As BlockPool::release; the last reference ends the slot's pair.
  void release(BlockId slot, Ticket last) {
    if (slots_.references(slot) == 1) unpair_slot(slot);
    slots_.release(slot, last);
  }
  void tickets_done(Ticket ticket) { slots_.tickets_done(ticket); }
  void queue_empty() { slots_.queue_empty(); }

  void pair(BlockId slot, BlockId block) {
    unpair_slot(slot);
    unpair_block(block);
    slots_.set_mirror(slot, block);
    device_->set_mirror(block, slot);
  }
  void unpair_block(BlockId block) {
    const BlockId slot = device_->mirror(block);
    if (slot == kNoBlock) return;
    slots_.set_mirror(slot, kNoBlock);
    device_->set_mirror(block, kNoBlock);
  }
  void unpair_slot(BlockId slot) {
    if (const BlockId block = slots_.mirror(slot); block != kNoBlock) unpair_block(block);
  }
  BlockId slot_of(BlockId block) const { return device_->mirror(block); }
  BlockId block_of(BlockId slot) const { return slots_.mirror(slot); }

 private:
  BlockPool slots_;
  BlockPool* device_;
};

} // namespace quire
