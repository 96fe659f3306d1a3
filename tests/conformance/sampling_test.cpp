// Sampling: each row against float64 on the very logits that the backend reports for it.
#include "conformance/harness.hpp"
#include "support/sampling64.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <sstream>

namespace quire::tests {
namespace {

// Token id t brings row t of these logits [vocab, vocab].
TestProgram table_program(uint32_t vocab, const std::vector<float>& rows) {
  TestProgram p;
  p.vocab_size = vocab;
  p.max_context = 64;
  p.add_output("logits", p.gather_rows(p.embed(p.matrix(vocab, vocab, rows))));
  return p;
}

// Logits of a large vocabulary: a product of random rows with weight(p), [vocab, kInner].
constexpr uint32_t kInner = 32;
template <class Weight> TestProgram product_program(uint32_t vocab, Random& random, const Weight& weight) {
  TestProgram p;
  p.vocab_size = vocab;
  p.max_context = 64;
  const uint32_t hidden = p.gather_rows(p.embed(p.random_weight(QUIRE_F32, 0, vocab, kInner, 1, random)));
  const uint32_t logits = p.tensor(QUIRE_OUTPUTS, 1, vocab);
  const uint32_t id = weight(p);
  p.op(QUIRE_OP_LINEAR, {hidden}, {logits}).u.linear.weights[0] = id;
  p.add_output("logits", logits);
  return p;
}

// Of about this deviation.
TestProgram wide_program(uint32_t vocab, double deviation, Random& random) {
  return product_program(vocab, random, [&](TestProgram& p) {
    return p.random_weight(QUIRE_F32, 0, vocab, kInner, deviation / std::sqrt(kInner), random);
  });
}

// Token t is as likely as token t + kinds.
TestProgram repeated_program(uint32_t vocab, uint32_t kinds, Random& random) {
  return product_program(vocab, random, [&](TestProgram& p) {
    const std::vector<float> kind = random.normals(size_t{kinds} * kInner, 0.5);
    std::vector<float> weights;
    for (uint32_t t = 0; t < vocab; ++t)
      weights.insert(weights.end(), kind.begin() + t % kinds * kInner, kind.begin() + (t % kinds + 1) * kInner);
    return p.matrix(vocab, kInner, weights);
  });
}

// A sampling row with the memory behind it, and what came of it.
struct Row {
  quire_sampling_row p{};
  std::vector<quire_token_count> counts;
  std::vector<quire_logit_bias> bias;
  std::vector<uint32_t> mask;
  std::vector<float> logits;
  std::vector<quire_candidate> candidates;
  quire_sampled_row got{};
};

std::vector<quire_sampling_row> abi_rows(std::vector<Row>& rows, uint32_t vocab) {
  std::vector<quire_sampling_row> abi;
  for (Row& row : rows) {
    row.logits.assign(vocab, -12345.0f);
    row.candidates.resize(row.p.num_candidates);
    row.p.counts = row.counts.data(), row.p.num_counts = static_cast<uint32_t>(row.counts.size());
    row.p.bias = row.bias.data(), row.p.num_bias = static_cast<uint32_t>(row.bias.size());
    row.p.mask = row.mask.empty() ? nullptr : row.mask.data();
    row.p.logits = row.logits.data();
    abi.push_back(row.p);
  }
  return abi;
}

void wait_rows(BackendSession& session, uint64_t ticket, std::vector<Row>& rows) {
  std::vector<quire_sampled_row> sampled;
  for (Row& row : rows) {
    quire_sampled_row s{};
    s.token = -777;
    s.num_candidates = row.p.num_candidates;
    s.candidates = row.candidates.data();
    sampled.push_back(s);
  }
  session.wait(ticket, sampled);
  for (size_t r = 0; r < rows.size(); ++r) rows[r].got = sampled[r];
}

// Each row samples the logits of its own token.
LogicalStep step_of(const std::vector<int32_t>& tokens) {
  LogicalStep step;
  for (uint32_t t = 0; t < tokens.size(); ++t) {
    step.parts.push_back({t, {tokens[t]}});
    step.rows.push_back(t);
  }
  return step;
}

class Sampler {
 public:
  Sampler(Harness& h, TestProgram program, uint32_t max_rows)
      : session_(h.session()), vocab_(program.vocab_size), program_(std::move(program)),
        runner_(h.session(), program_, limits_for({step_of(std::vector<int32_t>(max_rows))}, {.max_context = 64}), 1,
                h.random()) {}

