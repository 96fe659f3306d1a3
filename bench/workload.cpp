#include "bench/workload.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace quire::bench {

double Random::exponential(double rate) { return -std::log(uniform()) / rate; }

double Random::normal() {
  const double radius = std::sqrt(-2 * std::log(uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

// The spreads are not in the paper. ShareGPT's are those at which the share of slots that hold tokens or will hold
// them, under the reservation of 2,048 slots, is the paper's; Alpaca's those at which that of the oracle's average
// batch is (docs/paged-memory.md).
Lengths sharegpt() {
  return {.name = "ShareGPT", .mean_prompt = 161.31, .mean_output = 337.99, .sigma_prompt = 1.0, .sigma_output = 0.75};
}
Lengths alpaca() {
  return {.name = "Alpaca", .mean_prompt = 19.31, .mean_output = 58.45, .sigma_prompt = 0.5, .sigma_output = 0.85};
}

namespace {

struct Means {
  double prompt = 0, output = 0;
};

// Lengths only; `scale` multiplies the medians.
Means draw(const Lengths& lengths, const Means& scale, std::uint64_t seed, std::vector<Request>& requests) {
  Random random(seed);
  const auto length = [&](double mean, double sigma) {
    const double value =
        mean * std::exp(sigma * random.normal() - sigma * sigma / 2); // mean of a lognormal: exp(mu + sigma^2 / 2)
    return static_cast<std::uint32_t>(std::clamp(std::round(value), 1.0, 1e6));
  };
  Means sum;
  for (Request& request : requests) {
    do {
      request.prompt = lengths.fixed_prefix + length(lengths.mean_prompt * scale.prompt, lengths.sigma_prompt);
      request.output = length(lengths.mean_output * scale.output, lengths.sigma_output);
    } while (request.prompt + request.output > lengths.max_total);
    request.shared = lengths.fixed_prefix;
    sum.prompt += request.prompt - lengths.fixed_prefix;
    sum.output += request.output;
  }
  return {sum.prompt / static_cast<double>(requests.size()), sum.output / static_cast<double>(requests.size())};
}

} // namespace

std::vector<Request> make_requests(const Lengths& lengths, double rate_per_s, std::uint32_t count, std::uint64_t seed) {
  std::vector<Request> requests(count);
  Means scale{1, 1};
  for (int round = 0; round < 8; ++round) {
    const Means means = draw(lengths, scale, seed, requests);
    scale.prompt *= lengths.mean_prompt / means.prompt;
    scale.output *= lengths.mean_output / means.output;
  }
  draw(lengths, scale, seed, requests);
  Random random(seed ^ 0x5eed);
  double now = 0;
  for (Request& request : requests) request.arrival_s = now += random.exponential(rate_per_s);
  return requests;
}

} // namespace quire::bench
