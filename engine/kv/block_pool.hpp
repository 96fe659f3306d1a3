// The blocks of one KV group: reference counts, the free list, and blocks that leave only when no step can touch them.
//
// Ids and counts only, no device memory. Everything is O(1) (tickets_done: per block that returns). The same class
// keeps the slots of a host pool. Not thread safe: the engine thread owns it. Misuse is a programmer's error and
// asserted.
//
// Pipelining: two steps are in flight while a third is built. A table that drops a block says which ticket may touch it
// last; the block drains until that ticket is done. The content of a block lives on after its last reference, so that a
// later sequence can find it again (a cached block), until allocate() needs the space: blocks without content go first,
// then cached ones, least recently released first. A table releases its tail first, so tails are evicted before the
// prefixes that they hang on.
#pragma once

#include <cassert>
#include <cstdint>
#include <string>
#include <vector>

#include "kv/huge_pages.hpp"
#include "kv/types.hpp"

namespace quire {

// Hears that a cached block is about to be handed out anew. Called inside allocate().
class EvictionListener {
 public:
  virtual ~EvictionListener() = default;
  virtual void evicted(std::uint32_t group, BlockId block, std::uint32_t content) = 0;
  // These are the next ones, if nobody shares them before: what evicted() will touch can be fetched meanwhile.
  virtual void eviction_near(std::uint32_t next, std::uint32_t after_next) { (void)next, (void)after_next; }
};

// Invariants (check() verifies them all):
//  1. A block is in exactly one state: empty (no reference, no content, in the free list), cached (no reference,
//  content, in the free list),
//     draining (no reference, in the list of its last ticket) or referenced (references > 0, in no list).
//  2. In the free list every empty block stands before every cached one.
//  3. A draining block's last ticket is not done, is at most kMaxTickets ahead, and is that of its list.
//  4. The counts of the states equal the lengths of the lists and add up to the number of blocks.
//  5. tokens_held is the sum of filled over the referenced blocks; an empty block has filled 0 and no mirror.
//  6. Links agree: next's previous is oneself, in every list.
class BlockPool {
 public:
  static constexpr std::uint32_t kMaxTickets = 8; // tickets ahead of the last one done that a release may name

  explicit BlockPool(std::uint32_t num_blocks, std::uint32_t group = 0, EvictionListener* listener = nullptr);

  // A block with one reference and no content, or kNoBlock where none is free.
  BlockId allocate();
  // The same for a given free block (contiguous policies). It must be empty.
  void claim(BlockId block);
  // One more reference; a cached or draining block comes back with its content.
  void share(BlockId block);
  // One reference less. `last` is the last ticket that may touch the block on behalf of this reference (0: none). True
  // when it was the last reference.
  bool release(BlockId block, Ticket last);
  // Some queued work up to this ticket reads or writes the block.
  void touch(BlockId block, Ticket ticket) {
    Block& b = blocks_[block];
    assert(b.references > 0);
    if (ticket > b.last_ticket) b.last_ticket = ticket;
  }
  // Every ticket up to this one is done.
  void tickets_done(Ticket ticket);
  // Nothing is queued: whatever drains returns at once, without a ticket.
  void queue_empty();

  // Content is a number of the prefix index's own. A block that loses it while free is handed out before all cached
  // ones.
  void set_content(BlockId block, std::uint32_t content);
  void forget_content(BlockId block);
  std::uint32_t content(BlockId block) const { return blocks_[block].content; }

  // Slots of the block that hold a token. Only of referenced blocks.
  void set_filled(BlockId block, std::uint32_t filled) {
    Block& b = blocks_[block];
    assert(b.references > 0);
    tokens_held_ += filled;
    tokens_held_ -= b.filled;
    b.filled = filled;
  }
  std::uint32_t filled(BlockId block) const { return blocks_[block].filled; }

  // The host slot (device block) that holds the same content, or kNoBlock.
  void set_mirror(BlockId block, BlockId mirror) { blocks_[block].mirror = mirror; }
  BlockId mirror(BlockId block) const { return blocks_[block].mirror; }

  void prefetch(BlockId block) const { __builtin_prefetch(&blocks_[block], 1); }

  std::uint32_t references(BlockId block) const { return blocks_[block].references; }
  bool draining(BlockId block) const { return blocks_[block].references == 0 && blocks_[block].last_ticket > done_; }
  // May be written in place: one reference and no content that others could find.
  bool writable(BlockId block) const { return blocks_[block].references == 1 && blocks_[block].content == kNoContent; }

