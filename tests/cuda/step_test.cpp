// The step as the device reads it, word by word, and what a step is refused for: no GPU is needed.
#include "step_buffer.hpp"
#include "support.hpp"

#include <quire/plugin.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <random>

namespace quire::cuda {
namespace {

constexpr uint32_t kBlocks = 5000;

StepTraits traits_of(uint32_t window) {
  StepTraits traits;
  traits.groups = 1;
  traits.block_size = 16;
  traits.vocab = 1000;
  traits.limits.max_tokens = 512, traits.limits.max_sequences = 64, traits.limits.max_rows = 64;
  traits.limits.max_context = 2000;
  AttendClass kind;
  kind.heads = 8, kind.kv_heads = 2, kind.fast = true, kind.blocks = 16, kind.window = window;
  traits.classes.push_back(kind);
  return traits;
}

std::string refusal(const quire_step& step, const StepTraits& traits) {
  try {
    check_step(step, traits, std::array{kBlocks});
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.code(), QUIRE_INVALID);
    return failure.what();
  }
  return "";
}

TEST(CudaStep, ADecodeStepIsWrittenAsItIsAndPaddedToItsBucket) {
  std::mt19937 random(3);
  const StepTraits traits = traits_of(0);
  const StepShape shape = bucket_shape(64, Clusters::none, traits);
  const StepLayout layout = lay_out_step(shape, 1, traits.classes);
  StepHistory history(16, kBlocks);
  for (int i = 0; i < 40; ++i) history.add(1 + static_cast<uint32_t>(random() % 1500));
  StepPlans plans;
  for (int round = 0; round < 200; ++round) {
    history.grow();
    const auto some = static_cast<uint32_t>(random() % history.sequences());
    if (random() % 4 == 0) history.cut(some, 1 + static_cast<uint32_t>(random() % 1500));
    if (random() % 8 == 0 && history.sequences() < 64) history.add(1 + static_cast<uint32_t>(random() % 1500));
    if (random() % 8 == 0 && history.sequences() > 1) history.remove(some);
    const quire_step step = history.step();
    ASSERT_EQ(refusal(step, traits), "");
    plan_step(step, traits, plans, Clusters::none);
    std::vector<std::byte> out(most_step_bytes(traits), std::byte{0xee}); // whatever was there before
    const uint64_t bytes = write_step(step, traits, plans, shape, layout, 7, out);
    ASSERT_LE(bytes, out.size());
    const auto word = [&](uint64_t offset, uint64_t index) {
      uint32_t value = 0;
      std::memcpy(&value, out.data() + offset + 4 * index, 4);
      return value;
    };
    for (uint32_t s = 0; s < 64; ++s) {
      const bool there = s < step.num_sequences;
      const uint32_t position = there ? step.seq_len[s] - 1 : 0;
      EXPECT_EQ(word(layout.tokens, s), 0u); // all come from the ticket before
      EXPECT_EQ(word(layout.token_rows, s), there ? s + 1 + 7 : 0);
      EXPECT_EQ(word(layout.positions, s), position);
      EXPECT_EQ(word(layout.rows, s), there ? s : 0);
      EXPECT_EQ(word(layout.slots[0], s),
                there ? step.tables[0][step.table_start[s] + position / 16] * 16 + position % 16 : kNoSlot);
      EXPECT_EQ(word(layout.token_tables[0], s), there ? step.table_start[s] : kNoSlot);
    }
    EXPECT_EQ(std::memcmp(out.data() + layout.tables, step.tables[0], 4ull * step.table_start[step.num_sequences]), 0);
    ListHeader header;
    std::memcpy(&header, out.data() + layout.classes[0].header, sizeof header);
    ASSERT_EQ(header.num_decode, plans.classes[0].decode.size());
    EXPECT_EQ(std::memcmp(out.data() + layout.classes[0].decode, plans.classes[0].decode.data(),
                          header.num_decode * sizeof(DecodeItem)),
              0);
  }
}

TEST(CudaStep, ChunksOfPromptsHaveThePlacesOfTheirTokens) {
  const StepTraits traits = traits_of(0);
  const int32_t tokens[] = {5, 6, 7, 8};
  const uint32_t query_start[] = {0, 3, 4}, seq_len[] = {18, 1}, table_start[] = {0, 2, 3}, table[] = {40, 41, 42},
                 rows[] = {2, 3};
  const uint32_t* tables[] = {table};
  quire_step step{};
  step.num_tokens = 4, step.num_sequences = 2, step.num_rows = 2;
  step.tokens = tokens, step.query_start = query_start, step.seq_len = seq_len, step.table_start = table_start;
  step.tables = tables, step.rows = rows;
  ASSERT_EQ(refusal(step, traits), "");
  StepPlans plans;
  plan_step(step, traits, plans, Clusters::none);
  const StepShape shape = exact_shape(step, plans);
  const StepLayout layout = lay_out_step(shape, 1, traits.classes);
  std::vector<std::byte> out(most_step_bytes(traits));
  write_step(step, traits, plans, shape, layout, 7, out);
  const auto words = [&](uint64_t offset) {
    std::vector<uint32_t> values(4);
    std::memcpy(values.data(), out.data() + offset, 16);
    return values;
  };
  EXPECT_EQ(words(layout.tokens), (std::vector<uint32_t>{5, 6, 7, 8}));
  EXPECT_EQ(words(layout.token_rows), (std::vector<uint32_t>{0, 0, 0, 0}));
  EXPECT_EQ(words(layout.positions), (std::vector<uint32_t>{15, 16, 17, 0}));
  EXPECT_EQ(words(layout.slots[0]), (std::vector<uint32_t>{40 * 16 + 15, 41 * 16, 41 * 16 + 1, 42 * 16}));
  EXPECT_EQ(words(layout.token_tables[0]), (std::vector<uint32_t>{0, 0, 0, 2}));
}

TEST(CudaStep, RowsAreInOrderWhereEveryTokensIsWantedOnce) {
  const auto in_order = [](uint32_t tokens, const std::vector<uint32_t>& rows) {
    quire_step step{};
    step.num_tokens = tokens, step.num_rows = static_cast<uint32_t>(rows.size()), step.rows = rows.data();
    return rows_in_order(step);
  };
  EXPECT_TRUE(in_order(1, {0}));
  EXPECT_TRUE(in_order(3, {0, 1, 2}));
  EXPECT_FALSE(in_order(2, {0}));
  EXPECT_FALSE(in_order(2, {1}));
  EXPECT_FALSE(in_order(2, {0, 0}));
  EXPECT_FALSE(in_order(2, {1, 0}));
  EXPECT_FALSE(in_order(1, {0, 0}));
  EXPECT_FALSE(in_order(1, {}));
}

TEST(CudaStep, ClustersAreForFewSequencesThatReadLittle) {
  StepTraits traits = traits_of(0); // 2 KV heads
  traits.classes[0].clusters = {1, 4, 9};
  const auto clusters = [&](const std::vector<uint32_t>& lengths) {
    StepHistory history(16, kBlocks);
    for (const uint32_t length : lengths) history.add(length);
    return clusters_for(history.step(), traits);
  };
  const auto wants = [&](const std::vector<uint32_t>& lengths) { return clusters(lengths) != Clusters::none; };
  const uint32_t most = kClusterReads / 2;
  EXPECT_TRUE(wants({1}));
  EXPECT_TRUE(wants({most}));
  EXPECT_FALSE(wants({most + 1}));
  EXPECT_TRUE(wants({most - 30, 10, 10, 10}));
  EXPECT_FALSE(wants({most - 30, 10, 10, 11})) << "together";
  EXPECT_FALSE(wants({1, 1, 1, 1, 1})) << "no room";
  traits.classes[0].position_bytes = 1024;
  constexpr uint32_t kFew = kKeysFirstBytes / 1024 - 1;
  static_assert(kFew + 1 < kClusterReads / 2);
  EXPECT_EQ(clusters({kFew}), Clusters::plain);
  EXPECT_EQ(clusters({kFew + 1}), Clusters::keys_first);
  EXPECT_EQ(clusters({kFew - 10, 11}), Clusters::keys_first) << "together";
  EXPECT_EQ(clusters({most + 1}), Clusters::none);
  traits.classes[0].window = 1000;
  EXPECT_TRUE(wants({most + 1, 60000})) << "a window is read";
  EXPECT_EQ(clusters({most}), Clusters::plain);
  traits.classes.push_back(traits.classes[0]);
  traits.classes[1].window = 0;
  EXPECT_FALSE(wants({most + 1})) << "all classes read little, or none has clusters";
  traits.classes[1].clusters = {};
  EXPECT_TRUE(wants({most + 1})) << "but for those that never have them";
  traits.classes[0].clusters = {};
  EXPECT_FALSE(wants({1}));
}

TEST(CudaStep, ABucketIsForWhatItsStepsMayWant) {
  StepTraits traits = traits_of(0); // 2 KV heads
  EXPECT_TRUE(clusters_of_bucket(1, traits).empty());
  traits.limits.max_context = kClusterReads;
  traits.classes[0].clusters = {1, 4, 9};
  traits.classes[0].position_bytes = kKeysFirstBytes / (kClusterReads / 2);
  EXPECT_EQ(clusters_of_bucket(1, traits), (std::vector{Clusters::plain, Clusters::keys_first}));
  EXPECT_EQ(clusters_of_bucket(4, traits), (std::vector{Clusters::plain, Clusters::keys_first}));
  EXPECT_TRUE(clusters_of_bucket(8, traits).empty()) << "no room";
  --traits.classes[0].position_bytes;
  EXPECT_EQ(clusters_of_bucket(1, traits), std::vector{Clusters::plain});
  ++traits.classes[0].position_bytes;
  traits.limits.max_context = kClusterReads / 2 / 4;
  EXPECT_EQ(clusters_of_bucket(1, traits), std::vector{Clusters::plain}) << "contexts are short";
  EXPECT_EQ(clusters_of_bucket(4, traits), (std::vector{Clusters::plain, Clusters::keys_first}));
}

TEST(CudaStep, APlanHasClustersWhereTheyAreWanted) {
  StepTraits traits = traits_of(0);
  traits.classes[0].clusters = {1, 4, 9};
  StepHistory history(16, kBlocks);
  for (uint32_t s = 0; s < 3; ++s) history.add(100 + s);
  const quire_step step = history.step();
  StepPlans plans;
  for (const uint32_t bucket : {0u, 4u})
    for (const Clusters wanted : {Clusters::none, Clusters::plain, Clusters::keys_first}) {
      const bool clusters = wanted != Clusters::none;
      plan_step(step, traits, plans, wanted, bucket);
      const StepShape shape = bucket != 0 ? bucket_shape(bucket, wanted, traits) : exact_shape(step, plans);
      const uint32_t padded = bucket != 0 ? bucket : 3;
      EXPECT_EQ(plans.classes[0].decode.empty(), clusters);
      EXPECT_EQ(plans.classes[0].clustered.size(), clusters ? padded * 8 : 0);
      EXPECT_EQ(shape.cluster_items[0], clusters ? padded * 8 : 0);
      EXPECT_GE(shape.decode_items[0], plans.classes[0].decode.size());
      std::vector<std::byte> out(most_step_bytes(traits));
      const StepLayout layout = lay_out_step(shape, 1, traits.classes);
      EXPECT_LE(write_step(step, traits, plans, shape, layout, 0, out), out.size());
    }
}

TEST(CudaStep, ClustersItemsHaveTheFirstOfTheirBlocks) {
  StepTraits traits = traits_of(0);
  traits.limits.max_context = 10000;
  traits.classes[0].clusters = {1, 4, 9}; // of 8 blocks, for three sequences
  StepHistory history(16, kBlocks);
  for (const uint32_t length : {9000u, 40u, 3000u}) history.add(length);
  const quire_step step = history.step();
  StepPlans plans;
  plan_step(step, traits, plans, Clusters::plain);
  const StepShape shape = exact_shape(step, plans);
  const StepLayout layout = lay_out_step(shape, 1, traits.classes);
  std::vector<std::byte> out(most_step_bytes(traits), std::byte{0xee});
  ASSERT_LE(write_step(step, traits, plans, shape, layout, 0, out), out.size());
  ASSERT_EQ(plans.classes[0].clustered.size(), 24u);
  uint32_t most = 0;
  for (uint32_t i = 0; i < 24; ++i) {
    ClusterItem item;
    std::memcpy(&item, out.data() + layout.classes[0].clusters + i * sizeof item, sizeof item);
    const DecodeItem& wanted = plans.classes[0].clustered[i];
    ASSERT_EQ(std::memcmp(&item.item, &wanted, sizeof wanted), 0);
    const uint32_t first = wanted.begin / 16,
                   blocks = wanted.begin == wanted.end ? 0 : (wanted.end - 1) / 16 + 1 - first;
    for (uint32_t b = 0; b < kClusterBlocks; ++b)
      EXPECT_EQ(item.blocks[b], b < blocks ? step.tables[0][step.table_start[i / 8] + first + b] : 0) << i << ", " << b;
    most = std::max(most, blocks);
  }
  EXPECT_GT(most, kClusterBlocks);
}

TEST(CudaStep, WhatIsWrongIsRefusedByName) {
  const StepTraits traits = traits_of(0);
  StepHistory history(16, kBlocks);
  for (uint32_t s = 0; s < 5; ++s) history.add(100 + s);
  const quire_step good = history.step();
  ASSERT_EQ(refusal(good, traits), "");
  const auto with = [&](const uint32_t* quire_step::*field, std::vector<uint32_t> values) {
    quire_step step = good;
    step.*field = values.data();
    return refusal(step, traits);
  };
  const std::vector<uint32_t> starts(good.table_start, good.table_start + 6), lengths(good.seq_len, good.seq_len + 5);
  const auto changed = [](std::vector<uint32_t> values, size_t at, uint32_t to) { return values[at] = to, values; };
  const std::string divides = "CUDA: the step divides its tokens wrongly";
  EXPECT_EQ(with(&quire_step::query_start, {0, 1, 1, 3, 4, 5}), divides);
  EXPECT_EQ(with(&quire_step::query_start, {1, 2, 3, 4, 5, 6}), divides);
  EXPECT_EQ(with(&quire_step::query_start, {0, 2, 1, 3, 4, 5}), divides);
  EXPECT_EQ(with(&quire_step::query_start, {0, 1, 2, 3, 4, 6}), divides);
  EXPECT_EQ(with(&quire_step::seq_len, changed(lengths, 2, 0)), "CUDA: the step has a sequence without tokens");
  EXPECT_EQ(with(&quire_step::seq_len, changed(lengths, 2, 2001)),
            "CUDA: the step has a sequence beyond the context of the limits");
  EXPECT_EQ(with(&quire_step::seq_len, changed(lengths, 2, 16 * 7 + 1)),
            "CUDA: the step has a block table shorter than its sequence");
  EXPECT_EQ(with(&quire_step::rows, {0, 1, 2, 3, 5}),
            "CUDA: the step wants the output of a token that it doesn't have");
  EXPECT_EQ(with(&quire_step::token_rows, {1, 2, 3, 65, 5}),
            "CUDA: the step takes a token from a row beyond the limits");
  EXPECT_EQ(with(&quire_step::token_rows, {1, 2, 3, 0, 5}), "CUDA: the step has token -1, the vocabulary has 1000");
  for (const uint32_t block : {kBlocks, 0x7fffffffu, 0x80000000u, 0x80000000u + kBlocks, UINT32_MAX}) {
    std::vector<uint32_t> table(good.tables[0], good.tables[0] + starts[5]);
    table[starts[3] + 6] = block;
    const uint32_t* tables[] = {table.data()};
    quire_step step = good;
    step.tables = tables;
    EXPECT_EQ(refusal(step, traits), "CUDA: the step names block " + std::to_string(block) + " of 5000");
  }
}

TEST(CudaStep, BlocksBehindTheWindowMayBeGone) {
  StepHistory history(16, kBlocks);
  history.add(500);
  history.add(300);
  const quire_step good = history.step();
  std::vector<uint32_t> table(good.tables[0], good.tables[0] + good.table_start[2]);
  for (uint32_t b = 0; b < (499 - 99) / 16; ++b) table[b] = UINT32_MAX;
  const uint32_t* tables[] = {table.data()};
  quire_step step = good;
  step.tables = tables;
  EXPECT_EQ(refusal(step, traits_of(100)), "");
  EXPECT_EQ(refusal(step, traits_of(0)), "CUDA: the step names block 4294967295 of 5000");
  table[(499 - 99) / 16] = UINT32_MAX; // the first that the token sees
  EXPECT_EQ(refusal(step, traits_of(100)), "CUDA: the step names block 4294967295 of 5000");
}

} // namespace
} // namespace quire::cuda
