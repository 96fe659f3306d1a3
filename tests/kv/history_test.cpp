// Random histories: every numbered invariant after each operation, every sequence reads what it wrote, nothing is
// reused too early, nothing leaks.
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstdlib>

#include "kv/history.hpp"

namespace quire {
namespace {

using test::History;
using test::HistoryOptions;

// A hash that nearly always collides: what is found must be decided by tokens and parents.
Hash128 weak_hash(const Hash128&, std::span<const std::int32_t> tokens) {
  return {tokens.empty() ? 9 : static_cast<std::uint64_t>(tokens[0]) % 5, 0};
}

HistoryOptions options(std::uint32_t block_size, std::vector<KvGroupConfig> groups) {
  HistoryOptions result;
  result.config.block_size = block_size;
  result.config.groups = std::move(groups);
  result.config.max_step_tokens = 32;
  result.max_length = 48;
  return result;
}

// `wanted`: what must have happened, or the history shows nothing.
void run(const HistoryOptions& history_options, std::uint64_t seed, std::uint32_t operations,
         std::vector<const char*> wanted) {
  History history(history_options, seed);
  while (history.performed < operations) {
    const std::string error = history.operate();
    ASSERT_EQ(error, "") << "at operation " << history.performed << " of seed " << seed;
  }
  ASSERT_EQ(history.finish(), "");
  for (const char* what : wanted) EXPECT_GT(history.counts[what], 0u) << what;
  EXPECT_GT(history.kv.stats().groups[0].evictions + (history_options.config.prefix_cache ? 0 : 1), 0u);
}

const std::vector<const char*> kEverything = {"admit",
                                              "append",
                                              "hit",
                                              "fork",
                                              "finish",
                                              "cancel",
                                              "recompute",
                                              "readmit",
                                              "swap out",
                                              "swap in",
                                              "commit",
                                              "step",
                                              "no room",
                                              "failed step",
                                              "truncate",
                                              "copied blocks",
                                              "swapped out blocks",
                                              "swapped in blocks",
                                              "refused",
                                              "leave",
                                              "inherit",
                                              "idle"};

std::uint32_t operations() { return std::getenv("QUIRE_FULL") ? 1000000 : 120000; }

TEST(KvHistory, OneGroup) { run(options(8, {{.num_blocks = 24, .host_blocks = 20}}), 1, operations(), kEverything); }

TEST(KvHistory, OneGroupWithoutFailures) {
  HistoryOptions sound = options(8, {{.num_blocks = 40, .host_blocks = 30}});
  sound.failures = false;
  run(sound, 6, operations() / 3, {"admit", "append", "hit", "fork", "swap out", "swap in", "recompute", "readmit"});
}

TEST(KvHistory, FullAndWindowGroups) {
  run(options(8, {{.num_blocks = 44, .host_blocks = 40}, {.num_blocks = 30, .host_blocks = 24, .window = 13}}), 2,
      operations() / 3, kEverything);
}

TEST(KvHistory, WindowGroupsAlone) {
  run(options(
          8, {{.num_blocks = 30, .host_blocks = 24, .window = 20}, {.num_blocks = 30, .host_blocks = 24, .window = 3}}),
      3, operations() / 3, kEverything);
}

TEST(KvHistory, CollidingHashesLeakNothing) {
  HistoryOptions colliding = options(8, {{.num_blocks = 40, .host_blocks = 30}});
  colliding.config.hash = &weak_hash;
  run(colliding, 4, operations() / 3, kEverything);
}

TEST(KvHistory, WithoutPrefixCache) {
  HistoryOptions uncached = options(8, {{.num_blocks = 40, .host_blocks = 30}});
  uncached.config.prefix_cache = false;
  run(uncached, 5, operations() / 6, {"admit", "append", "fork", "swap out", "swap in", "recompute", "copied blocks"});
}

RC_GTEST_PROP(KvHistory, HoldsForAnyShape, ()) {
  HistoryOptions any = options(*rc::gen::element(8u, 16u, 4u), {});
  const auto num_groups = *rc::gen::inRange<std::uint32_t>(1, 4);
  for (std::uint32_t g = 0; g < num_groups; ++g)
    any.config.groups.push_back({.num_blocks = *rc::gen::inRange<std::uint32_t>(1, 80),
                                 .host_blocks = *rc::gen::inRange<std::uint32_t>(0, 60),
                                 .window = *rc::gen::element(0u, 0u, 1u, 7u, 16u, 40u)});
  any.config.watermark = *rc::gen::element(0.0, 0.01, 0.2);
  any.config.policy =
      *rc::gen::element(PolicyKind::paged, PolicyKind::paged, PolicyKind::paged, PolicyKind::oracle, PolicyKind::pow2);
  if (*rc::gen::inRange(0, 4) == 0) any.config.hash = &weak_hash;
  const auto length = *rc::gen::inRange<std::uint32_t>(1, 600);
  History history(any, *rc::gen::arbitrary<std::uint64_t>());
  for (std::uint32_t i = 0; i < length; ++i) {
    const std::string error = history.operate();
    if (!error.empty()) RC_FAIL(error + " at operation " + std::to_string(i));
  }
  const std::string error = history.finish();
  if (!error.empty()) RC_FAIL(error);
}

} // namespace
} // namespace quire
