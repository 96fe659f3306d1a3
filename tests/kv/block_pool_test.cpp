// Block pool: states, order of eviction, and blocks that wait for their tickets.
#include <gtest/gtest.h>

#include "kv/block_pool.hpp"

namespace quire {
namespace {

struct Evictions : EvictionListener {
  std::vector<BlockId> blocks;
  void evicted(std::uint32_t, BlockId block, std::uint32_t) override { blocks.push_back(block); }
};

TEST(BlockPool, GivesEachBlockOnceAndThenNone) {
  BlockPool pool(3);
  EXPECT_EQ(pool.allocate(), 0u);
  EXPECT_EQ(pool.allocate(), 1u);
  EXPECT_EQ(pool.allocate(), 2u);
  EXPECT_EQ(pool.allocate(), kNoBlock);
  EXPECT_EQ(pool.num_referenced(), 3u);
  EXPECT_EQ(pool.check(), "");
}

TEST(BlockPool, SharedBlockLeavesWithItsLastReference) {
  BlockPool pool(2);
  const BlockId block = pool.allocate();
  pool.share(block);
  EXPECT_FALSE(pool.writable(block));
  EXPECT_FALSE(pool.release(block, 0));
  EXPECT_TRUE(pool.writable(block));
  EXPECT_TRUE(pool.release(block, 0));
  EXPECT_EQ(pool.num_free(), 2u);
  EXPECT_EQ(pool.check(), "");
}

TEST(BlockPool, IsNotReusedBeforeItsLastTicketIsDone) {
  BlockPool pool(1);
  const BlockId block = pool.allocate();
  pool.share(block);
  pool.release(block, 3); // the later ticket counts, whichever reference goes last
  pool.release(block, 1);
  EXPECT_EQ(pool.num_draining(), 1u);
  pool.tickets_done(2);
  EXPECT_EQ(pool.allocate(), kNoBlock);
  EXPECT_EQ(pool.check(), "");
  pool.tickets_done(3);
  EXPECT_EQ(pool.allocate(), block);
  EXPECT_EQ(pool.check(), "");
}

TEST(BlockPool, EmptyBlocksGoBeforeCachedOnesAndThoseLeastRecentlyReleasedFirst) {
  Evictions evictions;
  BlockPool pool(4, 0, &evictions);
  for (BlockId block = 0; block < 4; ++block) {
    pool.allocate();
    if (block != 2) pool.set_content(block, block);
  }
  for (const BlockId block : {3u, 0u, 2u, 1u}) pool.release(block, 0);
  EXPECT_EQ(pool.num_cached(), 3u);
  EXPECT_EQ(pool.check(), "");
  pool.share(0); // hit: comes back with its content, and goes to the end of the line when it is released again
  EXPECT_EQ(pool.content(0), 0u);
  pool.release(0, 0);
  for (const BlockId expected : {2u, 3u, 1u, 0u}) EXPECT_EQ(pool.allocate(), expected);
  EXPECT_EQ(evictions.blocks, (std::vector<BlockId>{3, 1, 0}));
  EXPECT_EQ(pool.num_evictions(), 3u);
  EXPECT_EQ(pool.check(), "");
}

TEST(BlockPool, DrainingBlockCanBeHit) {
  BlockPool pool(2);
  const BlockId block = pool.allocate();
  pool.set_content(block, 7);
  pool.release(block, 5);
  pool.share(block);
  EXPECT_EQ(pool.num_draining(), 0u);
  pool.tickets_done(5);
  EXPECT_EQ(pool.references(block), 1u);
  EXPECT_EQ(pool.check(), "");
}

TEST(BlockPool, ForgottenContentMakesABlockEmpty) {
  BlockPool pool(2);
  const BlockId block = pool.allocate();
  pool.set_content(block, 7);
  pool.release(block, 0);
  EXPECT_EQ(pool.num_cached(), 1u);
  pool.forget_content(block);
  EXPECT_EQ(pool.num_empty(), 2u);
  EXPECT_EQ(pool.check(), "");
}

TEST(BlockPool, CountsTokensOfReferencedBlocksOnce) {
  BlockPool pool(2);
  const BlockId block = pool.allocate();
  pool.set_filled(block, 5);
  pool.share(block);
  EXPECT_EQ(pool.tokens_held(), 5u);
  pool.set_filled(block, 9);
  pool.release(block, 0);
  EXPECT_EQ(pool.tokens_held(), 9u);
  pool.release(block, 0);
  EXPECT_EQ(pool.tokens_held(), 0u);
  EXPECT_EQ(pool.check(), "");
}

} // namespace
} // namespace quire
