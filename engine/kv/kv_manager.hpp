// The KV cache as the scheduler sees it: sequences are admitted, grow, fork, leave; blocks are its own business.
//
// One instance for one program of one backend. Thread contract: the engine thread owns it; nothing blocks, and nothing
// throws but bad_alloc. Preconditions are asserted. No device memory is touched: what the device must move is collected
// in transfers().
//
// How a step uses it, with two steps in flight:
//   1. done(ticket) for each step that was waited for, then commit() for its sequences.
//   2. admit(), append() and the rest for the step being built. append() makes room for a sequence's tokens of this
//   step; each sequence that
//      takes part in it must have called it, with count >= 1.
//   3. take_transfers(); hand its three lists to the backend in their order; submit the step; submitted(ticket).
//   4. When nothing is in flight and nothing to submit: idle(), which gives back what waited for a step that will not
//   come.
// A block that is given up drains until the last ticket that may touch it is done: preempting a sequence makes room
// some steps later, not at once (draining blocks are counted in the statistics: wait for them before preempting a
// second one).
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kv/block_table.hpp"
#include "kv/prefix_index.hpp"

namespace quire {

struct KvGroupConfig {
  std::uint32_t num_blocks = 0;
  std::uint32_t host_blocks = 0; // 0: no swapping
  std::uint32_t window = 0;      // 0: sees everything
};

struct KvConfig {
  std::uint32_t block_size = 16;
  std::vector<KvGroupConfig> groups;
  bool prefix_cache = true;
  // Share of a group's blocks that admissions leave free, for those that run to grow into: where docs/paged-memory.md
  // finds most served.
  double watermark = 0.03;
  std::uint32_t max_step_tokens = 2048; // the scheduler's budget: what a windowed sequence may hold beyond its window
  PolicyKind policy = PolicyKind::paged;
  std::uint32_t max_length = 2048; // PolicyKind::max: slots a sequence reserves; pow2: at most so many
  PrefixIndex::HashFunction hash = &PrefixIndex::hash_block; // tests that want collisions bring their own
};

using KvSeq = std::uint32_t; // a sequence of the manager, valid from create() or fork() to destroy()
inline constexpr KvSeq kNoSeq = UINT32_MAX;

struct AdmitResult {
  Admission verdict = Admission::later;
  std::uint32_t cached_tokens = 0; // found in the prefix cache: they have slots and need no computing
};

struct KvGroupStats {
  std::uint32_t num_blocks = 0, empty = 0, cached = 0, draining = 0,
                referenced = 0; // add up: num_blocks = the sum of the rest
  std::uint32_t host_slots = 0, host_used = 0;
  std::uint64_t tokens_held = 0; // slots of referenced blocks that hold a token, shared blocks once
  std::uint64_t evictions = 0;
};
struct KvStats {
  std::vector<KvGroupStats> groups;
  std::uint32_t sequences = 0, swapped = 0;
  // Totals since the start.
  std::uint64_t prefix_queried_tokens = 0, prefix_hit_tokens = 0;
  std::uint64_t copied_blocks = 0, swapped_out_blocks = 0, swapped_in_blocks = 0, forks = 0, deduplicated_blocks = 0;
};

// Invariants (check() verifies them all, with those of its parts):
//  1. A block's references are the table entries that name it; a host slot's likewise. No table names a block twice.
//  2. A table has an entry for each started block of its sequence's slots, in every group alike; entries before
//  first_live are kNoBlock.
//  3. A block has content exactly where the prefix index says that this node holds it in this group.
//  4. A sequence's path of nodes is a chain from its root, no longer than its full blocks; with a group that sees
//  everything, the chain is alive
//     and its block there is the one in the table. (After unpublish(), from the next commit on.)
//  5. What a pending transfer fills is referenced; the lists of transfers are free of chains.
//  6. A device block and a host slot are each other's mirrors or no one's.
//  7. The pool knows of all tokens but num_untold_, which are those in the last blocks of sequences that are untold. A
//  sequence with room has a last block that is writable and has no mirror.
class KvManager final : private EvictionListener {
 public:
  explicit KvManager(const KvConfig& config);
  ~KvManager() override;
  KvManager(const KvManager&) = delete;
  KvManager& operator=(const KvManager&) = delete;

  const KvConfig& config() const { return config_; }
  std::uint32_t num_groups() const { return static_cast<std::uint32_t>(groups_.size()); }

  // ---- Sequences ----
  // A sequence without blocks. Only sequences with the same salt and adapter share a cache.
  KvSeq create(std::string_view salt = {}, std::uint64_t adapter = 0);
  // Gives everything back, in whatever state it is.
  void destroy(KvSeq seq);

