#include "decode/parameters.hpp"

#include "quire/error.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

namespace quire {
namespace {

struct NoSink final : EventSink {
  void token(TokenEvent&&) noexcept override {}
  void finished(const Finished&) noexcept override {}
};

const RequestLimits limits{1000, 4096, 64};

Request good() {
  Request r;
  r.prompt = {1, 2, 3};
  r.sink = std::make_shared<NoSink>();
  return r;
}

std::string refusal(const std::function<void(Request&)>& spoil, size_t history = 0) {
  Request r = good();
  spoil(r);
  try {
    validate(r, limits, history);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

// The sentence names the field and the limit.
void expect_refused(const std::function<void(Request&)>& spoil, const std::string& field, const std::string& limit) {
  const std::string sentence = refusal(spoil);
  EXPECT_NE(sentence.find(field), std::string::npos) << field << ": " << sentence;
  EXPECT_NE(sentence.find(limit), std::string::npos) << limit << ": " << sentence;
}

TEST(Parameters, DefaultsAreLegal) {
  EXPECT_EQ(refusal([](Request&) {}), "");
}

TEST(Parameters, MaliciousSizesNameTheLimit) {
  expect_refused([](Request& r) { r.n = 1'000'000; }, "n is 1000000", "128");
  expect_refused([](Request& r) { r.n = 0; }, "n is 0", "1");
  expect_refused([](Request& r) { r.best_of = 1'000'000; }, "best_of is 1000000", "128");
  expect_refused([](Request& r) { r.n = 4, r.best_of = 2; }, "best_of is 2", "4");
  expect_refused([](Request& r) { r.beam.width = 1'000'000; }, "beam_width is 1000000", "64");
  expect_refused([](Request& r) { r.beam.width = -1; }, "beam_width is -1", "64");
  expect_refused([](Request& r) { r.stop.assign(1'000'000, "x"); }, "stop has 1000000", "64");
  expect_refused([](Request& r) { r.stop = {std::string(100'000, 'x')}; }, "stop", "1024");
  expect_refused([](Request& r) { r.stop = {""}; }, "stop", "1024");
  expect_refused([](Request& r) { r.stop_tokens.assign(1'000'000, 5); }, "stop_tokens has 1000000", "64");
  expect_refused(
      [](Request& r) {
        r.sampling.logit_bias.assign(1'000'000, {1, 0.5f});
      },
      "logit_bias has 1000000", "1024");
  expect_refused([](Request& r) { r.sampling.banned_tokens.assign(1'000'000, 1); }, "banned_tokens has 1000000",
                 "1024");
  expect_refused([](Request& r) { r.sampling.allowed_tokens.assign(1'000'000, 1); }, "allowed_tokens has 1000000",
                 "1000");
  expect_refused([](Request& r) { r.sampling.logprobs = 1'000'000; }, "logprobs is 1000000", "20");
  expect_refused([](Request& r) { r.sampling.min_tokens = 2'000'000'000; }, "min_tokens is 2000000000", "4096");
  expect_refused([](Request& r) { r.cache_salt.assign(1'000'000, 's'); }, "cache_salt has 1000000", "256");
  expect_refused(
      [](Request& r) {
        r.sampling.sampler = "x", r.sampling.sampler_parameters.assign(1000, {"a", 1});
      },
      "sampler_parameters has 1000", "32");
  expect_refused([](Request& r) { r.prompt.assign(5000, 1); }, "5000", "4096");
  for (int32_t priority : {std::numeric_limits<int32_t>::min(), -1, 0, std::numeric_limits<int32_t>::max()})
    EXPECT_EQ(refusal([&](Request& r) { r.priority = priority; }), "");
  EXPECT_EQ(refusal([](Request& r) { r.max_tokens = std::numeric_limits<uint32_t>::max(); }),
            ""); // ends at the context
}

TEST(Parameters, NumbersOutsideTheirRangeAndNaNAreRefused) {
  const float nan = std::nanf(""), infinity = std::numeric_limits<float>::infinity();
  for (float bad : {nan, infinity, -infinity, -0.5f, 1e9f}) {
    expect_refused([&](Request& r) { r.sampling.temperature = bad; }, "temperature", "100");
    expect_refused([&](Request& r) { r.sampling.top_p = bad; }, "top_p", "1");
    expect_refused([&](Request& r) { r.sampling.min_p = bad; }, "min_p", "1");
    expect_refused([&](Request& r) { r.sampling.typical_p = bad; }, "typical_p", "1");
    expect_refused([&](Request& r) { r.sampling.repetition_penalty = bad; }, "repetition_penalty", "100");
    expect_refused([&](Request& r) { r.deadline_seconds = static_cast<double>(bad); }, "deadline_seconds", "31536000");
  }
  for (float bad : {nan, infinity, -2.5f, 2.5f}) {
    expect_refused([&](Request& r) { r.sampling.presence_penalty = bad; }, "presence_penalty", "2");
    expect_refused([&](Request& r) { r.sampling.frequency_penalty = bad; }, "frequency_penalty", "2");
  }
  for (float bad : {nan, infinity, -101.0f})
    expect_refused([&](Request& r) { r.sampling.logit_bias = {{5, bad}}; }, "logit_bias", "100");
  expect_refused([&](Request& r) { r.beam.width = 2, r.beam.length_penalty = nan; }, "length_penalty", "100");
  expect_refused([](Request& r) { r.sampling.top_p = 0; }, "top_p", "above 0");
  expect_refused([](Request& r) { r.sampling.top_k = -1; }, "top_k", "0");
}

TEST(Parameters, TokensOutsideTheVocabularyAreRefused) {
  for (int32_t bad : {-1, 1000, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
    expect_refused([&](Request& r) { r.prompt.push_back(bad); }, "prompt", "999");
    expect_refused([&](Request& r) { r.stop_tokens = {bad}; }, "stop_tokens", "999");
    expect_refused([&](Request& r) { r.sampling.logit_bias = {{bad, 1.0f}}; }, "logit_bias", "999");
    expect_refused([&](Request& r) { r.sampling.banned_tokens = {bad}; }, "banned_tokens", "999");
    expect_refused([&](Request& r) { r.sampling.allowed_tokens = {bad}; }, "allowed_tokens", "999");
  }
  expect_refused([](Request& r) { r.sampling.logit_bias = {{5, 1.0f}, {5, 2.0f}}; }, "logit_bias", "twice");
}

TEST(Parameters, ThePromptMayBeEmptyOnlyBehindAHistory) {
  EXPECT_NE(refusal([](Request& r) { r.prompt.clear(); }), "");
  EXPECT_EQ(refusal([](Request& r) { r.prompt.clear(); }, 10), "");
  EXPECT_NE(refusal([](Request&) {}, 4095), "");
}

TEST(Parameters, BeamsRefuseWhatChangesTheDistribution) {
  const auto with = [](auto spoil) {
    return refusal([&](Request& r) {
      r.beam.width = 4;
      spoil(r);
    });
  };
  EXPECT_EQ(with([](Request&) {}), "");
  EXPECT_EQ(with([](Request& r) { r.sampling.temperature = 0, r.sampling.min_tokens = 3, r.sampling.logprobs = 5; }),
            "");
  EXPECT_NE(with([](Request& r) { r.sampling.temperature = 0.7f; }).find("temperature"), std::string::npos);
  EXPECT_NE(with([](Request& r) { r.sampling.top_p = 0.7f; }).find("top_p"), std::string::npos);
  EXPECT_NE(with([](Request& r) { r.stop = {"x"}; }).find("stop"), std::string::npos);
  EXPECT_NE(with([](Request& r) { r.n = 5; }).find("beam_width"), std::string::npos);
  EXPECT_NE(with([](Request& r) { r.best_of = 4; }).find("best_of"), std::string::npos);
}

} // namespace
} // namespace quire
