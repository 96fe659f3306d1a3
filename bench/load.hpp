// A load on an Engine inside this process: submits requests at given times, waits for all, keeps every token's time.
// What `bench latency` and `bench throughput` are made of. Prompts are seeded random token ids, no two alike, so that
// the prefix cache finds nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quire/engine.hpp"

namespace quire::bench {

struct LoadRequest {
  double arrival_seconds = 0; // after the start
  uint32_t prompt_tokens = 1;
  uint32_t output_tokens = 1;
  std::vector<int32_t> prompt; // these token ids instead of random ones
};

struct LoadResult {
  double arrival_seconds = 0, first_token_seconds = 0, last_token_seconds = 0; // after the start of the load
  uint32_t prompt_tokens = 0, output_tokens = 0, cached_tokens = 0; // cached: of the prompt, found in the prefix cache
  std::vector<double> token_seconds;                                // of each output token, after the start
  double end_seconds = 0;                                           // of the last event
  bool cut_off = false;
  std::string error;
};

// Runs the requests to their end (greedy, end tokens ignored), or until so many seconds after the start: what is left
// then is cancelled (0: never). Results in the order of the requests.
std::vector<LoadResult> run_load(Engine& engine, const std::vector<LoadRequest>& requests, uint64_t seed,
                                 double cut_off_seconds = 0);

// Token ids that any model has words for, seeded.
std::vector<int32_t> random_tokens(const Engine& engine, uint32_t count, uint64_t seed);

// Lengths uniform in [low, high], all at time 0.
std::vector<LoadRequest> uniform_requests(uint32_t count, uint32_t low, uint32_t high, uint64_t seed);

// Poisson arrivals at a rate, lognormal lengths with the means of ShareGPT's conversations as in Kwon et al. (SOSP
// 2023, section 6.1).
std::vector<LoadRequest> sharegpt_like_requests(uint32_t count, double requests_per_second, uint32_t max_total_tokens,
                                                uint64_t seed);

// The q-quantile (0 to 1) of values; 0 where there are none.
double quantile(std::vector<double> values, double q);

} // namespace quire::bench
