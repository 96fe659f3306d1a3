// text_generator.py in C++: the texts that the goldens of smollm2_ids.json and small_*.json are about. Change both
// together.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quire::test {

class TextGenerator {
 public:
  // Reads goldens/fragments.json.
  TextGenerator();
  std::string text(uint64_t index);

 private:
  uint64_t next();
  uint64_t below(uint64_t n) { return next() % n; }
  char32_t from_ranges();

  std::vector<std::string> fragments_;
  uint64_t state_ = 0;
};

constexpr uint64_t fnv1a_start = 0xCBF29CE484222325u;
constexpr uint64_t fnv1a(uint64_t hash, uint64_t number) { return (hash ^ number) * 0x100000001B3u; }

} // namespace quire::test
