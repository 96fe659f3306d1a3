#include "kv/block_pool.hpp"

namespace quire {

BlockPool::BlockPool(std::uint32_t num_blocks, std::uint32_t group, EvictionListener* listener)
    : num_blocks_(num_blocks), group_(group), listener_(listener),
      blocks_(static_cast<std::size_t>(num_blocks) + 1 + kMaxTickets), num_empty_(num_blocks) {
  assert(num_blocks < kNoBlock - 1 - kMaxTickets);
  for (BlockId head = num_blocks_; head < blocks_.size(); ++head) blocks_[head].previous = blocks_[head].next = head;
  for (BlockId block = num_blocks_; block-- > 0;) link_after(free_head(), block); // the lowest id first
}

// The links lie far apart too: each allocation fetches one block further ahead than it looks.
void BlockPool::announce_evictions() {
  const BlockId next = blocks_[free_head()].next, after_next = blocks_[next].next;
  __builtin_prefetch(&blocks_[blocks_[after_next].next]);
  if (blocks_[next].content != kNoContent && blocks_[after_next].content != kNoContent) // heads have none
    listener_->eviction_near(blocks_[next].content, blocks_[after_next].content);
}

void BlockPool::claim(BlockId block) {
  assert(block < num_blocks_ && blocks_[block].references == 0 && blocks_[block].content == kNoContent);
  assert(blocks_[block].last_ticket <= done_);
  leave_list(block);
  blocks_[block].references = 1;
}

void BlockPool::tickets_done(Ticket ticket) {
  while (done_ < ticket) {
    // Lists beyond the ring are empty: a release may not name a ticket so far ahead.
    if (num_draining_ == 0) {
      done_ = ticket;
      break;
    }
    ++done_;
    const BlockId head = draining_head(done_);
    for (BlockId block = blocks_[head].next; block != head; block = blocks_[head].next) {
      unlink(block);
      --num_draining_;
      to_free_list(block);
    }
  }
}

void BlockPool::queue_empty() {
  for (Ticket ticket = done_ + 1; ticket <= done_ + kMaxTickets; ++ticket) {
    const BlockId head = draining_head(ticket);
    for (BlockId block = blocks_[head].next; block != head; block = blocks_[head].next) {
      unlink(block);
      --num_draining_;
      blocks_[block].last_ticket = done_;
      to_free_list(block);
    }
  }
}

void BlockPool::set_content(BlockId block, std::uint32_t content) {
  Block& b = blocks_[block];
  assert(b.references > 0 && b.content == kNoContent && content != kNoContent);
  b.content = content;
}

void BlockPool::forget_content(BlockId block) {
  Block& b = blocks_[block];
  if (b.content == kNoContent) return;
  const bool in_free_list = b.references == 0 && b.last_ticket <= done_;
  if (in_free_list) leave_list(block);
  b.content = kNoContent;
  if (in_free_list) to_free_list(block);
}

std::string BlockPool::check() const {
  const auto wrong = [](const char* what, BlockId block) {
    return std::string("block ") + std::to_string(block) + ": " + what;
  };
  std::vector<std::uint8_t> seen(num_blocks_, 0);
  std::uint32_t empty = 0, cached = 0, draining = 0, referenced = 0;
  const auto walk = [&](BlockId head, auto&& visit) -> std::string {
    BlockId previous = head;
    for (BlockId block = blocks_[head].next; block != head; previous = block, block = blocks_[block].next) {
      if (block >= num_blocks_) return wrong("a list leaves the blocks", block);
      if (blocks_[block].previous != previous) return wrong("its links disagree (6)", block);
      if (seen[block]++) return wrong("is in two lists (1)", block);
      if (blocks_[block].references != 0) return wrong("is referenced and in a list (1)", block);
      if (std::string e = visit(block); !e.empty()) return e;
    }
    return blocks_[head].previous == previous ? "" : wrong("is last, and its list's head disagrees (6)", previous);
  };
  std::string error = walk(free_head(), [&](BlockId block) -> std::string {
    const Block& b = blocks_[block];
    if (b.last_ticket > done_) return wrong("is free before its last ticket is done (3)", block);
    if (b.content == kNoContent) {
      if (cached) return wrong("is empty and stands behind a cached one (2)", block);
      if (b.filled != 0 || b.mirror != kNoBlock) return wrong("is empty and has tokens or a mirror (5)", block);
      ++empty;
    } else {
      ++cached;
    }
    return "";
  });
  if (!error.empty()) return error;
  for (Ticket ticket = done_ + 1; ticket <= done_ + kMaxTickets; ++ticket) {
    error = walk(draining_head(ticket), [&](BlockId block) -> std::string {
      if (blocks_[block].last_ticket != ticket) return wrong("drains in another ticket's list (3)", block);
      ++draining;
      return "";
    });
    if (!error.empty()) return error;
  }
  std::uint64_t tokens = 0;
  for (BlockId block = 0; block < num_blocks_; ++block) {
    if (blocks_[block].references == 0) {
      if (!seen[block]) return wrong("has no reference and is in no list (1)", block);
      continue;
    }
    if (blocks_[block].next != kNoBlock) return wrong("is referenced and linked (1)", block);
    ++referenced;
    tokens += blocks_[block].filled;
  }
  if (empty != num_empty_ || cached != num_cached_ || draining != num_draining_ || referenced != num_referenced())
    return "the counts of empty, cached, draining or referenced blocks are wrong (4)";
  if (tokens != tokens_held_) return "tokens_held is not the sum over the referenced blocks (5)";
  return "";
}

} // namespace quire
