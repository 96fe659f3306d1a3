// `quire bench sweep`: the paper's main experiment (Kwon et al., SOSP 2023, figure 12) on the real engine: allocation
// policies on the same device, weights and kernels, at rising request rates. Throws Error where a request fails.
#pragma once

#include <boost/json/object.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "quire/engine.hpp"

namespace quire::bench {

struct SweepOptions {
  // paged, max, pow2, oracle with continuous batching; static: whole batches with the reservations of `max`, as
  // FasterTransformer serves.
  std::vector<std::string> policies{"paged", "oracle", "pow2", "max", "static"};
  std::vector<double> rates{0.5, 1, 2, 4}; // requests/s, rising
  double seconds = 10;                     // of arrivals a rate
  double latency_limit = 0;         // seconds a token that a sustained rate stays below; 0: 3 times the least seen
  uint32_t max_total_tokens = 2048; // prompt and output
  uint64_t seed = 1;
};

// Every policy and rate gets the first requests of one seeded ShareGPT-like trace, whose arrivals alone scale with the
// rate. Normalised latency: the mean over requests of (last token - arrival) / output tokens. A load is cut off half
// its seconds after its last arrival: what is unfinished then counts as if it had ended there with the tokens that it
// has, so that long answers don't matter and waiting ones do. A policy's rates end with the first that it doesn't
// sustain.
boost::json::object bench_sweep(Engine& engine, const SweepOptions& options);

} // namespace quire::bench
