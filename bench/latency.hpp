// `quire bench latency` and `quire bench throughput`: figures of a loaded Engine, as JSON objects and a printed table.
// Both throw Error where a request fails: a figure of a failed run is none.
#pragma once

#include <boost/json/object.hpp>

#include <cstdint>
#include <string>

#include "quire/engine.hpp"

namespace quire::bench {

// Waits until the backend has nothing left to do in idle time, such as timing kernels, at most two minutes: what
// happened, for the figures that follow.
std::string wait_for_tuning(const Engine& engine);

struct LatencyOptions {
  uint32_t prompt_tokens = 128, output_tokens = 64, batch = 1, repetitions = 3;
  uint64_t seed = 1;
};

// Batches of equal requests, one after the other: time to first token, prefill and decode tokens/s, time between
// tokens. Medians over the repetitions after one warm-up that is not counted.
boost::json::object bench_latency(Engine& engine, const LatencyOptions& options);

struct PrefixOptions {
  uint32_t prefix_tokens = 1000, tail_tokens = 24, repetitions = 3;
  uint64_t seed = 1;
};

// Pairs of requests that share a prefix: the second one's time to first token beside the first one's, and beside the
// share of its tokens that the prefix cache didn't have. The pair with the lowest ratio counts: whatever else runs on
// the machine only adds time.
boost::json::object bench_prefix(Engine& engine, const PrefixOptions& options);

struct ThroughputOptions {
  uint32_t requests = 256, min_tokens = 100, max_tokens = 1024;
  double requests_per_second = 0; // 0: all at once with uniform lengths; else the ShareGPT-like trace at this rate
  uint64_t seed = 1;
};

// Output tokens/s from the first submission to the last token; at a rate, the mean of each request's latency over its
// output length too («normalised latency», Kwon et al. 2023).
boost::json::object bench_throughput(Engine& engine, const ThroughputOptions& options);

} // namespace quire::bench
