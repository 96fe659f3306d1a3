// An instance: one device, one queue, and the verbs of plugin.h.
//
// Work goes to one stream in the order of the calls; swaps have their own (kv_cache.hpp). A decode step that wants
// every token's row is one graph, sampling included: submit() writes the step, and whatever verb comes next launches
// it, which is sample() but for callers that don't sample. Every other step is a copy to the device and launches its
// kernels directly. A slot of what the device reads of host memory is free again once its ticket was waited for: there
// are more slots than tickets may be unwaited. Errors: Failure; after QUIRE_DEVICE_LOST every verb fails alike.
// Threads: [engine], as in plugin.h.
#pragma once

#include "compile.hpp"
#include "graphs.hpp"
#include "linear_tuning.hpp"
#include "sampler.hpp"
#include "step_times.hpp"

#include <quire/plugin.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace quire::cuda {

class CudaInstance final : public Instance {
 public:
  explicit CudaInstance(const quire_create_options& options);
  ~CudaInstance() override;

  quire_memory_info memory() override;
  uint32_t compile(const quire_program& program, const quire_limits& limits) override;
  uint64_t kv_block_bytes(uint32_t program, uint32_t group) override;
  void kv_create(const quire_kv_config& config) override;
  uint64_t submit(const quire_step& step) override;
  void sample(uint64_t ticket, std::span<const quire_sampling_row> rows) override;
  void wait(uint64_t ticket, std::span<quire_sampled_row> rows) override;
  void copy_blocks(std::span<const quire_block_copy> copies) override;
  void swap_out(std::span<const quire_block_copy> copies) override;
  void swap_in(std::span<const quire_block_copy> copies) override;
  void read_output(uint32_t program, uint32_t index, std::span<std::byte> out) override;
  uint32_t profile(const quire_step& step, uint32_t repetitions, std::span<quire_op_time> out) override;
  void ceilings(double& bytes_per_second, double& flops_per_second) override;
  bool idle(uint32_t microseconds) override; // idle.cpp
  uint32_t counters(std::span<quire_counter> out) override { return times_.report(out); }

 private:
  struct Loaded {
    std::unique_ptr<CompiledProgram> program;
    DeviceBuffer step_buffer;
    uint64_t step_bytes = 0;
    // Of decode steps: what their graphs fetch, and whose turn it is.
    DecodeGraphs graphs;
    PinnedBuffer fetch_slots; // [kFetchSlots] FetchHeader and step
    DeviceBuffer fetch_turn;
    uint32_t next_fetch = 0; // the device's turn behind all that was launched

    uint64_t fetch_bytes() const { return sizeof(FetchHeader) + step_bytes; } // of a slot
    std::byte* next_slot() const { return fetch_slots.data() + next_fetch * fetch_bytes(); }
    FetchArgs fetch() const {
      return {fetch_slots.data(), fetch_bytes(), step_buffer.data(), fetch_turn.as<uint32_t>()};
    }
  };
  static constexpr uint32_t kSlots = 3; // of steps on their way: two tickets in flight and one being written

  Loaded& loaded(uint32_t program);
  // Captures the program's decode graphs, once it has a cache.
  void capture(Loaded& loaded);
  // Whose KV the block verbs mean: the last kv_create's.
  KvCache& kv();
  void wait_for_swaps_of(const quire_step& step, CompiledProgram& program);
  // Writes the step for its graph to fetch, or copies it to the device: then the run to launch it with.
  struct Queued {
    StepRun run;
    StepLayout layout; // of a step without a graph
    const DecodeGraphs::Entry* graph = nullptr;
  };
  void queue_step(const quire_step& step, Loaded& loaded, bool may_use_graph, Queued& queued);
  // The decode step that submit() has written and nobody has launched. Kept where a launch fails.
  struct Unlaunched {
    Loaded* target = nullptr;
    const DecodeGraphs::Entry* graph = nullptr; // null: there is none
    std::span<SampleRow> rows() const {         // [bucket], to be packed before the launch
      return {reinterpret_cast<SampleRow*>(target->next_slot() + sizeof(FetchHeader) + graph->layout.sampling),
              graph->shape.sampling_rows};
    }
  };
  void launch_decode();
  void launch_unsampled();
  Queue queue() const { return {stream_.get(), device_.compute_capability >= 90}; }
  // idle.cpp: whether kernels are chosen by timing; what an earlier run chose.
  bool tunes() const;
  void load_choices();
  // The device's own timers cost some microseconds a step: every eighth step has them.
  static bool is_timed(uint64_t ticket) { return ticket % 8 == 0; }
  // Marks the end of the ticket that still lacks it: later work is not to be waited for.
  void mark_done();
  void log(int32_t level, const std::string& message) const;
  Failure device_lost() const;
  // Runs a verb, behind whatever submit() left; remembers the sentence of a lost device, which every later verb
  // repeats.
  template <class Body> auto verb(Body&& body) -> decltype(body()) {
    return verb_before_launch([&] {
      if (unlaunched_.graph != nullptr) launch_unsampled();
      return body();
    });
  }
  template <class Body> auto verb_before_launch(Body&& body) -> decltype(body()) {
    if (lost_) throw device_lost();
    try {
      return body();
    } catch (const Failure& failure) {
      if (failure.code() == QUIRE_DEVICE_LOST) lost_ = failure.what();
      throw;
    }
  }

  quire_create_options options_;
  std::string cache_dir_; // empty: nothing is kept
  DeviceTraits device_;
  Stream stream_;
  std::optional<MatrixLibrary> library_;
  LinearChoices choices_;
  std::vector<Loaded> programs_;
  uint32_t kv_program_ = 0;
  PinnedBuffer staging_[kSlots];
  Event begun_[kSlots]{Event(true), Event(true), Event(true)}; // of decode steps: the step is on the device
  Event done_[kSlots]{Event(true), Event(true), Event(true)};
  bool decodes_[kSlots]{}; // a graph was launched for it
  Unlaunched unlaunched_;
  uint64_t unmarked_ = 0;         // the last ticket, while its end is not marked
  bool staging_in_doubt_ = false; // a verb failed behind the copy of its step
  StepPlans plans_;
  StepTimes times_;
  Sampler sampler_;
  uint64_t last_ticket_ = 0, last_waited_ = 0;
  uint32_t last_program_ = 0, last_rows_ = 0, last_tokens_ = 0, last_sequences_ = 0;
  std::unique_ptr<LinearTuning> tuning_; // once idle: of all programs
  std::optional<std::string> lost_;
};

} // namespace quire::cuda
