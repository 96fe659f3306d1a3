// rope: both pairings, partial widths, far positions.
#include "conformance/harness.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

namespace quire::tests {

TEST(Rope, HeadsRotateByPosition) {
  Harness h("Rope.HeadsRotateByPosition");
  Random& random = h.random();
  for (int i = 0; i < h.cases(10); ++i) {
    const uint32_t tokens = random.integer(1, 300), heads = random.integer(1, 9),
                   dim = random.pick({64u, 80u, 96u, 128u, 256u, 34u});
    const uint32_t rotary = random.chance(0.6) ? dim : 2 * random.integer(1, dim / 2);
    const bool view = random.chance(0.5);
    const uint32_t extra = view ? random.integer(1, 40) : 0;
    TestProgram p;
    p.vocab_size = tokens + 1;
    p.max_context = 8192;
    const uint32_t parent = p.input(heads * dim + extra, random);
    const uint32_t in = p.view(parent, heads, dim, random.integer(0, extra)), out = p.tensor(QUIRE_TOKENS, heads, dim);
    std::vector<float> frequencies(rotary / 2);
    const double theta = random.pick({1e4, 1e5, 5e5});
    for (size_t j = 0; j < frequencies.size(); ++j)
      frequencies[j] = static_cast<float>(std::pow(theta, -2.0 * static_cast<double>(j) / rotary));
    quire_rope rope{};
    rope.kind = i % 2 ? QUIRE_ROPE_INTERLEAVED : QUIRE_ROPE_HALF;
    rope.rotary_dim = rotary;
    rope.frequencies = p.vector(frequencies);
    rope.magnitude = random.pick({0.0f, 1.0f, 1.1875f});
    p.op(QUIRE_OP_ROPE, {in}, {out}).u.rope = rope;
    p.extra_output(out);
    p.add_plain_logits(random);
    // Sequences that begin anywhere: without a cache nothing has to be there before them.
    LogicalStep step = plain_step(tokens, 1, random);
    std::vector<int32_t> all = std::move(step.parts[0].tokens);
    step.parts.clear();
    for (uint32_t begin = 0, sequence = 0; begin < tokens; ++sequence) {
      const uint32_t end = std::min(tokens, begin + random.integer(1, 120));
      step.parts.push_back(
          {sequence, {all.begin() + begin, all.begin() + end}, random.chance(0.3) ? 0 : random.integer(1, 4000)});
      begin = end;
    }
    std::ostringstream what;
    what << (rope.kind ? "interleaved" : "half") << " [" << tokens << ", " << heads << ", " << dim << "], " << rotary
         << " rotary" << (view ? ", view" : "");
    h.check(p, {step}, what.str());
  }
}

} // namespace quire::tests
