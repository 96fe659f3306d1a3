#include "bench/sweep.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "load.hpp"
#include "quire/error.hpp"

namespace quire::bench {
namespace {

struct Point {
  double rate = 0, latency = 0, seconds = 0, tokens_per_s = 0, mean_running = 0;
  size_t requests = 0, finished = 0;
  uint64_t preemptions = 0;
};

Point run_rate(Engine& engine, const SweepOptions& o, double rate) {
  const auto count = static_cast<uint32_t>(std::max(1.0, std::round(rate * o.seconds)));
  const uint32_t longest = std::min(o.max_total_tokens, engine.model().max_context);
  // One request a second, scaled: the same lengths in the same order at every rate.
  std::vector<LoadRequest> requests = sharegpt_like_requests(count, 1.0, longest, o.seed);
  for (LoadRequest& r : requests) r.arrival_seconds /= rate;
  const Stats before = engine.stats();
  const auto results = run_load(engine, requests, o.seed, requests.back().arrival_seconds + o.seconds / 2);
  const Stats after = engine.stats();
  Point p;
  p.rate = rate;
  p.requests = results.size();
  uint64_t tokens = 0;
  for (const LoadResult& r : results) {
    if (!r.error.empty()) throw Error("a request of the benchmark failed: " + r.error);
    p.finished += !r.cut_off;
    tokens += r.output_tokens;
    p.seconds = std::max(p.seconds, r.end_seconds);
    p.latency +=
        (r.end_seconds - r.arrival_seconds) / std::max(1u, r.output_tokens) / static_cast<double>(results.size());
  }
  p.tokens_per_s = static_cast<double>(tokens) / p.seconds;
  p.preemptions =
      after.preemptions_swap + after.preemptions_recompute - before.preemptions_swap - before.preemptions_recompute;
  // Sequences a step: each contributes a token to each step that it decodes in.
  const double steps = static_cast<double>(after.steps - before.steps);
  p.mean_running = steps > 0 ? static_cast<double>(after.output_tokens - before.output_tokens) / steps : 0;
  return p;
}

} // namespace

boost::json::object bench_sweep(Engine& engine, const SweepOptions& o) {
  if (o.rates.empty() || !std::is_sorted(o.rates.begin(), o.rates.end()) || !(o.rates.front() > 0))
    throw Error("--rates must be rising numbers above 0");
  // First-use costs are no part of it.
  run_load(engine, std::vector<LoadRequest>(8, LoadRequest{0, 64, 8, {}}), o.seed + 1);
  double least = 0;
  boost::json::array policies;
  for (const std::string& policy : o.policies) {
    const bool whole_batches = policy == "static";
    engine.reconfigure(whole_batches ? "max" : policy, whole_batches ? "static" : "continuous");
    double sustained = 0;
    boost::json::array points;
    for (const double rate : o.rates) {
      const Point p = run_rate(engine, o, rate);
      if (least == 0 || p.latency < least) least = p.latency;
      const double limit = o.latency_limit > 0 ? o.latency_limit : 3 * least;
      const bool holds = p.latency <= limit;
      std::fprintf(stderr, "%-7s %6.2f requests/s: %7.4f s a token, %5.1f tokens a step, %zu of %zu finished%s\n",
                   policy.c_str(), rate, p.latency, p.mean_running, p.finished, p.requests, holds ? "" : ": too much");
      points.push_back({{"requests_per_s", rate},
                        {"normalised_latency_s_per_token", p.latency},
                        {"requests", p.requests},
                        {"finished", p.finished},
                        {"seconds", p.seconds},
                        {"output_tokens_per_s", p.tokens_per_s},
                        {"output_tokens_per_step", p.mean_running},
                        {"preemptions", p.preemptions},
                        {"sustained", holds}});
      if (!holds) break;
      sustained = rate;
    }
    policies.push_back({{"policy", policy}, {"sustained_requests_per_s", sustained}, {"rates", std::move(points)}});
  }
  return {{"trace", "ShareGPT-like"},
          {"seconds_per_rate", o.seconds},
          {"latency_limit_s_per_token", o.latency_limit > 0 ? o.latency_limit : 3 * least},
          {"kv_tokens", uint64_t{engine.model().num_blocks} * engine.model().block_size},
          {"policies", std::move(policies)}};
}

} // namespace quire::bench
