// embed, norm, add, mul, glu, gather_rows, collective: everything that works on one row at a time.
#include "conformance/harness.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <sstream>

namespace quire::tests {
namespace {

// A program over a vocabulary of `tokens` rows and the poison token.
TestProgram program_for(uint32_t tokens) {
  TestProgram program;
  program.vocab_size = tokens + 1;
  program.max_context = 8192;
  return program;
}

uint32_t odd_width(Random& random, uint32_t most) {
  return random.chance(0.4) ? 64 * random.integer(1, most / 64) : random.integer(1, most);
}

} // namespace

TEST(Embed, EveryFormatIsRead) {
  Harness h("Embed.EveryFormatIsRead");
  for (const uint32_t format : all_formats()) {
    const uint32_t tokens = h.random().integer(1, 300);
    const uint32_t dim = std::max(32u, format_shape(format).elements) * h.random().integer(1, 4);
    TestProgram p = program_for(tokens);
    const uint32_t out = p.embed(p.random_weight(format, 0, p.vocab_size, dim, 1, h.random()));
    p.ops.back().u.embed.scale = h.random().pick({0.0f, 1.0f, 24.5f});
    p.extra_output(out);
    p.add_plain_logits(h.random());
    h.check(p, {plain_step(tokens, 3, h.random())}, describe(format_shape(format).name, " [", dim, "]"));
  }
}

TEST(Embed, LearnedPositionsAreAdded) {
  Harness h("Embed.LearnedPositionsAreAdded");
  for (int i = 0; i < h.cases(2); ++i) {
    const uint32_t tokens = h.random().integer(2, 200), dim = odd_width(h.random(), 400);
    TestProgram p = program_for(tokens);
    p.max_context = 512;
    const uint32_t out = p.embed(p.random_weight(QUIRE_F32, 0, p.vocab_size, dim, 1, h.random()));
    p.ops.back().u.embed.positions =
        p.random_weight(h.random().pick({QUIRE_F32, QUIRE_F16}), 0, 512, dim, 1, h.random());
    p.ops.back().u.embed.scale = 3;
    p.extra_output(out);
    p.add_plain_logits(h.random());
    // Two sequences, the first in two chunks, so that positions are not token indices.
    const LogicalStep first = plain_step(tokens, 2, h.random());
    LogicalStep second = plain_step(tokens / 2, 2, h.random());
    second.parts.push_back({7, std::vector<int32_t>(tokens - tokens / 2, 1)});
    h.check(p, {first, second}, describe("dim ", dim));
  }
}

TEST(Norm, RowsAndHeadsAreNormalised) {
  Harness h("Norm.RowsAndHeadsAreNormalised");
  Random& random = h.random();
  for (int i = 0; i < h.cases(16); ++i) {
    const uint32_t tokens = random.integer(1, 300), heads = random.chance(0.5) ? 1 : random.integer(2, 9);
    const uint32_t dim = heads == 1 ? odd_width(random, 1200) : random.pick({64u, 80u, 128u, 33u});
    const bool view = random.chance(0.4), residual = random.chance(0.5), sum = residual && random.chance(0.7);
    const uint32_t extra = view ? random.integer(1, 70) : 0;
    TestProgram p = program_for(tokens);
    const double mean = random.chance(0.3) ? 3 : 0;
    const uint32_t parent = p.input(heads * dim + extra, random, random.pick({1.0, 0.01, 50.0}), mean);
    const uint32_t in = view || heads > 1 ? p.view(parent, heads, dim, random.integer(0, extra)) : parent;
    uint32_t other = residual ? p.input(heads * dim, random) : 0;
    if (residual && heads > 1) other = p.view(other, heads, dim, 0);
    const uint32_t out = p.tensor(QUIRE_TOKENS, heads, dim), total = sum ? p.tensor(QUIRE_TOKENS, heads, dim) : 0;
    quire_norm norm{};
    norm.kind = random.pick({QUIRE_NORM_RMS, QUIRE_NORM_LAYER});
    norm.weight =
        random.chance(0.8) ? p.random_weight(random.pick({QUIRE_F32, QUIRE_F16, QUIRE_BF16}), 0, 1, dim, 1, random) : 0;
    norm.bias = random.chance(0.4) ? p.random_weight(QUIRE_F32, 0, 1, dim, 1, random) : 0;
    norm.epsilon = random.pick({1e-5f, 1e-6f});
    norm.weight_offset = norm.weight && random.chance(0.4) ? 1.0f : 0.0f;
    p.op(QUIRE_OP_NORM, {in, other}, {out, total}).u.norm = norm;
    p.extra_output(out);
    if (sum) p.extra_output(total);
    p.add_plain_logits(random);
    std::ostringstream what;
    what << (norm.kind ? "layer" : "rms") << " [" << tokens << ", " << heads << ", " << dim << "]"
         << (view ? ", view" : "") << (residual ? ", residual" : "") << (sum ? ", sum" : "")
         << (norm.weight ? ", weight" : "") << (norm.bias ? ", bias" : "");
    h.check(p, {plain_step(tokens, 2, random)}, what.str());
  }
}

TEST(Add, RowsAreAdded) {
  Harness h("Add.RowsAreAdded");
  for (int i = 0; i < h.cases(4); ++i) {
    const uint32_t tokens = h.random().integer(1, 300), width = odd_width(h.random(), 1000);
    TestProgram p = program_for(tokens);
    const uint32_t a = p.input(width, h.random()), wide = p.input(width + 5, h.random());
    const uint32_t b = p.view(wide, 1, width, h.random().integer(0, 5)), out = p.tensor(QUIRE_TOKENS, 1, width);
    p.op(QUIRE_OP_ADD, {a, b}, {out});
    p.extra_output(out);
    p.add_plain_logits(h.random());
    h.check(p, {plain_step(tokens, 1, h.random())}, describe("[", tokens, ", ", width, "]"));
  }
}

TEST(Mul, RowsColumnsAndScalarsAreMultiplied) {
  Harness h("Mul.RowsColumnsAndScalarsAreMultiplied");
  for (int i = 0; i < h.cases(6); ++i) {
    const uint32_t tokens = h.random().integer(1, 300), width = odd_width(h.random(), 1000);
    TestProgram p = program_for(tokens);
    const uint32_t a = p.input(width, h.random()), out = p.tensor(QUIRE_TOKENS, 1, width);
    const uint32_t b = i % 3 == 0 ? p.input(width, h.random()) : 0;
    quire_op& op = p.op(QUIRE_OP_MUL, {a, b}, {out});
    if (i % 3 == 1) op.u.mul.weight = p.random_weight(QUIRE_F32, 0, 1, width, 1, h.random());
    if (i % 3 == 2) op.u.mul.weight = p.vector({0.375f});
    p.extra_output(out);
    p.add_plain_logits(h.random());
    h.check(p, {plain_step(tokens, 1, h.random())}, describe("kind ", i % 3, ", width ", width));
  }
}

TEST(Glu, EveryActivationGates) {
  Harness h("Glu.EveryActivationGates");
  for (const uint32_t activation :
       {QUIRE_ACT_SILU, QUIRE_ACT_GELU_TANH, QUIRE_ACT_GELU_ERF, QUIRE_ACT_RELU, QUIRE_ACT_NONE})
    for (int i = 0; i < h.cases(1); ++i) {
      const uint32_t tokens = h.random().integer(1, 300), width = odd_width(h.random(), 1000);
      TestProgram p = program_for(tokens);
      const uint32_t both = p.input(2 * width, h.random(), 3), out = p.tensor(QUIRE_TOKENS, 1, width);
      p.op(QUIRE_OP_GLU, {p.view(both, 1, width, 0), p.view(both, 1, width, width)}, {out}).u.glu.activation =
          activation;
      p.extra_output(out);
      p.add_plain_logits(h.random());
      h.check(p, {plain_step(tokens, 1, h.random())}, describe("activation ", activation, ", width ", width));
    }
}

TEST(GatherRows, WantedRowsAreTakenInOrder) {
  Harness h("GatherRows.WantedRowsAreTakenInOrder");
  for (int i = 0; i < h.cases(5); ++i) {
    const uint32_t tokens = h.random().integer(1, 300), width = odd_width(h.random(), 700);
    TestProgram p = program_for(tokens);
    p.extra_output(p.gather_rows(p.input(width, h.random())));
    p.add_plain_logits(h.random());
    const uint32_t rows = i == 0 ? tokens : i == 1 ? 0 : h.random().integer(1, tokens);
    LogicalStep step = plain_step(tokens, rows, h.random());
    if (i >= 3) // the samples of one prompt: a row comes several times
      for (uint32_t copy = 0; copy < 5; ++copy) step.rows.insert(step.rows.begin() + rows / 2, step.rows[rows / 2]);
    h.check(p, {step}, describe(rows, " of ", tokens, " rows"));
  }
}

TEST(Collective, OneRankIsTheIdentity) {
  Harness h("Collective.OneRankIsTheIdentity");
  for (const uint32_t kind : {QUIRE_ALL_REDUCE, QUIRE_ALL_GATHER}) {
    TestProgram p = program_for(37);
    const uint32_t in = p.input(65, h.random()), out = p.tensor(QUIRE_TOKENS, 1, 65);
    p.op(QUIRE_OP_COLLECTIVE, {in}, {out}).u.collective.kind = kind;
    p.extra_output(out);
    p.add_plain_logits(h.random());
    h.check(p, {plain_step(37, 1, h.random())}, describe("kind ", kind));
  }
}

} // namespace quire::tests
