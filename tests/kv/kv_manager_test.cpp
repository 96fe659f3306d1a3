// The façade: admission, growth, sharing, copies, swapping and publication, by small examples.
#include <gtest/gtest.h>

#include <numeric>

#include "kv/kv_manager.hpp"

namespace quire {
namespace {

constexpr std::uint32_t kBlock = 4;

KvConfig small(std::uint32_t blocks = 16, std::uint32_t host = 16) {
  KvConfig config;
  config.block_size = kBlock;
  config.groups = {{.num_blocks = blocks, .host_blocks = host}};
  config.watermark = 0;
  return config;
}

std::vector<std::int32_t> tokens(std::int32_t first, std::size_t count) {
  std::vector<std::int32_t> result(count);
  std::iota(result.begin(), result.end(), first);
  return result;
}

// Submits the step being built, and its transfers, and waits for it.
KvTransfers step(KvManager& kv) {
  KvTransfers transfers;
  kv.take_transfers(transfers);
  const Ticket ticket = kv.building();
  kv.submitted(ticket);
  kv.done(ticket);
  EXPECT_EQ(kv.check(), "");
  return transfers;
}

TEST(KvManager, FinishedSequencesPrefixIsHit) {
  KvManager kv(small());
  const auto prompt = tokens(0, 10);
  const KvSeq a = kv.create();
  EXPECT_EQ(kv.admit(a, prompt, 5).cached_tokens, 0u);
  ASSERT_TRUE(kv.append(a, 10));
  step(kv);
  kv.commit(a, prompt, 10);
  kv.destroy(a);
  EXPECT_EQ(kv.stats().groups[0].cached, 2u);

  const KvSeq b = kv.create();
  EXPECT_EQ(kv.admit(b, prompt, 5).cached_tokens, 8u);
  const KvSeq other_salt = kv.create("tenant");
  EXPECT_EQ(kv.admit(other_salt, prompt, 5).cached_tokens, 0u);
  const KvSeq other_adapter = kv.create({}, 1);
  EXPECT_EQ(kv.admit(other_adapter, prompt, 5).cached_tokens, 0u);
  const KvSeq exact = kv.create(); // something is left to compute
  EXPECT_EQ(kv.admit(exact, std::span(prompt).first(8), 5).cached_tokens, 4u);
  EXPECT_EQ(kv.check(), "");
}

TEST(KvManager, UncommittedTokensAreNotFound) {
  KvManager kv(small());
  const auto prompt = tokens(0, 9);
  const KvSeq a = kv.create(), b = kv.create();
  kv.admit(a, prompt, 1);
  kv.append(a, 9);
  EXPECT_EQ(kv.cached_tokens(b, prompt), 0u);
  step(kv);
  EXPECT_EQ(kv.cached_tokens(b, prompt), 0u);
  kv.commit(a, prompt, 5);
  EXPECT_EQ(kv.cached_tokens(b, prompt), 4u);
  kv.unpublish(a, 0);
  EXPECT_EQ(kv.cached_tokens(b, prompt), 0u);
  EXPECT_EQ(kv.check(), "");
}

TEST(KvManager, ForkSharesAllBlocksAndCopiesThePartialOneWhenWritten) {
  KvManager kv(small());
  const auto prompt = tokens(0, 6);
  const KvSeq a = kv.create();
  kv.admit(a, prompt, 8);
  kv.append(a, 6);
  step(kv);
  const KvSeq b = kv.fork(a, 6);
  EXPECT_EQ(kv.stats().groups[0].referenced, 2u);
  ASSERT_TRUE(kv.append(b, 1));
  const KvTransfers transfers = step(kv);
  ASSERT_EQ(transfers.copies.size(), 1u);
  EXPECT_EQ(transfers.copies[0].from, kv.table(a, 0)[1]);
  EXPECT_EQ(transfers.copies[0].to, kv.table(b, 0)[1]);
  EXPECT_EQ(kv.table(a, 0)[0], kv.table(b, 0)[0]);
  ASSERT_TRUE(kv.append(a, 1)); // alone by now: in place
  EXPECT_TRUE(step(kv).empty());
}

TEST(KvManager, CopyOfAPendingCopyReadsItsSource) {
  KvManager kv(small());
  const auto prompt = tokens(0, 6);
  const KvSeq a = kv.create();
  kv.admit(a, prompt, 8);
  kv.append(a, 6);
  step(kv);
  const BlockId source = kv.table(a, 0)[1];
  const KvSeq b = kv.fork(a, 6);
  kv.append(b, 1);
  kv.truncate(b, 6); // leaves the step again, with a copy pending
  const KvSeq c = kv.fork(b, 6);
  kv.append(c, 1);
  EXPECT_EQ(kv.check(), "");
  const KvTransfers transfers = step(kv);
  ASSERT_EQ(transfers.copies.size(), 2u);
  EXPECT_NE(kv.table(b, 0)[1], kv.table(c, 0)[1]);
  for (const auto& copy : transfers.copies) EXPECT_EQ(copy.from, source);
}

TEST(KvManager, BranchInsideAPublishedBlockCopiesIt) {
  KvManager kv(small());
  const auto prompt = tokens(0, 8);
  const KvSeq a = kv.create();
  kv.admit(a, prompt, 8);
  kv.append(a, 8);
  step(kv);
  kv.commit(a, prompt, 8);
  const KvSeq b = kv.fork(a, 6);
  kv.destroy(a);
  kv.append(b, 1);
  EXPECT_EQ(step(kv).copies.size(), 1u);
  const KvSeq c = kv.create();
  EXPECT_EQ(kv.cached_tokens(c, tokens(0, 9)), 8u); // the branch left the cache as it was
}

TEST(KvManager, SwapMovesSharedBlocksOnceAndKeepsThemShared) {
  KvManager kv(small(6, 6));
  const auto prompt = tokens(0, 9);
  const KvSeq a = kv.create();
  kv.admit(a, prompt, 8);
  kv.append(a, 9);
  step(kv);
  const KvSeq b = kv.fork(a, 9);
  kv.commit(a, prompt, 9);
  ASSERT_TRUE(kv.swap_out(a));
  ASSERT_TRUE(kv.swap_out(b));
  EXPECT_EQ(step(kv).swap_out.size(), 3u);
  EXPECT_EQ(kv.stats().groups[0].referenced, 0u);
  EXPECT_EQ(kv.stats().groups[0].host_used, 3u);

  const auto other = tokens(100, 24); // takes every block, so that nothing of it is cached any more
  const KvSeq c = kv.create();
  ASSERT_EQ(kv.admit(c, other, 0).verdict, Admission::now);
  ASSERT_TRUE(kv.append(c, 24));
  EXPECT_FALSE(kv.swap_in(a));
  step(kv);
  kv.destroy(c);
  ASSERT_TRUE(kv.swap_in(a));
  ASSERT_TRUE(kv.swap_in(b));
  EXPECT_EQ(step(kv).swap_in.size(), 3u);
  EXPECT_EQ(kv.stats().groups[0].referenced, 3u);
  EXPECT_EQ(kv.stats().groups[0].host_used, 0u);
}

TEST(KvManager, SwapInTakesWhatIsStillCached) {
  KvManager kv(small());
  const auto prompt = tokens(0, 9);
  const KvSeq a = kv.create();
  kv.admit(a, prompt, 8);
  kv.append(a, 9);
  step(kv);
  kv.commit(a, prompt, 9);
  ASSERT_TRUE(kv.swap_out(a));
  step(kv);
  ASSERT_TRUE(kv.swap_in(a));
  EXPECT_EQ(step(kv).swap_in.size(), 1u); // only the partial block
}

TEST(KvManager, SecondOfTwoEqualSequencesTakesTheFirstOnesBlocks) {
  KvManager kv(small());
  const auto prompt = tokens(0, 9);
  const KvSeq a = kv.create(), b = kv.create();
  for (const KvSeq seq : {a, b}) {
    kv.admit(seq, prompt, 8);
    kv.append(seq, 9);
  }
  step(kv);
  EXPECT_EQ(kv.stats().groups[0].referenced, 6u);
  kv.commit(a, prompt, 9);
  kv.commit(b, prompt, 9);
  EXPECT_EQ(kv.stats().groups[0].referenced, 4u);
  EXPECT_EQ(kv.stats().deduplicated_blocks, 2u);
  EXPECT_EQ(kv.check(), "");
}

TEST(KvManager, FailedStepsTokensAreFoundAgainOnlyOnceSomeoneElseHasComputedThem) {
  KvManager kv(small(32));
  const auto prompt = tokens(0, 24);
  const KvSeq a = kv.create(), b = kv.create(), c = kv.create();
  kv.admit(a, std::span(prompt).first(13), 8);
  kv.append(a, 13);
  step(kv);
  kv.commit(a, prompt, 12);
  EXPECT_EQ(kv.admit(b, prompt, 8).cached_tokens, 12u);
  kv.append(b, 4);
  step(kv);
  kv.commit(b, prompt, 16);
  kv.unpublish(a, 4); // takes blocks 1 and 2 from under b's block 3
  kv.destroy(a);
  EXPECT_EQ(kv.cached_tokens(c, prompt), 4u);
  EXPECT_EQ(kv.check(), "");
  kv.append(b, 4);
  step(kv);
  kv.commit(b, prompt, 20);
  EXPECT_EQ(kv.cached_tokens(c, prompt), 20u);
  EXPECT_EQ(kv.check(), "");
}

TEST(KvManager, WindowFreesWhatLiesBehindAndAHitNeedsBothGroups) {
  KvConfig config = small();
  config.groups = {{.num_blocks = 32}, {.num_blocks = 32, .window = 8}};
  KvManager kv(config);
  const auto prompt = tokens(0, 25);
  const KvSeq a = kv.create();
  kv.admit(a, prompt, 8);
  kv.append(a, 25);
  step(kv);
  kv.commit(a, prompt, 25);
  EXPECT_EQ(kv.stats().groups[0].referenced, 7u);
  EXPECT_EQ(kv.stats().groups[1].referenced, 3u);
  EXPECT_EQ(kv.table(a, 1)[3], kNoBlock);
  EXPECT_NE(kv.table(a, 1)[4], kNoBlock);
  kv.destroy(a);
  const KvSeq b = kv.create();
  EXPECT_EQ(kv.admit(b, prompt, 8).cached_tokens, 24u);
  EXPECT_EQ(kv.stats().groups[0].referenced, 6u);
  EXPECT_EQ(kv.check(), "");
}

TEST(KvManager, ContiguousPoliciesHandOutConsecutiveBlocksAndCopyOnFork) {
  KvConfig config = small(64, 0);
  config.policy = PolicyKind::oracle;
  KvManager kv(config);
  const KvSeq a = kv.create(), b = kv.create();
  ASSERT_EQ(kv.admit(a, tokens(0, 10), 10).verdict, Admission::now);  // 20 slots: 5 blocks, a chunk of 8
  ASSERT_EQ(kv.admit(b, tokens(0, 10), 100).verdict, Admission::now); // 28 blocks: a chunk of 32
  kv.append(b, 10);
  ASSERT_TRUE(kv.append(a, 10));
  ASSERT_TRUE(kv.append(a, 10));
  for (std::uint32_t i = 1; i < 5; ++i) EXPECT_EQ(kv.table(a, 0)[i], kv.table(a, 0)[0] + i);
  EXPECT_EQ(kv.grant(a, 0).num_blocks, 8u);
  EXPECT_EQ(kv.grant(a, 0).num_reserved, 20u);
  step(kv);
  const KvSeq c = kv.fork(a, 9);
  ASSERT_NE(c, kNoSeq);
  EXPECT_EQ(step(kv).copies.size(), 3u);
  const KvSeq d = kv.create();
  EXPECT_EQ(kv.admit(d, tokens(0, 10), 200).verdict, Admission::later);
  EXPECT_EQ(kv.admit(d, tokens(0, 10), 1000).verdict, Admission::never);
  for (const KvSeq seq : {a, b, c}) kv.destroy(seq);
  EXPECT_EQ(kv.admit(d, tokens(0, 10), 200).verdict, Admission::now);
  EXPECT_EQ(kv.check(), "");
}

} // namespace
} // namespace quire