  // Admits a sequence without blocks, if all its known tokens fit under the watermark: prompt, and outputs where it was
  // preempted. What the prefix cache has is shared at once (at most tokens.size() - 1, so that there is something to
  // compute); the rest is taken by append(). output_tokens: still to come at most; only the contiguous policies look at
  // it. use_cache false: nothing is looked up (a request that wants every row), but its blocks are published.
  AdmitResult admit(KvSeq seq, std::span<const std::int32_t> tokens, std::uint32_t output_tokens,
                    bool use_cache = true);
  // Tokens that admit() would find now. A cheap way to weigh recompute against swapping.
  std::uint32_t cached_tokens(KvSeq seq, std::span<const std::int32_t> tokens);

  // Room for `count` more tokens in the step being built; a shared or published tail is copied first. False, and
  // nothing changed, where the blocks are not there.
  bool append(KvSeq seq, std::uint32_t count);
  // Tokens [0, num_computed) of `tokens` have been computed by steps that are done: their full blocks are published,
  // and what lies behind the windows is freed. A block that the cache already holds replaces the sequence's own.
  // Harmless while swapped.
  void commit(KvSeq seq, std::span<const std::int32_t> tokens, std::uint32_t num_computed);
  // Hashes what commit() of the same arguments will publish and starts loading what it will touch; `ahead`: how many
  // others of this step are announced and not yet committed. Nothing else changes.
  void announce_commit(KvSeq seq, std::span<const std::int32_t> tokens, std::uint32_t num_computed,
                       std::uint32_t ahead);
  // Drops the slots from num_tokens on (surplus, rejected drafts, a place in the step being built); not below what was
  // committed.
  void truncate(KvSeq seq, std::uint32_t num_tokens);
  // A new sequence that shares the first at_token slots. kNoSeq where a window has left them behind, or a block that
  // must be copied at once isn't there. The sequence must be resident. If it has a place in the step being built, the
  // fork takes what was written before (what the step writes into the last block is kept apart by a copy), or all its
  // slots: then it shares what the step will write, and neither grows further in this step; anything between is kNoSeq.
  KvSeq fork(KvSeq seq, std::uint32_t at_token);
  // Gives all blocks back (preemption by recompute); the sequence can be admitted again.
  void release(KvSeq seq);
  // Moves all blocks to host slots (preemption by swap); false, and nothing changed, where there are too few, or with a
  // contiguous policy.
  bool swap_out(KvSeq seq);
  // Takes them back under the watermark; false, and nothing changed, where they don't fit yet.
  bool swap_in(KvSeq seq);
  // A step that wrote tokens from from_token on has failed: no one may find them. The caller then destroys or releases
  // the sequence.
  void unpublish(KvSeq seq, std::uint32_t from_token);

  // ---- Steps ----
  Ticket building() const { return building_; } // the step being built
  void submitted(Ticket ticket);                // it was submitted under this ticket
  void done(Ticket ticket);                     // this ticket and all before it are done
  void idle();                                  // nothing is in flight, and all transfers were taken
  // The transfers for the step being built, to be issued before it is submitted. May be called more than once a step.
  void take_transfers(KvTransfers& out);
  const KvTransfers& transfers() const { return transfers_.list(); }
  // The device lost its memory: all cached content is forgotten. No sequence may hold blocks.
  void forget_all();

  // Starts loading what append() of a sequence will touch: its record, then (once that is there), where the pool must
  // be asked, the end of its first table, then that block. A step over a thousand sequences is bound by these misses.
  void prefetch(KvSeq seq) const { __builtin_prefetch(&sequences_[seq], 1); }
  void prefetch_table_end(KvSeq seq) const {
    const std::span<const BlockId> blocks = sequences_[seq].tables[0].blocks();
    if (sequences_[seq].room == 0 && !blocks.empty()) __builtin_prefetch(&blocks.back());
  }
  void prefetch_block(KvSeq seq) const {
    const std::span<const BlockId> blocks = sequences_[seq].tables[0].blocks();
    if (sequences_[seq].room == 0 && !blocks.empty()) groups_[0]->pool.prefetch(blocks.back());
  }

