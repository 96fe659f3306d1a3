#include "kv/prefix_index.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

#define XXH_INLINE_ALL
#include <xxhash.h>

namespace quire {

namespace {

constexpr std::uint32_t kMaxBlockSize = 256;

Hash128 hash_root(std::string_view salt, std::uint64_t adapter) {
  const XXH128_hash_t h = XXH3_128bits_withSeed(salt.data(), salt.size(), adapter);
  return {h.low64, h.high64};
}

} // namespace

Hash128 PrefixIndex::hash_block(const Hash128& parent, std::span<const std::int32_t> tokens) {
  unsigned char bytes[sizeof(Hash128) + kMaxBlockSize * sizeof(std::int32_t)];
  std::memcpy(bytes, &parent, sizeof parent);
  if (!tokens.empty()) std::memcpy(bytes + sizeof parent, tokens.data(), tokens.size_bytes());
  const XXH128_hash_t h = XXH3_128bits(bytes, sizeof parent + tokens.size_bytes());
  return {h.low64, h.high64};
}

void PrefixIndex::extend_chain(const Hash128& root, std::span<const std::int32_t> tokens, std::size_t count,
                               std::vector<Hash128>& hashes) const {
  for (std::size_t i = hashes.size(); i < count; ++i) {
    const Hash128& parent = i ? hashes[i - 1] : root;
    const auto block = tokens.subspan(i * block_size_, block_size_);
    hashes.push_back(hash_ == &hash_block ? hash_block(parent, block) : hash_(parent, block)); // the usual one inline
  }
}

PrefixIndex::PrefixIndex(std::uint32_t block_size, std::span<const std::uint32_t> windows, HashFunction function)
    : block_size_(block_size), num_groups_(static_cast<std::uint32_t>(windows.size())), hash_(function), table_(64) {
  assert(block_size <= kMaxBlockSize);
  for (std::uint32_t g = 0; g < num_groups_ && full_group_ == kNone; ++g)
    if (windows[g] == 0) full_group_ = g;
}

void PrefixIndex::reserve(std::uint32_t num_nodes) {
  const std::size_t nodes = std::size_t{num_nodes} + 64; // and some roots
  nodes_.reserve(nodes);
  tokens_.reserve(nodes * block_size_);
  blocks_.reserve(nodes * num_groups_);
  free_nodes_.reserve(nodes);
  while (table_.size() < nodes * 4) grow_table();
}

// ---- The hash table
// -------------------------------------------------------------------------------------------------------------------

std::uint32_t PrefixIndex::lookup(const Hash128& hash) const {
  const std::size_t mask = table_.size() - 1;
  const auto low = static_cast<std::uint32_t>(hash.low);
  for (std::size_t i = low & mask; table_[i].node != kNone; i = (i + 1) & mask)
    if (table_[i].low == low && nodes_[table_[i].node].hash == hash) return table_[i].node;
  return kNone;
}

void PrefixIndex::enter(std::uint32_t node) {
  if ((num_live_ + 1) * 4 > table_.size()) grow_table();
  const std::size_t mask = table_.size() - 1;
  std::size_t i = nodes_[node].hash.low & mask;
  while (table_[i].node != kNone) i = (i + 1) & mask;
  table_[i] = {node, static_cast<std::uint32_t>(nodes_[node].hash.low)};
  nodes_[node].live = true;
  ++num_live_;
}

void PrefixIndex::leave(std::uint32_t node) {
  const std::size_t mask = table_.size() - 1;
  std::size_t hole = nodes_[node].hash.low & mask;
  while (table_[hole].node != node) hole = (hole + 1) & mask;
  // Backward shift: whatever probed past the hole moves into it (Knuth, TAOCP 3, 6.4, algorithm R).
  for (std::size_t i = (hole + 1) & mask; table_[i].node != kNone; i = (i + 1) & mask) {
    const std::size_t home = table_[i].low & mask;
    if (((i - home) & mask) >= ((i - hole) & mask)) {
      table_[hole] = table_[i];
      hole = i;
    }
  }
  table_[hole] = {};
  nodes_[node].live = false;
  ++nodes_[node].generation;
  --num_live_;
}

void PrefixIndex::grow_table() {
  HugeVector<Entry> old(table_.size() * 2);
  old.swap(table_);
  const std::size_t mask = table_.size() - 1;
  for (const Entry& entry : old) {
    if (entry.node == kNone) continue;
    std::size_t i = entry.low & mask;
    while (table_[i].node != kNone) i = (i + 1) & mask;
    table_[i] = entry;
  }
}

// ---- Nodes
// ----------------------------------------------------------------------------------------------------------------------------

std::uint32_t PrefixIndex::make_node(const Hash128& hash, NodeRef parent) {
  std::uint32_t id;
  if (free_nodes_.empty()) {
    id = static_cast<std::uint32_t>(nodes_.size());
    nodes_.emplace_back();
    tokens_.resize(tokens_.size() + block_size_);
    blocks_.resize(blocks_.size() + num_groups_, kNoBlock);
  } else {
    id = free_nodes_.back();
    free_nodes_.pop_back();
  }
  Node& node = nodes_[id];
  node = Node{.hash = hash,
              .parent = parent.id,
              .parent_generation = parent.generation,
              .generation = node.generation,
              .used = true};
  enter(id);
  return id;
}

void PrefixIndex::collect(std::uint32_t id) {
  while (id != kNone) {
    Node& node = nodes_[id];
    if (node.children || node.users || node.num_blocks) return;
    if (node.live) leave(id);
    if (node.parent == kNone) roots_.erase(id);
    const std::uint32_t parent = node.parent;
    node.used = false;
    free_nodes_.push_back(id);
    if (parent != kNone) --nodes_[parent].children;
    id = parent;
  }
}

NodeRef PrefixIndex::open_root(std::string_view salt, std::uint64_t adapter) {
  const Hash128 hash = hash_(hash_root(salt, adapter), {});
  std::uint32_t id = lookup(hash);
  if (id != kNone) {
    const auto root = roots_.find(id);
    if (root == roots_.end() || root->second.salt != salt || root->second.adapter != adapter) return {};
  } else {
    id = make_node(hash, {});
    roots_.emplace(id, Root{std::string(salt), adapter});
  }
  ++nodes_[id].users;
  return ref(id);
}

void PrefixIndex::share_root(NodeRef root) {
  assert(alive(root));
  ++nodes_[root.id].users;
}

void PrefixIndex::close_root(NodeRef root) {
  assert(nodes_[root.id].users > 0);
  --nodes_[root.id].users;
  collect(root.id);
}

bool PrefixIndex::is_child(std::uint32_t id, NodeRef parent, std::span<const std::int32_t> tokens) const {
  const Node& node = nodes_[id];
  if (node.parent != parent.id || node.parent_generation != parent.generation) return false;
  // Without an early exit, so that it is a few vector instructions: nearly always all are equal.
  const std::int32_t* own = tokens_.data() + std::size_t{id} * block_size_;
  std::int32_t difference = 0;
  for (std::uint32_t t = 0; t < block_size_; ++t) difference |= own[t] ^ tokens[t];
  return difference == 0;
}

NodeRef PrefixIndex::find(NodeRef parent, const Hash128& hash, std::span<const std::int32_t> tokens) const {
  const std::uint32_t id = lookup(hash);
  return id != kNone && is_child(id, parent, tokens) ? ref(id) : NodeRef{};
}

NodeRef PrefixIndex::insert(NodeRef parent, const Hash128& hash, std::span<const std::int32_t> tokens,
                            std::vector<Orphan>& orphans) {
  assert(alive(parent) && tokens.size() == block_size_);
  if (const std::uint32_t other = lookup(hash); other != kNone) {
    if (is_child(other, parent, tokens)) return ref(other);
    const NodeRef its_parent{nodes_[other].parent, nodes_[other].parent_generation};
    if (!its_parent || alive(its_parent)) return {};
    remove(ref(other), orphans);
  }
  const std::uint32_t id = make_node(hash, parent);
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + static_cast<std::ptrdiff_t>(std::size_t{id} * block_size_));
  ++nodes_[parent.id].children;
  return ref(id);
}

