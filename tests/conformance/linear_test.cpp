// linear: every format, parts, biases, activations, and weights beyond 128 MiB.
#include "conformance/harness.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

namespace quire::tests {
namespace {

TestProgram program_for(uint32_t tokens) {
  TestProgram program;
  program.vocab_size = tokens + 1;
  program.max_context = 8192;
  return program;
}

// K such that every format in use fills whole blocks.
uint32_t inner_size(uint32_t block, Random& random, uint32_t most) {
  return block * random.integer(1, std::max(1u, most / block));
}

// What comes in, [1, K], behind a norm with this weight (0: none).
uint32_t normed_input(TestProgram& p, uint32_t K, uint32_t weight, Random& random) {
  const uint32_t normed = p.tensor(QUIRE_TOKENS, 1, K);
  quire_norm norm{};
  norm.epsilon = 1e-5f;
  norm.weight = weight;
  p.op(QUIRE_OP_NORM, {p.input(K, random)}, {normed}).u.norm = norm;
  return normed;
}

// [1, N] of [1, K].
uint32_t plain_linear(TestProgram& p, uint32_t in, uint32_t format, uint32_t N, uint32_t K, Random& random) {
  const uint32_t out = p.tensor(QUIRE_TOKENS, 1, N);
  quire_linear linear{};
  linear.weights[0] = p.random_weight(format, 0, N, K, 1 / std::sqrt(K), random);
  p.op(QUIRE_OP_LINEAR, {in}, {out}).u.linear = linear;
  return out;
}

void check_linear(Harness& h, std::vector<uint32_t> formats, std::vector<uint32_t> widths, uint32_t K, uint32_t tokens,
                  bool on_outputs, const quire_linear& rest, bool biases) {
  Random& random = h.random();
  TestProgram p = program_for(tokens);
  uint32_t in = p.input(K, random);
  if (on_outputs) in = p.gather_rows(in);
  quire_linear linear = rest;
  uint32_t total = 0;
  std::ostringstream what;
  what << "[" << tokens << (on_outputs ? " (rows)" : "") << ", " << K << "] to";
  for (size_t i = 0; i < formats.size(); ++i) {
    linear.weights[i] = p.random_weight(formats[i], 0, widths[i], K, 1 / std::sqrt(K), random);
    if (biases && random.chance(0.7)) linear.biases[i] = p.random_weight(QUIRE_F32, 0, 1, widths[i], 1, random);
    total += widths[i];
    what << " " << widths[i] << " " << format_shape(formats[i]).name << (linear.biases[i] ? " with bias" : "");
  }
  what << ", activation " << rest.activation << ", scale " << rest.scale << ", softcap " << rest.softcap;
  const uint32_t out = p.tensor(on_outputs ? QUIRE_OUTPUTS : QUIRE_TOKENS, 1, total);
  p.op(QUIRE_OP_LINEAR, {in}, {out}).u.linear = linear;
  p.extra_output(out);
  p.add_plain_logits(random);
  h.check(p, {plain_step(tokens, on_outputs ? random.integer(1, tokens) : 1, random)}, what.str());
}

} // namespace

TEST(Linear, EveryFormatAtOneTokenAndMany) {
  Harness h("Linear.EveryFormatAtOneTokenAndMany");
  for (const uint32_t format : all_formats()) {
    const uint32_t block = std::max(format_shape(format).elements, 1u);
    const auto width = [&] { return h.random().integer(1, 400); };
    check_linear(h, {format}, {width()}, inner_size(block, h.random(), 1024), 1, false, {}, false);
    check_linear(h, {format}, {width()}, inner_size(block, h.random(), 1024), h.random().integer(2, 17), false, {},
                 false);
    for (int i = 0; i < h.cases(1); ++i)
      check_linear(h, {format}, {width()}, inner_size(block, h.random(), 1024), h.random().integer(18, 300), false, {},
                   false);
  }
}

// What serves one token by other kernels than a linear alone (CUDA: linear_chain).
TEST(Linear, EveryFormatBehindANormAtOneToken) {
  Harness h("Linear.EveryFormatBehindANormAtOneToken");
  Random& random = h.random();
  for (const uint32_t format : all_formats())
    for (int i = 0; i < h.cases(2); ++i) {
      const uint32_t K = inner_size(std::max(format_shape(format).elements, 8u), random, i == 0 ? 1024 : 4096);
      const uint32_t N = random.integer(1, 200);
      TestProgram p = program_for(1);
      uint32_t norm_weight = 0;
      if (i != 0) { // activations of many sizes, a few far above the rest, as models have them
        std::vector<float> factors(K);
        for (float& factor : factors)
          factor = static_cast<float>(std::exp2(random.uniform(-2, 2)) * (random.chance(0.02) ? 64 : 1));
        norm_weight = p.vector(factors);
      }
      p.extra_output(plain_linear(p, normed_input(p, K, norm_weight, random), format, N, K, random));
      p.add_plain_logits(random);
      std::ostringstream what;
      what << "norm, [1, " << K << "] to " << N << " " << format_shape(format).name;
      h.check(p, {plain_step(1, 1, random)}, what.str());
    }
}

// The second of two linears has rows so long that what streams them through buffers (CUDA: the rings of linear_chain's
// warps) goes round those, however many multiprocessors there are.
TEST(Linear, EveryFormatWithLongRowsAtOneToken) {
  Harness h("Linear.EveryFormatWithLongRowsAtOneToken");
  Random& random = h.random();
  constexpr uint32_t kFirst = 256, kLong = 20480;
  for (const uint32_t format : all_formats()) {
    const uint32_t N = random.integer(1, 40);
    TestProgram p = program_for(1);
    const uint32_t middle = plain_linear(p, normed_input(p, kFirst, 0, random), format, kLong, kFirst, random);
    p.extra_output(plain_linear(p, middle, format, N, kLong, random));
    p.add_plain_logits(random);
    std::ostringstream what;
    what << "[1, " << kFirst << "] to " << kLong << " to " << N << " " << format_shape(format).name;
    h.check(p, {plain_step(1, 1, random)}, what.str());
  }
}

TEST(Linear, PartsOfDifferentFormatsAreConcatenated) {
  Harness h("Linear.PartsOfDifferentFormatsAreConcatenated");
  Random& random = h.random();
  for (int i = 0; i < h.cases(6); ++i) {
    const uint32_t parts = random.integer(2, 4);
    std::vector<uint32_t> formats, widths;
    for (uint32_t part = 0; part < parts; ++part) {
      formats.push_back(random.integer(0, QUIRE_FORMAT_COUNT - 1));
      widths.push_back(random.chance(0.5) ? 16 * random.integer(1, 20) : random.integer(1, 200));
    }
    check_linear(h, formats, widths, 256 * random.integer(1, 4), random.chance(0.4) ? 1 : random.integer(2, 200),
                 random.chance(0.3), {}, true);
  }
}

// Each format may be a product of its own, whose K is cut for few rows: it adds up and finishes its own columns alone.
TEST(Linear, PartsOfDifferentFormatsLeaveEachOtherAlone) {
  Harness h("Linear.PartsOfDifferentFormatsLeaveEachOtherAlone");
  quire_linear rest{};
  rest.activation = QUIRE_ACT_SILU;
  rest.scale = 2.5f;
  for (const uint32_t rows : {24u, 39u, 150u}) {
    check_linear(h, {QUIRE_Q4_K, QUIRE_Q3_K, QUIRE_F32}, {272, 256, 272}, 2048, rows, false, rest, true);
    check_linear(h, {QUIRE_F16, QUIRE_Q8_0, QUIRE_BF16}, {400, 64, 16}, 2048, rows, false, rest, true);
  }
}

TEST(Linear, BiasActivationScaleAndSoftcapApplyInThatOrder) {
  Harness h("Linear.BiasActivationScaleAndSoftcapApplyInThatOrder");
  Random& random = h.random();
  for (int i = 0; i < h.cases(8); ++i) {
    quire_linear rest{};
    rest.activation = static_cast<uint32_t>(i % 5);
    rest.scale = random.pick({0.0f, 2.5f, 0.125f});
    rest.softcap = random.pick({0.0f, 3.0f, 30.0f});
    check_linear(h, {random.pick({QUIRE_F32, QUIRE_F16, QUIRE_Q8_0, QUIRE_Q4_K})}, {random.integer(1, 300)},
                 256 * random.integer(1, 3), random.chance(0.4) ? 1 : random.integer(2, 100), random.chance(0.5), rest,
                 true);
  }
}

TEST(Linear, OddInnerSizesOfPlainFormats) {
  Harness h("Linear.OddInnerSizesOfPlainFormats");
  for (int i = 0; i < h.cases(4); ++i)
    for (const uint32_t format : {QUIRE_F32, QUIRE_F16, QUIRE_BF16})
      check_linear(h, {format}, {h.random().integer(1, 130)}, h.random().integer(1, 700), h.random().integer(1, 60),
                   false, {}, false);
}

TEST(Linear, ALongInnerSize) {
  Harness h("Linear.ALongInnerSize");
  check_linear(h, {QUIRE_Q4_0}, {96}, 11008, 3, false, {}, false);
  check_linear(h, {QUIRE_BF16}, {64}, 14336, 20, false, {}, false);
}

// Many tokens of block formats: more tiles than a large GPU has multiprocessors, and so few that K is split among them.
TEST(Linear, MoreTilesThanMultiprocessorsAndFewer) {
  Harness h("Linear.MoreTilesThanMultiprocessorsAndFewer");
  Random& random = h.random();
  check_linear(h, {random.pick({QUIRE_Q4_0, QUIRE_Q5_1, QUIRE_Q8_0})}, {random.integer(2200, 2300)}, 128,
               random.integer(1930, 2048), false, {}, true);
  for (const uint32_t tokens : {random.integer(40, 64), random.integer(65, 128)}) {
    const uint32_t format = random.pick({QUIRE_Q4_K, QUIRE_Q6_K});
    check_linear(h, {format, format}, {random.integer(1, 200), random.integer(1, 200)}, 4096, tokens, false, {}, true);
  }
}

// Beyond 128 MiB (maxStorageBufferRange of lavapipe) in one weight: quantised and plain, and a tied embedding.
TEST(Linear, AWeightBeyond128MiB) {
  Harness h("Linear.AWeightBeyond128MiB");
  Random& random = h.random();
  std::vector<uint32_t> formats = {QUIRE_F16};
  if (options().full) formats = {QUIRE_F32, QUIRE_F16, QUIRE_Q8_0, QUIRE_Q4_K};
  for (const uint32_t format : formats) {
    constexpr uint32_t K = 1024;
    const auto rows = static_cast<uint32_t>(136 * 1024 * 1024 / format_row_bytes(format, K) + 3);
    check_linear(h, {format}, {rows}, K, 2, false, {}, false);
  }
  // A tied table: embed reads its last rows, linear all of them.
  const uint64_t rows = 137000, K = 512;
  TestProgram p;
  p.vocab_size = rows;
  p.max_context = 64;
  const uint32_t table = p.random_weight(QUIRE_F16, 0, rows, K, 1, random);
  const uint32_t hidden = p.embed(table);
  const uint32_t logits = p.tensor(QUIRE_OUTPUTS, 1, static_cast<uint32_t>(rows));
  p.op(QUIRE_OP_LINEAR, {p.gather_rows(hidden)}, {logits}).u.linear.weights[0] = table;
  p.add_output("logits", logits);
  p.extra_output(hidden);
  const LogicalStep step{{{0, {0, 131071, 131072, 136999, 70000}}}, {2, 4}};
  h.check(p, {step}, describe("tied embedding of ", rows, " rows"));
}

} // namespace quire::tests
