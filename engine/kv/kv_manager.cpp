#include "kv/kv_manager.hpp"

#include <algorithm>
#include <cassert>

namespace quire {

namespace {
std::vector<std::uint32_t> windows_of(const KvConfig& config) {
  std::vector<std::uint32_t> windows;
  for (const KvGroupConfig& group : config.groups) windows.push_back(group.window);
  return windows;
}
std::vector<std::uint32_t> blocks_of(const KvConfig& config) {
  std::vector<std::uint32_t> blocks;
  for (const KvGroupConfig& group : config.groups) blocks.push_back(group.num_blocks);
  return blocks;
}
constexpr std::uint32_t kHashesAhead = 8;
} // namespace

KvManager::KvManager(const KvConfig& config)
    : config_(config), index_(config.block_size, windows_of(config), config.hash), transfers_(blocks_of(config)),
      contiguous_(config.policy != PolicyKind::paged), shared_(config.groups.size()) {
  assert(!config.groups.empty() && config.groups.size() <= QUIRE_MAX_GROUPS);
  if (contiguous_) { // a chunk is kept whole
    config_.prefix_cache = false;
    for (KvGroupConfig& group : config_.groups) group.window = 0;
  }
  if (config_.prefix_cache) {
    std::uint32_t blocks = 0;
    for (const KvGroupConfig& group : config_.groups) blocks = std::max(blocks, group.num_blocks);
    index_.reserve(blocks);
  }
  for (std::uint32_t g = 0; g < config.groups.size(); ++g) {
    const KvGroupConfig& c = config_.groups[g];
    if (c.window == 0 && full_group_ == UINT32_MAX) full_group_ = g;
    KvGroup& group = *groups_.emplace_back(std::make_unique<KvGroup>(
        g, config.block_size, c.window, c.num_blocks, c.host_blocks, static_cast<EvictionListener*>(this)));
    group.policy = make_policy({.kind = config.policy,
                                .block_size = config.block_size,
                                .watermark_blocks = static_cast<std::uint32_t>(config.watermark * c.num_blocks),
                                .max_length = config.max_length},
                               group.pool);
  }
}

KvManager::~KvManager() = default;

// ---- Sequences
// ------------------------------------------------------------------------------------------------------------------------

KvSeq KvManager::new_sequence() {
  KvSeq id;
  if (free_sequences_.empty()) {
    id = static_cast<KvSeq>(sequences_.size());
    sequences_.emplace_back();
  } else {
    id = free_sequences_.back();
    free_sequences_.pop_back();
  }
  Sequence& seq = sequences_[id];
  assert(seq.state == State::none && seq.path.empty());
  table_changed(seq);
  seq.state = State::empty;
  seq.hashes.clear();
  seq.root = {};
  seq.publishing = false;
  seq.last = seq.appended = seq.no_place_in = seq.publish_after = 0;
  seq.num_slots = seq.num_committed = seq.output_tokens = 0;
  ++totals_.sequences;
  return id;
}

KvSeq KvManager::create(std::string_view salt, std::uint64_t adapter) {
  const KvSeq id = new_sequence();
  Sequence& seq = sequences_[id];
  if (config_.prefix_cache) seq.root = index_.open_root(salt, adapter);
  if (seq.root) seq.root_hash = index_.hash_of(seq.root);
  return id;
}

void KvManager::destroy(KvSeq id) {
  Sequence& seq = sequences_[id];
  drop_blocks(seq);
  if (seq.root) index_.close_root(seq.root);
  seq.root = {};
  seq.state = State::none;
  --totals_.sequences;
  free_sequences_.push_back(id);
}

void KvManager::find_room(Sequence& seq) {
  if (groups_.size() != 1) return;
  const BlockId tail = seq.tables[0].blocks().back();
  if (!groups_[0]->pool.writable(tail) || groups_[0]->pool.mirror(tail) != kNoBlock) return;
  const std::uint32_t room = seq.tables[0].size() * config_.block_size - seq.num_slots;
  seq.room = static_cast<std::uint8_t>(std::min(room, std::uint32_t{UINT8_MAX}));
}

void KvManager::tell_pool(Sequence& seq) {
  seq.room = 0;
  if (!seq.untold) return;
  seq.untold = false;
  const BlockTable& table = seq.tables[0];
  const std::uint32_t filled = seq.num_slots - (table.size() - 1) * config_.block_size;
  num_untold_ -= filled - groups_[0]->pool.filled(table.blocks().back());
  groups_[0]->pool.set_filled(table.blocks().back(), filled);
}

void KvManager::drop_blocks(Sequence& seq) {
  tell_pool(seq);
  table_changed(seq);
  for (auto& group : groups_) {
    BlockTable& table = seq.tables[group->index];
    if (seq.state == State::swapped)
      table.drop_host(*group, building_);
    else
      table.truncate(*group, transfers_, 0, 0, seq.last);
    group->policy->close(table.grant(), seq.last);
  }
  if (seq.state == State::swapped) --totals_.swapped;
  seq.path.clear();
  seq.num_slots = seq.num_committed = 0;
}

void KvManager::release(KvSeq id) {
  Sequence& seq = sequences_[id];
  drop_blocks(seq);
  seq.state = State::empty;
}

std::uint32_t KvManager::match(Sequence& seq, std::span<const std::int32_t> tokens, std::uint32_t max_blocks) {
  match_.clear();
  if (!seq.root || max_blocks == 0) return 0;
  const std::size_t size = config_.block_size;
  std::uint32_t usable = 0;
  std::uint32_t run[QUIRE_MAX_GROUPS] = {}; // blocks that the group has without a gap, up to the node at hand
  NodeRef node = seq.root;
  for (std::uint32_t i = 0; i < max_blocks; ++i) {
    // Hashes run some blocks ahead: the chain of hashes and the search overlap, and the table's lines are there in
    // time.
    const std::uint32_t ahead = std::min(i + kHashesAhead, max_blocks);
    if (seq.hashes.size() < ahead) index_.extend_chain(seq.root_hash, tokens, ahead, seq.hashes);
    index_.prefetch(seq.hashes[ahead - 1]);
    const NodeRef child = index_.find(node, seq.hashes[i], tokens.subspan(i * size, size));
    if (!child) break;
    node = child;
    match_.push_back(node);
    if (groups_.size() == 1 && full_group_ == 0) { // each of its nodes has a block
      usable = i + 1;
      continue;
    }
    bool every = true;
    for (std::uint32_t g = 0; g < groups_.size(); ++g) {
      run[g] = index_.block(node, g) == kNoBlock ? 0 : run[g] + 1;
      every &= run[g] >= i + 1 - groups_[g]->first_needed((i + 1) * config_.block_size);
    }
    if (every) usable = i + 1;
  }
  match_.resize(usable);
  return usable;
}

AdmitResult KvManager::admit(KvSeq id, std::span<const std::int32_t> tokens, std::uint32_t output_tokens,
                             bool use_cache) {
  Sequence& seq = sequences_[id];
  assert(seq.state == State::empty && !tokens.empty());
  const auto length = static_cast<std::uint32_t>(tokens.size());
  const std::uint32_t hit = use_cache ? match(seq, tokens, (length - 1) / config_.block_size) : 0;

  Need needs[QUIRE_MAX_GROUPS];
  for (auto& group : groups_) {
    Need& need = needs[group->index];
    need.tokens = length;
    need.output_tokens = output_tokens;
    need.blocks = group->blocks_for(length) - hit;
    if (group->window)
      need.blocks =
          std::min(need.blocks, group->blocks_for(std::uint64_t{group->window} + 2 * config_.max_step_tokens) + 1);
    std::vector<BlockId>& shared = shared_[group->index];
    shared.resize(hit);
    const std::uint32_t first = group->first_needed(hit * config_.block_size);
    for (std::uint32_t i = 0; i < hit; ++i) {
      shared[i] = i < first ? kNoBlock : index_.block(match_[i], group->index);
      need.revived += i >= first && group->pool.references(shared[i]) == 0;
    }
    if (const Admission verdict = group->policy->can_admit(need); verdict != Admission::now) return {verdict, 0};
  }

  for (auto& group : groups_) {
    BlockTable& table = seq.tables[group->index];
    table.share(*group, shared_[group->index]);
    group->policy->admit(needs[group->index], table.grant());
  }
  if (hit) seq.path.assign(match_.begin(), match_.end());
  seq.epoch = epoch_;
  seq.publishing = static_cast<bool>(seq.root);
  seq.state = State::resident;
  seq.output_tokens = output_tokens;
  seq.num_slots = seq.num_committed = hit * config_.block_size;
  if (use_cache && seq.root) totals_.prefix_queried_tokens += length;
  totals_.prefix_hit_tokens += seq.num_slots;
  return {Admission::now, seq.num_slots};
}

std::uint32_t KvManager::cached_tokens(KvSeq id, std::span<const std::int32_t> tokens) {
  if (tokens.empty()) return 0;
  return match(sequences_[id], tokens, static_cast<std::uint32_t>(tokens.size() - 1) / config_.block_size) *
         config_.block_size;
}

bool KvManager::append(KvSeq id, std::uint32_t count) {
  Sequence& seq = sequences_[id];
  assert(seq.state == State::resident && seq.no_place_in != building_);
  if (seq.appended != building_) seq.num_written = seq.num_slots;
  if (count <= seq.room) { // most tokens of most models
    seq.room = static_cast<std::uint8_t>(seq.room - count);
    seq.untold = true;
    num_untold_ += count;
    seq.appended = seq.last = building_;
    seq.num_slots += count;
    return true;
  }
  tell_pool(seq);
  for (auto& group : groups_) {
    const BlockTable& table = seq.tables[group->index];
    const std::uint32_t needed = table.needed(*group, seq.num_slots, count);
    if (needed && !group->policy->can_allocate(table.grant(), table.size(), needed)) return false;
  }
  for (auto& group : groups_)
    if (seq.tables[group->index].append(*group, transfers_, seq.num_slots, count, building_)) table_changed(seq);
  seq.appended = seq.last = building_;
  seq.num_slots += count;
  find_room(seq);
  return true;
}

void KvManager::commit(KvSeq id, std::span<const std::int32_t> tokens, std::uint32_t num_computed) {
  Sequence& seq = sequences_[id];
  if (seq.state != State::resident) return;
  assert(num_computed <= tokens.size() && num_computed <= seq.num_slots);
  if (num_computed <= seq.num_committed && seq.publish_after == 0) return;
  seq.num_committed = std::max(seq.num_committed, num_computed);
  if (seq.publish_after > done_) return;
  seq.publish_after = 0;
  const std::uint32_t full_blocks = seq.num_committed / config_.block_size;
  if (seq.publishing && full_blocks > seq.path.size()) publish(seq, tokens, full_blocks);
  for (auto& group : groups_)
    if (group->window &&
        seq.tables[group->index].free_behind(*group, transfers_, group->first_needed(seq.num_committed), seq.last))
      table_changed(seq);
}

void KvManager::announce_commit(KvSeq id, std::span<const std::int32_t> tokens, std::uint32_t num_computed,
                                std::uint32_t ahead) {
  Sequence& seq = sequences_[id];
  if (seq.state != State::resident || !seq.publishing || num_computed <= seq.num_committed) return;
  const std::size_t known = seq.hashes.size();
  index_.extend_chain(seq.root_hash, tokens, num_computed / config_.block_size, seq.hashes);
  for (std::size_t i = known; i < seq.hashes.size(); ++i) index_.prefetch(seq.hashes[i]);
  if (!seq.path.empty()) index_.prefetch_node(seq.path.back().id);
  index_.prefetch_new(ahead);
}

void KvManager::mend_path(Sequence& seq) const {
  if (seq.epoch == epoch_) return;
  seq.epoch = epoch_;
  NodeRef parent = seq.root;
  std::size_t sound = 0;
  while (sound < seq.path.size() && index_.alive(seq.path[sound]) && index_.parent(seq.path[sound]) == parent)
    parent = seq.path[sound++];
  seq.path.resize(sound);
}

void KvManager::publish(Sequence& seq, std::span<const std::int32_t> tokens, std::uint32_t num_blocks) {
  const std::size_t size = config_.block_size;
  tell_pool(seq);
  mend_path(seq);
  index_.extend_chain(seq.root_hash, tokens, num_blocks, seq.hashes);
  for (std::uint32_t i = static_cast<std::uint32_t>(seq.path.size()); i < num_blocks; ++i) {
    const NodeRef parent = i ? seq.path[i - 1] : seq.root;
    bool any = false;
    for (auto& group : groups_) any |= seq.tables[group->index].blocks()[i] != kNoBlock;
    NodeRef node;
    // A chain that has lost a link, a collision of hashes: from here on the sequence is not cached.
    if (any && index_.alive(parent))
      node = index_.insert(parent, seq.hashes[i], tokens.subspan(i * size, size), orphans_);
    forget_orphans();
    if (!node) {
      seq.publishing = false;
      return;
    }
    for (auto& group : groups_) {
      BlockTable& table = seq.tables[group->index];
      const BlockId own = table.blocks()[i];
      if (own == kNoBlock) continue;
      if (const BlockId held = index_.block(node, group->index); held == kNoBlock) {
        index_.set_block(node, group->index, own);
        group->pool.set_content(own, node.id);
      } else if (held != own) {
        table.replace(*group, transfers_, i, held, seq.last);
        table_changed(seq);
        ++totals_.deduplicated_blocks;
      }
    }
    seq.path.push_back(node);
  }
}

void KvManager::truncate(KvSeq id, std::uint32_t num_tokens) {
  Sequence& seq = sequences_[id];
  assert(seq.state == State::resident && num_tokens <= seq.num_slots && num_tokens >= seq.num_committed);
  if (num_tokens == seq.num_slots) return;
  tell_pool(seq);
  table_changed(seq);
  for (auto& group : groups_)
    seq.tables[group->index].truncate(*group, transfers_, group->blocks_for(num_tokens), num_tokens, seq.last);
  seq.num_slots = num_tokens;
  seq.num_written = std::min(seq.num_written, num_tokens);
}

KvSeq KvManager::fork(KvSeq id, std::uint32_t at_token) {
  bool copy_tail = false; // the step being built writes into the block in which the fork parts
  tell_pool(sequences_[id]);
  {
    const Sequence& seq = sequences_[id];
    assert(seq.state == State::resident && at_token <= seq.num_slots);
    const bool unwritten = has_place(seq) && at_token > seq.num_written;
    if (unwritten && (contiguous_ || at_token < seq.num_slots)) return kNoSeq;
    copy_tail = has_place(seq) && !unwritten && at_token % config_.block_size != 0 &&
                at_token / config_.block_size == seq.num_written / config_.block_size && !contiguous_;
    for (auto& group : groups_) {
      const BlockTable& table = seq.tables[group->index];
      if (table.first_live() > group->first_needed(at_token)) return kNoSeq;
      if (copy_tail && !group->policy->can_allocate({}, 0, 1)) return kNoSeq;
      if (contiguous_ &&
          group->policy->can_admit({.tokens = at_token, .output_tokens = seq.output_tokens}) != Admission::now)
        return kNoSeq;
    }
  }
  const KvSeq child_id = new_sequence();
  Sequence& seq = sequences_[id];
  Sequence& child = sequences_[child_id];
  for (auto& group : groups_) {
    BlockTable& table = child.tables[group->index];
    const std::uint32_t count = group->blocks_for(at_token);
    if (contiguous_) {
      group->policy->admit({.tokens = at_token, .output_tokens = seq.output_tokens}, table.grant());
      table.fork_by_copy(*group, transfers_, seq.tables[group->index], count, building_);
      child.last = seq.last = building_;
    } else {
      table.fork(*group, seq.tables[group->index], count);
      if (copy_tail) {
        table.copy_tail(*group, transfers_, building_);
        group->pool.set_filled(table.blocks().back(), at_token % config_.block_size);
      }
    }
  }
  const std::size_t full_blocks = at_token / config_.block_size;
  child.hashes.assign(seq.hashes.begin(),
                      seq.hashes.begin() + static_cast<std::ptrdiff_t>(std::min(full_blocks, seq.hashes.size())));
  child.path.assign(seq.path.begin(),
                    seq.path.begin() + static_cast<std::ptrdiff_t>(std::min(full_blocks, seq.path.size())));
  child.root = seq.root;
  child.root_hash = seq.root_hash;
  if (child.root) index_.share_root(child.root);
  child.publishing = seq.publishing;
  child.epoch = seq.epoch;
  child.publish_after = seq.publish_after;
  child.num_slots = at_token;
  child.num_committed = std::min(seq.num_committed, at_token);
  if (has_place(seq) && at_token > seq.num_written) { // it shares what the step will write
    child.appended = child.last = child.no_place_in = seq.no_place_in = building_;
    child.num_written = seq.num_written;
  }
  if (copy_tail) child.last = building_;
  child.output_tokens = seq.output_tokens;
  child.state = State::resident;
  ++totals_.forks;
  return child_id;
}

bool KvManager::swap_out(KvSeq id) {
  Sequence& seq = sequences_[id];
  assert(seq.state == State::resident && !has_place(seq));
  if (contiguous_) return false;
  tell_pool(seq);
  for (auto& group : groups_)
    if (seq.tables[group->index].needed_host(*group, transfers_) > group->host.slots().num_free()) return false;
  table_changed(seq);
  const std::size_t before = transfers_.list().swap_out.size();
  for (auto& group : groups_) {
    BlockTable& table = seq.tables[group->index];
    table.swap_out(*group, transfers_, building_);
    group->policy->close(table.grant(), seq.last);
  }
  totals_.swapped_out_blocks += transfers_.list().swap_out.size() - before;
  ++totals_.swapped;
  seq.state = State::swapped;
  return true;
}

bool KvManager::swap_in(KvSeq id) {
  Sequence& seq = sequences_[id];
  assert(seq.state == State::swapped);
  Need needs[QUIRE_MAX_GROUPS];
  for (auto& group : groups_) {
    const BlockTable& table = seq.tables[group->index];
    const auto slots = table.host_slots();
    std::vector<BlockId>& resident = shared_[group->index];
    Need& need = needs[group->index];
    resident.assign(slots.size() - table.first_live(), kNoBlock);
    for (std::uint32_t i = table.first_live(); i < slots.size(); ++i) {
      if (i < seq.path.size() && index_.alive(seq.path[i])) {
        const BlockId block = index_.block(seq.path[i], group->index);
        resident[i - table.first_live()] = block;
        if (block != kNoBlock) {
          need.revived += group->pool.references(block) == 0;
          continue;
        }
      }
      need.blocks += group->host.block_of(slots[i]) == kNoBlock;
    }
    if (group->policy->can_admit(need) != Admission::now) return false;
  }
  const std::size_t before = transfers_.list().swap_in.size();
  for (auto& group : groups_) {
    BlockTable& table = seq.tables[group->index];
    group->policy->admit(needs[group->index], table.grant());
    table.swap_in(*group, transfers_, shared_[group->index], seq.num_slots, building_);
  }
  totals_.swapped_in_blocks += transfers_.list().swap_in.size() - before;
  // What was evicted meanwhile is published anew, once the step that brings it back is done.
  std::size_t alive = 0;
  while (alive < seq.path.size() && index_.alive(seq.path[alive])) ++alive;
  seq.path.resize(alive);
  --totals_.swapped;
  seq.state = State::resident;
  seq.last = seq.publish_after = building_;
  return true;
}

void KvManager::unpublish(KvSeq id, std::uint32_t from_token) {
  Sequence& seq = sequences_[id];
  const std::size_t keep = from_token / config_.block_size;
  while (seq.path.size() > keep) {
    if (index_.alive(seq.path.back())) index_.remove(seq.path.back(), orphans_);
    seq.path.pop_back();
  }
  forget_orphans();
  seq.publishing = false;
  ++epoch_;
}

void KvManager::evicted(std::uint32_t group, BlockId, std::uint32_t content) {
  index_.lost_block(content, group, orphans_);
  forget_orphans();
}

void KvManager::eviction_near(std::uint32_t next, std::uint32_t after_next) {
  index_.prefetch_node(after_next);
  index_.prefetch_links(next);
}

void KvManager::forget_orphans() {
  for (const auto& orphan : orphans_) groups_[orphan.group]->pool.forget_content(orphan.block);
  orphans_.clear();
}

// ---- Steps
// ----------------------------------------------------------------------------------------------------------------------------

void KvManager::submitted(Ticket ticket) {
  assert(ticket == building_);
  building_ = ticket + 1;
}

void KvManager::done(Ticket ticket) {
  assert(ticket < building_);
  done_ = ticket;
  for (auto& group : groups_) {
    group->pool.tickets_done(ticket);
    group->host.tickets_done(ticket);
    group->policy->tickets_done(ticket);
  }
}

void KvManager::idle() {
  assert(transfers_.list().empty() && done_ + 1 == building_);
  for (auto& group : groups_) {
    group->pool.queue_empty();
    group->host.queue_empty();
    group->policy->queue_empty();
  }
}

void KvManager::take_transfers(KvTransfers& out) {
  totals_.copied_blocks += transfers_.list().copies.size();
  transfers_.take(out);
}

void KvManager::forget_all() {
  for (auto& group : groups_)
    for (BlockId block = 0; block < group->pool.num_blocks(); ++block) {
      assert(group->pool.references(block) == 0);
      const std::uint32_t content = group->pool.content(block);
      if (content == kNoContent) continue;
      index_.remove(index_.ref(content), orphans_);
      forget_orphans();
    }
}

// ---- Reading
// --------------------------------------------------------------------------------------------------------------------------

std::uint32_t KvManager::num_live_blocks(KvSeq id) const {
  std::uint32_t count = 0;
  for (const BlockTable& table : sequences_[id].tables) count += table.num_live();
  return count;
}

std::uint32_t KvManager::num_private_blocks(KvSeq id) const {
  std::uint32_t count = 0;
  for (const auto& group : groups_) {
    const BlockTable& table = sequences_[id].tables[group->index];
    for (std::uint32_t i = table.first_live(); i < table.size(); ++i)
      count += group->pool.references(table.blocks()[i]) == 1;
  }
  return count;
}

KvStats KvManager::stats() const {
  KvStats stats = totals_;
  for (const auto& group : groups_) {
    const BlockPool& pool = group->pool;
    const BlockPool& host = group->host.slots();
    stats.groups.push_back({.num_blocks = pool.num_blocks(),
                            .empty = pool.num_empty(),
                            .cached = pool.num_cached(),
                            .draining = pool.num_draining(),
                            .referenced = pool.num_referenced(),
                            .host_slots = host.num_blocks(),
                            .host_used = host.num_blocks() - host.num_free(),
                            .tokens_held = tokens_held(group->index),
                            .evictions = pool.num_evictions()});
  }
  return stats;
}

} // namespace quire
