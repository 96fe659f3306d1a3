// What the engine thread does for a step, measured on a device that costs nothing: messages, scheduling, building the
// step, stop conditions, events to sinks that queue them as the server's do.
#include "bench/engine_step.hpp"

#include "bench/cold_caches.hpp"
#include "core.hpp"

#include <benchmark/benchmark.h>

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace quire::bench {
namespace {

// Takes every step and samples token 5 for each row.
struct NullBackend {
  quire_backend table{};
  uint64_t tickets = 0;
  const bool cold; // waiting for a step leaves nothing in the caches

  explicit NullBackend(bool cools) : cold(cools) {
    table.struct_size = sizeof table;
    table.self = this;
    table.create = [](void* self, const quire_create_options*, quire_status*) { return self; };
    table.destroy = [](void*) {};
    table.compile = [](void*, const quire_program*, const quire_limits*, quire_status*) { return uint32_t{1}; };
    table.kv_block_bytes = [](void*, uint32_t, uint32_t, quire_status*) { return uint64_t{1} << 16; };
    table.kv_create = [](void*, const quire_kv_config*, quire_status*) {};
    table.submit = [](void* self, const quire_step*, quire_status*) {
      return ++static_cast<NullBackend*>(self)->tickets;
    };
    table.sample = [](void*, uint64_t, const quire_sampling*, quire_status*) {};
    table.wait = [](void* self, uint64_t, quire_sampled_row* rows, uint32_t num_rows, quire_status*) {
      if (static_cast<NullBackend*>(self)->cold) cool_caches(kAllCaches);
      for (uint32_t r = 0; r < num_rows; ++r) rows[r].token = 5, rows[r].logprob = -1, rows[r].num_candidates = 0;
    };
    const auto move = [](void*, const quire_block_copy*, uint32_t, quire_status*) {};
    table.copy_blocks = table.swap_out = table.swap_in = move;
  }
};

// A queue under a lock, emptied now and then, as a connection has it.
class Queue final : public EventSink {
 public:
  void token(TokenEvent&& event) noexcept override {
    const std::lock_guard lock(mutex_);
    if (events_.size() >= 2) events_.clear();
    events_.push_back(std::move(event));
  }
  void finished(const Finished&) noexcept override {
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return over_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<TokenEvent> events_;
  bool over_ = false;
};

} // namespace

void engine_step(benchmark::State& state, bool cold) {
  const auto running = static_cast<uint32_t>(state.range(0));
  NullBackend backend(cold);
  DeviceSetup setup;
  setup.backend = &backend.table;
  setup.backend_name = "null";
  setup.program.num_kv_groups = 1;
  CoreOptions options;
  options.limits = {32000, 4096, running};
  options.scheduler.max_sequences = running;
  options.scheduler.max_batched_tokens = 8192;
  options.scheduler.vocab_size = 32000;
  options.kv.groups = {{.num_blocks = running * 130}};
  options.kv.max_step_tokens = 8192;
  options.end_tokens = {2};
  options.seed = 1;
  auto device = std::make_unique<Device>(setup);
  const uint32_t blocks = running * 130, none = 0;
  device->create_kv({&blocks, 1}, {&none, 1});
  EngineCore core(options, std::move(device));
  int32_t next = 100;
  for (auto _ : state) {
    const Stats before = core.stats();
    std::vector<std::shared_ptr<Queue>> sinks;
    for (uint32_t i = 0; i < running; ++i) {
      Request request;
      for (int t = 0; t < 500; ++t) request.prompt.push_back(next++ % 30000 + 100);
      request.max_tokens = 1000;
      request.sampling.temperature = 1;
      request.sampling.seed = i;
      request.sink = sinks.emplace_back(std::make_shared<Queue>());
      core.submit(std::move(request));
    }
    for (const auto& sink : sinks) sink->wait();
    const Stats after = core.stats();
    const auto steps = static_cast<double>(after.decode_steps - before.decode_steps);
    state.SetIterationTime((after.decode_host_seconds - before.decode_host_seconds) / steps);
    const auto part = [&](const char* name, double Stats::*seconds) {
      state.counters[name] = (after.*seconds - before.*seconds) / steps * 1e6;
    };
    part("schedule_us", &Stats::decode_schedule_seconds);
    part("commit_us", &Stats::decode_commit_seconds);
    part("deliver_us", &Stats::decode_deliver_seconds);
  }
}

} // namespace quire::bench
