// The prefix cache's memory: which chains of full blocks have been computed, and which device blocks hold them.
//
// A node is one full block's worth of tokens behind a parent chain; the root of a chain holds salt and adapter
// verbatim. A node is found by its chained hash, xxhash128(parent's hash, tokens), and believed only if its tokens
// equal and its parent is the very node that the search came from, up to the root: a collision of hashes is a miss,
// never another's cache. A node names one device block for each KV group that still has one. Block references are not
// held here: a cached block may be evicted at any time (the pool says so through `evicted`).
//
// Everything is O(1) a node. Not thread safe: the engine thread owns it. No device memory.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kv/huge_pages.hpp"
#include "kv/types.hpp"

namespace quire {

struct Hash128 {
  std::uint64_t low = 0, high = 0;
  bool operator==(const Hash128&) const = default;
};

// A node as others remember it: dead once the generation has moved on. Empty: none.
struct NodeRef {
  std::uint32_t id = UINT32_MAX;
  std::uint32_t generation = 0;
  explicit operator bool() const { return id != UINT32_MAX; }
  bool operator==(const NodeRef&) const = default;
};

// Invariants (check() verifies them all):
//  1. A live node is in the hash table exactly once, under its own hash; nothing else is in the table.
//  2. A live node's parent has the generation that the node remembers, and its count of children is right.
//  3. A live node holds a block, has children, or is a root with users; any other is gone.
//  4. With a group that sees everything (window 0): every live node but a root has a block there.
class PrefixIndex {
 public:
  using HashFunction = Hash128 (*)(const Hash128& parent, std::span<const std::int32_t> tokens);

  // windows[g] is the reach of group g in tokens, 0 = all. Tests that want collisions bring their own function.
  PrefixIndex(std::uint32_t block_size, std::span<const std::uint32_t> windows, HashFunction function = &hash_block);

  // So many nodes need no further memory.
  void reserve(std::uint32_t num_nodes);

  static Hash128 hash_block(const Hash128& parent,
                            std::span<const std::int32_t> tokens); // [block_size] tokens; none for a root
  Hash128 hash(const Hash128& parent, std::span<const std::int32_t> tokens) const { return hash_(parent, tokens); }

  // hashes[i] is the hash of block i of the chain; lengthened to `count` blocks.
  void extend_chain(const Hash128& root, std::span<const std::int32_t> tokens, std::size_t count,
                    std::vector<Hash128>& hashes) const;

  // The root for (salt, adapter), kept while it has users or children. Nothing where another root has the same hash:
  // such a sequence is not cached.
  NodeRef open_root(std::string_view salt, std::uint64_t adapter);
  void share_root(NodeRef root);
  void close_root(NodeRef root);

  bool alive(NodeRef node) const {
    return node.id < nodes_.size() && nodes_[node.id].live && nodes_[node.id].generation == node.generation;
  }
  const Hash128& hash_of(NodeRef node) const { return nodes_[node.id].hash; }
  // The device block of a live node in a group, or kNoBlock.
  BlockId block(NodeRef node, std::uint32_t group) const { return blocks_[std::size_t{node.id} * num_groups_ + group]; }

  // A block that can't be hit any more: its pool must forget its content.
  struct Orphan {
    std::uint32_t group;
    BlockId block;
  };

  // The child of a live node with this hash and these tokens.
  NodeRef find(NodeRef parent, const Hash128& hash, std::span<const std::int32_t> tokens) const;
  // As find, or a new node without blocks. Nothing where the hash belongs to something else; what belongs to a dead
  // parent makes way.
  NodeRef insert(NodeRef parent, const Hash128& hash, std::span<const std::int32_t> tokens,
                 std::vector<Orphan>& orphans);
  void set_block(NodeRef node, std::uint32_t group, BlockId block);

  // Group `group` lost its block of this node.
  void lost_block(std::uint32_t node, std::uint32_t group, std::vector<Orphan>& orphans);
  // Forgets a node whatever it holds; what hung on it can't be found any more. Its blocks come back as orphans.
  void remove(NodeRef node, std::vector<Orphan>& orphans);

  std::uint32_t num_nodes() const { return num_live_; } // roots included
  std::uint32_t node_capacity() const {
    return static_cast<std::uint32_t>(nodes_.size());
  } // numbers in use are below it
  // Starts loading what find() will need.
  void prefetch(const Hash128& hash) const { __builtin_prefetch(&table_[hash.low & (table_.size() - 1)]); }
  // The same for lost_block() of a node: first the node, and later, once that has come, what it points to.
  void prefetch_node(std::uint32_t node) const {
    __builtin_prefetch(&nodes_[node], 1);
    __builtin_prefetch(&blocks_[std::size_t{node} * num_groups_], 1);
  }
  void prefetch_links(std::uint32_t node) const {
    prefetch(nodes_[node].hash);
    if (nodes_[node].parent != kNone) __builtin_prefetch(&nodes_[nodes_[node].parent], 1);
  }
  // The same for insert(): the number that the `ahead`-th new node from now will have, should none be freed before.
  void prefetch_new(std::uint32_t ahead) const {
    if (free_nodes_.size() <= ahead) return;
    const std::uint32_t node = free_nodes_[free_nodes_.size() - 1 - ahead];
    prefetch_node(node);
    __builtin_prefetch(tokens_.data() + std::size_t{node} * block_size_, 1);
  }

  // The live node with this number (for checks), with its generation.
  NodeRef ref(std::uint32_t node) const { return {node, nodes_[node].generation}; }
  NodeRef parent(NodeRef node) const { return {nodes_[node.id].parent, nodes_[node.id].parent_generation}; }
  std::string check() const;

 private:
  static constexpr std::uint32_t kNone = UINT32_MAX;
  struct alignas(64) Node {
    Hash128 hash;
    std::uint32_t parent = kNone, parent_generation = 0;
    std::uint32_t generation = 0;
    std::uint32_t children = 0;
    std::uint32_t users = 0; // of a root
    std::uint32_t num_blocks = 0;
    bool live = false; // in the table. A dead node with children waits for them, so that its number is not reused
    bool used = false; // live or waiting
  };
  struct Entry {
    std::uint32_t node = kNone;
    std::uint32_t low = 0; // low half of hash.low: its home in the table, and nearly always enough to tell it apart
  };
  struct Root {
    std::string salt;
    std::uint64_t adapter = 0;
  };

  std::uint32_t lookup(const Hash128& hash) const; // a live node, or kNone
  bool is_child(std::uint32_t node, NodeRef parent, std::span<const std::int32_t> tokens) const;
  std::uint32_t make_node(const Hash128& hash, NodeRef parent);
  void enter(std::uint32_t node);
  void leave(std::uint32_t node); // the table
  void grow_table();
  void collect(std::uint32_t node); // frees it and ancestors that nothing holds any more
  std::span<const std::int32_t> tokens_of(std::uint32_t node) const {
    return {tokens_.data() + std::size_t{node} * block_size_, block_size_};
  }

  std::uint32_t block_size_, num_groups_;
  std::uint32_t full_group_ = kNone; // one that sees everything
  HashFunction hash_;
  HugeVector<Node> nodes_;
  HugeVector<std::int32_t> tokens_; // [nodes, block_size]
  HugeVector<BlockId> blocks_;      // [nodes, groups]
  std::vector<std::uint32_t> free_nodes_;
  HugeVector<Entry> table_; // open addressing, linear probing; a power of two, at most a quarter full
  std::unordered_map<std::uint32_t, Root> roots_;
  std::uint32_t num_live_ = 0;
};

} // namespace quire
