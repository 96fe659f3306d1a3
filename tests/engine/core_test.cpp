// The engine's core on the mock backend: every token that a client receives is the one that the model says, whatever
// else goes on.
#include "support/core_fixture.hpp"

#include "quire/error.hpp"

#include <gtest/gtest.h>

namespace quire::test {
namespace {

TEST(EngineCore, StreamsWhatTheModelSays) {
  Fixture f;
  const auto p = random_prompt(100, 1);
  const auto sent = f.send(greedy(p, 40));
  ASSERT_TRUE(sent.sink->wait());
  EXPECT_EQ(sent.sink->tokens(), f.mock.continuation(p, 40));
  EXPECT_EQ(sent.sink->finish(), FinishReason::length);
  EXPECT_EQ(sent.sink->summary().prompt_tokens, 100u);
  EXPECT_EQ(sent.sink->summary().output_tokens, 40u);
  EXPECT_GT(sent.sink->summary().total_seconds, 0.0);
  EXPECT_TRUE(sent.sink->orderly());
  EXPECT_TRUE(f.drained());
}

TEST(EngineCore, EndTokenStopsAndIgnoreEosGoesOn) {
  FixtureOptions o;
  const auto p = random_prompt(12, 2);
  const auto whole = MockBackend(o.mock).continuation(p, 30);
  o.end_tokens = {whole[9]};
  Fixture f(o);
  const auto stopped = f.send(greedy(p, 30));
  Request r = greedy(p, 30);
  r.ignore_eos = true;
  const auto ignored = f.send(r);
  ASSERT_TRUE(stopped.sink->wait() && ignored.sink->wait());
  EXPECT_EQ(stopped.sink->tokens(), f.mock.continuation(p, 30, o.end_tokens));
  EXPECT_EQ(stopped.sink->finish(), FinishReason::stop);
  EXPECT_EQ(ignored.sink->tokens(), whole);
  EXPECT_EQ(stopped.sink->summary().output_tokens, stopped.sink->tokens().size()); // the surplus token isn't counted
}

TEST(EngineCore, MinTokensBansTheEndsBefore) {
  FixtureOptions o;
  const auto p = random_prompt(12, 2);
  const auto whole = MockBackend(o.mock).continuation(p, 30);
  o.end_tokens = {whole[3]};
  Fixture f(o);
  Request r = greedy(p, 30);
  r.sampling.min_tokens = 15;
  const auto sent = f.send(r);
  ASSERT_TRUE(sent.sink->wait());
  const auto tokens = sent.sink->tokens();
  EXPECT_GE(tokens.size(), 15u);
  for (size_t i = 0; i < 14; ++i) EXPECT_NE(tokens[i], o.end_tokens[0]);
}

TEST(EngineCore, ManyRequestsTogetherGiveWhatEachGivesAlone) {
  FixtureOptions o;
  o.blocks = 40; // preemption is certain
  o.max_context = 200;
  for (PreemptionMode mode : {PreemptionMode::automatic, PreemptionMode::swap, PreemptionMode::recompute}) {
    o.preemption = mode;
    Fixture f(o);
    std::vector<Fixture::Sent> sent;
    std::vector<std::vector<int32_t>> prompts;
    for (uint32_t i = 0; i < 24; ++i) {
      prompts.push_back(random_prompt(3 + i * 4, i));
      sent.push_back(f.send(greedy(prompts.back(), 50)));
    }
    for (uint32_t i = 0; i < 24; ++i) {
      ASSERT_TRUE(sent[i].sink->wait());
      EXPECT_EQ(sent[i].sink->tokens(), f.mock.continuation(prompts[i], 50)) << i;
    }
    EXPECT_TRUE(f.drained());
    const Stats stats = f.core->stats();
    EXPECT_GT(stats.preemptions_swap + stats.preemptions_recompute, 0u);
    EXPECT_EQ(f.mock.counters.fault, "");
  }
}

TEST(EngineCore, SecondRequestFindsThePrefix) {
  Fixture f;
  const auto p = random_prompt(100, 3);
  const auto first = f.send(greedy(p, 5));
  ASSERT_TRUE(first.sink->wait());
  const auto second = f.send(greedy(p, 5));
  ASSERT_TRUE(second.sink->wait());
  EXPECT_EQ(first.sink->summary().cached_tokens, 0u);
  EXPECT_EQ(second.sink->summary().cached_tokens, 96u);
  EXPECT_EQ(first.sink->tokens(), second.sink->tokens());
  Request r = greedy(p, 5);
  r.cache_salt = "another tenant";
  const auto third = f.send(r);
  ASSERT_TRUE(third.sink->wait());
  EXPECT_EQ(third.sink->summary().cached_tokens, 0u);
  EXPECT_EQ(third.sink->tokens(), second.sink->tokens());
}

TEST(EngineCore, SeededChoicesAreTheSameAloneAndTogether) {
  Fixture f;
  Request r = greedy(random_prompt(37, 4), 20);
  r.sampling.temperature = 1;
  r.sampling.seed = 99;
  r.n = 5;
  const auto together = f.send(r);
  ASSERT_TRUE(together.sink->wait());
  EXPECT_EQ(together.sink->choices(), 5u);
  const auto again = f.send(r);
  ASSERT_TRUE(again.sink->wait());
  for (uint32_t c = 0; c < 5; ++c) {
    EXPECT_EQ(together.sink->tokens(c), again.sink->tokens(c));
    EXPECT_EQ(together.sink->tokens(c).size(), 20u);
  }
  EXPECT_NE(together.sink->tokens(0), together.sink->tokens(1));
  r.n = 1;
  const auto alone = f.send(r);
  ASSERT_TRUE(alone.sink->wait());
  EXPECT_EQ(alone.sink->tokens(), together.sink->tokens(0));
}

TEST(EngineCore, CancelGivesTheBlocksBack) {
  FixtureOptions o;
  o.mock.step_time = std::chrono::milliseconds(1);
  Fixture f(o);
  const auto sent = f.send(greedy(random_prompt(50, 5), 300));
  ASSERT_TRUE(sent.sink->wait_tokens(3));
  f.core->cancel(sent.id);
  ASSERT_TRUE(sent.sink->wait(std::chrono::seconds(5)));
  EXPECT_EQ(sent.sink->finish(), FinishReason::cancelled);
  EXPECT_LT(sent.sink->tokens().size(), 300u);
  EXPECT_TRUE(f.drained());
  EXPECT_TRUE(sent.sink->orderly());
}

TEST(EngineCore, DeadlineEndsARequest) {
  FixtureOptions o;
  o.mock.step_time = std::chrono::milliseconds(2);
  Fixture f(o);
  Request r = greedy(random_prompt(10, 6), 350);
  r.deadline_seconds = 0.05;
  const auto sent = f.send(r);
  ASSERT_TRUE(sent.sink->wait(std::chrono::seconds(5)));
  EXPECT_EQ(sent.sink->finish(), FinishReason::deadline);
  EXPECT_TRUE(f.drained());
}

} // namespace
} // namespace quire::test
