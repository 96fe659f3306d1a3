// An instance of the reference backend: the verbs of quire_backend over a CPU.
//
// Steps run on the instance's own queue thread and its pool, so that the engine thread is free while they do. The token
// of a row that could not be sampled (-1) feeds the next step as token 0: the host drops that row. memory() counts
// weights that are read from the mapped file as held. Errors: Failure, one sentence. Threads: as marked in plugin.h.
#pragma once

#include "quire/plugin.hpp"
#include "reference/compiled_program.hpp"
#include "reference/kv_cache.hpp"
#include "reference/sample.hpp"
#include "reference/step.hpp"
#include "reference/thread_pool.hpp"
#include "reference/work_queue.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace quire::reference {

class ReferenceInstance final : public Instance {
 public:
  explicit ReferenceInstance(const quire_create_options& options);

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

 private:
  struct Loaded {
    CompiledProgram program;
    std::unique_ptr<KvCache> kv;
  };
  // A ticket; ticket t uses slot t % 3: two may be in flight, and the older of them reads what the one before it
  // sampled after that was waited for.
  struct Slot {
    Step step;
    std::vector<SamplingRow> sampling; // [R] or empty
    std::vector<SampledRow> sampled;   // [R] or empty
    uint32_t num_sampled = 0;
    uint64_t last_job = 0; // of the queue
    bool has_sampling = false;
  };

  Loaded& loaded(uint32_t program);
  Slot& slot(uint64_t ticket) { return slots_[ticket % slots_.size()]; }
  void check_step(const quire_step& step, Step& into, uint32_t previous_rows);
  void run_op(const Loaded& loaded, const Step& step, size_t index);
  void run_step(uint64_t ticket);
  void run_sampling(uint64_t ticket);
  using CopyVerb = void (KvCache::*)(std::span<const quire_block_copy>);
  void queue_copies(std::span<const quire_block_copy> copies, CopyVerb verb, bool from_host, bool to_host,
                    const char* name);

  ThreadPool pool_;
  std::vector<std::unique_ptr<Loaded>> programs_;
  std::array<Slot, 3> slots_;
  std::vector<SampleScratch> sample_scratch_; // a worker each
  uint64_t submitted_ = 0;                    // the last ticket
  uint64_t waited_ = 0;
  uint32_t newest_program_ = 0; // of the last step submitted, whose outputs are in the buffers
  WorkQueue queue_;             // last: it ends before what its jobs use
};

} // namespace quire::reference
