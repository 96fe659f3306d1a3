#include "decode/sampling_state.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

namespace quire {
namespace {

SamplingState state(const SamplingParameters& p, std::vector<int32_t> ends, std::vector<int32_t> prompt,
                    uint32_t vocab = 100) {
  return SamplingState(std::make_shared<const SamplingPlan>(p, ends, 7, vocab), 3, prompt);
}

TEST(SamplingState, RowCarriesWhatWasAskedFor) {
  SamplingParameters p;
  p.temperature = 0.5f;
  p.top_p = 0.9f;
  p.top_k = 40;
  p.logprobs = 5;
  quire_sampling_row row;
  state(p, {}, {1}).fill(row, 12, 0, 4);
  EXPECT_EQ(row.temperature, 0.5f);
  EXPECT_EQ(row.top_p, 0.9f);
  EXPECT_EQ(row.top_k, 40u);
  EXPECT_EQ(row.num_candidates, 5u);
  EXPECT_EQ(row.seed, 7u);
  EXPECT_EQ(row.choice, 3u);
  EXPECT_EQ(row.position, 12u);
  EXPECT_EQ(row.pending_row, 0u); // no penalty counts it
  EXPECT_EQ(row.num_counts, 0u);
}

TEST(SamplingState, CountsPromptOnlyForRepetition) {
  SamplingParameters p;
  p.frequency_penalty = 1;
  SamplingState s = state(p, {}, {1, 1, 2});
  quire_sampling_row row;
  s.fill(row, 3, 0, 0);
  EXPECT_EQ(row.num_counts, 0u);
  s.count(2);
  s.count(2);
  s.fill(row, 5, 2, 9);
  ASSERT_EQ(row.num_counts, 1u);
  EXPECT_EQ(row.counts[0].token, 2);
  EXPECT_EQ(row.counts[0].in_output, 2u);
  EXPECT_EQ(row.pending_row, 9u);

  p.repetition_penalty = 1.1f;
  s = state(p, {}, {1, 1, 2});
  s.fill(row, 3, 0, 0);
  ASSERT_EQ(row.num_counts, 2u);
}

TEST(SamplingState, CountsEveryTokenOnceWhateverTheirNumber) {
  SamplingParameters p;
  p.repetition_penalty = 1.5f;
  std::mt19937 random(1);
  std::vector<int32_t> prompt(500);
  std::map<int32_t, std::pair<uint32_t, uint32_t>> expected;
  for (int32_t& t : prompt) ++expected[t = static_cast<int32_t>(random() % 5000)].first;
  SamplingState s = state(p, {}, prompt, 5000);
  for (int i = 0; i < 3000; ++i) {
    const auto t = static_cast<int32_t>(random() % 5000);
    s.count(t);
    ++expected[t].second;
  }
  const SamplingState fork = s; // a fork counts on its own
  s.count(prompt[0]);
  quire_sampling_row row;
  fork.fill(row, 3500, 3000, 0);
  ASSERT_EQ(row.num_counts, expected.size());
  for (uint32_t i = 0; i < row.num_counts; ++i) {
    const auto& e = expected.at(row.counts[i].token);
    EXPECT_EQ(row.counts[i].in_prompt, e.first);
    EXPECT_EQ(row.counts[i].in_output, e.second);
  }
}

TEST(SamplingState, BiasNamesEachTokenOnceAndBansWin) {
  SamplingParameters p;
  p.logit_bias = {{5, 2.0f}, {6, -1.0f}};
  p.banned_tokens = {6, 8, 8};
  p.min_tokens = 2;
  SamplingState s = state(p, {5, 9, 9}, {1});
  const auto biases = [&](uint32_t num_output) {
    quire_sampling_row row;
    s.fill(row, 1, num_output, 0);
    std::map<int32_t, float> found;
    for (uint32_t i = 0; i < row.num_bias; ++i) EXPECT_TRUE(found.emplace(row.bias[i].token, row.bias[i].bias).second);
    return found;
  };
  const auto early = biases(1), late = biases(2);
  EXPECT_EQ(late.at(5), 2.0f);
  EXPECT_EQ(late.size(), 3u);
  EXPECT_TRUE(std::isinf(late.at(6)) && std::isinf(late.at(8)));
  EXPECT_TRUE(std::isinf(early.at(5)) && std::isinf(early.at(9)));
  EXPECT_TRUE(s.plan().stops(9));
  EXPECT_FALSE(s.plan().stops(6));
}

TEST(SamplingState, AllowedTokensBecomeAMask) {
  SamplingParameters p;
  p.allowed_tokens = {0, 31, 32, 99};
  quire_sampling_row row;
  const SamplingState s = state(p, {}, {1});
  s.fill(row, 1, 0, 0);
  for (uint32_t t = 0; t < 100; ++t) {
    const bool allowed = row.mask[t / 32] >> (t % 32) & 1;
    EXPECT_EQ(allowed, t == 0 || t == 31 || t == 32 || t == 99) << t;
  }
}

TEST(SamplingState, HostAppliesPenaltiesBiasAndMaskInOrder) {
  const quire_token_count counts[] = {{1, 1, 0}, {2, 0, 3}};
  const quire_logit_bias bias[] = {{3, 4.0f}};
  const uint32_t mask = 0b11111;
  quire_sampling_row row{};
  row.repetition_penalty = 2;
  row.frequency_penalty = 0.5f;
  row.presence_penalty = 0.25f;
  row.counts = counts;
  row.num_counts = 2;
  row.bias = bias;
  row.num_bias = 1;
  row.mask = &mask;
  std::vector<float> logits = {1, 2, -3, 1, 0, 9};
  apply_row(row, logits);
  EXPECT_EQ(logits[0], 1.0f);
  EXPECT_EQ(logits[1], 1.0f);                     // 2 / 2
  EXPECT_EQ(logits[2], -6.0f - 0.5f * 3 - 0.25f); // -3 * 2, then the output's penalties
  EXPECT_EQ(logits[3], 5.0f);
  EXPECT_EQ(logits[5], -std::numeric_limits<float>::infinity());
}

TEST(SamplingState, LogSumExpOfLargeNumbers) {
  EXPECT_NEAR(log_sum_exp(std::vector<float>{1000, 1000}), 1000 + std::log(2.0), 1e-9);
}

} // namespace
} // namespace quire
