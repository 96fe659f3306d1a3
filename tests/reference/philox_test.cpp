// Both implementations of the generator against the known answers of Salmon et al.'s Random123 (kat_vectors,
// philox4x32, 10 rounds).
#include "reference/philox.hpp"
#include "support/sampling64.hpp"

#include <gtest/gtest.h>

namespace quire::tests {

TEST(Philox, KnownAnswers) {
  struct Case {
    std::array<uint32_t, 4> counter;
    std::array<uint32_t, 2> key;
    std::array<uint32_t, 4> expected;
  };
  const Case cases[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (const Case& c : cases) {
    EXPECT_EQ(reference::philox4x32_10(c.counter, c.key), c.expected);
    EXPECT_EQ(philox(c.counter, c.key), c.expected);
  }
}

} // namespace quire::tests
