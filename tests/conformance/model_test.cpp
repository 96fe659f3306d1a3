// Whole small networks: against float64, and bit for bit the same however they are batched, chunked, paged, copied or
// swapped.
#include "conformance/harness.hpp"
#include "support/small_model.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <map>

namespace quire::tests {
namespace {

constexpr const char* kAnyOrder = "sums in any order need not have the same bits";

std::vector<int32_t> random_tokens(uint32_t count, uint32_t vocab, Random& random) {
  std::vector<int32_t> tokens(count);
  for (int32_t& t : tokens) t = static_cast<int32_t>(random.integer(0, vocab - 1));
  return tokens;
}

// All logits of all tokens of some sequences, [tokens][vocab] a sequence, gathered over any steps.
using Logits = std::map<uint32_t, std::vector<float>>;

void want_all(LogicalStep& step) {
  step.rows.clear();
  for (uint32_t t = 0; t < step.num_tokens(); ++t) step.rows.push_back(t);
}

void run_and_collect(Runner& runner, LogicalStep step, uint32_t vocab, Logits& logits) {
  want_all(step);
  runner.run(step);
  const std::vector<float> rows = runner.read(0, step.num_tokens());
  size_t at = 0;
  for (const LogicalStep::Part& part : step.parts) {
    auto& into = logits[part.sequence];
    into.insert(into.end(), rows.begin() + static_cast<ptrdiff_t>(at),
                rows.begin() + static_cast<ptrdiff_t>(at + part.tokens.size() * vocab));
    at += part.tokens.size() * vocab;
  }
}

void expect_same_bits(const Logits& got, const Logits& expected, uint32_t vocab, const std::string& what) {
  for (const auto& [sequence, rows] : got) {
    const auto& other = expected.at(sequence);
    ASSERT_LE(rows.size(), other.size()) << what;
    for (size_t i = 0; i < rows.size(); ++i)
      if (std::memcmp(&rows[i], &other[i], sizeof(float)) != 0) {
        ADD_FAILURE() << what << ": sequence " << sequence << ", token " << i / vocab << ", logit " << i % vocab
                      << " is " << rows[i] << ", alone it was " << other[i] << " (--seed " << options().seed << ")";
        return;
      }
  }
}

quire_limits model_limits(uint32_t max_tokens, uint32_t max_context, uint32_t block_size = 16,
                          uint32_t kv_format = QUIRE_F16) {
  quire_limits limits{};
  limits.struct_size = sizeof(limits);
  limits.max_tokens = max_tokens;
  limits.max_sequences = 32;
  limits.max_rows = max_tokens;
  limits.max_context = max_context;
  limits.block_size = block_size;
  limits.kv_format = kv_format;
  return limits;
}

std::vector<uint32_t> cache_formats() {
  return takes_e4m3() ? std::vector<uint32_t>{QUIRE_F16, QUIRE_KV_E4M3} : std::vector<uint32_t>{QUIRE_F16};
}

// Each of the sequences alone: its prompt at once, then token by token.
Logits alone(Runner& runner, const std::vector<std::vector<int32_t>>& sequences, uint32_t decoded, uint32_t vocab) {
  Logits logits;
  for (uint32_t s = 0; s < sequences.size(); ++s) {
    const auto prompt_end = sequences[s].end() - decoded;
    run_and_collect(runner, {{{s, {sequences[s].begin(), prompt_end}}}, {}}, vocab, logits);
    for (auto token = prompt_end; token != sequences[s].end(); ++token)
      run_and_collect(runner, {{{s, {*token}}}, {}}, vocab, logits);
    runner.pager().drop(s);
  }
  return logits;
}

} // namespace

TEST(Model, ASmallNetworkEqualsFloat64) {
  Harness h("Model.ASmallNetworkEqualsFloat64");
  Random& random = h.random();
  for (int i = 0; i < h.cases(3); ++i) {
    SmallModel shape;
    shape.head_norms = i % 2 == 1;
    shape.window = i == 2 ? 20 : 0;
    shape.format = i == 0 ? QUIRE_F32 : random.pick({QUIRE_Q4_1, QUIRE_F16, QUIRE_Q8_0});
    const TestProgram p = small_model(shape, random);
    std::vector<LogicalStep> steps;
    for (uint32_t s = 0; s < 4; ++s) {
      LogicalStep step;
      for (uint32_t sequence = 0; sequence <= s; ++sequence)
        step.parts.push_back({sequence, random_tokens(sequence == s ? random.integer(1, 60) : 1, shape.vocab, random)});
      step.rows = random.ascending(random.integer(1, step.num_tokens()), step.num_tokens());
      steps.push_back(step);
    }
    h.check(p, steps, describe("a network in ", format_shape(shape.format).name));
    if (i == 0 && takes_e4m3()) h.check(p, steps, "a network with a cache in E4M3", {16, QUIRE_KV_E4M3});
  }
}

// Steps of one token a sequence, which a backend may carry out as one: of shapes and formats that are alike in all
// matrices, and of contexts long enough to be attended to in parts.
TEST(Model, DecodeStepsEqualFloat64) {
  Harness h("Model.DecodeStepsEqualFloat64");
  Random& random = h.random();
  for (int i = 0; i < h.cases(5); ++i) {
    SmallModel shape;
    shape.format = shape.kv_weights =
        i < 2 ? uint32_t{QUIRE_F16} : random.pick<uint32_t>({QUIRE_Q4_1, QUIRE_F16, QUIRE_Q8_0});
    shape.layers = 3;
    shape.dim = i % 2 == 0 ? 128 : 256;
    shape.head_dim = i % 2 == 0 ? 64 : 128;
    shape.kv_heads = i % 3 == 0 ? 1 : 2;
    shape.heads = shape.kv_heads * random.integer(1, 5);
    shape.inner = 64 * random.integer(1, 5);
    shape.window = i == 1 || i == 4 ? 20 : 0;
    shape.rope = i % 2 == 0 ? QUIRE_ROPE_INTERLEAVED : QUIRE_ROPE_HALF;
    shape.rotary_dim = i == 3 ? 32 : 0;
    shape.softcap = i == 1 ? 20.f : 0.f;
    shape.sinks = i == 2;
    const TestProgram p = small_model(shape, random);
    const uint32_t sequences = i == 0 ? 1 : random.integer(1, 5);
    std::vector<LogicalStep> steps(4);
    for (uint32_t s = 0; s < sequences; ++s)
      steps[0].parts.push_back(
          {s, random_tokens(s == 0 && i % 3 == 0 ? random.integer(280, 400) : random.integer(1, 60), shape.vocab,
                            random)});
    for (uint32_t step = 1; step < steps.size(); ++step)
      for (uint32_t s = 0; s < sequences; ++s) steps[step].parts.push_back({s, random_tokens(1, shape.vocab, random)});
    for (LogicalStep& step : steps) // as an engine does or not
      step.rows = random.chance(0.5) ? random.ascending(step.num_tokens(), step.num_tokens())
                                     : random.ascending(random.integer(1, sequences), step.num_tokens());
    steps.back().rows = random.ascending(sequences, sequences);
    h.check(p, steps,
            describe("a network in ", format_shape(shape.format).name, ", ", sequences, " sequences, heads of ",
                     shape.head_dim),
            {i == 2 ? 32u : 16u, i % 2 == 1 ? uint32_t{QUIRE_BF16} : uint32_t{QUIRE_F16}});
  }
}

// The design's «the same request gives the same tokens».
TEST(Model, ABatchGivesWhatEachGivesAlone) {
  if (options().any_order) GTEST_SKIP() << kAnyOrder;
  for (const uint32_t kv_format : cache_formats()) {
    SCOPED_TRACE(describe("cache format ", kv_format));
    Harness h("Model.ABatchGivesWhatEachGivesAlone");
    Random& random = h.random();
    SmallModel shape;
    shape.window = 33;
    const TestProgram p = small_model(shape, random);
    constexpr uint32_t decoded = 3, num_sequences = 16;
    std::vector<std::vector<int32_t>> sequences;
    for (uint32_t s = 0; s < num_sequences; ++s)
      sequences.push_back(random_tokens((s == 0 ? 1 : random.integer(1, 90)) + decoded, shape.vocab, random));
    Runner runner(h.session(), p, model_limits(2048, 256, 16, kv_format), 200, random);
    const Logits expected = alone(runner, sequences, decoded, shape.vocab);

    Logits batch;
    for (uint32_t step = 0; step <= decoded; ++step) {
      LogicalStep all;
      for (uint32_t s = 0; s < num_sequences; ++s) {
        const auto prompt_end = sequences[s].end() - decoded;
        all.parts.push_back({s, step == 0 ? std::vector<int32_t>(sequences[s].begin(), prompt_end)
                                          : std::vector<int32_t>{prompt_end[step - 1]}});
      }
      run_and_collect(runner, all, shape.vocab, batch);
    }
    expect_same_bits(batch, expected, shape.vocab, "16 together");
  }
}

TEST(Model, AnyChunkingGivesTheSame) {
  if (options().any_order) GTEST_SKIP() << kAnyOrder;
  Harness h("Model.AnyChunkingGivesTheSame");
  Random& random = h.random();
  const SmallModel shape;
  const TestProgram p = small_model(shape, random);
  const std::vector<int32_t> tokens = random_tokens(options().full ? 530 : 150, shape.vocab, random);
  const auto length = static_cast<uint32_t>(tokens.size());
  Runner runner(h.session(), p, model_limits(length, length), 2 * length / 16 + 4, random);
  Logits expected;
  run_and_collect(runner, {{{0, tokens}}, {}}, shape.vocab, expected);
  runner.pager().drop(0);
  std::vector<uint32_t> chunks = {1, 7, 16, 33, 64, 100};
  if (options().full)
    chunks = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 200, 256, 300, 511, 512};
  for (const uint32_t chunk : chunks) {
    Logits got;
    for (uint32_t begin = 0; begin < length; begin += chunk)
      run_and_collect(runner, {{{0, {tokens.begin() + begin, tokens.begin() + std::min(begin + chunk, length)}}}, {}},
                      shape.vocab, got);
    runner.pager().drop(0);
    expect_same_bits(got, expected, shape.vocab, describe("chunks of ", chunk));
  }
  // Mixed steps: chunks beside the decodes of others.
  Logits mixed;
  for (uint32_t begin = 0, step = 0; begin < length; ++step) {
    const uint32_t count = std::min(length - begin, random.integer(1, 40));
    LogicalStep all{{{1, random_tokens(step == 0 ? 20 : 1, shape.vocab, random)},
                     {0, {tokens.begin() + begin, tokens.begin() + begin + count}},
                     {2, random_tokens(1, shape.vocab, random)}},
                    {}};
    Logits rows;
    if (all.num_tokens() > length) break;
    run_and_collect(runner, all, shape.vocab, rows);
    mixed[0].insert(mixed[0].end(), rows[0].begin(), rows[0].end());
    begin += count;
  }
  expect_same_bits(mixed, expected, shape.vocab, "beside decodes");
}

