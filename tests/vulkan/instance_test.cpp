// The Vulkan backend from the inside: allocations that fail, weights in pieces, fusions, the pipeline cache,
// validation. Skipped where there is no Vulkan device.
#include "instance.hpp"

#include "support/random.hpp"
#include "support/temp_folder.hpp"
#include "support/test_program.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace quire::vulkan {
namespace {

using quire::tests::Random;
using quire::tests::TestProgram;

constexpr uint32_t vocab = 4096, dim = 64, heads = 2, head_dim = 32, tokens = 9;

// A layer of a network in small: everything that the backend fuses is in it.
std::unique_ptr<TestProgram> small_program() {
  Random random(7);
  auto p = std::make_unique<TestProgram>();
  p->vocab_size = vocab;
  p->max_context = 64;
  p->kv_groups.push_back({0});
  p->kv_layers.push_back({1, head_dim, head_dim, 0});
  std::vector<float> turns;
  for (uint32_t i = 0; i < head_dim / 2; ++i)
    turns.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / static_cast<double>(head_dim))));
  const uint32_t frequencies = p->vector(turns);
  const uint32_t table = p->random_weight(QUIRE_F32, 0, vocab, dim, 1, random);
  const uint32_t x = p->embed(table);
  const uint32_t qkv = p->tensor(QUIRE_TOKENS, 1, (heads + 2) * head_dim);
  auto& linear = p->op(QUIRE_OP_LINEAR, {x}, {qkv}).u.linear;
  linear.weights[0] = p->random_weight(QUIRE_Q4_1, 0, heads * head_dim, dim, 0.1, random);
  linear.weights[1] = p->random_weight(QUIRE_Q4_1, 0, head_dim, dim, 0.1, random);
  linear.weights[2] = p->random_weight(QUIRE_Q8_0, 0, head_dim, dim, 0.1, random);
  const uint32_t q = p->tensor(QUIRE_TOKENS, heads, head_dim), k = p->tensor(QUIRE_TOKENS, 1, head_dim);
  const auto rope = [&](uint32_t in, uint32_t out) {
    p->op(QUIRE_OP_ROPE, {in}, {out}).u.rope = {QUIRE_ROPE_HALF, head_dim, frequencies, 0};
  };
  rope(p->view(qkv, 1, head_dim, heads * head_dim), k);
  p->op(QUIRE_OP_KV_STORE, {k, p->view(qkv, 1, head_dim, (heads + 1) * head_dim)}, {}).u.kv_store = {0};
  rope(p->view(qkv, heads, head_dim, 0), q);
  const uint32_t attended = p->tensor(QUIRE_TOKENS, heads, head_dim);
  p->op(QUIRE_OP_ATTEND, {q}, {attended}).u.attend = {0, 0.17f, 0, 0};
  const uint32_t projected = p->tensor(QUIRE_TOKENS, 1, dim), sum = p->tensor(QUIRE_TOKENS, 1, dim);
  p->op(QUIRE_OP_LINEAR, {attended}, {projected}).u.linear.weights[0] =
      p->random_weight(QUIRE_F16, 0, dim, heads * head_dim, 0.1, random);
  p->op(QUIRE_OP_ADD, {projected, x}, {sum});
  constexpr uint32_t hidden = 96;
  const uint32_t both = p->tensor(QUIRE_TOKENS, 1, 2 * hidden), gated = p->tensor(QUIRE_TOKENS, 1, hidden);
  auto& gate_up = p->op(QUIRE_OP_LINEAR, {sum}, {both}).u.linear;
  gate_up.weights[0] = p->random_weight(QUIRE_Q4_0, 0, hidden, dim, 0.1, random);
  gate_up.weights[1] = p->random_weight(QUIRE_Q4_0, 0, hidden, dim, 0.1, random);
  p->op(QUIRE_OP_GLU, {p->view(both, 1, hidden, 0), p->view(both, 1, hidden, hidden)}, {gated}).u.glu = {
      QUIRE_ACT_SILU};
  const uint32_t down = p->tensor(QUIRE_TOKENS, 1, dim), logits = p->tensor(QUIRE_OUTPUTS, 1, vocab);
  p->op(QUIRE_OP_LINEAR, {gated}, {down}).u.linear.weights[0] =
      p->random_weight(QUIRE_Q5_0, 0, dim, hidden, 0.1, random);
  p->op(QUIRE_OP_LINEAR, {p->gather_rows(down)}, {logits}).u.linear.weights[0] = table;
  p->add_output("logits", logits);
  return p;
}

