// The reference backend's own verbs, beyond what the conformance suite asks of every backend.
#include "reference/reference.hpp"

#include "support/backend_session.hpp"
#include "support/paged_steps.hpp"
#include "support/small_model.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

namespace quire::tests {
namespace {

quire_limits small_limits() {
  quire_limits limits{};
  limits.struct_size = sizeof(limits);
  limits.max_tokens = 64;
  limits.max_sequences = 8;
  limits.max_rows = 64;
  limits.max_context = 128;
  limits.block_size = 16;
  limits.kv_format = QUIRE_F16;
  return limits;
}

// A small network, compiled with a cache of 20 blocks.
struct Fixture {
  explicit Fixture(uint32_t num_threads = 2)
      : random(11), model(small_model({}, random)), session(reference_plugin(), {.num_threads = num_threads}),
        id(session.compile(model.view(), small_limits())), pager(model, 16, {20}, random) {
    quire_kv_config config{};
    config.struct_size = sizeof(config);
    config.program = id;
    config.num_blocks[0] = 20;
    config.host_blocks[0] = 4;
    session.kv_create(config);
  }
  std::vector<float> logits(const LogicalStep& step) {
    const PagedStep paged = pager.page(step);
    session.wait(session.submit(paged.view(id)), {});
    std::vector<float> rows(step.rows.size() * model.vocab_size);
    session.read_output(id, 0, rows.data(), rows.size());
    return rows;
  }

  Random random;
  TestProgram model;
  BackendSession session;
  uint32_t id;
  Pager pager;
};

LogicalStep some_step() {
  LogicalStep step;
  for (uint32_t s = 0; s < 3; ++s)
    step.parts.push_back({s, std::vector<int32_t>(5 + 9 * s, static_cast<int32_t>(3 + s))});
  step.rows = {0, 4, 20, 41};
  return step;
}

} // namespace

TEST(ReferenceBackend, TheNumberOfThreadsDoesNotMatter) {
  Fixture one(1);
  const std::vector<float> expected = one.logits(some_step());
  for (const uint32_t threads : {2u, 3u, 7u}) {
    Fixture other(threads);
    const std::vector<float> got = other.logits(some_step());
    EXPECT_EQ(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)), 0) << threads << " threads";
  }
}

TEST(ReferenceBackend, WrongStepsAreRefusedWithASentence) {
  Fixture f;
  struct Case {
    const char* word; // of the message
    std::function<void(PagedStep&)> spoil;
  };
  const Case cases[] = {
      {"vocabulary", [](PagedStep& s) { s.tokens[3] = 320; }},
      {"vocabulary", [](PagedStep& s) { s.tokens[3] = -1; }},
      {"query_start", [](PagedStep& s) { s.query_start.back() = 40; }},
      {"seq_len", [](PagedStep& s) { s.seq_len[1] = 2; }},
      {"context", [](PagedStep& s) { s.seq_len[1] = 129; }},
      {"block", [](PagedStep& s) { s.tables[0][1] = 20; }},
      {"block", [](PagedStep& s) { s.tables[0][1] = UINT32_MAX; }},
      {"rows",
       [](PagedStep& s) {
         s.rows = {5, 4};
       }},
      {"rows", [](PagedStep& s) { s.rows = {42}; }},
      {"ticket", [](PagedStep& s) { s.token_rows.assign(42, 1); }},
  };
  for (const Case& c : cases) {
    PagedStep step = f.pager.page(some_step());
    c.spoil(step);
    try {
      f.session.submit(step.view(f.id));
      ADD_FAILURE() << c.word << " was taken";
    } catch (const BackendError& error) {
      EXPECT_EQ(error.code, QUIRE_INVALID);
      EXPECT_NE(std::string(error.what()).find(c.word), std::string::npos) << error.what();
    }
    for (uint32_t s = 0; s < 3; ++s) f.pager.drop(s);
  }
  EXPECT_EQ(f.logits(some_step()).size(), 4 * 320u); // nothing changed
}

TEST(ReferenceBackend, WrongCopiesAreRefused) {
  Fixture f;
  EXPECT_THROW(f.session.copy_blocks({{0, 1, 20}}), BackendError);
  EXPECT_THROW(f.session.copy_blocks({{1, 1, 2}}), BackendError);
  EXPECT_THROW(f.session.copy_blocks({{0, 1, 2}, {0, 2, 3}}), BackendError);
  EXPECT_THROW(f.session.copy_blocks({{0, 1, 3}, {0, 2, 3}}), BackendError);
  EXPECT_THROW(f.session.swap_out({{0, 1, 4}}), BackendError);
  EXPECT_THROW(f.session.swap_in({{0, 4, 1}}), BackendError);
  f.session.copy_blocks({{0, 1, 2}, {0, 1, 3}});
}

TEST(ReferenceBackend, AnInstanceEndsWithItsStepsInFlight) {
  Fixture f;
  const PagedStep first = f.pager.page(some_step()), second = f.pager.page(some_step());
  f.session.submit(first.view(f.id));
  f.session.submit(second.view(f.id));
}

TEST(ReferenceBackend, EveryOpIsTimed) {
  Fixture f;
  const PagedStep step = f.pager.page(some_step());
  std::vector<quire_op_time> times(f.model.ops.size());
  const quire_step view = step.view(f.id);
  quire_status status{};
  const uint32_t count = f.session.table().profile(f.session.instance(), &view, 3, times.data(),
                                                   static_cast<uint32_t>(times.size()), &status);
  ASSERT_EQ(status.code, QUIRE_OK) << status.message;
  ASSERT_EQ(count, f.model.ops.size());
  for (uint32_t i = 0; i < count; ++i) {
    EXPECT_EQ(times[i].op, i);
    EXPECT_GT(times[i].seconds, 0);
    EXPECT_GT(times[i].bytes, 0u);
    if (f.model.ops[i].kind == QUIRE_OP_LINEAR) {
      EXPECT_GT(times[i].flops, times[i].bytes / 4);
    }
  }
  EXPECT_THROW(f.session.read_output(f.id, 0, nullptr, 0), BackendError) << "the buffers hold no ticket's outputs now";
}

TEST(ReferenceBackend,
     CeilingsAreMeasuredWithinTheirBuffers) { // what lies behind them: the heap, checked when it is freed
  Fixture f;
  double bytes = 0, flops = 0;
  quire_status status{};
  f.session.table().ceilings(f.session.instance(), &bytes, &flops, &status);
  ASSERT_EQ(status.code, QUIRE_OK) << status.message;
  EXPECT_GT(bytes, 1e8);
  EXPECT_GT(flops, 1e8);
}

TEST(ReferenceBackend, ThereIsOneDevice) {
  const auto& table = *static_cast<const quire_backend*>(reference_plugin().table);
  quire_status status{};
  EXPECT_EQ(table.device_count(table.self, &status), 1u);
  quire_device_info info{};
  table.device_info(table.self, 0, &info, &status);
  EXPECT_EQ(status.code, QUIRE_OK);
  EXPECT_EQ(info.usable, 1u);
  EXPECT_GT(info.memory_bytes, 0u);
  EXPECT_THROW(BackendSession(reference_plugin(), {.device = 1}), BackendError);
}

} // namespace quire::tests