TEST(Model, TheBlockSizeDoesNotMatter) {
  if (options().any_order) GTEST_SKIP() << kAnyOrder;
  Harness h("Model.TheBlockSizeDoesNotMatter");
  Random& random = h.random();
  const SmallModel shape;
  const TestProgram p = small_model(shape, random);
  const std::vector<std::vector<int32_t>> sequences = {random_tokens(130, shape.vocab, random)};
  Logits expected;
  for (const uint32_t block_size : {16u, 8u, 32u, 256u}) {
    Runner runner(h.session(), p, model_limits(130, 256, block_size), 40, random);
    const Logits got = alone(runner, sequences, 4, shape.vocab);
    if (expected.empty()) expected = got;
    expect_same_bits(got, expected, shape.vocab, describe("blocks of ", block_size));
  }
}

// A fork shares full blocks and copies the last one.
TEST(Model, ACopiedBlockContinuesLikeItsOriginal) {
  if (options().any_order) GTEST_SKIP() << kAnyOrder;
  for (const uint32_t kv_format : cache_formats()) {
    SCOPED_TRACE(describe("cache format ", kv_format));
    Harness h("Model.ACopiedBlockContinuesLikeItsOriginal");
    Random& random = h.random();
    SmallModel shape;
    shape.window = 24;
    const TestProgram p = small_model(shape, random);
    Runner runner(h.session(), p, model_limits(64, 128, 16, kv_format), 40, random);
    const std::vector<int32_t> prompt = random_tokens(43, shape.vocab, random),
                               left = random_tokens(12, shape.vocab, random),
                               right = random_tokens(12, shape.vocab, random);
    const auto with = [&](const std::vector<int32_t>& tail) {
      std::vector<int32_t> all = prompt;
      all.insert(all.end(), tail.begin(), tail.end());
      return all;
    };
    const Logits expected = alone(runner, {with(left), with(right)}, 12, shape.vocab);

    Logits got;
    run_and_collect(runner, {{{0, prompt}}, {}}, shape.vocab, got);
    got[1] = got[0];
    runner.pager().fork(0, 1);
    std::vector<quire_block_copy> copies;
    for (uint32_t g = 0; g < 2; ++g) {
      uint32_t& last = runner.pager().table(1, g).back();
      const uint32_t fresh = runner.pager().take_block(g);
      copies.push_back({g, last, fresh});
      last = fresh;
    }
    h.session().copy_blocks(copies);
    for (size_t i = 0; i < left.size(); ++i)
      run_and_collect(runner, {{{0, {left[i]}}, {1, {right[i]}}}, {}}, shape.vocab, got);
    expect_same_bits(got, expected, shape.vocab, "a fork");
  }
}

