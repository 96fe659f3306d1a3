// The scheduler alone, over the real KV manager and the mock backend: what each sequence reads is what it wrote,
// whatever happened to its blocks.
#include "support/driver.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace quire::test {
namespace {

DriverOptions small(uint32_t blocks = 64, uint32_t host = 32) {
  DriverOptions o;
  o.scheduler.max_sequences = 8;
  o.scheduler.max_batched_tokens = 64;
  o.kv.block_size = 8;
  o.kv.groups = {{blocks, host, 0}};
  o.max_context = blocks * 8;
  return o;
}

std::vector<int32_t> prompt(uint32_t length, uint32_t seed, uint32_t vocab = 128) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(length);
  for (int32_t& t : tokens) t = static_cast<int32_t>(random() % vocab);
  return tokens;
}

TEST(Scheduler, OneSequenceIsContinuedAsTheModelSays) {
  Driver d(small());
  const auto p = prompt(100, 1);
  SequenceGroup& g = d.add(p, 40);
  d.run();
  EXPECT_EQ(d.fault, "");
  EXPECT_TRUE(d.finished(g));
  EXPECT_EQ(d.output(g), d.mock.continuation(p, 40));
  EXPECT_EQ(d.mock.counters.most_unwaited, 2u);
  EXPECT_GT(d.mock.counters.device_fed_tokens, 30u);
  EXPECT_EQ(d.kv.pool(0).num_referenced(), 0u);
}

TEST(Scheduler, EndTokenDropsTheSurplusToken) {
  DriverOptions o = small();
  const auto p = prompt(10, 2);
  const auto whole = MockBackend(o.mock).continuation(p, 30);
  o.ends = {whole[7]};
  const auto expected = MockBackend(o.mock).continuation(p, 30, o.ends);
  Driver d(o);
  SequenceGroup& g = d.add(p, 30);
  d.run();
  EXPECT_EQ(d.fault, "");
  EXPECT_EQ(d.output(g), expected);
}

TEST(Scheduler, ManySequencesTogetherGiveWhatEachGivesAlone) {
  for (uint32_t chunk : {1u, 3u, 8u, 17u, 64u}) {
    DriverOptions o = small(256);
    o.scheduler.max_chunk = chunk;
    o.scheduler.max_sequences = 16;
    Driver d(o);
    std::vector<std::vector<int32_t>> prompts;
    for (uint32_t i = 0; i < 20; ++i) prompts.push_back(prompt(1 + i * 7, i));
    for (const auto& p : prompts) d.add(p, 25);
    d.run();
    ASSERT_EQ(d.fault, "");
    for (uint32_t i = 0; i < 20; ++i)
      EXPECT_EQ(d.output(*d.groups[i]), d.mock.continuation(prompts[i], 25)) << chunk << " " << i;
  }
}

TEST(Scheduler, SequencesThatDontFitTogetherAllFinish) {
  for (PreemptionMode mode : {PreemptionMode::swap, PreemptionMode::recompute, PreemptionMode::automatic})
    for (bool cache : {false, true}) {
      DriverOptions o = small(24, 24);
      o.scheduler.preemption = mode;
      o.kv.prefix_cache = cache;
      o.max_context = 150;
      Driver d(o);
      std::vector<std::vector<int32_t>> prompts;
      for (uint32_t i = 0; i < 12; ++i) prompts.push_back(prompt(5 + i * 3, 100 + i));
      for (const auto& p : prompts) d.add(p, 60);
      d.run();
      ASSERT_EQ(d.fault, "");
      for (uint32_t i = 0; i < prompts.size(); ++i)
        EXPECT_EQ(d.output(*d.groups[i]), d.mock.continuation(prompts[i], 60)) << i << " cache " << cache;
      const SchedulerStats stats = d.scheduler.stats();
      EXPECT_GT(stats.preemptions_swap + stats.preemptions_recompute, 0u);
      if (mode == PreemptionMode::recompute) {
        EXPECT_EQ(stats.preemptions_swap, 0u);
      }
      if (mode == PreemptionMode::swap) {
        EXPECT_GT(d.mock.counters.swapped_in, 0u);
      }
      EXPECT_EQ(d.kv.pool(0).num_referenced(), 0u);
      EXPECT_EQ(d.kv.host_slots(0).num_referenced(), 0u);
    }
}

TEST(Scheduler, ChoicesShareThePromptAndDiffer) {
  DriverOptions o = small(64);
  Driver d(o);
  const auto p = prompt(37, 5);
  SequenceGroup& g = d.add(p, 20, 6, 0, 1.0f, 42);
  d.run();
  ASSERT_EQ(d.fault, "");
  EXPECT_TRUE(d.finished(g));
  for (uint32_t c = 0; c < 6; ++c) {
    Driver alone(o);
    SequenceGroup& one = alone.add(p, 20, 1, 0, 1.0f, 42);
    one.sequences[0]->sampling.set_choice(c);
    alone.run();
    EXPECT_EQ(d.output(g, c), alone.output(one)) << c;
    if (c) {
      EXPECT_NE(d.output(g, c), d.output(g, 0));
    }
  }
  EXPECT_EQ(d.mock.counters.tokens, 37u + 6 * 19); // the prompt once, and each output but its last
  EXPECT_GT(d.mock.counters.copies, 0u);
}

TEST(Scheduler, MoreChoicesThanSlotsAllCome) {
  DriverOptions o = small(128);
  o.scheduler.max_sequences = 4;
  o.kv.prefix_cache = false;
  Driver d(o);
  SequenceGroup& g = d.add(prompt(30, 6), 12, 11, 0, 1.0f, 7);
  d.run();
  ASSERT_EQ(d.fault, "");
  EXPECT_TRUE(d.finished(g));
  for (uint32_t c = 0; c < 11; ++c) EXPECT_EQ(d.output(g, c).size(), 12u);
  EXPECT_EQ(d.kv.pool(0).num_referenced(), 0u);
}

TEST(Scheduler, SameWindowedTokens) {
  DriverOptions o = small(64, 0);
  o.mock.windows = {0, 24};
  o.kv.groups = {{64, 32, 0}, {64, 32, 24}};
  o.scheduler.max_batched_tokens = 16;
  Driver d(o);
  const auto p = prompt(90, 8);
  d.add(p, 60);
  d.add(p, 60);
  d.run();
  ASSERT_EQ(d.fault, "");
  for (auto& g : d.groups) EXPECT_EQ(d.output(*g), d.mock.continuation(p, 60));
}

} // namespace
} // namespace quire::test
