// What a client can ask of an answer: several choices, the best of many, stop strings, logprobs, penalties, samplers,
// continuation, beams.
#include "support/core_fixture.hpp"

#include "decode/beam_search.hpp"
#include "quire/error.hpp"
#include "text/tokenizer.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

namespace quire::test {
namespace {

TEST(Answers, BestOfReturnsTheBestByMeanLogprob) {
  Fixture f;
  Request r = greedy(random_prompt(20, 1), 10);
  r.sampling.temperature = 1;
  r.sampling.seed = 5;
  r.n = 6;
  const auto all = f.send(r);
  r.n = 2;
  r.best_of = 6;
  const auto best = f.send(r);
  ASSERT_TRUE(all.sink->wait() && best.sink->wait());
  std::vector<std::pair<double, uint32_t>> means;
  for (uint32_t c = 0; c < 6; ++c) means.push_back({0, c});
  for (const TokenEvent& e : all.sink->events()) means[e.choice].first -= static_cast<double>(e.logprob) / 10;
  std::sort(means.begin(), means.end());
  EXPECT_EQ(best.sink->choices(), 2u);
  for (uint32_t rank = 0; rank < 2; ++rank) EXPECT_EQ(best.sink->tokens(rank), all.sink->tokens(means[rank].second));
  EXPECT_TRUE(best.sink->orderly());
}

TEST(Answers, LogprobsAreThoseOfTheRawLogits) {
  Fixture f;
  const auto p = random_prompt(9, 2);
  Request r = greedy(p, 6);
  r.sampling.temperature = 0.7f;
  r.sampling.seed = 1;
  r.sampling.logprobs = 4;
  r.sampling.presence_penalty = 1;
  const auto sent = f.send(r);
  ASSERT_TRUE(sent.sink->wait());
  std::vector<int32_t> tokens = p;
  for (const TokenEvent& e : sent.sink->events()) {
    const auto logits = f.mock.logits_of(tokens);
    const double sum = log_sum_exp(logits);
    EXPECT_NEAR(static_cast<double>(e.logprob), static_cast<double>(logits[static_cast<size_t>(e.token)]) - sum, 1e-4);
    ASSERT_EQ(e.candidates.size(), 4u);
    EXPECT_EQ(e.candidates[0].token, f.mock.next_token(tokens));
    for (size_t i = 1; i < 4; ++i) EXPECT_LE(e.candidates[i].logprob, e.candidates[i - 1].logprob);
    tokens.push_back(e.token);
  }
}

// The penalties must see every token of the output, the one still on the device included.
TEST(Answers, PenaltiesCountEveryTokenOfTheOutput) {
  FixtureOptions o;
  o.mock.vocab_size = 24;
  Fixture f(o);
  const auto p = random_prompt(10, 3, 24);
  Request r = greedy(p, 40);
  r.sampling.frequency_penalty = 2;
  r.sampling.presence_penalty = 1;
  r.sampling.repetition_penalty = 1.2f;
  const auto sent = f.send(r);
  ASSERT_TRUE(sent.sink->wait());
  std::vector<int32_t> tokens = p;
  std::vector<int> in_prompt(24), in_output(24);
  for (int32_t t : p) ++in_prompt[static_cast<size_t>(t)];
  for (int32_t token : sent.sink->tokens()) {
    auto logits = f.mock.logits_of(tokens);
    for (size_t i = 0; i < logits.size(); ++i) {
      if (in_prompt[i] + in_output[i]) logits[i] = logits[i] > 0 ? logits[i] / 1.2f : logits[i] * 1.2f;
      logits[i] -= 2.0f * static_cast<float>(in_output[i]) + (in_output[i] ? 1.0f : 0.0f);
    }
    EXPECT_EQ(token, std::max_element(logits.begin(), logits.end()) - logits.begin());
    ++in_output[static_cast<size_t>(token)];
    tokens.push_back(token);
  }
}

TEST(Answers, BannedAndAllowedTokensAndBias) {
  Fixture f;
  const auto p = random_prompt(10, 4);
  const int32_t first = f.mock.next_token(p);
  Request r = greedy(p, 20);
  r.sampling.banned_tokens = {first};
  const auto banned = f.send(r);
  r.sampling.banned_tokens.clear();
  r.sampling.allowed_tokens = {3, 40, 90};
  const auto allowed = f.send(r);
  r.sampling.allowed_tokens.clear();
  r.sampling.logit_bias = {{77, 100.0f}};
  const auto biased = f.send(r);
  ASSERT_TRUE(banned.sink->wait() && allowed.sink->wait() && biased.sink->wait());
  for (int32_t t : banned.sink->tokens()) EXPECT_NE(t, first);
  for (int32_t t : allowed.sink->tokens()) EXPECT_TRUE(t == 3 || t == 40 || t == 90);
  for (int32_t t : biased.sink->tokens()) EXPECT_EQ(t, 77);
}

// Tokens of the mock with 256 ids are bytes, so its answers are text.
FixtureOptions with_text() {
  FixtureOptions o;
  o.mock.vocab_size = 256;
  o.tokenizer = Tokenizer::from_bytes(256);
  return o;
}

std::string bytes_of(const std::vector<int32_t>& tokens) {
  std::string s;
  for (int32_t t : tokens) s += static_cast<char>(t);
  return s;
}

TEST(Answers, StopStringOverSeveralTokensIsCutFromTheText) {
  FixtureOptions o = with_text();
  Fixture f(o);
  Request r = greedy(random_prompt(10, 5), 60);
  r.sampling.temperature = 1;
  r.sampling.seed = 3;
  for (int32_t t = 'a'; t <= 'd'; ++t)
    r.sampling.allowed_tokens.push_back(t); // four letters: any string of three comes soon
  const auto plain = f.send(r);
  ASSERT_TRUE(plain.sink->wait());
  const std::string whole = bytes_of(plain.sink->tokens());
  const std::string stop = whole.substr(20, 3);
  r.stop = {stop, "never this"};
  const auto stopped = f.send(r);
  ASSERT_TRUE(stopped.sink->wait());
  EXPECT_EQ(stopped.sink->text(), whole.substr(0, whole.find(stop)));
  EXPECT_EQ(stopped.sink->finish(), FinishReason::stop);
  EXPECT_EQ(stopped.sink->events().back().stop_match, stop);
  for (const TokenEvent& e : stopped.sink->events()) EXPECT_EQ(e.text.find(stop), std::string::npos);
  EXPECT_TRUE(f.drained());

  r.stop = {"never this"};
  const auto unmatched = f.send(r);
  ASSERT_TRUE(unmatched.sink->wait());
  EXPECT_EQ(unmatched.sink->text(), whole);
  EXPECT_EQ(unmatched.sink->finish(), FinishReason::length);

  r.stop = {stop};
  r.sampling.min_tokens = static_cast<int32_t>(whole.find(stop) + 3);
  const auto later = f.send(r);
  ASSERT_TRUE(later.sink->wait());
  EXPECT_GT(later.sink->text().size(), whole.find(stop) + 2);
}

TEST(Answers, StopStringOfSplitCharacters) {
  FixtureOptions o = with_text();
  Fixture f(o);
  Request r = greedy(random_prompt(10, 6), 80);
  r.sampling.temperature = 1;
  r.sampling.seed = 8;
  r.sampling.allowed_tokens = {0xC3, 0xBC, 0xB6, 'x'}; // «ü», «ö», and torn ones
  r.stop = {"ü"};
  const auto sent = f.send(r);
  ASSERT_TRUE(sent.sink->wait());
  ASSERT_EQ(sent.sink->finish(), FinishReason::stop);
  const std::string whole = bytes_of(sent.sink->tokens());
  EXPECT_EQ(whole.substr(whole.size() - 2), "\xC3\xBC");
  const auto tokens = sent.sink->tokens();
  EXPECT_EQ(sent.sink->text(), o.tokenizer->decode(std::vector<int32_t>(tokens.begin(), tokens.end() - 2)));
}

TEST(Answers, StopStringsNeedATokenizer) {
  Fixture f;
  Request r = greedy({1}, 5);
  r.stop = {"x"};
  EXPECT_THROW(f.send(r), Error);
}

TEST(Answers, ContinuationReusesTheTokensAndTheirBlocks) {
  Fixture f;
  Request r = greedy(random_prompt(50, 7), 30);
  r.keep = true;
  const auto first = f.send(r);
  ASSERT_TRUE(first.sink->wait());
  const SequenceHandle handle = f.core->kept().of(first.id, 0);
  ASSERT_NE(handle, 0u);
  std::vector<int32_t> history = r.prompt;
  for (int32_t t : first.sink->tokens()) history.push_back(t);
  EXPECT_EQ(*f.core->kept().find(handle), history);

  Request next = greedy(random_prompt(7, 8), 12);
  std::vector<int32_t> whole = history;
  whole.insert(whole.end(), next.prompt.begin(), next.prompt.end());
  next.continue_from = handle;
  const auto second = f.send(next);
  ASSERT_TRUE(second.sink->wait());
  EXPECT_EQ(second.sink->tokens(), f.mock.continuation(whole, 12));
  EXPECT_EQ(second.sink->summary().prompt_tokens, 87u);
  EXPECT_EQ(second.sink->summary().cached_tokens, 72u); // 79 were computed: at most one partial block is computed again

  const SequenceHandle branch = f.core->kept().fork(handle, 60); // branch in the middle of the answer
  next.continue_from = branch;
  const auto third = f.send(next);
  ASSERT_TRUE(third.sink->wait());
  whole.assign(history.begin(), history.begin() + 60);
  whole.insert(whole.end(), next.prompt.begin(), next.prompt.end());
  EXPECT_EQ(third.sink->tokens(), f.mock.continuation(whole, 12));
  EXPECT_EQ(third.sink->summary().cached_tokens, 56u);

  next.prompt.clear(); // nothing new: another answer to the same
  next.continue_from = branch;
  const auto fourth = f.send(next);
  ASSERT_TRUE(fourth.sink->wait());
  EXPECT_EQ(fourth.sink->tokens(),
            f.mock.continuation(std::vector<int32_t>(history.begin(), history.begin() + 60), 12));

  f.core->kept().release(handle);
  next.continue_from = handle;
  EXPECT_THROW(f.send(next), Error);
}

// ---- A choosing sampler: the second most probable token, and a count of its calls.
struct Second {
  std::vector<int32_t> ranks;
  static void* open(void*, const quire_sampler_request* request, quire_status* status) {
    double rank = 1;
    request->number(request->host, "rank", &rank);
    if (rank > 5) {
      status->code = QUIRE_INVALID;
      std::strcpy(status->message, "rank is above 5");
      return nullptr;
    }
    return new int32_t(static_cast<int32_t>(rank));
  }
  static int32_t choose(void* state, float* logits, uint32_t vocab, uint32_t position, quire_status* status) {
    const int32_t rank = *static_cast<int32_t*>(state);
    if (rank == 5 && position > 30) status->code = QUIRE_FAILED, std::strcpy(status->message, "had enough");
    if (rank == 4 && position > 30) return static_cast<int32_t>(vocab) + 7;
    for (int32_t r = 0;; ++r) {
      float* top = std::max_element(logits, logits + vocab);
      if (r == rank) return static_cast<int32_t>(top - logits);
      *top = -1e30f;
    }
  }
  static void close(void* state) { delete static_cast<int32_t*>(state); }
  quire_sampler table{sizeof(quire_sampler), nullptr, open, nullptr, choose, close};
};

TEST(Answers, AChoosingSamplerTakesEverySecondStepAndOthersDontWait) {
  Second sampler;
  FixtureOptions o;
  o.mock.step_time = std::chrono::microseconds(500);
  o.find_sampler = [&](const std::string& id) -> const quire_sampler* {
    if (id != "second") throw Error("there is no sampler " + id);
    return &sampler.table;
  };
  Fixture f(o);
  const auto p = random_prompt(20, 9);
  Request r = greedy(p, 20);
  r.sampling.sampler = "second";
  r.sampling.sampler_parameters = {{"rank", 1}};
  const auto chosen = f.send(r);
  const auto other = f.send(greedy(p, 100));
  ASSERT_TRUE(chosen.sink->wait() && other.sink->wait());
  std::vector<int32_t> tokens = p;
  for (int32_t token : chosen.sink->tokens()) {
    auto logits = f.mock.logits_of(tokens);
    *std::max_element(logits.begin(), logits.end()) = -1e30f;
    EXPECT_EQ(token, std::max_element(logits.begin(), logits.end()) - logits.begin());
    tokens.push_back(token);
  }
  EXPECT_EQ(other.sink->tokens(), f.mock.continuation(p, 100));
  // The other one's 100 tokens took about as many steps: it never waited for the chosen ones.
  EXPECT_LT(f.core->stats().steps, 125u);

  r.sampling.sampler_parameters = {{"rank", 5}};
  const auto fails = f.send(r);
  r.sampling.sampler_parameters = {{"rank", 4}};
  const auto outside = f.send(r);
  ASSERT_TRUE(fails.sink->wait() && outside.sink->wait());
  EXPECT_EQ(fails.sink->finish(), FinishReason::error);
  EXPECT_NE(fails.sink->error().find("had enough"), std::string::npos);
  EXPECT_EQ(outside.sink->finish(), FinishReason::error);
  r.sampling.sampler_parameters = {{"rank", 6}};
  EXPECT_THROW(f.send(r), Error);
  r.sampling.sampler = "third";
  EXPECT_THROW(f.send(r), Error);
  EXPECT_TRUE(f.drained());
}

// ---- Beams: the same search over the mock's logits by hand.
std::vector<std::vector<int32_t>> beams_by_hand(const MockBackend& mock, const std::vector<int32_t>& prompt,
                                                const BeamRules& rules) {
  BeamSearch search(rules);
  std::vector<std::vector<int32_t>> beams{prompt};
  while (!search.done()) {
    std::vector<std::vector<quire_candidate>> rows;
    for (const auto& tokens : beams) {
      const auto logits = mock.logits_of(tokens);
      const double sum = log_sum_exp(logits);
      auto& row = rows.emplace_back();
      for (size_t i = 0; i < logits.size(); ++i)
        row.push_back({static_cast<int32_t>(i), static_cast<float>(static_cast<double>(logits[i]) - sum)});
      std::stable_sort(row.begin(), row.end(), [](const auto& a, const auto& b) { return a.logprob > b.logprob; });
    }
    search.advance(std::vector<std::span<const quire_candidate>>(rows.begin(), rows.end()));
    std::vector<std::vector<int32_t>> next;
    for (const auto& b : search.beams()) {
      next.push_back(beams[b.parent]);
      next.back().push_back(b.token);
    }
    beams = next;
  }
  std::vector<std::vector<int32_t>> answers;
  for (const auto& h : search.finished()) {
    auto& answer = answers.emplace_back();
    for (const auto& t : search.tokens_of(h.node)) answer.push_back(t.token);
  }
  return answers;
}

TEST(Answers, BeamsForkAndDieByBlocksAndFindWhatASearchByHandFinds) {
  for (bool cache : {true, false})
    for (uint32_t others : {0u, 6u}) {
      FixtureOptions o;
      o.prefix_cache = cache;
      o.blocks = others ? 52 : 64; // tight: with others around, beams are preempted
      o.mock.vocab_size = 40;
      o.end_tokens = {3, 17};
      Fixture f(o);
      std::vector<Fixture::Sent> noise;
      for (uint32_t i = 0; i < others; ++i) {
        Request r = greedy(random_prompt(30, 50 + i, 40), 60);
        r.ignore_eos = true;
        r.priority = i % 2 ? -1 : 1;
        noise.push_back(f.send(r));
      }
      for (int32_t width : {1, 2, 4, 7})
        for (bool early : {false, true}) {
          const auto p = random_prompt(13 + static_cast<uint32_t>(width), 60 + static_cast<uint32_t>(width), 40);
          Request r = greedy(p, 18);
          r.beam.width = width;
          r.beam.early_stopping = early;
          r.n = static_cast<uint32_t>(width);
          const auto sent = f.send(r);
          ASSERT_TRUE(sent.sink->wait());
          BeamRules rules;
          rules.width = static_cast<uint32_t>(width);
          rules.early_stopping = early;
          rules.max_tokens = 18;
          rules.ends = o.end_tokens;
          const auto expected = beams_by_hand(f.mock, p, rules);
          ASSERT_EQ(sent.sink->choices(), expected.size());
          for (uint32_t c = 0; c < expected.size(); ++c)
            EXPECT_EQ(sent.sink->tokens(c), expected[c]) << width << " " << c;
          EXPECT_TRUE(sent.sink->orderly());
        }
      for (auto& n : noise) ASSERT_TRUE(n.sink->wait());
      EXPECT_TRUE(f.drained());
      EXPECT_EQ(f.mock.counters.fault, "");
    }
}

TEST(Answers, BeamsThatCanNeverFitAreRefusedWithBothNumbers) {
  FixtureOptions o;
  o.blocks = 20;
  o.max_context = 150;
  Fixture f(o);
  Request r = greedy(random_prompt(40, 1), 100);
  r.beam.width = 8;
  try {
    f.send(r);
    FAIL();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("beam_width 8"), std::string::npos) << error.what();
  }
  r.beam.width = 2;
  r.max_tokens = 0; // as long as fits
  const auto sent = f.send(r);
  ASSERT_TRUE(sent.sink->wait());
  EXPECT_GT(sent.sink->tokens().size(), 20u);
}

} // namespace
} // namespace quire::test
