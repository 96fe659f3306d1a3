// Requests to replay: Poisson arrivals, lognormal lengths, everything from one seed and alike on every machine with the
// same libm.
//
// The paper (Kwon et al., SOSP 2023, section 6.1) synthesises its traces from the lengths of ShareGPT and Alpaca with
// Poisson arrivals. The data sets themselves are not part of this repository; their means are the paper's (figure 11),
// the spreads are stated where they are used.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quire::bench {

// splitmix64 (Steele, Lea, Flood 2014): small, seeded, the same everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  double uniform() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; } // in (0, 1)
  double exponential(double rate);
  double normal(); // Box and Muller 1958

 private:
  std::uint64_t state_;
};

struct Lengths {
  std::string name;
  double mean_prompt = 0, mean_output = 0;   // tokens
  double sigma_prompt = 0, sigma_output = 0; // of the logarithm
  std::uint32_t max_total = 2048;            // longer requests are drawn again
  std::uint32_t fixed_prefix = 0;            // tokens that every prompt starts with, not counted in mean_prompt
};
Lengths sharegpt(); // 161.31 in, 337.99 out
Lengths alpaca();   // 19.31 in, 58.45 out

struct Request {
  double arrival_s = 0;
  std::uint32_t prompt = 0, output = 0; // tokens; at least 1 each
  std::uint32_t shared = 0;             // first tokens of the prompt that are the same in every request
};
// `count` requests at `rate_per_s`. The lengths' means are those asked for, up to rounding: what truncation takes away
// is put back by scaling.
std::vector<Request> make_requests(const Lengths& lengths, double rate_per_s, std::uint32_t count, std::uint64_t seed);

} // namespace quire::bench
