// What a step does, without how its memory is paged: which sequences get which tokens, and which tokens' outputs are
// wanted.
#pragma once

#include <cstdint>
#include <vector>

namespace quire::tests {

struct LogicalStep {
  struct Part {
    uint32_t sequence;           // any number; its tokens continue what earlier steps gave it
    std::vector<int32_t> tokens; // at least one
    uint32_t skip = 0;           // positions passed over before them; only for programs without a cache
  };
  std::vector<Part> parts;
  std::vector<uint32_t> rows; // token indices over the parts in their order, ascending; one may come again
  bool checked = true;        // false: outputs are not compared, so that a long context costs little in float64

  uint32_t num_tokens() const {
    size_t count = 0;
    for (const Part& part : parts) count += part.tokens.size();
    return static_cast<uint32_t>(count);
  }
};

} // namespace quire::tests
