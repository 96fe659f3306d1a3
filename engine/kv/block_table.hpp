// The block table of one sequence in one KV group: which device block holds which of its tokens.
//
// Entry i holds tokens [i * block_size, (i + 1) * block_size). Entries below first_live() were freed behind the group's
// window and read kNoBlock. A block may stand in many tables (forks, prefix hits); it is written only where it is
// writable(): with one reference and no content in the prefix cache. Otherwise append() replaces it by a copy first. A
// swapped table holds host slots instead of device blocks.
//
// A table doesn't know its sequence's length: the callers pass it in slots (tokens that have a place). Blocks are
// dropped from the tail, so that a cached chain is evicted from its tail. Not thread safe: the engine thread owns it.
// Preconditions are asserted.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kv/host_pool.hpp"
#include "kv/policy.hpp"
#include "kv/transfers.hpp"

namespace quire {

// Everything of one KV group that tables work with.
struct KvGroup {
  std::uint32_t index = 0;
  std::uint32_t block_size = 16;
  std::uint32_t window = 0; // tokens that a token sees, itself included; 0 = all
  BlockPool pool;
  HostPool host;
  std::unique_ptr<AllocationPolicy> policy;

  KvGroup(std::uint32_t group, std::uint32_t size, std::uint32_t reach, std::uint32_t blocks, std::uint32_t slots,
          EvictionListener* listener)
      : index(group), block_size(size), window(reach), pool(blocks, group, listener), host(slots, pool) {}
  KvGroup(const KvGroup&) = delete; // host refers to pool

  std::uint32_t blocks_for(std::uint64_t tokens) const {
    return static_cast<std::uint32_t>((tokens + block_size - 1) / block_size);
  }
  // First table entry that the token at `position` needs. A window keeps at least the block before the one being
  // filled: its place in the prefix index hangs on it.
  std::uint32_t first_needed(std::uint32_t position) const {
    if (window == 0) return 0;
    const std::uint32_t reach = window > block_size + 2 ? window : block_size + 2;
    return position + 1 > reach ? (position + 1 - reach) / block_size : 0;
  }
};

class BlockTable {
 public:
  std::span<const BlockId> blocks() const { return blocks_; }    // empty while swapped
  std::span<const BlockId> host_slots() const { return slots_; } // empty unless swapped
  std::uint32_t size() const { return static_cast<std::uint32_t>(blocks_.size()); }
  std::uint32_t first_live() const { return first_live_; }
  std::uint32_t num_live() const { return static_cast<std::uint32_t>(blocks_.size() + slots_.size()) - first_live_; }
  const Grant& grant() const { return grant_; }
  Grant& grant() { return grant_; }

  // Blocks that append() would allocate, copies included.
  std::uint32_t needed(const KvGroup& group, std::uint32_t num_slots, std::uint32_t count) const;
  // Room for `count` more tokens behind num_slots, writable from the step `building` on. needed() of them are
  // available. Whether an entry that was there has changed.
  bool append(KvGroup& group, Transfers& transfers, std::uint32_t num_slots, std::uint32_t count, Ticket building);
  // The first entries are these blocks, one reference taken of each; kNoBlock behind a window. The table is empty.
  void share(KvGroup& group, std::span<const BlockId> blocks);
  // The first `count` entries of `other`, by reference.
  void fork(KvGroup& group, const BlockTable& other, std::uint32_t count);
  // The last entry, shared so far, becomes a copy of its own. One block can be allocated.
  void copy_tail(KvGroup& group, Transfers& transfers, Ticket building);
  // The same by copying, for policies whose sequences can't share.
  void fork_by_copy(KvGroup& group, Transfers& transfers, const BlockTable& other, std::uint32_t count,
                    Ticket building);
  // Entry i becomes `block`, which holds the same tokens; one reference taken, the old one given back.
  void replace(KvGroup& group, Transfers& transfers, std::uint32_t i, BlockId block, Ticket last);
  // Drops the entries from `count` on; `num_slots` of what remains are filled.
  void truncate(KvGroup& group, Transfers& transfers, std::uint32_t count, std::uint32_t num_slots, Ticket last);
  // Drops the entries before `first`; whether there were any.
  bool free_behind(KvGroup& group, Transfers& transfers, std::uint32_t first, Ticket last);

  // Host slots that swap_out() would allocate.
  std::uint32_t needed_host(const KvGroup& group, const Transfers& transfers) const;
  void swap_out(KvGroup& group, Transfers& transfers, Ticket building);
  // `cached[i - first_live()]` is a device block that already holds entry i, or kNoBlock.
  void swap_in(KvGroup& group, Transfers& transfers, std::span<const BlockId> cached, std::uint32_t num_slots,
               Ticket building);
  void drop_host(KvGroup& group, Ticket building);

 private:
  static void release(KvGroup& group, Transfers& transfers, BlockId block, Ticket last);

  std::vector<BlockId> blocks_;
  std::vector<BlockId> slots_;
  std::uint32_t first_live_ = 0;
  Grant grant_;
};

} // namespace quire