TEST(Model, ASwappedSequenceContinuesWhereItWas) {
  if (options().any_order) GTEST_SKIP() << kAnyOrder;
  for (const uint32_t kv_format : cache_formats()) {
    SCOPED_TRACE(describe("cache format ", kv_format));
    Harness h("Model.ASwappedSequenceContinuesWhereItWas");
    Random& random = h.random();
    SmallModel shape;
    shape.window = 40;
    const TestProgram p = small_model(shape, random);
    constexpr uint32_t num_blocks = 12, host_blocks = 9, block_size = 16;
    Runner runner(h.session(), p, model_limits(160, 256, 16, kv_format), num_blocks, random, host_blocks);
    const std::vector<std::vector<int32_t>> sequences = {random_tokens(100 + 6, shape.vocab, random)};
    const Logits expected = alone(runner, sequences, 6, shape.vocab);

    Logits got;
    run_and_collect(runner, {{{0, {sequences[0].begin(), sequences[0].end() - 6}}}, {}}, shape.vocab, got);
    // Out to host slots in a scattered order; another sequence then overwrites every device block.
    std::vector<quire_block_copy> out, in;
    std::vector<std::vector<uint32_t>> slots(2);
    for (uint32_t g = 0; g < 2; ++g) {
      slots[g] = random.permutation(host_blocks);
      const auto& table = runner.pager().table(0, g);
      for (size_t e = 0; e < table.size(); ++e)
        if (table[e] != UINT32_MAX) out.push_back({g, table[e], slots[g][e]});
    }
    h.session().swap_out(out);
    std::vector<std::vector<uint32_t>> tables;
    for (uint32_t g = 0; g < 2; ++g) tables.push_back(runner.pager().table(0, g));
    const uint32_t length = runner.pager().length(0);
    runner.pager().drop(0);
    Logits other;
    run_and_collect(
        runner,
        {{{1, random_tokens(num_blocks * block_size > 160 ? 160 : num_blocks * block_size, shape.vocab, random)}}, {}},
        shape.vocab, other);
    runner.pager().drop(1);
    for (uint32_t g = 0; g < 2; ++g) {
      auto& table = runner.pager().adopt(0, length, g);
      for (size_t e = 0; e < tables[g].size(); ++e) {
        table.push_back(tables[g][e] == UINT32_MAX ? UINT32_MAX : runner.pager().take_block(g));
        if (table.back() != UINT32_MAX) in.push_back({g, slots[g][e], table.back()});
      }
    }
    h.session().swap_in(in);
    for (auto token = sequences[0].end() - 6; token != sequences[0].end(); ++token)
      run_and_collect(runner, {{{0, {*token}}}, {}}, shape.vocab, got);
    expect_same_bits(got, expected, shape.vocab, "swapped out and in");
  }
}

