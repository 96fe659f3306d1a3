// Mirostat 2.0 keeps the surprise near its target, as the paper's algorithm does, and the same request gives the same
// tokens.
#include "plugin_host.hpp"
#include "quire/plugin_check.hpp"
#include "quire/random.hpp"

#include "build_paths.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace quire {
namespace {

constexpr uint32_t vocab = 5000;

// A distribution like a language's: the word of rank r has probability ~ (r + 1)^-1.3, from 2 bits up; in shuffled
// order.
std::vector<float> zipf_logits() {
  std::vector<float> logits(vocab);
  for (uint32_t i = 0; i < vocab; ++i) logits[i] = -1.3f * std::log(static_cast<float>(i * 2654435761u % vocab + 1));
  return logits;
}

// -log2 p of each token
std::vector<double> surprises(const std::vector<float>& logits) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit});
  std::vector<double> bits;
  for (const float logit : logits) bits.push_back((std::log(sum) - logit) / std::log(2.0));
  return bits;
}

class Mirostat : public testing::Test {
 protected:
  // A state; numbers are the request's sampler parameters.
  void* open(uint64_t seed, std::map<std::string, double> numbers, uint32_t choice = 0) {
    quire_sampler_request request{};
    request.struct_size = sizeof(request);
    request.seed = seed, request.choice = choice, request.vocab_size = vocab;
    request.host = &numbers;
    request.number = [](void* host, const char* key, double* out) {
      const auto& given = *static_cast<std::map<std::string, double>*>(host);
      const auto found = given.find(key);
      return found != given.end() ? (*out = found->second, 1) : 0;
    };
    return sampler.open(sampler.self, &request, status);
  }
  int32_t choose(void* state, std::vector<float> logits, uint32_t position) {
    const int32_t token = sampler.choose(state, logits.data(), vocab, position, status);
    EXPECT_TRUE(status.ok()) << status.message();
    return token;
  }
  std::vector<int32_t> draw(void* state, uint32_t from, uint32_t to) {
    std::vector<int32_t> tokens;
    for (uint32_t position = from; position < to; ++position) tokens.push_back(choose(state, zipf_logits(), position));
    return tokens;
  }

  const Plugin plugin = load_plugin(test::plugin_file("mirostat"));
  const quire_sampler& sampler = plugin.sampler;
  CallStatus status;
};

TEST_F(Mirostat, MeanSurpriseApproachesTau) {
  const std::vector<double> bits = surprises(zipf_logits());
  for (const double tau : {2.5, 3.5, 4.5}) {
    void* state = open(1, {{"tau", tau}, {"eta", 0.1}});
    double sum = 0;
    constexpr uint32_t warm_up = 200, steps = 2000;
    draw(state, 0, warm_up);
    for (const int32_t token : draw(state, warm_up, warm_up + steps)) sum += bits[static_cast<size_t>(token)];
    sampler.close(state);
    EXPECT_NEAR(sum / steps, tau, 0.05) << "tau " << tau;
  }
}

TEST_F(Mirostat, FollowsThePapersRule) {
  const std::vector<float> logits = zipf_logits();
  const std::vector<double> bits = surprises(logits);
  const double tau = 3, eta = 0.3;
  double mu = 2 * tau;
  void* state = open(7, {{"tau", tau}, {"eta", eta}});
  for (uint32_t position = 0; position < 300; ++position) {
    // Draw among the allowed by the Gumbel-max method, over the same random numbers.
    GumbelNoise noise(7, 0, position);
    int32_t expected = -1;
    double best = -std::numeric_limits<double>::infinity();
    for (uint32_t i = 0; i < vocab; ++i) {
      if (bits[i] > mu) continue;
      if (const double key = logits[i] + noise(i); key > best) best = key, expected = static_cast<int32_t>(i);
    }
    if (expected < 0) expected = static_cast<int32_t>(std::min_element(bits.begin(), bits.end()) - bits.begin());
    ASSERT_EQ(choose(state, logits, position), expected) << "position " << position;
    mu -= eta * (bits[static_cast<size_t>(expected)] - tau);
  }
  sampler.close(state);
}

TEST_F(Mirostat, TheSameRequestGivesTheSameTokensAndAnotherSeedOrChoiceOthers) {
  const auto tokens = [&](uint64_t seed, uint32_t choice) {
    void* state = open(seed, {}, choice);
    const std::vector<int32_t> drawn = draw(state, 0, 64);
    sampler.close(state);
    return drawn;
  };
  EXPECT_EQ(tokens(5, 0), tokens(5, 0));
  EXPECT_NE(tokens(5, 0), tokens(6, 0));
  EXPECT_NE(tokens(5, 0), tokens(5, 1));
}

TEST_F(Mirostat, AForkGoesOnAsItsOriginal) {
  void* state = open(5, {});
  draw(state, 0, 20);
  void* fork = sampler.clone(state, status);
  ASSERT_TRUE(status.ok());
  const std::vector<int32_t> original = draw(state, 20, 60);
  sampler.close(state);
  EXPECT_EQ(draw(fork, 20, 60), original);
  sampler.close(fork);
}

TEST_F(Mirostat, NeverChoosesWhatIsNotAllowed) {
  void* state = open(3, {{"tau", 12}});
  for (uint32_t position = 0; position < 50; ++position) {
    std::vector<float> logits = zipf_logits();
    for (uint32_t i = 0; i < vocab; ++i)
      if (i % 7 != position % 7) logits[i] = -std::numeric_limits<float>::infinity();
    EXPECT_EQ(static_cast<uint32_t>(choose(state, logits, position)) % 7, position % 7);
  }
  sampler.close(state);
}

TEST_F(Mirostat, RefusesParametersAndLogitsThatMakeNoSense) {
  EXPECT_EQ(open(1, {{"tau", -1}}), nullptr);
  EXPECT_STREQ(status.message(), "mirostat: `tau` is -1.000000, expected 0.000000 to 100.000000");
  EXPECT_EQ(open(1, {{"eta", std::nan("")}}), nullptr);
  EXPECT_STREQ(status.message(), "mirostat: `eta` is nan, expected 0.000000 to 10.000000");
  void* state = open(1, {});
  std::vector<float> logits = zipf_logits();
  for (const size_t at : {size_t{0}, size_t{vocab / 2}, size_t{vocab - 1}}) {
    logits = zipf_logits();
    logits[at] = std::nanf("");
    sampler.choose(state, logits.data(), vocab, 0, status);
    EXPECT_STREQ(status.message(), "mirostat: the logits hold a NaN") << at;
  }
  logits.assign(vocab, -std::numeric_limits<float>::infinity());
  sampler.choose(state, logits.data(), vocab, 0, status);
  EXPECT_STREQ(status.message(), "mirostat: no token is allowed");
  sampler.close(state);
}

} // namespace
} // namespace quire
