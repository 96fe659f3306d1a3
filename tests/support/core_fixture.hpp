// An EngineCore over the mock backend, and a sink that collects what a request is sent. For tests of the engine without
// files.
#pragma once

#include "core.hpp"
#include "support/mock_backend.hpp"

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

namespace quire::test {

// What came for one request. wait() returns when `finished` has come, or false after the time.
class Collector final : public EventSink {
 private:
  template <typename F> auto locked(F&& f) const {
    std::lock_guard lock(mutex_);
    return f();
  }

 public:
  void token(TokenEvent&& event) noexcept override {
    std::lock_guard lock(mutex_);
    if (over_) late_ = true;
    if (event.token >= 0) tokens_[event.choice].push_back(event.token);
    text_[event.choice] += event.text;
    if (event.finish != FinishReason::none) {
      if (finish_.count(event.choice)) late_ = true;
      finish_[event.choice] = event.finish;
      error_ = event.error;
    }
    events_.push_back(std::move(event));
    changed_.notify_all();
  }
  void finished(const Finished& summary) noexcept override {
    std::lock_guard lock(mutex_);
    if (over_) late_ = true;
    over_ = true;
    summary_ = summary;
    changed_.notify_all();
  }

  bool wait(std::chrono::seconds time = std::chrono::seconds(60)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, time, [this] { return over_; });
  }
  bool wait_tokens(size_t count, uint32_t choice = 0) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return over_ || tokens_[choice].size() >= count; });
  }
  std::vector<int32_t> tokens(uint32_t choice = 0) const {
    return locked([&] { return get(tokens_, choice); });
  }
  std::string text(uint32_t choice = 0) const {
    return locked([&] { return get(text_, choice); });
  }
  FinishReason finish(uint32_t choice = 0) const {
    return locked([&] { return get(finish_, choice); });
  }
  std::string error() const {
    return locked([&] { return error_; });
  }
  std::vector<TokenEvent> events() const {
    return locked([&] { return events_; });
  }
  Finished summary() const {
    return locked([&] { return summary_; });
  }
  bool orderly() const {
    return locked([&] { return !late_; });
  } // nothing after the end, one end a choice
  size_t choices() const {
    return locked([&] { return finish_.size(); });
  }

 private:
  template <typename V> static V get(const std::map<uint32_t, V>& map, uint32_t key) {
    const auto found = map.find(key);
    return found == map.end() ? V{} : found->second;
  }
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<uint32_t, std::vector<int32_t>> tokens_;
  std::map<uint32_t, std::string> text_;
  std::map<uint32_t, FinishReason> finish_;
  std::vector<TokenEvent> events_;
  std::string error_;
  Finished summary_;
  bool over_ = false, late_ = false;
};

struct FixtureOptions {
  MockOptions mock;
  uint32_t blocks = 64, host_blocks = 64, block_size = 8;
  uint32_t max_sequences = 8, max_batched_tokens = 64, max_chunk = 0, max_context = 400;
  PreemptionMode preemption = PreemptionMode::automatic;
  bool prefix_cache = true;
  std::vector<int32_t> end_tokens;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::function<const quire_sampler*(const std::string&)> find_sampler;
  std::function<void(Scheduler&)> before_schedule;
  std::function<std::string()> weights_damaged;
};

// Preempts a running sequence in about every `every`-th step.
inline std::function<void(Scheduler&)> preempt_at_random(PreemptionMode mode, uint32_t every, uint32_t seed) {
  return [mode, every, random = std::mt19937(seed)](Scheduler& scheduler) mutable {
    if (random() % every || scheduler.running().empty()) return;
    scheduler.preempt(*scheduler.running()[random() % scheduler.running().size()], mode);
  };
}

// The mock must outlive the core, so it is made first and shared.
struct Fixture {
  explicit Fixture(FixtureOptions o = {}) : mock(o.mock) {
    DeviceSetup setup;
    setup.backend = mock.table();
    setup.backend_name = "mock";
    setup.program = mock.program();
    setup.limits.struct_size = sizeof(quire_limits);
    setup.limits.max_tokens = o.max_batched_tokens;
    setup.limits.max_sequences = setup.limits.max_rows = o.max_sequences;
    setup.limits.max_context = o.max_context;
    setup.limits.block_size = o.block_size;
    auto device = std::make_unique<Device>(std::move(setup));
    const std::vector<uint32_t> blocks(o.mock.windows.size(), o.blocks), host(o.mock.windows.size(), o.host_blocks);
    device->create_kv(blocks, host);
    CoreOptions c;
    c.limits = {o.mock.vocab_size, o.max_context, o.max_sequences};
    c.scheduler.max_sequences = o.max_sequences;
    c.scheduler.max_batched_tokens = o.max_batched_tokens;
    c.scheduler.max_chunk = o.max_chunk;
    c.scheduler.vocab_size = o.mock.vocab_size;
    c.scheduler.block_bytes = o.mock.block_bytes;
    c.scheduler.preemption = o.preemption;
    c.kv.block_size = o.block_size;
    for (uint32_t window : o.mock.windows) c.kv.groups.push_back({o.blocks, o.host_blocks, window});
    c.kv.prefix_cache = o.prefix_cache;
    c.kv.max_step_tokens = o.max_batched_tokens;
    c.end_tokens = o.end_tokens;
    c.tokenizer = o.tokenizer;
    c.find_sampler = o.find_sampler;
    c.before_schedule = o.before_schedule;
    c.weights_damaged = o.weights_damaged;
    c.seed = 1;
    c.check_every_step = true;
    core = std::make_unique<EngineCore>(std::move(c), std::move(device));
  }

  struct Sent {
    RequestId id;
    std::shared_ptr<Collector> sink;
  };
  Sent send(Request request) {
    auto sink = std::make_shared<Collector>();
    request.sink = sink;
    return {core->submit(std::move(request)), sink};
  }
  // No blocks referenced, nothing running: within a second of the last event.
  bool drained() {
    for (int i = 0; i < 1000; ++i) {
      const Stats s = core->stats();
      if (s.running + s.waiting + s.swapped == 0 && s.blocks_referenced == 0) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

  MockBackend mock;
  std::unique_ptr<EngineCore> core;
};

inline std::vector<int32_t> random_prompt(uint32_t length, uint32_t seed, uint32_t vocab = 128) {
  std::mt19937 random(seed);
  std::vector<int32_t> tokens(length);
  for (int32_t& t : tokens) t = static_cast<int32_t>(random() % vocab);
  return tokens;
}

inline Request greedy(std::vector<int32_t> prompt, uint32_t max_tokens) {
  Request r;
  r.prompt = std::move(prompt);
  r.max_tokens = max_tokens;
  r.sampling.temperature = 0;
  return r;
}

} // namespace quire::test
