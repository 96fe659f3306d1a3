// Mirostat 2.0: keeps the surprise of the text near a target (Basu, Ramachandran, Keskar and Varshney 2020, «Mirostat:
// a neural text decoding algorithm that directly controls perplexity», arXiv:2007.14966).
//
// Parameters: tau, the target surprise in bits a token (5); eta, the learning rate (0.1); temperature (1).
// Each step drops the tokens whose surprise -log2 p exceeds mu (the most probable one always stays), draws from the
// rest, and moves mu by eta times the drawn token's excess over tau; mu starts at 2 tau. The surprise is that of the
// model's own distribution, as in the paper.
#include <quire/plugin.hpp>
#include <quire/random.hpp>

#include <algorithm>
#include <cmath>
#include <string>

namespace {

class Mirostat : public quire::Sampler {
 public:
  explicit Mirostat(const quire::SamplerRequest& request)
      : seed_(request.seed()), choice_(request.choice()), tau_(number(request, "tau", 5, 0, 100)),
        eta_(number(request, "eta", 0.1, 0, 10)), temperature_(number(request, "temperature", 1, 1e-3, 100)),
        mu_(2 * tau_) {}

  int32_t choose(std::span<float> logits, uint32_t position) override {
    if (std::any_of(logits.begin(), logits.end(), [](float logit) { return std::isnan(logit); }))
      throw quire::Failure(QUIRE_INVALID, "mirostat: the logits hold a NaN");
    const auto most_probable = std::max_element(logits.begin(), logits.end());
    const double largest = *most_probable / temperature_;
    if (!std::isfinite(largest)) throw quire::Failure(QUIRE_INVALID, "mirostat: no token is allowed");
    double sum = 0;
    for (const float logit : logits) sum += std::exp(logit / temperature_ - largest);
    const double log_sum = largest + std::log(sum);
    const auto surprise = [&](float logit) { return (log_sum - logit / temperature_) / std::log(2.0); };

    quire::GumbelNoise noise(seed_, choice_, position);
    auto token = static_cast<uint32_t>(most_probable - logits.begin());
    double best = largest + noise(token);
    for (uint32_t i = 0; i < logits.size(); ++i) {
      if (surprise(logits[i]) > mu_) continue;
      if (const double key = logits[i] / temperature_ + noise(i); key > best) best = key, token = i;
    }
    mu_ -= eta_ * (surprise(logits[token]) - tau_);
    return static_cast<int32_t>(token);
  }

 private:
  static double number(const quire::SamplerRequest& request, const char* key, double fallback, double least,
                       double most) {
    const double value = request.number(key, fallback);
    if (!(value >= least && value <= most))
      throw quire::Failure(QUIRE_INVALID, std::string("mirostat: `") + key + "` is " + std::to_string(value) +
                                              ", expected " + std::to_string(least) + " to " + std::to_string(most));
    return value;
  }

  uint64_t seed_;
  uint32_t choice_;
  double tau_, eta_; // bits
  double temperature_;
  double mu_; // bits: the largest surprise allowed
};

} // namespace

QUIRE_SAMPLER_PLUGIN(Mirostat, "mirostat", QUIRE_VERSION);