void PrefixIndex::set_block(NodeRef node, std::uint32_t group, BlockId block) {
  BlockId& held = blocks_[std::size_t{node.id} * num_groups_ + group];
  assert(alive(node) && held == kNoBlock);
  held = block;
  ++nodes_[node.id].num_blocks;
}

void PrefixIndex::lost_block(std::uint32_t id, std::uint32_t group, std::vector<Orphan>& orphans) {
  BlockId& held = blocks_[std::size_t{id} * num_groups_ + group];
  assert(held != kNoBlock);
  held = kNoBlock;
  --nodes_[id].num_blocks;
  // Without its block in a group that sees everything, neither this node nor what hangs on it can be hit.
  if (group == full_group_)
    remove(ref(id), orphans);
  else
    collect(id);
}

void PrefixIndex::remove(NodeRef node, std::vector<Orphan>& orphans) {
  assert(alive(node));
  for (std::uint32_t g = 0; g < num_groups_; ++g) {
    BlockId& held = blocks_[std::size_t{node.id} * num_groups_ + g];
    if (held != kNoBlock) orphans.push_back({g, held});
    held = kNoBlock;
  }
  nodes_[node.id].num_blocks = 0;
  leave(node.id);
  collect(node.id);
}

std::string PrefixIndex::check() const {
  const auto wrong = [](std::size_t id, const char* what) { return "node " + std::to_string(id) + ": " + what; };
  std::vector<std::uint32_t> in_table(nodes_.size(), 0), children(nodes_.size(), 0);
  for (const Entry& entry : table_) {
    if (entry.node == kNone) continue;
    if (entry.node >= nodes_.size() || !nodes_[entry.node].live)
      return wrong(entry.node, "is in the table and not live (1)");
    ++in_table[entry.node];
  }
  std::uint32_t live = 0;
  for (std::size_t id = 0; id < nodes_.size(); ++id) {
    const Node& node = nodes_[id];
    if (node.used && node.parent != kNone) ++children[node.parent];
    if (!node.live) continue;
    ++live;
    if (in_table[id] != 1 || lookup(node.hash) != id) return wrong(id, "is not found under its hash (1)");
  }
  if (live != num_live_) return "the count of live nodes is wrong (1)";
  for (std::size_t id = 0; id < nodes_.size(); ++id) {
    const Node& node = nodes_[id];
    if (!node.used) continue;
    if (node.children != children[id]) return wrong(id, "has a wrong count of children (2)");
    std::uint32_t held = 0;
    for (std::uint32_t g = 0; g < num_groups_; ++g) held += blocks_[id * num_groups_ + g] != kNoBlock;
    if (held != node.num_blocks) return wrong(id, "has a wrong count of blocks (3)");
    if (!node.children && !node.users && !held) return wrong(id, "holds nothing and is still there (3)");
    if (!node.live || node.parent == kNone) continue;
    if (!nodes_[node.parent].used) return wrong(id, "has a parent that is gone (2)");
    if (full_group_ != kNone && blocks_[id * num_groups_ + full_group_] == kNoBlock)
      return wrong(id, "has no block in the group that sees everything (4)");
  }
  return "";
}

} // namespace quire
