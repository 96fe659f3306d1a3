// Random histories over the scheduler, the KV manager and the mock: admitted, forked, preempted by swap and recompute,
// cancelled, finished, with one step in flight. Every invariant is checked after every call; every sequence's tokens
// are those that its own prompt says.
#include "support/driver.hpp"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <random>

namespace quire::test {
namespace {

std::vector<int32_t> some_prompt(std::mt19937& random, uint32_t longest) {
  std::vector<int32_t> tokens(1 + random() % longest);
  // Few different beginnings, so that sequences share blocks.
  const uint32_t family = random() % 4, common = random() % (tokens.size() + 1);
  for (size_t i = 0; i < tokens.size(); ++i)
    tokens[i] = static_cast<int32_t>(i < common ? (family * 31 + i * 7) % 128 : random() % 128);
  return tokens;
}

// One history; returns how many operations it had.
uint64_t history(uint32_t seed, uint32_t operations) {
  std::mt19937 random(seed);
  DriverOptions o;
  o.scheduler.max_sequences = 2 + random() % 8;
  o.scheduler.max_batched_tokens = o.scheduler.max_sequences + random() % 60;
  o.scheduler.max_chunk = random() % 3 ? 0 : 1 + random() % 20;
  o.scheduler.overtakes_allowed = 1 + random() % 20;
  o.kv.block_size = 8;
  const bool windowed = random() % 4 == 0;
  o.mock.windows = windowed ? std::vector<uint32_t>{0, 24} : std::vector<uint32_t>{0};
  const uint32_t blocks = 24 + random() % 40, host = random() % 3 ? random() % 40 : 0;
  for (size_t g = 0; g < o.mock.windows.size(); ++g) o.kv.groups.push_back({blocks, host, 0});
  o.kv.prefix_cache = random() % 4 != 0;
  o.max_context = 120;
  o.ends = {5, 90};
  Driver d(o);
  uint64_t done = 0;
  std::map<const SequenceGroup*, std::pair<std::vector<int32_t>, bool>> asked; // prompt, cancelled
  const auto interfere = [&](Driver& driver) {
    ++done;
    const auto& running = driver.scheduler.running();
    if (random() % 6 == 0 && !running.empty())
      driver.scheduler.preempt(*running[random() % running.size()],
                               random() % 2 ? PreemptionMode::swap : PreemptionMode::recompute);
    if (random() % 40 == 0 && !driver.groups.empty()) {
      SequenceGroup& group = *driver.groups[random() % driver.groups.size()];
      if (!driver.finished(group)) asked[&group].second = true;
      driver.cancel(group);
    }
  };
  d.before_schedule = interfere;
  for (uint32_t i = 0; i < operations && d.fault.empty(); ++i) {
    ++done;
    if (random() % 3 == 0 && d.groups.size() < operations / 6) {
      auto prompt = some_prompt(random, 60);
      const uint32_t choices = random() % 5 == 0 ? 2 + random() % 4 : 1;
      SequenceGroup& group = d.add(prompt, 1 + random() % 50, choices, static_cast<int32_t>(random() % 3),
                                   choices > 1 ? 1.0f : 0.0f, seed, random() % 8 ? "" : "salt");
      asked[&group] = {std::move(prompt), false};
    }
    d.turn();
  }
  d.before_schedule = nullptr;
  d.run(200'000);
  RC_ASSERT(d.fault == "");
  for (const auto& [group, what] : asked) {
    RC_ASSERT(d.finished(*group));
    if (what.second || group->sequences.size() > 1) continue;
    const Sequence& s = *group->sequences.front();
    RC_ASSERT(d.output(*group) == d.mock.continuation(what.first, s.max_length - s.num_prompt, o.ends));
  }
  for (uint32_t g = 0; g < d.kv.num_groups(); ++g) {
    RC_ASSERT(d.kv.pool(g).num_referenced() == 0u);
    RC_ASSERT(d.kv.host_slots(g).num_referenced() == 0u);
  }
  return done;
}

TEST(SchedulerHistory, EverySequenceReadsWhatItWroteWhateverHappens) {
  const char* word = std::getenv("QUIRE_FULL");
  const uint64_t wanted = word && std::string(word) == "1" ? 400'000 : 100'000;
  uint64_t operations = 0;
  std::mt19937 random(20260101);
  while (operations < wanted && !testing::Test::HasFailure()) {
    const uint32_t seed = random();
    try {
      operations += history(seed, 300);
    } catch (const std::exception& failure) {
      FAIL() << "seed " << seed << ": " << failure.what();
    }
  }
}

TEST(SchedulerHistory, SameSeedSameHistory) { EXPECT_EQ(history(3, 200), history(3, 200)); }

// ---- Nobody starves, nothing stands still.

DriverOptions crowded() {
  DriverOptions o;
  o.scheduler.max_sequences = 2;
  o.scheduler.max_batched_tokens = 32;
  o.scheduler.overtakes_allowed = 10;
  o.kv.block_size = 8;
  o.kv.groups = {{32, 0, 0}};
  o.max_context = 200;
  return o;
}

TEST(SchedulerHistory, AnEndlessStreamOfUrgentRequestsDoesNotStarveAPatientOne) {
  Driver d(crowded());
  std::mt19937 random(1);
  for (int i = 0; i < 4; ++i) d.add(some_prompt(random, 20), 10, 1, 0);
  const SequenceGroup& patient = d.add(some_prompt(random, 20), 30, 1, 1000);
  uint32_t later = 0;
  while (!d.finished(patient) && later < 400) {
    uint32_t open = 0;
    for (const auto& g : d.groups) open += !d.finished(*g);
    if (open < 6) d.add(some_prompt(random, 20), 10, 1, 0), ++later;
    d.turn();
  }
  EXPECT_EQ(d.fault, "");
  EXPECT_TRUE(d.finished(patient));
  EXPECT_LT(later, 60u); // ten overtook it before it was admitted, and some while it ran
}

TEST(SchedulerHistory, PriorityGoesFirst) {
  Driver d(crowded());
  std::mt19937 random(2);
  std::vector<const SequenceGroup*> order;
  for (int i = 0; i < 6; ++i) d.add(some_prompt(random, 20), 10, 1, 5);
  const SequenceGroup& first = d.add(some_prompt(random, 20), 10, 1, -5);
  uint32_t before = 0;
  while (!d.finished(first)) {
    d.turn();
    before = 0;
    for (const auto& g : d.groups) before += d.finished(*g);
  }
  EXPECT_LE(before, 4u); // at most the two that ran already, and those that end in the same step
}

// Each of them needs almost the whole pool: they take turns, and each step makes some sequence longer.
TEST(SchedulerHistory, SequencesThatFillThePoolDontChaseEachOtherAround) {
  for (PreemptionMode mode : {PreemptionMode::swap, PreemptionMode::recompute}) {
    DriverOptions o = crowded();
    o.scheduler.max_sequences = 8;
    o.scheduler.preemption = mode;
    o.kv.groups = {{26, 26, 0}};
    o.kv.prefix_cache = false;
    Driver d(o);
    std::mt19937 random(3);
    for (int i = 0; i < 8; ++i) d.add(std::vector<int32_t>(40, i), 150);
    d.run(20'000);
    EXPECT_EQ(d.fault, "");
    for (const auto& g : d.groups) EXPECT_EQ(d.output(*g).size(), 150u);
    EXPECT_LT(d.steps, 8 * 150 * 3u);
  }
}

TEST(SchedulerHistory, WhatCanNeverFitIsSaidSo) {
  DriverOptions o = crowded();
  o.max_context = 1000;
  Driver d(o);
  SequenceGroup& huge = d.add(std::vector<int32_t>(500, 1), 10);
  SequenceGroup& fine = d.add(std::vector<int32_t>(50, 1), 10);
  d.run(1000);
  EXPECT_EQ(d.fault, "");
  EXPECT_TRUE(d.output(huge).empty());
  EXPECT_EQ(d.output(fine).size(), 10u);
}

} // namespace
} // namespace quire::test
