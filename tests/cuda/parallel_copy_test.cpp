// Copies by several threads arrive whole, whatever their sizes and places and in whatever order they are waited for.
#include "parallel_copy.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

namespace quire::cuda {
namespace {

TEST(ParallelCopy, EveryJobArrivesWholeAndNothingBesideIt) {
  std::mt19937 random(1);
  const auto below = [&](uint64_t n) { return std::uniform_int_distribution<uint64_t>(0, n - 1)(random); };
  std::vector<std::byte> source(5 << 20);
  for (std::byte& b : source) b = static_cast<std::byte>(random());
  ParallelCopy copy;
  for (int round = 0; round < 20; ++round) {
    struct Job {
      uint64_t number, from, at, bytes;
      std::vector<std::byte> target;
    };
    std::vector<Job> jobs(1 + below(4));
    for (Job& job : jobs) {
      job.bytes = round % 3 == 0 ? below(300) : below(4 << 20);
      job.from = below(100), job.at = below(100);
      job.target.assign(job.bytes + 200, std::byte{0x5a});
      job.number = copy.start(job.target.data() + job.at, source.data() + job.from, job.bytes);
    }
    std::shuffle(jobs.begin(), jobs.end(), random);
    for (const Job& job : jobs) {
      copy.wait(job.number);
      EXPECT_EQ(std::memcmp(job.target.data() + job.at, source.data() + job.from, job.bytes), 0);
      const auto untouched = [](std::byte b) { return b == std::byte{0x5a}; };
      EXPECT_TRUE(std::all_of(job.target.begin(), job.target.begin() + static_cast<int64_t>(job.at), untouched));
      EXPECT_TRUE(
          std::all_of(job.target.begin() + static_cast<int64_t>(job.at + job.bytes), job.target.end(), untouched));
    }
  }
}

} // namespace
} // namespace quire::cuda
