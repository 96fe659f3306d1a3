// Beam search against an exhaustive search, and its rules one by one. Against Hugging Face's generate:
// tests/engine/beams_test.cpp.
#include "decode/beam_search.hpp"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>

namespace quire {
namespace {

// A language model as a function: log-probabilities of the next token, all tokens ranked.
using Model = std::function<std::vector<quire_candidate>(const std::vector<int32_t>&)>;

Model random_model(uint32_t seed, uint32_t vocab) {
  return [=](const std::vector<int32_t>& tokens) {
    uint64_t key = seed;
    for (int32_t t : tokens) key = key * 6364136223846793005ull + static_cast<uint64_t>(t) + 1442695040888963407ull;
    std::mt19937_64 random(key);
    std::uniform_real_distribution<double> uniform(0, 3);
    std::vector<double> logits(vocab);
    double sum = 0;
    for (double& l : logits) sum += std::exp(l = uniform(random));
    std::vector<quire_candidate> out;
    for (uint32_t i = 0; i < vocab; ++i)
      out.push_back({static_cast<int32_t>(i), static_cast<float>(logits[i] - std::log(sum))});
    std::sort(out.begin(), out.end(), [](const auto& a, const auto& b) { return a.logprob > b.logprob; });
    return out;
  };
}

struct Searched {
  BeamSearch search;
  std::vector<std::vector<int32_t>> beams{{}};
  std::vector<int32_t> streamed;

  Searched(const BeamRules& rules, const Model& model, uint32_t vocab) : search(rules) {
    while (!search.done()) {
      std::vector<std::vector<quire_candidate>> kept;
      for (const auto& tokens : beams) {
        kept.push_back(model(tokens));
        kept.back().resize(search.candidates_wanted(vocab));
      }
      const std::vector<std::span<const quire_candidate>> rows(kept.begin(), kept.end());
      search.advance(rows);
      std::vector<std::vector<int32_t>> next;
      for (const BeamSearch::Beam& b : search.beams()) {
        next.push_back(beams[b.parent]);
        next.back().push_back(b.token);
      }
      for (size_t i = 0; i < next.size(); ++i) { // the tree remembers what the beams are
        std::vector<int32_t> path;
        for (const auto& t : search.tokens_of(search.beams()[i].node)) path.push_back(t.token);
        EXPECT_EQ(path, next[i]);
      }
      beams = next;
      for (const auto& t : search.settled(static_cast<uint32_t>(streamed.size()))) streamed.push_back(t.token);
    }
  }

  std::vector<int32_t> answer(size_t rank) const {
    std::vector<int32_t> tokens;
    for (const auto& t : search.tokens_of(search.finished()[rank].node)) tokens.push_back(t.token);
    return tokens;
  }
};

// With more beams than there are sequences, what is found is the best of all.
TEST(BeamSearch, WideEnoughFindsTheBestOfAllSequences) {
  constexpr uint32_t vocab = 4, length = 3;
  for (uint32_t seed = 0; seed < 20; ++seed)
    for (float penalty : {0.0f, 1.0f, 2.0f}) {
      const Model model = random_model(seed, vocab);
      BeamRules rules;
      rules.width = 64;
      rules.length_penalty = penalty;
      rules.max_tokens = length;
      rules.ends = {2};
      const Searched run(rules, model, vocab);
      double best = -1e30;
      std::vector<int32_t> best_tokens;
      const std::function<void(std::vector<int32_t>&, double)> visit = [&](std::vector<int32_t>& tokens, double sum) {
        for (const quire_candidate& c : model(tokens)) {
          tokens.push_back(c.token);
          const double total = sum + static_cast<double>(c.logprob);
          if (c.token == 2 || tokens.size() == length) {
            const double score = total / std::pow(static_cast<double>(tokens.size()), static_cast<double>(penalty));
            if (score > best) best = score, best_tokens = tokens;
          } else {
            visit(tokens, total);
          }
          tokens.pop_back();
        }
      };
      std::vector<int32_t> tokens;
      visit(tokens, 0);
      EXPECT_EQ(run.answer(0), best_tokens) << seed << " " << penalty;
      EXPECT_NEAR(static_cast<double>(run.search.finished()[0].score), best, 1e-5);
    }
}

TEST(BeamSearch, OneBeamIsGreedy) {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    const Model model = random_model(seed, 12);
    BeamRules rules;
    rules.max_tokens = 10;
    rules.ends = {3};
    const Searched run(rules, model, 12);
    std::vector<int32_t> greedy;
    while (greedy.size() < 10 && (greedy.empty() || greedy.back() != 3)) greedy.push_back(model(greedy)[0].token);
    EXPECT_EQ(run.answer(0), greedy);
  }
}

TEST(BeamSearch, WhatIsStreamedIsAPrefixOfEveryAnswer) {
  rc::check([] {
    const auto seed = *rc::gen::arbitrary<uint32_t>();
    BeamRules rules;
    rules.width = *rc::gen::inRange<uint32_t>(1, 6);
    rules.length_penalty = static_cast<float>(*rc::gen::inRange(-2, 3));
    rules.early_stopping = *rc::gen::arbitrary<bool>();
    rules.max_tokens = *rc::gen::inRange<uint32_t>(1, 20);
    rules.min_tokens = *rc::gen::inRange<uint32_t>(0, 5);
    rules.ends = {1, 7};
    const Searched run(rules, random_model(seed, 16), 16);
    RC_ASSERT(run.search.finished().size() >= 1u);
    for (size_t i = 0; i < run.search.finished().size(); ++i) {
      const auto answer = run.answer(i);
      RC_ASSERT(answer.size() > run.streamed.size() || (answer.size() == run.streamed.size()));
      RC_ASSERT(std::equal(run.streamed.begin(), run.streamed.end(), answer.begin()));
      RC_ASSERT(answer.size() <= rules.max_tokens);
      for (size_t t = 0; t + 1 < answer.size(); ++t) RC_ASSERT(answer[t] != 1 && answer[t] != 7);
      if (run.search.finished()[i].ended)
        RC_ASSERT(answer.size() > rules.min_tokens || rules.min_tokens >= rules.max_tokens);
      if (i) RC_ASSERT(run.search.finished()[i - 1].score >= run.search.finished()[i].score);
    }
  });
}

TEST(BeamSearch, ScoresAreSumsOfTheTokensLogprobs) {
  const Model model = random_model(5, 20);
  BeamRules rules;
  rules.width = 4;
  rules.max_tokens = 8;
  rules.ends = {3};
  rules.alternatives = 3;
  const Searched run(rules, model, 20);
  for (const auto& h : run.search.finished()) {
    double sum = 0;
    std::vector<int32_t> before;
    for (const auto& t : run.search.tokens_of(h.node)) {
      sum += static_cast<double>(t.logprob);
      ASSERT_EQ(t.alternatives.size(), 3u);
      EXPECT_EQ(t.alternatives[0].token, model(before)[0].token);
      before.push_back(t.token);
    }
    EXPECT_NEAR(sum, static_cast<double>(h.sum), 1e-4);
  }
}

} // namespace
} // namespace quire
