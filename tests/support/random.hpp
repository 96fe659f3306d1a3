// Seeded random numbers for tests: the same seed gives the same shapes and data on every machine.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <numeric>
#include <vector>

namespace quire::tests {

// splitmix64 (Steele et al. 2014); std's distributions differ between libraries, so they are not used.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  // In [low, high].
  uint32_t integer(uint32_t low, uint32_t high) {
    return low + static_cast<uint32_t>(bits() % (uint64_t{high} - low + 1));
  }
  bool chance(double p) { return unit() < p; }
  // In [0, 1).
  double unit() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  double uniform(double low, double high) { return low + (high - low) * unit(); }
  // Standard normal (Box and Muller 1958).
  double normal() {
    const double r = std::sqrt(-2 * std::log(1 - unit()));
    return r * std::cos(2 * 3.14159265358979323846 * unit());
  }
  template <class T> T pick(std::initializer_list<T> choices) { return choices.begin()[bits() % choices.size()]; }

  std::vector<float> normals(size_t count, double deviation = 1, double mean = 0) {
    std::vector<float> values(count);
    for (float& v : values) v = static_cast<float>(mean + deviation * normal());
    return values;
  }
  // 0 .. count - 1 in random order.
  std::vector<uint32_t> permutation(uint32_t count) {
    std::vector<uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0u);
    for (uint32_t i = count; i > 1; --i) std::swap(order[i - 1], order[integer(0, i - 1)]);
    return order;
  }
  // `count` of 0 .. range - 1, ascending.
  std::vector<uint32_t> ascending(uint32_t count, uint32_t range) {
    std::vector<uint32_t> chosen = permutation(range);
    chosen.resize(count);
    std::sort(chosen.begin(), chosen.end());
    return chosen;
  }

 private:
  uint64_t state_;
};

} // namespace quire::tests
