// Buckets, work lists of attention, and what a machine without a driver is told: no GPU is needed.
#include "attend_plan.hpp"
#include "buckets.hpp"
#include "device.hpp"
#include "emulator/control.hpp"
#include "ops/linear_chain.hpp"

#include <gtest/gtest.h>

#include <algorithm>
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

TEST(CudaChain, HoldsOneFormatOrAPairThatAKernelHas) {
  uint32_t first = 0, second = 0;
  EXPECT_TRUE(chain_holds(QUIRE_Q4_K, first, second));
  EXPECT_TRUE(chain_holds(QUIRE_Q4_K, first, second));
  EXPECT_EQ(second, 0u);
  EXPECT_TRUE(chain_holds(QUIRE_Q6_K, first, second));
  EXPECT_FALSE(chain_holds(QUIRE_Q8_0, first, second)) << "a third format";
  EXPECT_EQ(first, uint32_t{QUIRE_Q4_K});
  EXPECT_EQ(second, uint32_t{QUIRE_Q6_K});
  first = second = 0;
  EXPECT_TRUE(chain_holds(QUIRE_F16, first, second));
  EXPECT_FALSE(chain_holds(QUIRE_Q4_K, first, second)) << "fp16 and blocks are read by different kernels";
  EXPECT_EQ(second, 0u);
}

TEST(CudaChain, TakesAsManyRowsAsSharedMemoryHolds) {
  ChainArgs args;
  args.num_phases = 1;
  LinearArgs& linear = args.phases[0].linear;
  linear.num_parts = 1;
  linear.parts[0].weight.rows = 4096, linear.parts[0].weight.cols = 1024;
  EXPECT_EQ(chain_rows(args, 227 << 10), kChainRows);
  linear.parts[0].weight.cols = 14336;
  const uint32_t rows = chain_rows(args, 227 << 10);
  EXPECT_GE(rows, 1u);
  EXPECT_LT(rows, kChainRows);
  EXPECT_EQ(chain_rows(args, 64 << 10), 0u);
  linear.parts[0].weight.format = QUIRE_Q4_K;
  EXPECT_EQ(chain_rows(args, 227 << 10), 1u);
  EXPECT_EQ(chain_items(linear), 256u);
}

TEST(CudaAttendPlan, EveryPositionIsReadOnceAndTheGridIsFilled) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    std::vector<AttendSequence> sequences(1 + random() % 40);
    for (uint32_t s = 0; s < sequences.size(); ++s)
      sequences[s] = {s, 1, 1 + static_cast<uint32_t>(random() % (round % 3 == 0 ? 60000 : 3000)), 1000 * s};
    AttendShape shape;
    shape.group = 4;
    shape.kv_heads = 1 + static_cast<uint32_t>(random() % 8);
    shape.window = round % 2 == 0 ? 0u : 1 + static_cast<uint32_t>(random() % 900);
    shape.blocks = 1 + static_cast<uint32_t>(random() % 264);
    AttendPlan plan;
    plan_attend(sequences, shape, plan);
    const auto most = max_decode_items(static_cast<uint32_t>(sequences.size()), shape.blocks, shape.kv_heads);
    EXPECT_LE(plan.decode.size(), most);
    EXPECT_LE(plan.decode_partials, most);
    std::vector<std::vector<DecodeItem>> of(sequences.size());
    std::vector<bool> taken(plan.decode_partials);
    for (size_t i = 0; i < plan.decode.size(); ++i) {
      const DecodeItem& item = plan.decode[i];
      if (i > 0) {
        EXPECT_LE(item.end - item.begin, plan.decode[i - 1].end - plan.decode[i - 1].begin);
      }
      EXPECT_LE(item.parts, kMaxDecodeParts);
      EXPECT_EQ(item.table, 1000 * item.token);
      EXPECT_EQ(item.stored, sequences[item.token].length - 1);
      of[item.token].push_back(item);
      if (item.parts > 1) {
        ASSERT_LT(item.partial + item.part, plan.decode_partials);
        EXPECT_FALSE(taken[item.partial + item.part]) << "two parts leave their result in the same place";
        taken[item.partial + item.part] = true;
      }
    }
    for (uint32_t s = 0; s < sequences.size(); ++s) {
      std::sort(of[s].begin(), of[s].end(), [](const auto& a, const auto& b) { return a.part < b.part; });
      uint32_t next = first_seen(sequences[s].length - 1, shape.window);
      for (uint32_t part = 0; part < of[s].size(); ++part) {
        EXPECT_EQ(of[s][part].part, part);
        EXPECT_EQ(of[s][part].parts, of[s].size());
        EXPECT_EQ(of[s][part].begin, next);
        EXPECT_LT(of[s][part].begin, of[s][part].end);
        next = of[s][part].end;
      }
      EXPECT_EQ(next, sequences[s].length);
    }
  }
}

TEST(CudaAttendPlan, OneLongSequenceOccupiesTheWholeGrid) {
  AttendShape shape;
  shape.group = 4, shape.kv_heads = 8, shape.blocks = 264;
  AttendPlan plan;
  plan_attend(std::vector<AttendSequence>{{0, 1, 32768, 0}}, shape, plan);
  EXPECT_GE(plan.decode.size() * shape.kv_heads, 256u);
  uint32_t longest = 0;
  for (const DecodeItem& item : plan.decode) longest = std::max(longest, item.end - item.begin);
  EXPECT_LE(longest, 32768 * 8 / 264 + 64);
}

TEST(CudaAttendPlan, LongChunksGoToTheWideKernelWhereThereIsOne) {
  AttendShape shape;
  shape.group = 4, shape.kv_heads = 2, shape.blocks = 16, shape.wide = true;
  const std::vector<AttendSequence> sequences{{0, 300, 1300, 7}, {300, 5, 90, 50}, {305, 1, 77, 60}};
  AttendPlan plan;
  plan_attend(sequences, shape, plan);
  ASSERT_EQ(plan.wide.size(), 3u);
  uint32_t tokens = 0;
  for (const WideItem& item : plan.wide) {
    EXPECT_EQ(item.position - item.token, 1000u);
    EXPECT_EQ(item.end, 1300u);
    EXPECT_EQ(item.table, 7u);
    tokens += item.tokens;
  }
  EXPECT_EQ(tokens, 300u);
  ASSERT_EQ(plan.prefill.size(), 1u);
  EXPECT_EQ(plan.prefill[0].rows, 20u);
  EXPECT_FALSE(plan.decode.empty());
  shape.wide = false;
  plan_attend(sequences, shape, plan);
  EXPECT_TRUE(plan.wide.empty());
  EXPECT_EQ(plan.prefill.size(), 1200 / kPrefillRows + 2);
}

TEST(CudaAttendPlan, FixedOrderCutsAtTheSamePositionsWhateverTheBatch) {
  AttendPlan alone, batch;
  AttendShape shape;
  shape.group = 4, shape.fixed_order = true, shape.max_partials = 1000;
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
