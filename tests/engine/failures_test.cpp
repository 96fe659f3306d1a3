// What goes wrong while serving ends requests with a sentence; the engine goes on.
#include "support/core_fixture.hpp"

#include <gtest/gtest.h>

#include <atomic>

namespace quire::test {
namespace {

TEST(Failures, ANaNRowEndsItsRequestAlone) {
  FixtureOptions o;
  const auto p = random_prompt(15, 1), q = random_prompt(16, 2);
  const auto other = MockBackend(o.mock).continuation(q, 30);
  const auto mine = MockBackend(o.mock).continuation(p, 30);
  for (int32_t candidate : mine) // one that only mine comes by, and not at once
    if (std::find(other.begin(), other.end(), candidate) == other.end() &&
        std::find(q.begin(), q.end(), candidate) == q.end() && candidate != mine[0])
      o.mock.poison_token = candidate;
  ASSERT_GE(o.mock.poison_token, 0);
  Fixture f(o);
  const auto sick = f.send(greedy(p, 30)), well = f.send(greedy(q, 30));
  ASSERT_TRUE(sick.sink->wait() && well.sink->wait());
  EXPECT_EQ(sick.sink->finish(), FinishReason::error);
  EXPECT_NE(sick.sink->error().find("NaN"), std::string::npos);
  EXPECT_EQ(sick.sink->tokens().back(), o.mock.poison_token);
  EXPECT_EQ(well.sink->tokens(), other);
  EXPECT_TRUE(f.drained());
}

// Each verb fails once, in each way; afterwards the engine serves as before.
TEST(Failures, EveryVerbMayFailOnceInEveryWay) {
  for (int32_t code : {QUIRE_DEVICE_LOST, QUIRE_FAILED, QUIRE_OUT_OF_MEMORY})
    for (int verb = 0; verb < 5; ++verb)
      for (uint64_t at : {1ull, 2ull, 7ull}) {
        FixtureOptions o;
        o.blocks = 40;
        o.max_context = 200;
        o.preemption = PreemptionMode::swap;
        o.mock.fail_code = code;
        uint64_t* faults[] = {&o.mock.fail_submit_at, &o.mock.fail_sample_at, &o.mock.fail_wait_at,
                              &o.mock.fail_copy_at, &o.mock.fail_swap_at};
        *faults[verb] = at;
        Fixture f(o);
        std::vector<Fixture::Sent> sent;
        std::vector<Request> requests;
        for (uint32_t i = 0; i < 12; ++i) {
          Request r = greedy(random_prompt(10 + i, i), 60);
          r.n = i % 3 == 0 ? 2 : 1;
          requests.push_back(r);
          sent.push_back(f.send(r));
        }
        for (uint32_t i = 0; i < 12; ++i) {
          ASSERT_TRUE(sent[i].sink->wait()) << code << " " << verb << " " << at;
          EXPECT_TRUE(sent[i].sink->orderly());
          for (uint32_t c = 0; c < requests[i].n; ++c) {
            if (sent[i].sink->finish(c) == FinishReason::error) {
              EXPECT_NE(sent[i].sink->error().find("injected"), std::string::npos) << sent[i].sink->error();
            } else {
              EXPECT_EQ(sent[i].sink->tokens(c), f.mock.continuation(requests[i].prompt, 60));
            }
          }
        }
        const auto again = f.send(requests[1]);
        ASSERT_TRUE(again.sink->wait());
        EXPECT_EQ(again.sink->tokens(), f.mock.continuation(requests[1].prompt, 60));
        EXPECT_TRUE(f.drained());
        EXPECT_EQ(f.mock.counters.fault, "");
      }
}

TEST(Failures, ALostDeviceEndsWhatRanAndServesWhatWaited) {
  FixtureOptions o;
  o.max_sequences = 2;
  o.mock.fail_wait_at = 10;
  o.mock.step_time = std::chrono::milliseconds(3); // so that all have come by then
  Fixture f(o);
  std::vector<Fixture::Sent> sent;
  for (uint32_t i = 0; i < 5; ++i) sent.push_back(f.send(greedy(random_prompt(10, i), 40)));
  for (auto& s : sent) ASSERT_TRUE(s.sink->wait());
  for (uint32_t i = 0; i < 5; ++i) {
    if (i < 2) {
      EXPECT_EQ(sent[i].sink->finish(), FinishReason::error);
      EXPECT_NE(sent[i].sink->error().find("lost"), std::string::npos);
    } else {
      EXPECT_EQ(sent[i].sink->tokens(), f.mock.continuation(random_prompt(10, i), 40));
    }
  }
  EXPECT_EQ(f.mock.counters.creates, 2u);
  EXPECT_EQ(f.core->stats().device_restarts, 1u);
  EXPECT_EQ(f.core->stats().requests_failed, 2u);
}

TEST(Failures, ADeviceThatStaysAwayIsTriedAgain) {
  FixtureOptions o;
  o.mock.fail_wait_at = 5;
  o.mock.fail_creates = 1;
  Fixture f(o);
  const auto first = f.send(greedy(random_prompt(10, 1), 40));
  ASSERT_TRUE(first.sink->wait());
  EXPECT_EQ(first.sink->finish(), FinishReason::error);
  const auto second = f.send(greedy(random_prompt(10, 2), 40)); // within the second: waits for the next attempt
  ASSERT_TRUE(second.sink->wait());
  EXPECT_EQ(second.sink->tokens(), f.mock.continuation(random_prompt(10, 2), 40));
}

TEST(Failures, DestructionCancelsWhatRuns) {
  FixtureOptions o;
  o.mock.step_time = std::chrono::milliseconds(1);
  auto f = std::make_unique<Fixture>(o);
  std::vector<Fixture::Sent> sent;
  for (uint32_t i = 0; i < 12; ++i) sent.push_back(f->send(greedy(random_prompt(10, i), 300)));
  ASSERT_TRUE(sent[0].sink->wait_tokens(2));
  f->core.reset();
  for (auto& s : sent) {
    EXPECT_TRUE(s.sink->wait(std::chrono::seconds(0)));
    EXPECT_EQ(s.sink->finish(), FinishReason::cancelled);
  }
}

// From several threads at once, at any moment of a request's life.
TEST(Failures, CancellationAtAnyPointGivesAllBlocksBack) {
  FixtureOptions o;
  o.blocks = 48;
  o.max_context = 200;
  o.mock.step_time = std::chrono::microseconds(50);
  Fixture f(o);
  std::vector<std::thread> clients;
  std::atomic<int> bad{0};
  for (uint32_t t = 0; t < 4; ++t)
    clients.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 60; ++i) {
        Request r = greedy(random_prompt(1 + random() % 90, random()), 1 + random() % 60);
        r.n = 1 + random() % 3;
        if (random() % 4 == 0) r.beam.width = static_cast<int32_t>(r.n);
        r.priority = static_cast<int32_t>(random() % 3);
        if (random() % 5 == 0) r.deadline_seconds = 0.002;
        const auto sent = f.send(r);
        if (random() % 3) {
          std::this_thread::sleep_for(std::chrono::microseconds(random() % 3000));
          f.core->cancel(sent.id);
        }
        if (!sent.sink->wait() || !sent.sink->orderly()) ++bad;
      }
    });
  for (auto& c : clients) c.join();
  EXPECT_EQ(bad, 0);
  EXPECT_TRUE(f.drained());
  EXPECT_EQ(f.mock.counters.fault, "");
}

// A file that shrank under the reference backend's feet: its zeros would be a wrong answer.
TEST(Failures, DamagedWeightsFailWhatRunsInASentence) {
  std::atomic<int> asked{0}; // once a step
  FixtureOptions o;
  o.weights_damaged = [&]() -> std::string { return ++asked > 5 ? "model.gguf became shorter" : ""; };
  Fixture f(o);
  const auto sent = f.send(greedy(random_prompt(10, 1), 380));
  ASSERT_TRUE(sent.sink->wait());
  EXPECT_EQ(sent.sink->finish(), FinishReason::error);
  EXPECT_EQ(sent.sink->error(), "model.gguf became shorter");
  EXPECT_TRUE(f.drained());
}

} // namespace
} // namespace quire::test
