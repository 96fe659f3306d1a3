// KvManager::check: every invariant, from the parts up.
#include <algorithm>
#include <set>

#include "kv/kv_manager.hpp"

namespace quire {

std::string KvManager::check() const {
  const auto in_group = [](std::uint32_t g, const std::string& what) {
    return "KV group " + std::to_string(g) + ": " + what;
  };
  const auto of_sequence = [](std::size_t id, const char* what) {
    return "KV sequence " + std::to_string(id) + ": " + what;
  };
  if (std::string error = index_.check(); !error.empty()) return error;
  for (const auto& group : groups_) {
    if (std::string error = group->pool.check(); !error.empty()) return in_group(group->index, error);
    if (std::string error = group->host.slots().check(); !error.empty())
      return in_group(group->index, "host slots: " + error);
  }

  for (std::size_t id = 0; id < sequences_.size(); ++id) {
    const Sequence& seq = sequences_[id];
    for (const auto& group : groups_) {
      const BlockTable& table = seq.tables[group->index];
      const auto entries = seq.state == State::swapped ? table.host_slots() : table.blocks();
      const bool holds = seq.state == State::swapped || seq.state == State::resident;
      if (!holds && (!table.blocks().empty() || !table.host_slots().empty()))
        return of_sequence(id, "has blocks it should not have (2)");
      if (!holds) continue;
      if (entries.size() != group->blocks_for(seq.num_slots))
        return of_sequence(id, "has a table of the wrong length (2)");
      for (std::uint32_t i = 0; i < entries.size(); ++i)
        if ((entries[i] == kNoBlock) != (i < table.first_live()))
          return of_sequence(id, "is live where it should not be, or not (2)");
      std::vector<BlockId> sorted(entries.begin() + table.first_live(), entries.end());
      std::sort(sorted.begin(), sorted.end());
      if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end())
        return of_sequence(id, "names a block twice (1)");
    }
    if (seq.path.size() > seq.num_committed / config_.block_size)
      return of_sequence(id, "has a path longer than its full blocks (4)");
    if (seq.state != State::resident || !seq.publishing || seq.epoch != epoch_) continue;
    for (std::size_t i = 0; i < seq.path.size(); ++i) {
      if (!index_.alive(seq.path[i])) {
        if (full_group_ != UINT32_MAX) return of_sequence(id, "has a dead node in its path (4)");
        continue;
      }
      if (index_.parent(seq.path[i]) != (i ? seq.path[i - 1] : seq.root))
        return of_sequence(id, "has a broken path (4)");
      if (full_group_ != UINT32_MAX && index_.block(seq.path[i], full_group_) != seq.tables[full_group_].blocks()[i])
        return of_sequence(id, "has another block than its path says (4)");
    }
  }

  std::uint64_t untold = 0;
  for (std::size_t id = 0; id < sequences_.size(); ++id) {
    const Sequence& seq = sequences_[id];
    if (seq.room == 0 && !seq.untold) continue;
    if (seq.state != State::resident || groups_.size() != 1) return of_sequence(id, "should have told the pool (7)");
    const BlockTable& table = seq.tables[0];
    const BlockPool& pool = groups_[0]->pool;
    const BlockId tail = table.blocks().back();
    const std::uint32_t filled = seq.num_slots - (table.size() - 1) * config_.block_size;
    if (seq.room > 0 && (!pool.writable(tail) || pool.mirror(tail) != kNoBlock))
      return of_sequence(id, "has room in a block that isn't its own (7)");
    if (filled + seq.room > config_.block_size) return of_sequence(id, "has more room than its last block (7)");
    if (pool.filled(tail) > filled || (pool.filled(tail) < filled && !seq.untold))
      return of_sequence(id, "and the pool disagree on what its last block holds (7)");
    untold += filled - pool.filled(tail);
  }
  if (untold != num_untold_) return "the number of tokens that the pool doesn't know of is wrong (7)";

  for (const auto& group : groups_) {
    const std::uint32_t g = group->index;
    std::vector<std::uint32_t> references(group->pool.num_blocks(), 0), slots(group->host.slots().num_blocks(), 0);
    for (const Sequence& seq : sequences_) {
      for (const BlockId block : seq.tables[g].blocks())
        if (block != kNoBlock) ++references[block];
      for (const BlockId slot : seq.tables[g].host_slots())
        if (slot != kNoBlock) ++slots[slot];
    }
    for (BlockId block = 0; block < references.size(); ++block) {
      if (references[block] != group->pool.references(block))
        return in_group(g, "references differ from the tables (1)");
      const std::uint32_t content = group->pool.content(block);
      if (content != kNoContent &&
          (!index_.alive(index_.ref(content)) || index_.block(index_.ref(content), g) != block))
        return in_group(g, "a block has content that the prefix index doesn't know (3)");
      const BlockId slot = group->pool.mirror(block);
      if (slot != kNoBlock && (group->host.block_of(slot) != block || slots[slot] == 0 || references[block] == 0))
        return in_group(g, "a block and its host slot disagree (6)");
    }
    for (BlockId slot = 0; slot < slots.size(); ++slot) {
      if (slots[slot] != group->host.slots().references(slot))
        return in_group(g, "host references differ from the tables (1)");
      if (const BlockId block = group->host.block_of(slot); block != kNoBlock && group->pool.mirror(block) != slot)
        return in_group(g, "a host slot and its block disagree (6)");
    }
  }
  // What the index holds, the pools know: with (3) above, the counts decide.
  for (const auto& group : groups_) {
    std::uint32_t in_index = 0, in_pool = 0;
    for (std::uint32_t node = 0; node < index_.node_capacity(); ++node)
      in_index += index_.alive(index_.ref(node)) && index_.block(index_.ref(node), group->index) != kNoBlock;
    for (BlockId block = 0; block < group->pool.num_blocks(); ++block)
      in_pool += group->pool.content(block) != kNoContent;
    if (in_index != in_pool) return in_group(group->index, "the prefix index holds a block that isn't cached (3)");
  }

  std::set<std::pair<std::uint32_t, BlockId>> read, written;
  for (const auto& copy : transfers_.list().copies) {
    read.insert({copy.group, copy.from});
    if (!written.insert({copy.group, copy.to}).second) return "a block is filled by two transfers (5)";
  }
  for (const auto& copy : transfers_.list().swap_in)
    if (!written.insert({copy.group, copy.to}).second) return "a block is filled by two transfers (5)";
  for (const auto& target : written) {
    if (read.contains(target)) return "a block is read and filled by transfers of one step (5)";
    if (groups_[target.first]->pool.references(target.second) == 0)
      return "a transfer fills a block that nobody holds (5)";
  }
  return "";
}

} // namespace quire
