// The judges of the conformance suite see what is wrong: they could not be trusted with a pass otherwise.
#include "support/block_formats.hpp"
#include "support/float64_machine.hpp"
#include "support/logit_goldens.hpp"
#include "support/sampling64.hpp"
#include "support/small_model.hpp"
#include "support/tolerance.hpp"

#include "weights/formats.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

namespace quire::tests {

TEST(Judges, CompareSeesOneWrongElement) {
  constexpr size_t rows = 3, width = 64;
  Random random(3);
  const std::vector<float> right = random.normals(rows * width);
  const std::vector<double> expected(right.begin(), right.end()), e(rows * width, 1e-6);
  EXPECT_TRUE(compare(right.data(), expected, e, rows, width).ok());
  for (const float wrong : {right[77] + 1e-5f, -right[77], std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity()}) {
    std::vector<float> actual = right;
    actual[77] = wrong;
    const Comparison result = compare(actual.data(), expected, e, rows, width);
    EXPECT_FALSE(result.ok()) << wrong;
    EXPECT_NE(result.message.find("row 1, element 13"), std::string::npos) << result.message;
  }
  // Every element within its bound, but all of them off: the row's RMS shows it.
  std::vector<float> actual = right;
  for (float& x : actual) x += 4e-6f;
  EXPECT_FALSE(compare(actual.data(), expected, e, rows, width).ok());
}

// The derived bounds are narrow enough to see a term missing from a long sum, or a key too many in a softmax.
TEST(Judges, BoundsAreNarrow) {
  Random random(4);
  TestProgram p;
  p.vocab_size = 2;
  constexpr uint32_t K = 11008;
  const uint32_t in = p.input(K, random), out = p.tensor(QUIRE_TOKENS, 1, 8);
  p.op(QUIRE_OP_LINEAR, {in}, {out}).u.linear.weights[0] =
      p.random_weight(QUIRE_F16, 0, 8, K, 1 / std::sqrt(K), random);
  Float64Machine machine(p, Precision{});
  machine.run({{{0, {0}}}, {}}, {});
  const Tensor64& y = machine.value(out);
  for (size_t i = 0; i < y.size(); ++i)
    EXPECT_LT(kElementMargin * y.e[i], 0.5 / std::sqrt(K) / 2) << "half of a usual term";
}

// A cache in E4M3 is no excuse: where the value is known, only the value it is rounded to will do.
TEST(Judges, ACacheInE4m3IsHeldToItsOwnRounding) {
  Precision p;
  p.kv_e4m3 = true;
  double error = 1e-6;
  EXPECT_EQ(keep_in_cache(p, 1.06, error), 1.0);
  EXPECT_EQ(error, 0);
  error = 1e-3; // 1.0625 is half-way: either neighbour
  EXPECT_EQ(keep_in_cache(p, 1.06, error), 1.0);
  EXPECT_NEAR(error, 0.125, 1e-4);
  error = 1e-6;
  EXPECT_EQ(keep_in_cache(p, -5000, error), -448);
  EXPECT_EQ(error, 0);
  for (const double value : {0.0, 0x1p-11, 0x1.7p-10, 0x1.fp-7, 0.3, 1.1875, -17.0, 447.0, 463.0, -1e6})
    EXPECT_EQ(round_e4m3(value), e4m3_to_float(float_to_e4m3(static_cast<float>(value)))) << value;
}

TEST(Judges, SampledTokensAreJudged) {
  Random random(5);
  const std::vector<float> logits = random.normals(500, 2);
  quire_sampling_row row{};
  quire_sampled_row got{};
  const auto order = [&] {
    std::vector<int32_t> ids(logits.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::sort(ids.begin(), ids.end(),
              [&](int32_t a, int32_t b) { return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)]; });
    return ids;
  }();
  double sum = 0;
  for (const float l : logits) sum += std::exp(l);
  const auto with = [&](int32_t token) {
    got.token = token;
    const bool known = token >= 0 && static_cast<size_t>(token) < logits.size();
    got.logprob = known ? static_cast<float>(logits[static_cast<size_t>(token)] - std::log(sum)) : 0;
    return judge_sampled(logits, row, -1, got);
  };
  EXPECT_EQ(with(order[0]), "");
  EXPECT_NE(with(order[1]), "");
  EXPECT_NE(with(-1), "");
  EXPECT_NE(with(500), "");
  with(order[0]);
  got.logprob += 0.01f;
  EXPECT_NE(judge_sampled(logits, row, -1, got), "");

