// The counter-based random numbers of sampling, for sampler plugins and tests: the same seed, choice and position give
// the same token, on whatever machine, in whatever batch.
//
// Philox4x32-10: Salmon et al. 2011, «Parallel random numbers: as easy as 1, 2, 3», section 3.3. Threads: pure
// functions.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>

namespace quire {

inline std::array<uint32_t, 4> philox4x32_10(std::array<uint32_t, 4> counter, uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53u} * counter[0], b = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(a)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// Gumbel noise of each token, as quire_sampling_row defines it: argmax over l_i + noise(i) draws a token from
// softmax(l).
class GumbelNoise {
 public:
  GumbelNoise(uint64_t seed, uint32_t choice, uint32_t position) : seed_(seed), choice_(choice), position_(position) {}

  // Cheapest for rising tokens: one generator call gives four.
  double operator()(uint32_t token) {
    if (token / 4 != block_ || !filled_) {
      words_ = philox4x32_10({token / 4, position_, choice_, 0}, seed_);
      block_ = token / 4;
      filled_ = true;
    }
    const double uniform = (words_[token % 4] + 0.5) * 0x1p-32;
    return -std::log(-std::log(uniform));
  }

 private:
  uint64_t seed_;
  uint32_t choice_;
  uint32_t position_;
  uint32_t block_ = 0;
  bool filled_ = false;
  std::array<uint32_t, 4> words_{};
};

} // namespace quire