  // ---- Reading ----
  std::uint32_t num_slots(KvSeq seq) const { return sequences_[seq].num_slots; } // tokens with a place
  bool swapped(KvSeq seq) const { return sequences_[seq].state == State::swapped; }
  bool resident(KvSeq seq) const { return sequences_[seq].state == State::resident; }
  std::span<const BlockId> table(KvSeq seq, std::uint32_t group) const {
    return sequences_[seq].tables[group].blocks();
  }
  // No two sequences' tables have the same, nor has one when entries that were there have changed: under the same
  // version a table at most grows.
  std::uint64_t table_version(KvSeq seq) const { return sequences_[seq].table_version; }
  std::span<const BlockId> host_table(KvSeq seq, std::uint32_t group) const {
    return sequences_[seq].tables[group].host_slots();
  }
  const Grant& grant(KvSeq seq, std::uint32_t group) const { return sequences_[seq].tables[group].grant(); }
  std::uint32_t num_live_blocks(KvSeq seq) const; // over all groups, resident or swapped: what a swap moves
  // Blocks, over all groups, that only this sequence holds: what preempting it will give back.
  std::uint32_t num_private_blocks(KvSeq seq) const;
  const BlockPool& pool(std::uint32_t group) const { return groups_[group]->pool; }
  const BlockPool& host_slots(std::uint32_t group) const { return groups_[group]->host.slots(); }
  std::uint64_t tokens_held(std::uint32_t group) const {
    return groups_[group]->pool.tokens_held() + (group == 0 ? num_untold_ : 0);
  }
  KvStats stats() const;
  std::uint64_t prefix_queried_tokens() const { return totals_.prefix_queried_tokens; }
  std::uint64_t prefix_hit_tokens() const { return totals_.prefix_hit_tokens; }

  // Empty where every invariant holds, else one sentence about the first that does not. O(everything): tests, and debug
  // builds each step.
  std::string check() const;

 private:
  enum class State : std::uint8_t { none, empty, resident, swapped };
  // What a step touches comes first, and without a pointer to follow: a thousand sequences' worth must stay in the
  // cache.
  struct alignas(64) Sequence {
    std::uint32_t num_slots = 0, num_committed = 0;
    std::uint32_t num_written = 0; // slots that steps submitted before `appended` have written
    State state = State::none;
    bool publishing = false;
    bool untold = false;   // tokens have been appended that the pool doesn't know of
    std::uint8_t room = 0; // for so many more: into the last block, where that is known to be the sequence's alone
    Ticket last = 0;       // the last ticket that may touch its blocks
    Ticket appended = 0;   // the last ticket that it has had a place in
    std::uint64_t table_version = 0;
    Ticket publish_after = 0; // nothing is published before this ticket is done
    std::array<BlockTable, QUIRE_MAX_GROUPS> tables;
    Ticket no_place_in = 0;      // the step that it was forked in with a place: no append
    std::vector<Hash128> hashes; // of its full blocks, as far as known
    std::vector<NodeRef> path;   // its full blocks in the prefix index, from the root
    NodeRef root;                // none: not cached
    Hash128 root_hash;
    std::uint32_t output_tokens = 0;
    std::uint32_t epoch = 0; // of the failures that its path has been checked against
  };

  void evicted(std::uint32_t group, BlockId block, std::uint32_t content) override;
  void eviction_near(std::uint32_t next, std::uint32_t after_next) override;
  KvSeq new_sequence();
  bool has_place(const Sequence& seq) const { return seq.appended == building_ && seq.num_slots > seq.num_written; }
  // Finds the longest usable cached prefix of at most max_blocks blocks; its nodes are left in match_.
  std::uint32_t match(Sequence& seq, std::span<const std::int32_t> tokens, std::uint32_t max_blocks);
  // Cuts the path where a failed step has taken nodes from under it.
  void mend_path(Sequence& seq) const;
  void publish(Sequence& seq, std::span<const std::int32_t> tokens, std::uint32_t num_blocks);
  void drop_blocks(Sequence& seq);
  // Sees how much room the last block has. One group only: else each would have to.
  void find_room(Sequence& seq);
  // Entries of its tables have changed, or went.
  void table_changed(Sequence& seq) { seq.table_version = ++table_versions_; }
  // The pool hears of all tokens, and there is no room but by asking it. Before anything but append() happens to the
  // last block.
  void tell_pool(Sequence& seq);
  void forget_orphans();

  KvConfig config_;
  std::vector<std::unique_ptr<KvGroup>> groups_;
  PrefixIndex index_;
  Transfers transfers_;
  std::vector<Sequence> sequences_; // a new one may move the others
  std::vector<KvSeq> free_sequences_;
  std::uint32_t full_group_ = UINT32_MAX; // one that sees everything
  bool contiguous_ = false;
  std::uint32_t epoch_ = 0; // rises with each unpublish()
  Ticket building_ = 1, done_ = 0;
  std::uint64_t table_versions_ = 0; // so far
  std::uint64_t num_untold_ = 0;     // tokens that the first group's pool doesn't know of
  KvStats totals_;
  // Scratch, kept for its capacity.
  std::vector<NodeRef> match_;
  std::vector<PrefixIndex::Orphan> orphans_;
  std::vector<std::vector<BlockId>> shared_; // [groups] of admit and swap_in
};

} // namespace quire
