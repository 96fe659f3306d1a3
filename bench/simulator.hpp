// Serving without a device: the real scheduler and KV manager under a virtual clock, with a model of how long a step
// takes.
//
// Two steps are in flight as in the engine: a step is scheduled when the one before starts, so what it decides is what
// the engine would decide. Only the tokens are made up (nobody looks at them) and time is computed instead of waited
// for.
#pragma once

#include "bench/workload.hpp"
#include "kv/kv_manager.hpp"
#include "schedule/scheduler.hpp"

#include <functional>
#include <vector>

namespace quire::bench {

// Seconds that a step takes: base + sequences * per_sequence + (tokens beyond one a sequence) * per_prefill_token +
// (tokens of context, summed over the sequences) * per_context_token + blocks swapped * per_swapped_block.
struct StepCosts {
  double base_s = 0, per_sequence_s = 0, per_prefill_token_s = 0, per_context_token_s = 0, per_swapped_block_s = 0;
};

struct ServeOptions {
  KvConfig kv;
  SchedulerOptions scheduler;
  StepCosts costs;
  double horizon_s = 1e9; // virtual time after which the run ends, whatever still waits
  double warm_up_s = 0;   // steps before it are not counted
};

// Where the slots are, as shares of all slots, averaged over the counted steps.
struct SlotShares {
  double tokens = 0;   // hold a token of a running sequence, shared ones once
  double reserved = 0; // will hold one of its own sequence
  double internal = 0; // given to a sequence that will never use it
  double external = 0; // what rounding chunks up to powers of two wastes, and what is free or fits nobody
};

struct ServeResult {
  std::uint64_t steps = 0, waiting_steps = 0; // counted; those of them in which a request waited
  double batch = 0;                           // sequences in a step, mean over the counted steps
  SlotShares shares;                          // over steps with a request waiting
  double utilisation = 0;                     // tokens held / (referenced blocks * block size), over the same steps
  double occupancy = 0;                       // referenced blocks / all blocks, over the same steps
  double seconds = 0;                         // virtual, counted
  std::uint64_t finished = 0, output_tokens = 0, preemptions_swap = 0, preemptions_recompute = 0;
  double latency_per_token_s =
      0; // mean over finished requests of (end - arrival) / output tokens, the paper's normalised latency
  double requests_per_s() const { return static_cast<double>(finished) / seconds; }
};

// Requests are copied in; the scheduler's first come first served order is theirs.
ServeResult serve(const ServeOptions& options, const std::vector<Request>& requests);

} // namespace quire::bench
