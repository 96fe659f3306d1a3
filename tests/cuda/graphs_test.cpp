// Which launches a step has, which graphs are captured and found, and that a sequence which grows beyond what clusters
// are for goes on as it was: on the emulated device.
#include "graphs.hpp"
#include "instance.hpp"

#include "support/test_program.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

namespace quire::cuda {
namespace {

constexpr uint32_t kVocabulary = 97, kHeadDim = 64;

// One layer of attention without more query heads than KV heads, and logits of what it makes. Output 1: what attend
// writes.
tests::TestProgram attend_program(uint32_t heads) {
  tests::Random random(11);
  tests::TestProgram p;
  p.vocab_size = kVocabulary, p.max_context = 8192;
  p.kv_groups.push_back({0});
  p.kv_layers.push_back({heads, kHeadDim, kHeadDim, 0});
  const uint32_t width = heads * kHeadDim, qkv = p.input(3 * width, random);
  p.op(QUIRE_OP_KV_STORE, {p.view(qkv, heads, kHeadDim, width), p.view(qkv, heads, kHeadDim, 2 * width)}, {});
  const uint32_t out = p.tensor(QUIRE_TOKENS, heads, kHeadDim);
  p.op(QUIRE_OP_ATTEND, {p.view(qkv, heads, kHeadDim, 0)}, {out}).u.attend.scale = 0.125f;
  const uint32_t logits = p.tensor(QUIRE_OUTPUTS, 1, kVocabulary);
  const uint32_t rows = p.gather_rows(p.view(out, 1, width, 0));
  p.op(QUIRE_OP_LINEAR, {rows}, {logits}).u.linear.weights[0] =
      p.random_weight(QUIRE_F32, 0, kVocabulary, width, 1, random);
  p.add_output("logits", logits);
  p.extra_output(out);
  return p;
}

quire_limits limits_of(uint32_t max_tokens, uint32_t max_sequences, uint32_t max_context) {
  quire_limits limits{};
  limits.struct_size = sizeof limits;
  limits.max_tokens = max_tokens, limits.max_sequences = limits.max_rows = max_sequences;
  limits.max_context = max_context, limits.block_size = 16, limits.kv_format = QUIRE_F16;
  return limits;
}

quire_kv_config cache_of(uint32_t num_blocks) {
  quire_kv_config config{};
  config.struct_size = sizeof config, config.program = 1, config.num_blocks[0] = num_blocks;
  return config;
}

// A program compiled for steps of up to eight short sequences, with what it is compiled by.
struct Compiled {
  explicit Compiled(const tests::TestProgram& source)
      : program(
            compile_program(source.view(), limits_of(8, 8, 64), {device, library, choices, stream.get(), false, {}})) {}

