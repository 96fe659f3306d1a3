// kv_store and attend, alone and behind rope: mixed steps of several sequences over scattered blocks, windows,
// softcaps, sinks, long contexts, large pools.
#include "conformance/harness.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <sstream>

namespace quire::tests {
namespace {

// Rows of random q, k and v: enough that tokens of a context repeat rarely, for then the rounding errors of their K and
// V add up.
constexpr uint32_t kVocabulary = 1021, kLongVocabulary = 8209;

struct Shape {
  uint32_t kv_heads = 1, gqa = 1, k_dim = 64, v_dim = 64;
  uint32_t window = 0;
  float scale = 0; // 0 = 1 / sqrt(k_dim)
  float softcap = 0;
  bool sinks = false;
  uint32_t rotary_dim = 0; // 0 = no rope
  bool interleaved = false;
  float magnitude = 0;

  std::string text() const {
    std::ostringstream out;
    out << kv_heads * gqa << " heads over " << kv_heads << ", dims " << k_dim << " and " << v_dim;
    if (window) out << ", window " << window;
    if (softcap != 0) out << ", softcap " << softcap;
    if (sinks) out << ", sinks";
    if (rotary_dim) out << ", " << rotary_dim << (interleaved ? " rotary, interleaved" : " rotary");
    return out.str();
  }
};

// q, k and v are views of one row, as behind a fused projection.
void add_layer(TestProgram& p, const Shape& s, uint32_t group, Random& random) {
  const uint32_t heads = s.kv_heads * s.gqa, layer = static_cast<uint32_t>(p.kv_layers.size());
  const uint32_t q_width = heads * s.k_dim, k_width = s.kv_heads * s.k_dim;
  const uint32_t width = q_width + k_width + s.kv_heads * s.v_dim;
  uint32_t qkv = p.input(width, random);
  if (s.rotary_dim != 0) { // behind a norm, so that a backend may store it as it stores what a projection makes
    const uint32_t normed = p.tensor(QUIRE_TOKENS, 1, width);
    p.op(QUIRE_OP_NORM, {qkv}, {normed}).u.norm.epsilon = 1e-5f;
    qkv = normed;
  }
  uint32_t q = p.view(qkv, heads, s.k_dim, 0), k = p.view(qkv, s.kv_heads, s.k_dim, q_width);
  if (s.rotary_dim != 0) {
    std::vector<float> frequencies(s.rotary_dim / 2);
    for (size_t j = 0; j < frequencies.size(); ++j)
      frequencies[j] = static_cast<float>(std::pow(1e4, -2.0 * static_cast<double>(j) / s.rotary_dim));
    quire_rope rope{};
    rope.kind = s.interleaved ? QUIRE_ROPE_INTERLEAVED : QUIRE_ROPE_HALF;
    rope.rotary_dim = s.rotary_dim, rope.magnitude = s.magnitude;
    rope.frequencies = p.vector(frequencies);
    for (uint32_t* value : {&q, &k}) {
      const uint32_t turned = p.tensor(QUIRE_TOKENS, value == &q ? heads : s.kv_heads, s.k_dim);
      p.op(QUIRE_OP_ROPE, {*value}, {turned}).u.rope = rope;
      *value = turned;
    }
  }
  p.kv_layers.push_back({s.kv_heads, s.k_dim, s.v_dim, group});
  p.op(QUIRE_OP_KV_STORE, {k, p.view(qkv, s.kv_heads, s.v_dim, q_width + k_width)}, {}).u.kv_store.kv_layer = layer;
  const uint32_t out = p.tensor(QUIRE_TOKENS, heads, s.v_dim);
  quire_attend attend{};
  attend.kv_layer = layer;
  attend.scale = s.scale == 0 ? 1 / std::sqrt(static_cast<float>(s.k_dim)) : s.scale;
  attend.softcap = s.softcap;
  if (s.sinks) attend.sinks = p.vector(random.normals(heads, 2));
  p.op(QUIRE_OP_ATTEND, {q}, {out}).u.attend = attend;
  p.extra_output(out);
}

TestProgram attend_program(const std::vector<Shape>& layers, Random& random, uint32_t vocabulary = kVocabulary) {
  TestProgram p;
  p.vocab_size = vocabulary;
  p.max_context = 8192;
  std::vector<uint32_t> windows;
  for (const Shape& s : layers) {
    auto found = std::find(windows.begin(), windows.end(), s.window);
    if (found == windows.end()) {
      p.kv_groups.push_back({s.window});
      found = windows.insert(windows.end(), s.window);
    }
    add_layer(p, s, static_cast<uint32_t>(found - windows.begin()), random);
  }
  p.add_plain_logits(random);
  return p;
}

std::vector<int32_t> random_tokens(uint32_t count, Random& random, uint32_t vocabulary = kVocabulary) {
  std::vector<int32_t> tokens(count);
  for (int32_t& t : tokens) t = static_cast<int32_t>(random.integer(0, vocabulary - 2));
  return tokens;
}

void want_rows(LogicalStep& step, Random& random) {
  step.rows = random.ascending(random.integer(0, std::min(step.num_tokens(), 9u)), step.num_tokens());
}

// A few steps in which sequences begin, continue a prompt and decode side by side.
std::vector<LogicalStep> mixed_steps(uint32_t sequences, uint32_t num_steps, uint32_t budget, Random& random) {
  std::vector<LogicalStep> steps;
  for (uint32_t s = 0; s < num_steps; ++s) {
    LogicalStep step;
    for (uint32_t sequence = 0; sequence < sequences; ++sequence) {
      if (s < sequence % num_steps) continue; // not arrived yet
      const uint32_t left = budget - step.num_tokens();
      if (left == 0) break;
      const bool decodes = s > sequence % num_steps && random.chance(0.6);
      step.parts.push_back({sequence, random_tokens(decodes ? 1 : random.integer(1, left), random)});
    }
    want_rows(step, random);
    steps.push_back(step);
  }
  return steps;
}

// One sequence whose context is built by unchecked chunks, then checked chunks and decodes.
std::vector<LogicalStep> long_steps(uint32_t context, uint32_t chunk, Random& random) {
  std::vector<LogicalStep> steps;
  for (uint32_t have = 0; have < context;) {
    const uint32_t count = std::min(chunk, context - have);
    LogicalStep step{{{0, random_tokens(count, random, kLongVocabulary)}}, {}, false};
    steps.push_back(step);
    have += count;
  }
  for (const uint32_t count : {3u, 1u, 1u}) {
    LogicalStep step{{{0, random_tokens(count, random, kLongVocabulary)}}, {count - 1}};
    steps.push_back(step);
  }
  return steps;
}

} // namespace

TEST(Attend, MixedStepsOverScatteredBlocks) {
  Harness h("Attend.MixedStepsOverScatteredBlocks");
  Random& random = h.random();
  for (int i = 0; i < h.cases(16); ++i) {
    Shape s;
    s.gqa = i < 8 ? static_cast<uint32_t>(i + 1) : random.integer(1, 8);
    s.kv_heads = random.integer(1, s.gqa > 4 ? 2 : 4);
    s.k_dim = s.v_dim = random.pick({64u, 80u, 96u, 128u, 256u});
    if (random.chance(0.2)) s.k_dim = 192, s.v_dim = 128;
    if (random.chance(0.5)) s.window = random.integer(1, random.pick({6u, 20u, 100u}));
    if (random.chance(0.3)) s.softcap = random.pick({20.0f, 2.0f});
    if (random.chance(0.3)) s.sinks = true;
    if (random.chance(0.3)) s.scale = 0.5f;
    Layout layout;
    layout.block_size = random.pick({8u, 16u, 32u});
    layout.kv_format = takes_e4m3() && i % 4 == 3
                           ? uint32_t{QUIRE_KV_E4M3}
                           : random.pick<uint32_t>({QUIRE_F16, QUIRE_F16, QUIRE_BF16, QUIRE_F32});
    const uint32_t sequences = random.integer(1, 6);
    const TestProgram p = attend_program({s}, random);
    std::ostringstream what;
    what << s.text() << ", blocks of " << layout.block_size << " in format " << layout.kv_format << ", " << sequences
         << " sequences";
    h.check(p, mixed_steps(sequences, 3, random.integer(sequences, 120), random), what.str(), layout);
  }
}

// Steps of one token a sequence, which a backend may rotate, store and attend to at once, among others.
TEST(Attend, TokensThatRopeHasRotated) {
  Harness h("Attend.TokensThatRopeHasRotated");
  Random& random = h.random();
  for (int i = 0; i < h.cases(10); ++i) {
    Shape s;
    s.gqa = random.integer(1, 8);
    s.kv_heads = random.integer(1, 3);
    s.k_dim = s.v_dim = random.pick({64u, 80u, 96u, 128u, 256u});
    s.rotary_dim = random.chance(0.5) ? s.k_dim : 2 * random.integer(1, s.k_dim / 2);
    s.interleaved = i % 2 != 0;
    s.magnitude = random.pick({0.0f, 1.1875f});
    if (random.chance(0.3)) s.window = random.integer(1, random.pick({6u, 20u, 100u}));
    if (random.chance(0.3)) s.softcap = 20;
    if (random.chance(0.3)) s.sinks = true;
    const Layout layout{random.pick({8u, 16u, 32u}), random.pick({QUIRE_F16, QUIRE_BF16, QUIRE_F32})};
    const uint32_t sequences = random.integer(1, 5);
    std::vector<LogicalStep> steps = mixed_steps(sequences, 2, random.integer(sequences, 100), random);
    for (int decode = 0; decode < 3; ++decode) {
      LogicalStep step;
      for (uint32_t sequence = 0; sequence < sequences; ++sequence)
        step.parts.push_back({sequence, random_tokens(1, random)});
      want_rows(step, random);
      steps.push_back(step);
    }
    h.check(attend_program({s}, random), steps,
            describe(s.text(), ", blocks of ", layout.block_size, " in format ", layout.kv_format, ", ", sequences,
                     " sequences"),
            layout);
  }
}

// Few sequences, some long, of one token each: what a backend may give many blocks a sequence for.
TEST(Attend, TokensOfFewSequences) {
  Harness h("Attend.TokensOfFewSequences");
  Random& random = h.random();
  const uint32_t groups[4] = {1, 3, 8, 16};
  for (int i = 0; i < h.cases(8); ++i) {
    Shape s;
    s.gqa = groups[i % 4];
    s.kv_heads = random.integer(1, s.gqa > 3 ? 2 : 4);
    s.k_dim = s.v_dim = s.gqa > 3 ? random.pick({64u, 80u}) : random.pick({64u, 96u, 128u, 256u});
    if (i / 4 % 2 == 0) s.rotary_dim = s.k_dim;
    if (random.chance(0.3)) s.window = random.integer(20, 300);
    if (random.chance(0.5)) s.sinks = true;
    const uint32_t sequences = static_cast<uint32_t>(i + i / 4) % 4 + 1;
    const Layout layout{random.pick({8u, 16u, 32u}), random.pick({QUIRE_F16, QUIRE_BF16})};
    std::vector<LogicalStep> steps;
    for (uint32_t sequence = 0; sequence < sequences; ++sequence)
      for (uint32_t chunks = sequence == 0 ? 3 : 1; chunks > 0; --chunks) {
        LogicalStep step{{{sequence, random_tokens(random.integer(1, 240), random, kLongVocabulary)}}, {}, false};
        steps.push_back(step);
      }
    for (int decode = 0; decode < 2; ++decode) {
      LogicalStep step;
      for (uint32_t sequence = 0; sequence < sequences; ++sequence)
        step.parts.push_back({sequence, random_tokens(1, random, kLongVocabulary)});
      want_rows(step, random);
      steps.push_back(step);
    }
    h.check(attend_program({s}, random, kLongVocabulary), steps,
            describe(s.text(), ", blocks of ", layout.block_size, " in format ", layout.kv_format, ", ", sequences,
                     " sequences"),
            layout);
  }
}

TEST(Attend, LayersOfSeveralGroupsHaveTheirOwnTables) {
  Harness h("Attend.LayersOfSeveralGroupsHaveTheirOwnTables");
  Random& random = h.random();
  for (int i = 0; i < h.cases(2); ++i) {
    Shape full{2, 3, 64, 64}, near{1, 4, 128, 128}, other{4, 1, 64, 64};
    near.window = random.integer(9, 40);
    other.window = random.integer(1, 8);
    const TestProgram p = attend_program({full, near, full, other, near}, random);
    h.check(p, mixed_steps(4, 5, 90, random), describe("windows ", near.window, " and ", other.window),
            {random.pick({8u, 16u}), QUIRE_F16});
  }
}

TEST(Attend, LongContexts) {
  Harness h("Attend.LongContexts");
  Random& random = h.random();
  for (int i = 0; i < h.cases(3); ++i) {
    Shape s;
    s.gqa = random.integer(1, 4);
    if (i == 1) s.window = random.integer(500, 1500);
    if (i == 2) s.sinks = true;
    const uint32_t context = i == 0 ? 4096 - 5 : random.integer(1500, 3000);
    const Layout layout{random.pick({8u, 16u, 32u}), QUIRE_F16};
    h.check(attend_program({s}, random, kLongVocabulary), long_steps(context, 300, random),
            describe(s.text(), ", context ", context), layout);
  }
}

TEST(Attend, ALargeStep) {
  Harness h("Attend.ALargeStep");
  Random& random = h.random();
  LogicalStep step{{{0, random_tokens(170, random)}, {1, random_tokens(1, random)}, {2, random_tokens(129, random)}},
                   {169, 170, 299}};
  h.check(attend_program({Shape{2, 4, 64, 64}}, random), {step}, "300 tokens at once");
}

// Each head size has a tile layout of its own; 40 and 24 have no tensor cores.
TEST(Attend, E4m3OfEveryHeadSize) {
  Harness h("Attend.E4m3OfEveryHeadSize");
  if (!takes_e4m3()) GTEST_SKIP() << "no cache in E4M3";
  Random& random = h.random();
  for (const uint32_t dim : {64u, 80u, 96u, 128u, 256u, 40u}) {
    for (const bool capped : {false, true}) {
      Shape s{2, random.integer(1, dim > 128 ? 4 : 12), dim, dim};
      if (dim == 40) s.v_dim = 24;
      if (capped) s.softcap = 20, s.window = random.integer(10, 60), s.sinks = true;
      const Layout layout{random.pick({8u, 16u, 32u}), QUIRE_KV_E4M3};
      LogicalStep step{{{0, random_tokens(60, random)}, {1, random_tokens(1, random)}, {2, random_tokens(40, random)}},
                       {}};
      LogicalStep next{{{0, random_tokens(1, random)}, {1, random_tokens(1, random)}, {2, random_tokens(30, random)}},
                       {}};
      want_rows(step, random);
      want_rows(next, random);
      h.check(attend_program({s}, random), {step, next, next},
              describe(s.text(), ", blocks of ", layout.block_size, " of E4M3"), layout);
    }
  }
  const uint32_t context = random.integer(1500, 2100);
  h.check(attend_program({Shape{1, 4, 128, 128}}, random, kLongVocabulary), long_steps(context, 300, random),
          describe("context ", context), {16, QUIRE_KV_E4M3});
}

// V of every magnitude from far below E4M3's smallest number to far above its largest, where it stays at 448.
TEST(Attend, E4m3OfEveryMagnitude) {
  Harness h("Attend.E4m3OfEveryMagnitude");
  if (!takes_e4m3()) GTEST_SKIP() << "no cache in E4M3";
  Random& random = h.random();
  TestProgram p;
  p.vocab_size = 256;
  p.max_context = 8192;
  p.kv_groups.push_back({0});
  constexpr uint32_t kHead = 64;
  p.kv_layers.push_back({1, kHead, kHead, 0});
  std::vector<float> values = random.normals(size_t{p.vocab_size} * kHead);
  for (uint32_t i = 0; i < values.size(); ++i)
    values[i] = std::ldexp(values[i], static_cast<int>(i / kHead % 22) - 12); // a token a magnitude
  std::fill(values.end() - kHead, values.end(), std::numeric_limits<float>::quiet_NaN());
  const uint32_t q = p.input(kHead, random), k = p.input(kHead, random),
                 v = p.embed(p.matrix(p.vocab_size, kHead, values));
  p.op(QUIRE_OP_KV_STORE, {k, v}, {}).u.kv_store.kv_layer = 0;
  const uint32_t out = p.tensor(QUIRE_TOKENS, 1, kHead);
  quire_attend attend{};
  attend.scale = 0.125f;
  p.op(QUIRE_OP_ATTEND, {q}, {out}).u.attend = attend;
  p.extra_output(out);
  p.add_plain_logits(random);
  // One token sees its own value alone: what the cache keeps of it, element by element.
  std::vector<LogicalStep> steps;
  for (int32_t token = 0; token < 44; ++token) steps.push_back({{{static_cast<uint32_t>(token), {token}}}, {}});
  std::vector<int32_t> all(200);
  std::iota(all.begin(), all.end(), 0);
  steps.push_back({{{100, all}}, {}});
  h.check(p, steps, "values of every magnitude", {16, QUIRE_KV_E4M3});
}

// K and V of a layer beyond 128 MiB each; the few blocks in use lie all over the pool.
TEST(Attend, APoolBeyond128MiB) {
  Harness h("Attend.APoolBeyond128MiB");
  Random& random = h.random();
  const Shape s{8, 1, 128, 128};
  Layout layout{16, QUIRE_F16};
  layout.num_blocks = 136 * 1024 * 1024 / (8 * 128 * 16 * 2) + 5;
  h.check(attend_program({s}, random), mixed_steps(5, 4, 100, random),
          describe(s.text(), ", ", layout.num_blocks, " blocks"), layout);
}

} // namespace quire::tests
