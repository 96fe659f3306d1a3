// Idle time is the backend's: only while no request is there, in slices, until it has nothing left to do.
#include "support/core_fixture.hpp"

#include <gtest/gtest.h>

#include <functional>

namespace quire::test {
namespace {

using std::chrono::milliseconds;

bool becomes_true(const std::function<bool()>& holds) {
  for (int i = 0; i < 10000; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(milliseconds(1));
  }
  return false;
}

TEST(EngineIdle, TheBackendIsCalledUntilItHasNothingLeftToDo) {
  FixtureOptions o;
  o.mock.idle_slices = 7;
  Fixture f(o);
  EXPECT_TRUE(f.core->stats().tuning_left);
  ASSERT_TRUE(becomes_true([&] { return !f.core->stats().tuning_left; }));
  std::this_thread::sleep_for(milliseconds(30)); // time for a call too many
  f.core.reset();
  EXPECT_EQ(f.mock.counters.idles, 7u);
  EXPECT_EQ(f.mock.counters.fault, "");
}

TEST(EngineIdle, ABackendWithoutTheVerbIsLeftAlone) {
  Fixture f;
  EXPECT_EQ(f.mock.table()->idle, nullptr);
  EXPECT_FALSE(f.core->stats().tuning_left);
  const auto p = random_prompt(20, 1);
  const auto sent = f.send(greedy(p, 10));
  ASSERT_TRUE(sent.sink->wait());
  EXPECT_EQ(sent.sink->tokens(), f.mock.continuation(p, 10));
}

TEST(EngineIdle, ARequestIsServedInTheMiddleAndNoSliceFallsWithinIt) {
  FixtureOptions o;
  o.mock.idle_slices = UINT64_MAX;
  o.mock.idle_time = milliseconds(2);
  o.mock.step_time = milliseconds(1);
  Fixture f(o);
  std::vector<uint64_t> idles; // at each step
  f.mock.on_submit = [&](const quire_step&) { idles.push_back(f.mock.counters.idles); };
  std::vector<size_t> steps;
  for (uint32_t i = 0; i < 3; ++i) {
    const double before = f.core->stats().tuning_seconds;
    ASSERT_TRUE(becomes_true([&] { return f.core->stats().tuning_seconds > before; }));
    const auto p = random_prompt(30, i);
    const auto first = f.send(greedy(p, 40)), second = f.send(greedy(random_prompt(9, i), 60));
    ASSERT_TRUE(first.sink->wait() && second.sink->wait());
    EXPECT_EQ(first.sink->tokens(), f.mock.continuation(p, 40));
    EXPECT_TRUE(f.drained());
    EXPECT_TRUE(f.core->stats().tuning_left);
  }
  f.core.reset();
  EXPECT_EQ(f.mock.counters.fault, "");
  // Within a round of two requests that were there together no slice was taken; between the rounds there were some.
  std::vector<uint64_t> different = idles;
  different.erase(std::unique(different.begin(), different.end()), different.end());
  EXPECT_EQ(different.size(), 3u);
  EXPECT_GT(different.front(), 0u);
}

TEST(EngineIdle, ADeviceThatIsLostMeanwhileIsMadeAnewAndNotAskedAgain) {
  FixtureOptions o;
  o.mock.idle_slices = UINT64_MAX;
  o.mock.fail_idle_at = 3;
  Fixture f(o);
  ASSERT_TRUE(becomes_true([&] { return f.core->stats().device_restarts == 1; }));
  const auto p = random_prompt(20, 1);
  const auto sent = f.send(greedy(p, 10));
  ASSERT_TRUE(sent.sink->wait());
  EXPECT_EQ(sent.sink->tokens(), f.mock.continuation(p, 10));
  EXPECT_FALSE(f.core->stats().tuning_left);
  std::this_thread::sleep_for(milliseconds(60));
  f.core.reset();
  EXPECT_EQ(f.mock.counters.idles, 3u);
  EXPECT_EQ(f.mock.counters.creates, 2u);
}

TEST(EngineIdle, AFailureOfItIsNoFailureOfTheEngine) {
  FixtureOptions o;
  o.mock.idle_slices = UINT64_MAX;
  o.mock.fail_idle_at = 2;
  o.mock.fail_code = QUIRE_FAILED;
  Fixture f(o);
  ASSERT_TRUE(becomes_true([&] { return !f.core->stats().tuning_left; }));
  const auto p = random_prompt(20, 1);
  const auto sent = f.send(greedy(p, 10));
  ASSERT_TRUE(sent.sink->wait());
  EXPECT_EQ(sent.sink->tokens(), f.mock.continuation(p, 10));
  EXPECT_EQ(f.core->stats().device_restarts, 0u);
}

} // namespace
} // namespace quire::test