  DeviceTraits device = open_device(0);
  MatrixLibrary library;
  LinearChoices choices;
  Stream stream;
  std::unique_ptr<CompiledProgram> program;
};

TEST(CudaGraphs, ABucketThatMayHaveClustersHasAGraphWithAndOneWithout) {
  const tests::TestProgram source = attend_program(4);
  const Compiled compiled(source);
  const Stream& stream = compiled.stream;
  CompiledProgram* const program = compiled.program.get();
  program->kv = std::make_unique<KvCache>(program->kv_layouts, cache_of(4));
  uint32_t captured[2] = {}; // without clusters, with
  program->launches[0].run = [&, run = program->launches[0].run](const StepRun& step) {
    ++captured[step.clusters != Clusters::none ? 1 : 0];
    run(step);
  };
  Sampler sampler;
  sampler.reserve(8, kVocabulary);
  std::vector<std::byte> step(most_step_bytes(program->step));
  const FetchArgs fetch{step.data(), step.size(), step.data(), nullptr}; // nothing is launched
  DecodeGraphs graphs;
  graphs.capture_all(*program, fetch, sampler, {stream.get(), false});
  EXPECT_EQ(captured[0], 4u) << "1, 2, 4 and 8 sequences";
  EXPECT_EQ(captured[1], 2u) << "the emulated device has room for 9 clusters: 2 sequences of 4 heads";
  for (const uint32_t sequences : {1u, 2u, 3u, 5u, 8u}) {
    const DecodeGraphs::Entry *without = graphs.find(sequences, Clusters::none),
                              *with = graphs.find(sequences, Clusters::plain);
    ASSERT_NE(without, nullptr);
    EXPECT_EQ(without->shape.cluster_items[0], 0u);
    EXPECT_GT(without->shape.decode_items[0], 0u);
    EXPECT_EQ(with != without, sequences <= 2);
    if (sequences > 2) continue;
    ASSERT_NE(with, nullptr);
    EXPECT_EQ(with->shape.tokens, sequences);
    EXPECT_EQ(with->shape.cluster_items[0], 16u) << "16 blocks for one sequence, 8 for each of two";
    EXPECT_EQ(with->shape.decode_items[0], 0u);
  }
  EXPECT_EQ(graphs.find(3, Clusters::plain), graphs.find(4, Clusters::none)) << "of a bucket that holds them";
  EXPECT_EQ(graphs.find(9, Clusters::plain), nullptr);
  EXPECT_EQ(graphs.find(1, Clusters::keys_first), graphs.find(1, Clusters::plain)) << "contexts are short";
  EXPECT_EQ(graphs.find(1, Clusters::keys_first)->clusters, Clusters::plain) << "what a step is to be planned with";
  EXPECT_EQ(graphs.find(4, Clusters::keys_first), graphs.find(4, Clusters::none));

  graphs.capture_again(2, *program, fetch, sampler, {stream.get(), false});
  EXPECT_EQ(captured[0], 5u);
  EXPECT_EQ(captured[1], 3u);
  graphs.capture_again(8, *program, fetch, sampler, {stream.get(), false});
  graphs.capture_again(7, *program, fetch, sampler, {stream.get(), false}); // no bucket
  EXPECT_EQ(captured[0], 6u);
  EXPECT_EQ(captured[1], 3u);
}

// A layer's end: x, its norm, a linear of that, the norm of the sum, the rows that are wanted, and logits.
tests::TestProgram ending_program() {
  constexpr uint32_t kWidth = 128;
  tests::Random random(12);
  tests::TestProgram p;
  p.vocab_size = kVocabulary, p.max_context = 64;
  const auto norm_of = [&](std::initializer_list<uint32_t> in) {
    const uint32_t out = p.tensor(QUIRE_TOKENS, 1, kWidth);
    p.op(QUIRE_OP_NORM, in, {out}).u.norm.epsilon = 1e-5f;
    return out;
  };
  const uint32_t x = p.input(kWidth, random), normed_x = norm_of({x}), made = p.tensor(QUIRE_TOKENS, 1, kWidth);
  p.op(QUIRE_OP_LINEAR, {normed_x}, {made}).u.linear.weights[0] =
      p.random_weight(QUIRE_F16, 0, kWidth, kWidth, 0.1, random);
  const uint32_t normed = norm_of({made, x});
  const uint32_t logits = p.tensor(QUIRE_OUTPUTS, 1, kVocabulary);
  p.op(QUIRE_OP_LINEAR, {p.gather_rows(normed)}, {logits}).u.linear.weights[0] =
      p.random_weight(QUIRE_F16, 0, kVocabulary, kWidth, 0.1, random);
  p.add_output("logits", logits);
  p.extra_output(x); // so that the logits don't lie where other blocks still read it
  return p;
}

TEST(CudaChains, GoThroughGatherRowsWhereItHasNothingToDo) {
  const tests::TestProgram source = ending_program();
  const Compiled compiled(source);
  const CompiledProgram* const program = compiled.program.get();
  // The longest launch, and all of them.
  const auto launches = [&](uint32_t rows, bool in_order) {
    StepRun run;
    run.tokens = run.sequences = 4, run.rows = rows, run.rows_in_order = in_order;
    size_t longest = 0, all = 0;
    std::vector<uint32_t> ops;
    for (const Launch* launch : launches_of(*program, run)) {
      longest = std::max(longest, launch->ops.size()), ++all;
      ops.insert(ops.end(), launch->ops.begin(), launch->ops.end());
    }
    std::vector<uint32_t> each(program->data.ops.size());
    std::iota(each.begin(), each.end(), 0);
    EXPECT_EQ(ops, each) << "every op, once";
    return std::pair(longest, all);
  };
  const size_t input = program->data.ops.size() - 5; // ops that make it
  EXPECT_EQ(launches(4, true), std::pair(size_t{5}, input + 1));
  EXPECT_EQ(launches(4, false), std::pair(size_t{2}, input + 4)) << "norm and linear, norm, gather_rows, linear";
  EXPECT_EQ(launches(1, false), std::pair(size_t{2}, input + 4));
}

// One sequence on an instance of its own.
class Session {
 public:
  static constexpr uint32_t kHeads = 8, kStored = 18; // blocks, which the table names again and again