// The device never waits for the host: a step takes the tokens that the one before has not reported yet.
TEST(Model, SampledTokensFeedTheNextStep) {
  Harness h("Model.SampledTokensFeedTheNextStep");
  Random& random = h.random();
  const SmallModel shape;
  const TestProgram p = small_model(shape, random);
  constexpr uint32_t num_sequences = 5, num_steps = 9;
  Runner runner(h.session(), p, model_limits(256, 128), 60, random);
  std::vector<std::vector<int32_t>> prompts;
  for (uint32_t s = 0; s < num_sequences; ++s)
    prompts.push_back(random_tokens(random.integer(1, 30), shape.vocab, random));

  const auto sampling_rows = [&](uint32_t step) {
    std::vector<quire_sampling_row> rows(num_sequences);
    for (uint32_t s = 0; s < num_sequences; ++s) {
      rows[s].temperature = s % 2 ? 0.9f : 0.0f;
      rows[s].seed = 1234 + s;
      rows[s].position = static_cast<uint32_t>(prompts[s].size()) + step;
    }
    return rows;
  };
  const auto step_of = [&](uint32_t step, const std::vector<int32_t>& last) {
    LogicalStep all;
    uint32_t end = 0;
    for (uint32_t s = 0; s < num_sequences; ++s) {
      all.parts.push_back({s, step == 0 ? prompts[s] : std::vector<int32_t>{last[s]}});
      end += static_cast<uint32_t>(all.parts.back().tokens.size());
      all.rows.push_back(end - 1);
    }
    return all;
  };
  const auto wait = [&](uint64_t ticket) {
    std::vector<quire_sampled_row> sampled(num_sequences);
    h.session().wait(ticket, sampled);
    std::vector<int32_t> tokens;
    for (const auto& row : sampled) tokens.push_back(row.token);
    return tokens;
  };

  // By the host: each step waits for the one before.
  std::vector<std::vector<int32_t>> by_host;
  for (uint32_t step = 0; step < num_steps; ++step) {
    const PagedStep paged = runner.pager().page(step_of(step, step ? by_host.back() : std::vector<int32_t>{}));
    const uint64_t ticket = h.session().submit(paged.view(runner.program_id()));
    h.session().sample(ticket, sampling_rows(step));
    by_host.push_back(wait(ticket));
    for (const int32_t token : by_host.back()) ASSERT_GE(token, 0);
  }
  for (uint32_t s = 0; s < num_sequences; ++s) runner.pager().drop(s);

  // On the device: two steps in flight, rows of the ticket before in another order of sequences.
  std::vector<std::vector<int32_t>> by_device;
  uint64_t previous = 0;
  for (uint32_t step = 0; step < num_steps; ++step) {
    LogicalStep logical = step_of(step, std::vector<int32_t>(num_sequences, 7)); // ids that must be ignored
    PagedStep paged = runner.pager().page(logical);
    if (step > 0)
      for (uint32_t s = 0; s < num_sequences; ++s) paged.token_rows.push_back(s + 1);
    const uint64_t ticket = h.session().submit(paged.view(runner.program_id(), step > 0 ? previous : 0));
    h.session().sample(ticket, sampling_rows(step));
    if (step > 0) by_device.push_back(wait(previous));
    previous = ticket;
  }
  by_device.push_back(wait(previous));
  EXPECT_EQ(by_device, by_host);
}

} // namespace quire::tests