quire_limits small_limits() { return {sizeof(quire_limits), 16, 2, 2, 64, 16, QUIRE_F16}; }

// Compiles, fills a cache, runs one prompt and reads its logits.
std::vector<float> run_prompt(VulkanInstance& instance, const TestProgram& program) {
  const quire_program view = static_cast<const quire::Program&>(program).view();
  const uint32_t id = instance.compile(view, small_limits());
  quire_kv_config config{};
  config.struct_size = sizeof config;
  config.program = id;
  config.num_blocks[0] = 4;
  config.host_blocks[0] = 2;
  instance.kv_create(config);
  std::vector<int32_t> ids;
  for (uint32_t t = 0; t < tokens; ++t) ids.push_back(static_cast<int32_t>(t * 31 % vocab));
  const uint32_t starts[] = {0, tokens}, lengths[] = {tokens}, table_starts[] = {0, 1}, table[] = {2},
                 rows[] = {tokens - 1};
  const uint32_t* tables[] = {table};
  quire_step step{};
  step.struct_size = sizeof step;
  step.program = id;
  step.num_tokens = tokens, step.num_sequences = 1, step.num_rows = 1;
  step.tokens = ids.data(), step.query_start = starts, step.seq_len = lengths;
  step.table_start = table_starts, step.tables = tables, step.rows = rows;
  const uint64_t ticket = instance.submit(step);
  std::vector<float> logits(vocab);
  quire_sampling_row row{};
  row.logits = logits.data();
  row.temperature = 0.8f, row.top_p = 0.9f, row.num_candidates = 3;
  instance.sample(ticket, {&row, 1});
  quire_candidate candidates[3];
  quire_sampled_row sampled{};
  sampled.num_candidates = 3, sampled.candidates = candidates;
  instance.wait(ticket, {&sampled, 1});
  EXPECT_GE(sampled.token, 0);
  EXPECT_EQ(sampled.num_candidates, 3u);
  return logits;
}

class VulkanInstanceTest : public testing::Test {
 protected:
  void SetUp() override {
    try {
      const Api api(false);
      if (api.devices().empty() || info_of(api.devices()[0]).usable == 0) GTEST_SKIP() << "no usable Vulkan device";
    } catch (const std::exception& error) {
      GTEST_SKIP() << error.what();
    }
  }
  std::unique_ptr<TestProgram> program_ = small_program();
};

} // namespace

TEST_F(VulkanInstanceTest, EachAllocationMayFailWithASentenceAndLeavesNothingBehind) {
  uint32_t refused = 0;
  bool passed = false;
  for (uint32_t nth = 0; nth < 200 && !passed; ++nth) {
    uint32_t count = 0;
    bool armed = true;
    InstanceOptions options;
    options.device.refuse = [&](uint64_t) { return armed && count++ == nth; };
    std::unique_ptr<VulkanInstance> instance;
    uint64_t before = 0;
    const auto used = [&] {
      const quire_memory_info info = instance->memory();
      return info.weights_bytes + info.kv_bytes;
    };
    try {
      instance = std::make_unique<VulkanInstance>(options);
      before = used();
      run_prompt(*instance, *program_);
      passed = true;
    } catch (const Failure& failure) {
      ++refused;
      EXPECT_EQ(failure.code(), QUIRE_OUT_OF_MEMORY) << failure.what();
      EXPECT_NE(std::string(failure.what()).find("bytes for"), std::string::npos) << failure.what();
      if (instance && nth % 5 == 0) { // the same instance works once there is memory
        EXPECT_GE(used(), before);
        armed = false;
        run_prompt(*std::make_unique<VulkanInstance>(options), *program_);
      }
    }
  }
  EXPECT_TRUE(passed);
  EXPECT_GT(refused, 10u);
}

