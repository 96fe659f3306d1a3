// The memory plan and the choice of a device: arithmetic and order, no device.
#include "backend_choice.hpp"
#include "memory_plan.hpp"
#include "quire/error.hpp"
#include "support/mock_backend.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <vector>

namespace quire {
namespace {

MemoryNeeds needs() {
  MemoryNeeds n;
  n.block_bytes = {1 << 20};
  n.windows = {0};
  n.max_context = 4096;
  n.kv_bytes = uint64_t{1} << 30;
  n.swap_bytes = uint64_t{1} << 28;
  return n;
}

TEST(MemoryPlan, FillsTheMemoryAndNoMore) {
  const MemoryPlan plan = plan_memory(needs());
  EXPECT_EQ(plan.blocks, std::vector<uint32_t>{1024});
  EXPECT_EQ(plan.host_blocks, std::vector<uint32_t>{256});
  EXPECT_EQ(plan.max_context, 4096u);
  EXPECT_EQ(plan.kv_bytes, uint64_t{1} << 30);
}

TEST(MemoryPlan, NeverMoreThanAllSequencesAtFullLength) {
  MemoryNeeds n = needs();
  n.max_sequences = 2;
  EXPECT_EQ(plan_memory(n).blocks, std::vector<uint32_t>{512});
}

TEST(MemoryPlan, TheContextShrinksToWhatFitsUnlessItWasAskedFor) {
  MemoryNeeds n = needs();
  n.max_context = 1 << 20;
  const MemoryPlan plan = plan_memory(n);
  EXPECT_EQ(plan.max_context, 1024u * 16);
  n.context_is_firm = true;
  EXPECT_THROW(plan_memory(n), Error);
  n.kv_bytes = 100;
  n.context_is_firm = false;
  EXPECT_THROW(plan_memory(n), Error);
}

TEST(MemoryPlan, WindowedGroupsGetWhatAWindowNeeds) {
  MemoryNeeds n = needs();
  n.block_bytes = {1 << 20, 1 << 20};
  n.windows = {0, 512};
  n.max_step_tokens = 64;
  const MemoryPlan plan = plan_memory(n);
  EXPECT_LT(plan.blocks[1] * 5, plan.blocks[0]);
  EXPECT_LE(plan.kv_bytes, n.kv_bytes);
  EXPECT_GT(plan.kv_bytes, n.kv_bytes * 9 / 10);
}

TEST(MemoryPlan, BudgetIsTheAskedOneOrTheFractionThatIsLeft) {
  EXPECT_EQ(kv_budget(1000, 0.9, 5000, 100, false), 1000u);
  EXPECT_THROW(kv_budget(6000, 0.9, 5000, 100, false), Error);
  EXPECT_EQ(kv_budget(0, 0.5, 900, 100, false), 400u);
  EXPECT_THROW(kv_budget(0, 0.5, 100, 900, false), Error);
  EXPECT_EQ(kv_budget(0, 0.9, uint64_t{1} << 40, 100, true), uint64_t{2} << 30);
}

// A backend whose devices are the kinds given.
struct Devices {
  std::vector<uint32_t> kinds;
  quire_backend table{};
  quire_plugin datum{};
  Devices(const char* id, std::vector<uint32_t> k) : kinds(std::move(k)) {
    table = *test::MockBackend().table(); // the other verbs are not called
    table.self = this;
    table.device_count = [](void* self, quire_status* status) {
      status->code = QUIRE_OK;
      return static_cast<uint32_t>(static_cast<Devices*>(self)->kinds.size());
    };
    table.device_info = [](void* self, uint32_t device, quire_device_info* out, quire_status* status) {
      status->code = QUIRE_OK;
      *out = {};
      out->kind = static_cast<Devices*>(self)->kinds[device];
      out->usable = 1;
      std::snprintf(out->name, sizeof out->name, "device %u", device);
    };
    datum = {sizeof(quire_plugin), QUIRE_ABI_MAJOR, QUIRE_ABI_MINOR, QUIRE_PLUGIN_BACKEND, 0, id, "1", &table};
  }
};

TEST(BackendChoice, AGpuBeforeTheCpuAndACardBeforeAChip) {
  Devices slow("slow", {QUIRE_DEVICE_CPU}), chip("chip", {QUIRE_DEVICE_CPU, QUIRE_DEVICE_INTEGRATED}),
      card("card", {QUIRE_DEVICE_DISCRETE});
  PluginHost host;
  for (Devices* d : {&slow, &chip, &card}) host.add_builtin(d->datum);
  const auto candidates = choose_backends(host, "auto", -1);
  ASSERT_EQ(candidates.size(), 4u);
  EXPECT_EQ(candidates[0].choice.backend, "card");
  EXPECT_EQ(candidates[1].choice.backend, "chip");
  EXPECT_EQ(candidates[1].device, 1u);
  EXPECT_EQ(candidates[2].info.kind, static_cast<uint32_t>(QUIRE_DEVICE_CPU));
  for (const auto& c : candidates) EXPECT_FALSE(c.choice.why.empty());
}

// Without a GPU the faster of the ways to use the CPU, with all their rates in the reason; a GPU is never measured.
TEST(BackendChoice, WithoutAGpuTheFasterOnTheCpu) {
  Devices one("one", {QUIRE_DEVICE_CPU}), two("two", {QUIRE_DEVICE_CPU}), broken("broken", {QUIRE_DEVICE_CPU}),
      card("card", {QUIRE_DEVICE_DISCRETE});
  PluginHost host;
  for (Devices* d : {&broken, &one, &two}) host.add_builtin(d->datum);
  const auto rate = [](const BackendCandidate& c) {
    if (c.plugin->id == "broken") throw Error("it has no memory");
    return c.plugin->id == "two" ? 34.4 : 2.54;
  };
  const auto candidates = choose_backends(host, "auto", -1, rate);
  ASSERT_EQ(candidates.size(), 3u);
  EXPECT_EQ(candidates[0].choice.backend, "two");
  EXPECT_EQ(candidates[1].choice.backend, "one");
  EXPECT_EQ(candidates[2].choice.backend, "broken");
  EXPECT_NE(
      candidates[0].choice.why.find("two about 34 tokens/s, one about 2.5 tokens/s, broken can't (it has no memory)"),
      std::string::npos)
      << candidates[0].choice.why;

  host.add_builtin(card.datum);
  const auto with_gpu = choose_backends(host, "auto", -1, [](const BackendCandidate&) -> double {
    ADD_FAILURE() << "measured";
    return 1e9;
  });
  EXPECT_EQ(with_gpu[0].choice.backend, "card");
  PluginHost alone;
  alone.add_builtin(one.datum);
  EXPECT_EQ(choose_backends(alone, "auto", -1, [](const BackendCandidate&) -> double { throw Error("measured"); })
                .at(0)
                .choice.backend,
            "one");
}

// A backend without its driver is passed over, and the line that says what serves says why.
TEST(BackendChoice, AMissingDriverIsNamedInTheReason) {
  Devices cuda("cuda", {}), cpu("cpu", {QUIRE_DEVICE_CPU});
  cuda.table.device_count = [](void*, quire_status* status) {
    *status = {QUIRE_UNSUPPORTED, "there is no NVIDIA driver on this machine"};
    return uint32_t{0};
  };
  PluginHost host;
  host.add_builtin(cuda.datum);
  host.add_builtin(cpu.datum);
  const auto candidates = choose_backends(host, "auto", -1);
  ASSERT_EQ(candidates.size(), 1u);
  EXPECT_EQ(candidates[0].choice.backend, "cpu");
  EXPECT_NE(candidates[0].choice.why.find("cuda: there is no NVIDIA driver on this machine"), std::string::npos)
      << candidates[0].choice.why;
  try {
    choose_backends(host, "cuda", -1);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("no NVIDIA driver"), std::string::npos) << error.what();
  }
}

TEST(BackendChoice, ByNameAndNumberOrASentence) {
  Devices chip("chip", {QUIRE_DEVICE_CPU, QUIRE_DEVICE_INTEGRATED}), none("none", {});
  PluginHost host;
  host.add_builtin(chip.datum);
  host.add_builtin(none.datum);
  EXPECT_EQ(choose_backends(host, "chip", -1).at(0).device, 1u);
  EXPECT_EQ(choose_backends(host, "chip", 0).at(0).device, 0u);
  EXPECT_THROW(choose_backends(host, "chip", 2), Error);
  EXPECT_THROW(choose_backends(host, "none", -1), Error);
  EXPECT_THROW(choose_backends(host, "unheard", -1), Error);
  EXPECT_THROW(choose_backends(host, "auto", 1), Error);
}

} // namespace
} // namespace quire