  std::uint32_t num_blocks() const { return num_blocks_; }
  std::uint32_t num_free() const { return num_empty_ + num_cached_; } // what allocate() can hand out now
  std::uint32_t num_empty() const { return num_empty_; }
  std::uint32_t num_cached() const { return num_cached_; }
  std::uint32_t num_draining() const { return num_draining_; }
  std::uint32_t num_referenced() const { return num_blocks_ - num_empty_ - num_cached_ - num_draining_; }
  std::uint64_t tokens_held() const { return tokens_held_; }
  std::uint64_t num_evictions() const { return num_evictions_; }
  Ticket done() const { return done_; }

  // Empty where every invariant holds, else one sentence about the first that does not. O(blocks).
  std::string check() const;

 private:
  struct Block {
    std::uint32_t references = 0;
    BlockId previous = kNoBlock, next = kNoBlock; // links of the list it is in; kNoBlock in none
    std::uint32_t content = kNoContent;
    Ticket last_ticket = 0;
    std::uint32_t filled = 0;
    BlockId mirror = kNoBlock;
  };
  // Behind the blocks, blocks_ holds the lists' heads: [num_blocks_] the free list, [num_blocks_ + 1 + ticket %
  // kMaxTickets] those draining.
  BlockId free_head() const { return num_blocks_; }
  BlockId draining_head(Ticket ticket) const { return num_blocks_ + 1 + static_cast<BlockId>(ticket % kMaxTickets); }
  void unlink(BlockId block);
  void link_after(BlockId position, BlockId block);
  void to_free_list(BlockId block);
  void leave_list(BlockId block); // and the count of its state
  void announce_evictions();

  std::uint32_t num_blocks_, group_;
  EvictionListener* listener_;
  HugeVector<Block> blocks_;
  std::uint32_t num_empty_, num_cached_ = 0, num_draining_ = 0;
  std::uint64_t tokens_held_ = 0, num_evictions_ = 0;
  Ticket done_ = 0;
};

// ---- Inline: the hot paths
// ------------------------------------------------------------------------------------------------------------

inline void BlockPool::unlink(BlockId block) {
  Block& b = blocks_[block];
  blocks_[b.previous].next = b.next;
  blocks_[b.next].previous = b.previous;
  b.previous = b.next = kNoBlock;
}

inline void BlockPool::link_after(BlockId position, BlockId block) {
  Block& b = blocks_[block];
  const BlockId next = blocks_[position].next;
  b.previous = position;
  b.next = next;
  blocks_[position].next = block;
  blocks_[next].previous = block;
}

inline void BlockPool::to_free_list(BlockId block) {
  Block& b = blocks_[block];
  if (b.content == kNoContent) {
    b.filled = 0;
    link_after(free_head(), block);
    ++num_empty_;
  } else {
    link_after(blocks_[free_head()].previous, block);
    ++num_cached_;
  }
}

inline void BlockPool::leave_list(BlockId block) {
  const Block& b = blocks_[block];
  assert(b.references == 0 && b.next != kNoBlock);
  if (b.last_ticket > done_)
    --num_draining_;
  else if (b.content == kNoContent)
    --num_empty_;
  else
    --num_cached_;
  unlink(block);
}

inline BlockId BlockPool::allocate() {
  const BlockId block = blocks_[free_head()].next;
  if (block == free_head()) return kNoBlock;
  Block& b = blocks_[block];
  unlink(block);
  if (b.content == kNoContent) {
    --num_empty_;
  } else {
    --num_cached_;
    ++num_evictions_;
    const std::uint32_t content = b.content;
    b.content = kNoContent;
    b.filled = 0;
    if (listener_) {
      listener_->evicted(group_, block, content);
      announce_evictions();
    }
  }
  b.references = 1;
  return block;
}

inline void BlockPool::share(BlockId block) {
  assert(block < num_blocks_);
  Block& b = blocks_[block];
  if (b.references == 0) {
    leave_list(block);
    tokens_held_ += b.filled;
  }
  ++b.references;
}

inline bool BlockPool::release(BlockId block, Ticket last) {
  assert(block < num_blocks_ && blocks_[block].references > 0);
  Block& b = blocks_[block];
  if (last > b.last_ticket) b.last_ticket = last;
  if (--b.references > 0) return false;
  tokens_held_ -= b.filled;
  if (b.last_ticket > done_) {
    assert(b.last_ticket - done_ <= kMaxTickets);
    link_after(blocks_[draining_head(b.last_ticket)].previous, block);
    ++num_draining_;
  } else {
    to_free_list(block);
  }
  return true;
}

} // namespace quire