  uint64_t submit(const std::vector<int32_t>& tokens, std::vector<Row>& rows) {
    for (uint32_t t = 0; t < tokens.size(); ++t) runner_.pager().drop(t); // a cacheless program: every step starts anew
    const PagedStep paged = runner_.pager().page(step_of(tokens));
    const uint64_t ticket = session_.submit(paged.view(runner_.program_id()));
    session_.sample(ticket, abi_rows(rows, vocab_));
    return ticket;
  }
  void run(const std::vector<int32_t>& tokens, std::vector<Row>& rows) {
    wait_rows(session_, submit(tokens, rows), rows);
  }

 private:
  BackendSession& session_;
  uint32_t vocab_;
  TestProgram program_; // its weights are read as long as the runner lives
  Runner runner_;
};

void expect_right(const std::vector<Row>& rows, const std::vector<int32_t>& pending = {}) {
  for (size_t r = 0; r < rows.size(); ++r)
    EXPECT_EQ(judge_sampled(rows[r].logits, rows[r].p, pending.empty() ? -1 : pending[r], rows[r].got), "")
        << "row " << r << " (--seed " << options().seed << "): temperature " << rows[r].p.temperature << ", top_k "
        << rows[r].p.top_k << ", top_p " << rows[r].p.top_p << ", min_p " << rows[r].p.min_p << ", typical_p "
        << rows[r].p.typical_p;
}

Row random_row(uint32_t vocab, Random& random) {
  Row row;
  row.p.temperature = random.chance(0.2) ? 0 : static_cast<float>(random.uniform(0.2, 1.8));
  row.p.seed = random.bits();
  row.p.choice = random.integer(0, 5);
  row.p.position = random.integer(0, 5000);
  if (random.chance(0.4)) row.p.top_k = random.integer(1, random.chance(0.7) ? 50 : vocab);
  if (random.chance(0.4)) row.p.top_p = static_cast<float>(random.uniform(0.05, 1));
  if (random.chance(0.3)) row.p.min_p = static_cast<float>(random.uniform(0.001, 0.5));
  if (random.chance(0.25)) row.p.typical_p = static_cast<float>(random.uniform(0.05, 1));
  if (random.chance(0.5)) row.p.num_candidates = random.pick({1u, 5u, 20u, 256u});
  if (random.chance(0.4)) {
    row.p.repetition_penalty = random.pick({0.0f, 1.0f, 1.3f, 0.8f});
    row.p.presence_penalty = random.pick({0.0f, 0.5f, -0.25f});
    row.p.frequency_penalty = random.pick({0.0f, 0.125f, 0.7f});
    for (const uint32_t token : random.ascending(random.integer(0, std::min(vocab, 60u)), vocab)) {
      const uint32_t in_prompt = random.integer(0, 2);
      row.counts.push_back({static_cast<int32_t>(token), in_prompt, random.integer(in_prompt ? 0 : 1, 4)});
    }
  }
  if (random.chance(0.3))
    for (const uint32_t token : random.ascending(random.integer(1, std::min(vocab, 40u)), vocab))
      row.bias.push_back({static_cast<int32_t>(token), random.chance(0.2) ? -std::numeric_limits<float>::infinity()
                                                                          : static_cast<float>(random.uniform(-8, 8))});
  if (random.chance(0.3)) {
    row.mask.resize((vocab + 31) / 32);
    for (uint32_t& word : row.mask) word = static_cast<uint32_t>(random.bits()); // bits past the vocabulary too
    row.mask[0] |= 1;
  }
  return row;
}

} // namespace

TEST(Sampling, GreedyTakesTheLargestAndTheLowestOfTies) {
  Harness h("Sampling.GreedyTakesTheLargestAndTheLowestOfTies");
  for (const uint32_t vocab : {2u, 33u, 257u, 1000u}) {
    std::vector<float> logits(size_t{vocab} * vocab);
    for (size_t row = 0; row < vocab; ++row)
      for (size_t i = 0; i < vocab; ++i) // every second row has many equal ones, 0 and -0 among them
        logits[row * vocab + i] = row % 2 ? static_cast<float>(h.random().integer(0, 7)) * h.random().pick({1.f, -1.f})
                                          : static_cast<float>(h.random().normal());
    Sampler sampler(h, table_program(vocab, logits), 64);
    std::vector<int32_t> tokens;
    std::vector<Row> rows(std::min(vocab, 64u));
    for (size_t r = 0; r < rows.size(); ++r) {
      tokens.push_back(static_cast<int32_t>(r));
      rows[r].p.num_candidates = r % 3 ? 0 : 256;
    }
    sampler.run(tokens, rows);
    expect_right(rows);
  }
}

TEST(Sampling, AnyParametersGiveTheExactToken) {
  Harness h("Sampling.AnyParametersGiveTheExactToken");
  Random& random = h.random();
  for (const uint32_t vocab : {37u, 1000u, 1021u}) {
    std::vector<float> logits = random.normals(size_t{vocab} * vocab, 2);
    for (size_t i = 0; i < logits.size(); i += 3) logits[i] = std::round(logits[i] * 4) / 4; // ties at thresholds
    Sampler sampler(h, table_program(vocab, logits), 48);
    for (int i = 0; i < h.cases(4); ++i) {
      std::vector<int32_t> tokens;
      std::vector<Row> rows;
      const uint32_t count = i == 0 ? 1 : random.integer(2, 48);
      for (uint32_t r = 0; r < count; ++r) {
        tokens.push_back(static_cast<int32_t>(random.integer(0, vocab - 1)));
        rows.push_back(random_row(vocab, random));
      }
      sampler.run(tokens, rows);
      expect_right(rows);
    }
  }
}

TEST(Sampling, ALargeVocabulary) {
  Harness h("Sampling.ALargeVocabulary");
  Random& random = h.random();
  for (const uint32_t vocab : {49152u, 128256u, 151937u}) {
    if (vocab != 49152 && !options().full) continue;
    Sampler sampler(h, wide_program(vocab, random.pick({1.0, 4.0}), random), 16);
    for (int i = 0; i < h.cases(2); ++i) {
      std::vector<int32_t> tokens;
      std::vector<Row> rows;
      for (uint32_t r = 0; r < (i == 0 ? 12u : 3u); ++r) {
        tokens.push_back(static_cast<int32_t>(random.integer(0, vocab - 1)));
        rows.push_back(random_row(vocab, random));
      }
      sampler.run(tokens, rows);
      expect_right(rows);
    }
  }
}

// u rounds to 1 in float32 above 1 - 2^-25, where a plain -log(-log(u)) is infinite: such tokens must get their true
// key.
TEST(Sampling, TheLargestUniformNumbersAreExact) {
  Harness h("Sampling.TheLargestUniformNumbersAreExact");
  constexpr uint32_t vocab = 1000;
  std::vector<float> logits(size_t{vocab} * vocab, 0.0f);
  for (size_t row = 0; row < vocab; ++row)
    for (size_t i = 0; i < vocab; ++i) logits[row * vocab + i] = static_cast<float>(h.random().normal());
  std::vector<Row> rows;
  quire_sampling_row row{};
  row.temperature = 1;
  for (row.seed = h.random().bits(); rows.size() < 8; ++row.seed)
    for (uint32_t token = 0; token < vocab; token += 4) {
      const auto words = philox({token / 4, row.position, row.choice, 0},
                                {static_cast<uint32_t>(row.seed), static_cast<uint32_t>(row.seed >> 32)});
      const auto largest = std::max_element(words.begin(), words.end());
      if (*largest < 0xFFFFFF00u) continue;
      // The token with that number is held so low that its key loses, by a little, if it is right and wins if it is
      // infinite.
      Row found;
      found.p = row;
      const auto at = token + static_cast<uint32_t>(largest - words.begin());
      found.bias.push_back({static_cast<int32_t>(at), -19.0f});
      rows.push_back(found);
      break;
    }
  std::vector<int32_t> tokens(rows.size());
  Sampler sampler(h, table_program(vocab, logits), 8);
  sampler.run(tokens, rows);
  expect_right(rows);
}

TEST(Sampling, DrawsFollowTheDistribution) {
  Harness h("Sampling.DrawsFollowTheDistribution");
  Random& random = h.random();
  constexpr uint32_t vocab = 40, rows_a_step = 250;
  const std::vector<float> logits = random.normals(size_t{vocab} * vocab, 1.5);
  Sampler sampler(h, table_program(vocab, logits), rows_a_step);
  for (const bool filtered : {false, true}) {
    Row model;
    model.p.temperature = filtered ? 0.8f : 1.2f;
    if (filtered) model.p.top_p = 0.9f, model.p.top_k = 25;
    const int num_steps = options().full ? 200 : 40;
    const auto row_of = [&](int32_t token) {
      return std::span(logits).subspan(static_cast<size_t>(token) * vocab, vocab);
    };
    int32_t token = 0; // a row of which enough tokens remain
    while (kept64(row_of(token), model.p, -1).tokens.size() < 6) ++token;
    std::vector<double> drawn(vocab);
    for (int step = 0; step < num_steps; ++step) {
      std::vector<Row> rows(rows_a_step, model);
      for (uint32_t r = 0; r < rows_a_step; ++r) {
        rows[r].p.seed = options().seed * 1000 + r % 5; // few seeds: positions and choices must be independent too
        rows[r].p.position = static_cast<uint32_t>(step) * 50 + r / 5;
        rows[r].p.choice = static_cast<uint32_t>(step % 3);
      }
      sampler.run(std::vector<int32_t>(rows_a_step, token), rows);
      for (const Row& row : rows) {
        ASSERT_GE(row.got.token, 0);
        ASSERT_LT(row.got.token, static_cast<int32_t>(vocab));
        drawn[static_cast<size_t>(row.got.token)] += 1;
      }
    }
    const Kept64 kept = kept64(row_of(token), model.p, -1);
    double chi_square = 0, total = 0;
    for (size_t i = 0; i < kept.tokens.size(); ++i) {
      const double expected = kept.probabilities[i] * num_steps * rows_a_step, seen = drawn[kept.tokens[i]];
      chi_square += squared(seen - expected) / expected;
      total += seen;
    }
    EXPECT_EQ(total, num_steps * static_cast<double>(rows_a_step)) << "tokens outside the filters were drawn";
    // Wilson and Hilferty 1931: the cube root of a chi-square by its degrees is nearly normal; six deviations.
    const auto degrees = static_cast<double>(kept.tokens.size()) - 1;
    const double z = (std::cbrt(chi_square / degrees) - (1 - 2 / (9 * degrees))) / std::sqrt(2 / (9 * degrees));
    EXPECT_LT(z, 6) << "chi-square " << chi_square << " at " << degrees << " degrees of freedom";
    EXPECT_GT(z, -6) << "too even to be random: chi-square " << chi_square << " at " << degrees
                     << " degrees of freedom";
  }
}

TEST(Sampling, NaNAndNothingAllowedGiveMinusOne) {
  Harness h("Sampling.NaNAndNothingAllowedGiveMinusOne");
  constexpr uint32_t vocab = 101;
  std::vector<float> logits = h.random().normals(size_t{vocab} * vocab);
  logits[3 * vocab + 100] = std::numeric_limits<float>::quiet_NaN();
  logits[4 * vocab + 0] = -std::numeric_limits<float>::quiet_NaN();
  for (uint32_t i = 0; i < vocab; ++i) logits[6 * vocab + i] = -std::numeric_limits<float>::infinity();
  for (uint32_t i = 1; i < vocab; ++i) logits[7 * vocab + i] = -std::numeric_limits<float>::infinity();
  Sampler sampler(h, table_program(vocab, logits), 16);
  for (const float temperature : {0.0f, 0.7f}) {
    std::vector<Row> rows(9);
    const std::vector<int32_t> tokens = {1, 3, 2, 4, 5, 5, 6, 7, 8};
    for (size_t r = 0; r < rows.size(); ++r) {
      rows[r].p.temperature = temperature;
      rows[r].p.seed = r;
      rows[r].p.num_candidates = r % 2 ? 3 : 0;
    }
    rows[4].mask.assign(4, 0); // nothing; but bits past the vocabulary are set
    rows[4].mask[3] = ~0u << (vocab - 96);
    rows[5].mask.assign(4, 0); // one token only
    rows[5].mask[3] = 1u << 4;
    sampler.run(tokens, rows);
    EXPECT_EQ(rows[1].got.token, -1) << "NaN at the end";
    EXPECT_EQ(rows[3].got.token, -1) << "NaN at the beginning";
    EXPECT_EQ(rows[4].got.token, -1) << "an empty mask";
    EXPECT_EQ(rows[5].got.token, 100) << "a mask of one token";
    EXPECT_EQ(rows[6].got.token, -1) << "all logits -infinity";
    EXPECT_EQ(rows[7].got.token, 0) << "one finite logit";
    for (const size_t r : {0u, 2u, 5u, 8u})
      EXPECT_EQ(judge_sampled(rows[r].logits, rows[r].p, -1, rows[r].got), "") << "row " << r;
  }
}

// Nothing but greedy rows and temperatures, over vocabularies that are scanned in several pieces; many tokens are as
// likely, wherever they lie.
TEST(Sampling, PlainRowsOfLargerVocabularies) {
  Harness h("Sampling.PlainRowsOfLargerVocabularies");
  Random& random = h.random();
  for (const uint32_t vocab : {4097u, 8190u, 12288u}) {
    for (const uint32_t kinds : {1u, 61u, vocab}) {
      Sampler sampler(h, repeated_program(vocab, kinds, random), 6);
      std::vector<Row> rows(6);
      std::vector<int32_t> tokens;
      for (Row& row : rows) {
        tokens.push_back(static_cast<int32_t>(random.integer(0, vocab - 1)));
        row.p.temperature = &row < &rows[2] ? 0 : static_cast<float>(random.uniform(0.2, 1.8));
        row.p.seed = random.bits(), row.p.position = random.integer(0, 5000);
      }
      sampler.run(tokens, rows);
      expect_right(rows);
    }
  }
}

// A row's token is the same whatever stands beside it and however often it is drawn.
TEST(Sampling, ARowDependsOnItselfAlone) {
  Harness h("Sampling.ARowDependsOnItselfAlone");
  Random& random = h.random();
  constexpr uint32_t vocab = 300;
  Sampler sampler(h, table_program(vocab, random.normals(size_t{vocab} * vocab, 2)), 40);
  std::vector<int32_t> tokens;
  std::vector<Row> rows;
  for (int r = 0; r < 40; ++r) {
    tokens.push_back(static_cast<int32_t>(random.integer(0, vocab - 1)));
    rows.push_back(random_row(vocab, random));
  }
  sampler.run(tokens, rows);
  for (size_t r = 0; r < rows.size(); r += 3) {
    std::vector<Row> alone = {rows[r]};
    sampler.run({tokens[r]}, alone);
    EXPECT_EQ(alone[0].got.token, rows[r].got.token) << "row " << r;
    EXPECT_EQ(alone[0].got.logprob, rows[r].got.logprob) << "row " << r;
  }
}

// Two steps in flight: the second counts the tokens that the first is still to sample.
TEST(Sampling, APendingRowIsCounted) {
  Harness h("Sampling.APendingRowIsCounted");
  Random& random = h.random();
  constexpr uint32_t vocab = 50, count = 12;
  Sampler sampler(h, table_program(vocab, random.normals(size_t{vocab} * vocab, 0.5)), count);
  for (int i = 0; i < h.cases(3); ++i) {
    std::vector<int32_t> tokens;
    std::vector<Row> first, second;
    for (uint32_t r = 0; r < count; ++r) {
      tokens.push_back(static_cast<int32_t>(random.integer(0, vocab - 1)));
      first.push_back(random_row(vocab, random));
      Row row = random_row(vocab, random);
      row.p.presence_penalty = 3;
      row.p.frequency_penalty = 1;
      row.p.repetition_penalty = 1.5f;
      row.p.pending_row = r % 4 == 3 ? 0 : (r * 5) % count + 1;
      second.push_back(row);
    }
    const uint64_t a = sampler.submit(tokens, first);
    const uint64_t b = sampler.submit(tokens, second);
    wait_rows(h.session(), a, first);
    wait_rows(h.session(), b, second);
    expect_right(first);
    std::vector<int32_t> pending;
    for (const Row& row : second) pending.push_back(row.p.pending_row ? first[row.p.pending_row - 1].got.token : -1);
    expect_right(second, pending);
  }
}

} // namespace quire::tests