TEST_F(VulkanInstanceTest, ARefusedCompileGivesAllMemoryBackAndCanBeRepeated) {
  bool refuse = false;
  uint32_t count = 0;
  InstanceOptions options;
  options.device.refuse = [&](uint64_t) { return refuse && ++count == 3; };
  VulkanInstance instance(options);
  const quire_memory_info before = instance.memory();
  refuse = true;
  EXPECT_THROW(run_prompt(instance, *program_), Failure);
  refuse = false;
  const quire_memory_info after = instance.memory();
  EXPECT_EQ(before.weights_bytes, after.weights_bytes);
  EXPECT_EQ(before.scratch_bytes, after.scratch_bytes);
  EXPECT_EQ(run_prompt(instance, *program_).size(), vocab);
}

TEST_F(VulkanInstanceTest, WeightsInPiecesGiveTheSameBits) {
  InstanceOptions whole, pieces;
  pieces.largest_buffer = 600 << 10; // the table has 1 MiB
  VulkanInstance one(whole), many(pieces);
  EXPECT_EQ(run_prompt(one, *program_), run_prompt(many, *program_));
}

TEST_F(VulkanInstanceTest, FusionsGiveTheSameBits) {
  InstanceOptions fused, plain;
  plain.fuse = false;
  VulkanInstance one(fused), other(plain);
  EXPECT_EQ(run_prompt(one, *program_), run_prompt(other, *program_));
}

// Only a CPU device reads through texels; elsewhere both are the same.
TEST_F(VulkanInstanceTest, TexelsGiveTheSameBitsAsAddresses) {
  InstanceOptions texels, addresses;
  addresses.texels = false;
  VulkanInstance one(texels), other(addresses);
  EXPECT_EQ(run_prompt(one, *program_), run_prompt(other, *program_));
}

TEST_F(VulkanInstanceTest, ThePipelineCacheIsWrittenAndReadBack) {
  const quire::test::TempFolder folder;
  InstanceOptions options;
  options.cache_dir = (folder.path() / "cache").string();
  {
    VulkanInstance first(options);
    EXPECT_FALSE(first.pipelines().loaded_from_disk());
    run_prompt(first, *program_);
  }
  ASSERT_FALSE(std::filesystem::is_empty(options.cache_dir));
  EXPECT_TRUE(VulkanInstance(options).pipelines().loaded_from_disk());
  // A file of another making is not handed to the driver.
  for (const auto& file : std::filesystem::directory_iterator(options.cache_dir))
    std::ofstream(file.path(), std::ios::binary) << "not a pipeline cache at all";
  EXPECT_FALSE(VulkanInstance(options).pipelines().loaded_from_disk());
}

TEST_F(VulkanInstanceTest, ValidationFindsNothing) {
  std::vector<std::string> messages;
  InstanceOptions options;
  options.device.validate = true;
  options.device.log = [&](int32_t level, const std::string& message) {
    if (level >= QUIRE_LOG_WARNING) messages.push_back(message);
  };
  {
    VulkanInstance instance(options);
    run_prompt(instance, *program_);
    const quire_block_copy copy{0, 2, 1};
    instance.copy_blocks({&copy, 1});
    instance.swap_out({&copy, 1});
    const quire_block_copy back{0, 1, 3};
    instance.swap_in({&back, 1});
  }
  for (const std::string& message : messages) ADD_FAILURE() << message;
}

TEST_F(VulkanInstanceTest, AMissingDeviceIsNamed) {
  InstanceOptions options;
  options.device.device = 1000;
  try {
    VulkanInstance instance(options);
    ADD_FAILURE();
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.code(), QUIRE_INVALID);
    EXPECT_NE(std::string(failure.what()).find("1000"), std::string::npos);
  }
}

TEST_F(VulkanInstanceTest, DevicesAreListedWithTheirDriver) {
  const Api api(false);
  const quire_device_info info = info_of(api.devices()[0]);
  EXPECT_NE(info.name[0], '\0');
  EXPECT_NE(info.driver[0], '\0');
  EXPECT_GT(info.memory_bytes, 0u);
}

} // namespace quire::vulkan
