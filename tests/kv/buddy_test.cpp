// The baselines' buddy pool: aligned powers of two, whole again once everything is freed.
#include <gtest/gtest.h>

#include <random>

#include "kv/buddy.hpp"

namespace quire {
namespace {

TEST(BuddyPool, SevenChunksOf2048FitInto15700Slots) { // the paper's «Orca (Max)» on 40 GB
  BuddyPool pool(15700);
  for (int i = 0; i < 7; ++i) EXPECT_NE(pool.allocate(2048), BuddyPool::kNone);
  EXPECT_FALSE(pool.can_allocate(2048));
  EXPECT_EQ(pool.num_free(), 15700u - 7 * 2048);
}

TEST(BuddyPool, ChunksAreAlignedDisjointAndComeBackWhole) {
  constexpr std::uint32_t kSize = 1000;
  BuddyPool pool(kSize);
  std::mt19937 random(7);
  std::vector<std::pair<std::uint32_t, std::uint32_t>> held;
  std::vector<int> used(kSize, 0);
  for (int i = 0; i < 20000; ++i) {
    if (random() % 2 || held.empty()) {
      const std::uint32_t units = 1u << (random() % 7);
      const bool can = pool.can_allocate(units);
      const std::uint32_t first = pool.allocate(units);
      ASSERT_EQ(can, first != BuddyPool::kNone);
      if (!can) continue;
      ASSERT_EQ(first % units, 0u);
      ASSERT_LE(first + units, kSize);
      for (std::uint32_t u = first; u < first + units; ++u) ASSERT_EQ(used[u]++, 0);
      held.emplace_back(first, units);
    } else {
      std::swap(held[random() % held.size()], held.back());
      const auto [first, units] = held.back();
      held.pop_back();
      for (std::uint32_t u = first; u < first + units; ++u) --used[u];
      pool.free(first, units);
    }
  }
  for (const auto& [first, units] : held) pool.free(first, units);
  EXPECT_EQ(pool.num_free(), kSize);
  EXPECT_EQ(pool.allocate(pool.largest()), 0u);
}

} // namespace
} // namespace quire
