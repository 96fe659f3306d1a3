// Prefix index: what is found is what was asked for, whatever the hashes do.
#include <gtest/gtest.h>

#include "kv/prefix_index.hpp"

namespace quire {
namespace {

using Orphans = std::vector<PrefixIndex::Orphan>;
Hash128 same_hash(const Hash128&, std::span<const std::int32_t> tokens) { return {tokens.empty() ? 1u : 2u, 0}; }

constexpr std::uint32_t kFull[] = {0};

TEST(PrefixIndex, CollisionOfBlocksIsAMiss) {
  PrefixIndex index(2, kFull, &same_hash);
  Orphans orphans;
  const NodeRef root = index.open_root("", 0);
  const std::int32_t a[] = {1, 2}, b[] = {1, 3};
  const Hash128 hash = same_hash({}, a);
  const NodeRef node = index.insert(root, hash, a, orphans);
  index.set_block(node, 0, 5);
  EXPECT_EQ(index.find(root, hash, a), node);
  EXPECT_FALSE(index.find(root, hash, b));
  EXPECT_FALSE(index.insert(root, hash, b, orphans)); // the first keeps its place
  EXPECT_FALSE(index.find(node, hash, a));            // the same tokens elsewhere
  EXPECT_EQ(index.check(), "");
}

TEST(PrefixIndex, CollisionOfRootsIsNoRoot) {
  PrefixIndex index(2, kFull, &same_hash);
  EXPECT_TRUE(index.open_root("alice", 0));
  EXPECT_TRUE(index.open_root("alice", 0));
  EXPECT_FALSE(index.open_root("bob", 0));
  EXPECT_FALSE(index.open_root("alice", 1));
}

TEST(PrefixIndex, RootsAndNodesThatNobodyUsesAreGone) {
  PrefixIndex index(2, kFull);
  Orphans orphans;
  const std::int32_t a[] = {1, 2}, b[] = {3, 4};
  const NodeRef root = index.open_root("salt", 7);
  const NodeRef first = index.insert(root, index.hash(index.hash_of(root), a), a, orphans);
  index.set_block(first, 0, 0);
  const NodeRef second = index.insert(first, index.hash(index.hash_of(first), b), b, orphans);
  index.set_block(second, 0, 1);
  index.close_root(root);
  EXPECT_EQ(index.num_nodes(), 3u);
  index.lost_block(second.id, 0, orphans);
  EXPECT_FALSE(index.alive(second));
  EXPECT_EQ(index.check(), "");
  index.lost_block(first.id, 0, orphans);
  EXPECT_EQ(index.num_nodes(), 0u);
  EXPECT_TRUE(orphans.empty());
  EXPECT_EQ(index.check(), "");
}

TEST(PrefixIndex, WithoutItsFullBlockANodesOtherBlocksAreOrphans) {
  const std::uint32_t windows[] = {4, 0};
  PrefixIndex index(2, windows);
  Orphans orphans;
  const std::int32_t a[] = {1, 2};
  const NodeRef root = index.open_root("", 0);
  const NodeRef node = index.insert(root, index.hash(index.hash_of(root), a), a, orphans);
  index.set_block(node, 0, 8);
  index.set_block(node, 1, 9);
  index.lost_block(node.id, 1, orphans);
  ASSERT_EQ(orphans.size(), 1u);
  EXPECT_EQ(orphans[0].group, 0u);
  EXPECT_EQ(orphans[0].block, 8u);
  EXPECT_FALSE(index.alive(node));
  EXPECT_EQ(index.check(), "");
}

TEST(PrefixIndex, FindsEveryNodeAmongManyAfterManyRemovals) {
  PrefixIndex index(2, kFull);
  Orphans orphans;
  const NodeRef root = index.open_root("", 0);
  std::vector<NodeRef> nodes;
  for (std::int32_t i = 0; i < 5000; ++i) {
    const std::int32_t tokens[] = {i, -i};
    nodes.push_back(index.insert(root, index.hash(index.hash_of(root), tokens), tokens, orphans));
    index.set_block(nodes.back(), 0, static_cast<BlockId>(i));
  }
  for (std::int32_t i = 0; i < 5000; i += 3) index.lost_block(nodes[static_cast<std::size_t>(i)].id, 0, orphans);
  EXPECT_EQ(index.check(), "");
  for (std::int32_t i = 0; i < 5000; ++i) {
    const std::int32_t tokens[] = {i, -i};
    const auto found = index.find(root, index.hash(index.hash_of(root), tokens), tokens);
    EXPECT_EQ(static_cast<bool>(found), i % 3 != 0);
    if (found) {
      EXPECT_EQ(index.block(found, 0), static_cast<BlockId>(i));
    }
  }
}

} // namespace
} // namespace quire