  explicit Session(bool grid_only) : program_(attend_program(kHeads)) {
    if (grid_only) setenv("QUIRE_CUDA_DECODE", "grid", 1);
    instance_.compile(program_.view(), limits_of(kStored * 16, 1, 5000));
    unsetenv("QUIRE_CUDA_DECODE");
    instance_.kv_create(cache_of(kStored));
    std::vector<int32_t> tokens(size_t{kStored} * 16);
    for (uint32_t t = 0; t < tokens.size(); ++t) tokens[t] = static_cast<int32_t>(t * 31 % (kVocabulary - 1));
    run(tokens, static_cast<uint32_t>(tokens.size()));
  }

  // The step that brings the sequence to `length`; returns the token that is likeliest to follow.
  int32_t run(const std::vector<int32_t>& tokens, uint32_t length) {
    std::vector<quire_sampled_row> sampled(1);
    with_step(tokens, length, [&](const quire_step& step) {
      const uint64_t ticket = instance_.submit(step);
      instance_.sample(ticket, std::vector<quire_sampling_row>(1));
      instance_.wait(ticket, sampled);
    });
    return sampled[0].token;
  }
  // The same without a graph.
  void profile(const std::vector<int32_t>& tokens, uint32_t length) {
    with_step(tokens, length, [&](const quire_step& step) { instance_.profile(step, 0, {}); });
  }

  // Of the last step of one token, by attend.
  std::vector<float> attended() {
    std::vector<float> out(kHeads * kHeadDim);
    instance_.read_output(1, 1, std::as_writable_bytes(std::span(out)));
    return out;
  }

 private:
  template <class Body> void with_step(const std::vector<int32_t>& tokens, uint32_t length, const Body& body) {
    const auto count = static_cast<uint32_t>(tokens.size());
    // The last blocks, which are written, are no other's.
    std::vector<uint32_t> table((length + 15) / 16);
    for (uint32_t b = 0; b < table.size(); ++b) table[b] = count > 1 ? b : b < 255 ? b % 16 : b - 255 + 16;
    const uint32_t query_start[] = {0, count}, table_start[] = {0, static_cast<uint32_t>(table.size())};
    const uint32_t rows[] = {count - 1};
    const uint32_t* tables[] = {table.data()};
    quire_step step{};
    step.struct_size = sizeof step, step.program = 1;
    step.num_tokens = count, step.num_sequences = step.num_rows = 1;
    step.tokens = tokens.data(), step.query_start = query_start, step.seq_len = &length;
    step.table_start = table_start, step.tables = tables, step.rows = rows;
    body(step);
  }

  tests::TestProgram program_;
  CudaInstance instance_{quire_create_options{}};
};

TEST(CudaGraphs, ASequenceThatGrowsBeyondWhatClustersAreForGoesOnAsItWas) {
  static_assert(kClusterReads == 4096 * Session::kHeads);
  Session either(false), grid(true);
  either.run({0}, 17); // a step of one token to read the output of
  grid.run({0}, 17);
  for (const uint32_t length : {4096u, 4097u}) {
    const std::vector<int32_t> token{static_cast<int32_t>(length % 89)};
    either.profile(token, length);
    const std::vector<float> without_graph = either.attended();
    const int32_t next = either.run(token, length);
    EXPECT_GE(next, 0);
    EXPECT_EQ(next, grid.run(token, length)) << length;
    const std::vector<float> mine = either.attended(), theirs = grid.attended();
    EXPECT_EQ(without_graph, mine) << length;
    float largest = 0, most = 0;
    for (size_t i = 0; i < mine.size(); ++i) {
      largest = std::max(largest, std::abs(theirs[i]));
      most = std::max(most, std::abs(mine[i] - theirs[i]));
    }
    EXPECT_GT(largest, 0.f);
    EXPECT_LE(most, largest * 2e-3f) << length;
    EXPECT_EQ(most == 0, length > 4096) << "clusters add up in another order, the grid in the same: " << length;
  }
}

} // namespace
} // namespace quire::cuda
