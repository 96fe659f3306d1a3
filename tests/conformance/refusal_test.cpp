// What a backend must refuse, by name, and what it must take: the growth rule of the ABI.
#include "conformance/harness.hpp"
#include "support/small_model.hpp"

#include <gtest/gtest.h>

#include <cstring>

namespace quire::tests {
namespace {

quire_limits plain_limits() {
  quire_limits limits{};
  limits.struct_size = sizeof(limits);
  limits.max_tokens = 16;
  limits.max_sequences = 4;
  limits.max_rows = 16;
  limits.max_context = 64;
  limits.block_size = 16;
  limits.kv_format = QUIRE_F16;
  return limits;
}

// compile refuses with a sentence and takes the right program afterwards.
void expect_refused(Harness& h, const quire_program& program, const quire_limits& limits, const std::string& what) {
  quire_status status{};
  const uint32_t id = h.session().table().compile(h.session().instance(), &program, &limits, &status);
  EXPECT_EQ(id, 0u) << what;
  EXPECT_NE(status.code, QUIRE_OK) << what;
  EXPECT_GT(std::strlen(status.message), 10u) << what << ": the message is no sentence";
}

// An array of structs `extra` bytes wider, those bytes zero.
template <class T> std::vector<unsigned char> widened(const std::vector<T>& from, size_t extra) {
  std::vector<unsigned char> wide((sizeof(T) + extra) * from.size());
  for (size_t i = 0; i < from.size(); ++i) std::memcpy(wide.data() + i * (sizeof(T) + extra), &from[i], sizeof(T));
  return wide;
}

} // namespace

TEST(Refusal, UnknownOpsAndParametersAreRefused) {
  Harness h("Refusal.UnknownOpsAndParametersAreRefused");
  TestProgram p = small_model({}, h.random());
  p.ops.back().kind = QUIRE_OP_KIND_COUNT;
  expect_refused(h, p.view(), plain_limits(), "an op kind of the future");
  p = small_model({}, h.random());
  p.ops.back().kind = QUIRE_OP_NONE;
  expect_refused(h, p.view(), plain_limits(), "an op of kind 0");
  p = small_model({}, h.random());
  for (quire_op& op : p.ops)
    if (op.kind == QUIRE_OP_GLU) {
      reinterpret_cast<unsigned char*>(&op.u)[sizeof(quire_glu)] = 1;
      break;
    }
  expect_refused(h, p.view(), plain_limits(), "a parameter that glu does not have");
  p = small_model({}, h.random());
  p.weights[1].format = QUIRE_FORMAT_COUNT;
  expect_refused(h, p.view(), plain_limits(), "an unknown weight format");
}

TEST(Refusal, WiderStructsAreTakenWhileTheirNewBytesAreZero) {
  Harness h("Refusal.WiderStructsAreTakenWhileTheirNewBytesAreZero");
  const TestProgram p = small_model({}, h.random());
  quire_program program = p.view();
  auto ops = widened(p.ops, 16);
  auto values = widened(p.values, 8);
  program.ops = reinterpret_cast<const quire_op*>(ops.data()), program.op_size = sizeof(quire_op) + 16;
  program.values = reinterpret_cast<const quire_value*>(values.data()), program.value_size = sizeof(quire_value) + 8;
  EXPECT_NE(h.session().compile(program, plain_limits()), 0u);
  ops.back() = 1;
  expect_refused(h, program, plain_limits(), "a non-zero byte beyond the last op");
  ops.back() = 0;
  values[sizeof(quire_value) + 3] = 7;
  expect_refused(h, program, plain_limits(), "a non-zero byte beyond the first value");
  values[sizeof(quire_value) + 3] = 0;

  struct Wide {
    quire_limits known;
    uint64_t more;
  } limits{plain_limits(), 0};
  limits.known.struct_size = sizeof(limits);
  EXPECT_NE(h.session().compile(program, limits.known), 0u);
  limits.more = 1;
  expect_refused(h, program, limits.known, "a limit of the future");
}

TEST(Refusal, WrongLimitsAreRefused) {
  Harness h("Refusal.WrongLimitsAreRefused");
  const TestProgram p = small_model({}, h.random());
  quire_limits limits = plain_limits();
  limits.block_size = 12;
  expect_refused(h, p.view(), limits, "a block size of 12");
  limits = plain_limits();
  limits.kv_format = QUIRE_Q4_0;
  expect_refused(h, p.view(), limits, "a quantised cache");
  EXPECT_NE(h.session().compile(p.view(), plain_limits()), 0u);
}

// Half of f16's bytes, or a sentence that names the option and the fix.
TEST(Refusal, ACacheInE4m3IsTakenOrRefusedByName) {
  Harness h("Refusal.ACacheInE4m3IsTakenOrRefusedByName");
  const TestProgram p = small_model({}, h.random());
  const uint64_t f16_bytes = h.session().kv_block_bytes(h.session().compile(p.view(), plain_limits()), 0);
  quire_limits limits = plain_limits();
  limits.kv_format = QUIRE_KV_E4M3;
  if (takes_e4m3()) {
    EXPECT_EQ(2 * h.session().kv_block_bytes(h.session().compile(p.view(), limits), 0), f16_bytes);
  } else {
    quire_status status{};
    const quire_program program = p.view();
    EXPECT_EQ(h.session().table().compile(h.session().instance(), &program, &limits, &status), 0u);
    EXPECT_EQ(status.code, QUIRE_UNSUPPORTED);
    EXPECT_NE(std::strstr(status.message, "--kv-format f16"), nullptr) << status.message;
  }
  limits.kv_format = QUIRE_KV_E4M3 + 1;
  expect_refused(h, p.view(), limits, "a cache format of the future");
}

TEST(Refusal, VerbsOutOfOrderAreRefusedAndChangeNothing) {
  Harness h("Refusal.VerbsOutOfOrderAreRefusedAndChangeNothing");
  const TestProgram p = small_model({}, h.random());
  Runner runner(h.session(), p, plain_limits(), 8, h.random());
  const quire_backend& table = h.session().table();
  void* instance = h.session().instance();
  const auto submit = [&](uint32_t sequence, quire_status* status) {
    const PagedStep paged = runner.pager().page({{{sequence, {1, 2, 3}}}, {2}});
    const quire_step step = paged.view(runner.program_id());
    return table.submit(instance, &step, status);
  };
  quire_status status{};
  const uint64_t first = submit(0, &status), second = submit(1, &status);
  ASSERT_EQ(status.code, QUIRE_OK) << status.message;
  EXPECT_EQ(second, first + 1);
  EXPECT_EQ(submit(2, &status), 0u);
  EXPECT_NE(status.code, QUIRE_OK) << "a third unwaited ticket";
  status = {};
  table.wait(instance, second, nullptr, 0, &status);
  EXPECT_NE(status.code, QUIRE_OK) << "a wait out of order";
  status = {};
  table.wait(instance, first, nullptr, 0, &status);
  EXPECT_EQ(status.code, QUIRE_OK) << status.message;
  table.wait(instance, second, nullptr, 0, &status);
  EXPECT_EQ(status.code, QUIRE_OK) << status.message;
  table.wait(instance, second, nullptr, 0, &status);
  EXPECT_NE(status.code, QUIRE_OK) << "a second wait for one ticket";
  status = {};
  std::vector<float> row(p.vocab_size);
  table.read_output(instance, runner.program_id(), 0, row.data(), row.size() * 4 - 4, &status);
  EXPECT_NE(status.code, QUIRE_OK) << "bytes that do not match";
  status = {};
  table.read_output(instance, runner.program_id(), 0, row.data(), row.size() * 4, &status);
  EXPECT_EQ(status.code, QUIRE_OK) << status.message;
}

TEST(Memory, BlocksAndWeightsAreCounted) {
  Harness h("Memory.BlocksAndWeightsAreCounted");
  const SmallModel shape;
  const TestProgram p = small_model(shape, h.random());
  uint64_t weight_bytes = 0;
  for (const quire_weight& weight : p.weights) weight_bytes += weight.planes[0].bytes;
  Runner runner(h.session(), p, plain_limits(), 50, h.random());
  const quire_memory_info info = h.session().memory();
  EXPECT_GT(info.total_bytes, 0u);
  EXPECT_GE(info.weights_bytes, weight_bytes / 2);
  EXPECT_LE(info.weights_bytes, weight_bytes * 3);
  const uint64_t elements = uint64_t{shape.layers} * shape.kv_heads * shape.head_dim * 2 * 16;
  const uint64_t block = h.session().kv_block_bytes(runner.program_id(), 0);
  EXPECT_GE(block, elements * 2) << "a block holds the F16 elements of its tokens";
  EXPECT_LE(block, elements * 4);
  EXPECT_GE(info.kv_bytes, 50 * block);
}

} // namespace quire::tests