  // Of all tokens exactly one is the Gumbel-max choice, and it lies within the filters.
  row.temperature = 0.9f;
  row.seed = 77;
  for (const uint32_t top_k : {0u, 40u, 3u, 1u}) {
    row.top_k = top_k;
    size_t right = 0;
    for (int32_t token = 0; token < 500; ++token)
      if (with(token).empty()) {
        ++right;
        if (top_k) {
          EXPECT_GE(logits[static_cast<size_t>(token)], logits[static_cast<size_t>(order[top_k - 1])]);
        }
      }
    EXPECT_EQ(right, 1u) << "top_k " << top_k;
  }
}

TEST(Judges, FiltersKeepWhatTheirPapersSay) {
  // Probabilities 0.4, 0.3, 0.2, 0.1 at temperature 1.
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.2f), std::log(0.3f)};
  quire_sampling_row row{};
  row.temperature = 1;
  const auto kept = [&] { return kept64(logits, row, -1).tokens; };
  EXPECT_EQ(kept(), (std::vector<uint32_t>{0, 1, 2, 3}));
  row.top_p = 0.69f;
  EXPECT_EQ(kept(), (std::vector<uint32_t>{1, 3}));
  row.top_p = 0.71f;
  EXPECT_EQ(kept(), (std::vector<uint32_t>{1, 2, 3}));
  row.top_k = 2; // 4/7 and 3/7 remain: one of them does not reach 0.71
  EXPECT_EQ(kept(), (std::vector<uint32_t>{1, 3}));
  row.top_p = 0.5f;
  EXPECT_EQ(kept(), (std::vector<uint32_t>{1}));
  row = {};
  row.temperature = 1;
  row.min_p = 0.6f;
  EXPECT_EQ(kept(), (std::vector<uint32_t>{1, 3}));
  row = {};
  row.temperature = 1;
  row.typical_p = 0.25f; // the entropy is 1.28: -log 0.3 = 1.20 is the nearest, then -log 0.2 = 1.61
  EXPECT_EQ(kept(), (std::vector<uint32_t>{3}));
  row.typical_p = 0.45f;
  EXPECT_EQ(kept(), (std::vector<uint32_t>{2, 3}));
}

// Two readers of the block formats that share nothing.
TEST(Judges, BlockFormatsAreReadAlikeByTheEngine) {
  Random random(6);
  for (const uint32_t format : all_formats()) {
    constexpr uint64_t count = 2048;
    const auto blocks = random_blocks(format, count, 1, random);
    std::vector<double> expected(count);
    std::vector<float> got(count);
    decode(format, blocks.data(), count, expected.data());
    dequantize(format, blocks.data(), count, got.data());
    double squares = 0;
    for (uint64_t i = 0; i < count; ++i) {
      ASSERT_NEAR(got[i], expected[i], 1e-6 * (std::abs(expected[i]) + 2))
          << format_shape(format).name << " element " << i;
      squares += expected[i] * expected[i];
    }
    EXPECT_NEAR(std::sqrt(squares / count), 1, 0.5) << format_shape(format).name << ": random blocks of deviation 1";
  }
}

TEST(Judges, HalfPrecisionRoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x7C00; ++bits) {
    const double value = half_value(static_cast<uint16_t>(bits));
    ASSERT_EQ(half_bits(value), bits);
    const double next = half_value(static_cast<uint16_t>(bits + 1)), middle = (value + next) / 2;
    if (bits + 1 < 0x7C00) {
      ASSERT_EQ(half_bits(middle), bits % 2 ? bits + 1 : bits);
      ASSERT_EQ(half_bits(-middle), (bits % 2 ? bits + 1 : bits) | 0x8000);
    }
  }
}

} // namespace quire::tests
