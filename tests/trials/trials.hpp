// A whole engine on one backend, disturbed and undisturbed: what `quire-tests trials` and `quire-tests invariant` run.
//
// trials: thousands of steps of random requests (greedy, seeded, several samples, beams) that are cancelled, preempted
// by swap and by recompute, chunked and forked at random. Each answer must be the one that the request gets alone, and
// no block may be missing at the end. invariant: 64 greedy and seeded requests give bit for bit the same tokens alone,
// all together, chunked, preempted, and after their prefix was found in the cache.
#pragma once

#include <cstdint>
#include <string>

namespace quire::test {

struct TrialOptions {
  std::string backend = "reference", plugin;
  std::string model;      // empty: a 2-layer model of seeded random weights
  uint64_t steps = 10000; // of trials
  uint64_t seed = 1;
};

// The number of failures, each of which was printed. Throws Error where the backend or the model can't be had.
uint32_t run_trials(const TrialOptions& options);
uint32_t run_invariant(const TrialOptions& options);

} // namespace quire::test
