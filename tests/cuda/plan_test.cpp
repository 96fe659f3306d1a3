// Buckets, work lists of attention, and what a machine without a driver is told: no GPU is needed.
#include "attend_plan.hpp"
#include "buckets.hpp"
#include "device.hpp"
#include "emulator/control.hpp"

#include <gtest/gtest.h>

#include <random>

namespace quire::cuda {
namespace {

TEST(CudaBuckets, HoldEveryCountAndRise) {
  const std::vector<uint32_t> buckets = buckets_up_to(300);
  EXPECT_EQ(buckets[0], 1u);
  EXPECT_EQ(buckets[1], 2u);
  EXPECT_EQ(buckets[2], 4u);
  EXPECT_EQ(buckets[3], 8u);
  EXPECT_EQ(buckets.back(), 300u);
  for (size_t i = 1; i < buckets.size(); ++i) EXPECT_LT(buckets[i - 1], buckets[i]);
  for (uint32_t n = 1; n <= 300; ++n) EXPECT_GE(bucket_for(n, 300), n);
}

TEST(CudaAttendPlan, EveryPositionIsReadOnceAndWorkersHaveEqualShares) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<AttendSequence> sequences(1 + random() % 40);
    for (uint32_t s = 0; s < sequences.size(); ++s)
      sequences[s] = {s, 1, 1 + static_cast<uint32_t>(random() % 5000), 0};
    const AttendShape shape{4, round % 2 == 0 ? 0u : 1 + static_cast<uint32_t>(random() % 900),
                            1 + static_cast<uint32_t>(random() % 40), false, 0};
    AttendPlan plan;
    plan_attend(sequences, shape, plan);
    ASSERT_EQ(plan.worker_start.size(), shape.workers + 1);
    EXPECT_EQ(plan.worker_start.front(), 0u);
    EXPECT_EQ(plan.worker_start.back(), plan.decode.size());
    std::vector<uint32_t> next(sequences.size()), parts(sequences.size());
    uint64_t total = 0;
    for (uint32_t s = 0; s < sequences.size(); ++s) {
      next[s] = first_seen(sequences[s].length - 1, shape.window);
      total += (sequences[s].length + kKvUnit - 1) / kKvUnit - next[s] / kKvUnit;
    }
    for (const DecodeItem& item : plan.decode) {
      EXPECT_EQ(item.begin, next[item.sequence]);
      EXPECT_LT(item.begin, item.end);
      EXPECT_EQ(item.part, parts[item.sequence]++);
      next[item.sequence] = item.end;
    }
    for (uint32_t s = 0; s < sequences.size(); ++s) EXPECT_EQ(next[s], sequences[s].length);
    for (const DecodeItem& item : plan.decode) EXPECT_EQ(item.parts, parts[item.sequence]);
    for (uint32_t w = 0; w < shape.workers; ++w) {
      uint64_t units = 0;
      for (uint32_t i = plan.worker_start[w]; i < plan.worker_start[w + 1]; ++i)
        units += (plan.decode[i].end + kKvUnit - 1) / kKvUnit - plan.decode[i].begin / kKvUnit;
      EXPECT_LE(units, total / shape.workers + 1);
    }
    EXPECT_LE(plan.decode_partials, max_decode_partials(static_cast<uint32_t>(sequences.size()), shape.workers));
  }
}

TEST(CudaAttendPlan, FixedOrderCutsAtTheSamePositionsWhateverTheBatch) {
  AttendPlan alone, batch;
  const AttendShape shape{4, 0, 8, true, 1000};
  const AttendSequence one{0, 1, 1300, 0}, other{1, 1, 4000, 90};
  plan_attend(std::vector{one}, shape, alone);
  plan_attend(std::vector{one, other}, shape, batch);
  ASSERT_EQ(alone.parts.size(), 3u);
  for (size_t i = 0; i < alone.parts.size(); ++i) {
    EXPECT_EQ(alone.parts[i].chunk, i);
    EXPECT_EQ(batch.parts[i].chunk, i);
    EXPECT_EQ(batch.parts[i].parts, 3u);
  }
}

TEST(CudaDevice, AMissingDriverIsOneSentence) {
  emulator::control().no_driver = true;
  try {
    count_devices();
    ADD_FAILURE() << "a device without a driver";
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.code(), QUIRE_UNSUPPORTED);
    EXPECT_NE(std::string(failure.what()).find("no NVIDIA driver"), std::string::npos);
  }
  emulator::control().no_driver = false;
  EXPECT_EQ(count_devices(), 1u);
}

} // namespace
} // namespace quire::cuda
