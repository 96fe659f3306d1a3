#include "latency.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <thread>

#include "load.hpp"
#include "quire/error.hpp"

namespace quire::bench {
namespace {

void require_success(const std::vector<LoadResult>& results) {
  for (const LoadResult& r : results)
    if (!r.error.empty() || r.token_seconds.empty())
      throw Error("a request of the benchmark failed: " + (r.error.empty() ? "no token came" : r.error));
}

} // namespace

std::string wait_for_tuning(const Engine& engine) {
  constexpr std::chrono::seconds most{120};
  const auto start = std::chrono::steady_clock::now();
  Stats stats = engine.stats();
  while (stats.tuning_left && std::chrono::steady_clock::now() - start < most) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    stats = engine.stats();
  }
  char text[80];
  std::snprintf(text, sizeof text, "%s before: %.1f s of timing kernels", stats.tuning_left ? "not ended" : "ended",
                stats.tuning_seconds);
  return text;
}

boost::json::object bench_latency(Engine& engine, const LatencyOptions& o) {
  const std::vector<LoadRequest> batch(o.batch, LoadRequest{0, o.prompt_tokens, o.output_tokens, {}});
  std::vector<double> first, prefill_rate, decode_rate, gaps;
  for (uint32_t i = 0; i <= o.repetitions; ++i) {
    const auto results = run_load(engine, batch, o.seed + i);
    require_success(results);
    if (i == 0) continue; // the warm-up
    double all_first = 0, last = 0;
    uint64_t tokens_after = 0;
    for (const LoadResult& r : results) {
      first.push_back(r.first_token_seconds);
      all_first = std::max(all_first, r.first_token_seconds);
      last = std::max(last, r.last_token_seconds);
      for (size_t t = 1; t < r.token_seconds.size(); ++t) gaps.push_back(r.token_seconds[t] - r.token_seconds[t - 1]);
    }
    // Decode: the tokens after every request of the batch has its first, while all of them run.
    for (const LoadResult& r : results)
      tokens_after += static_cast<uint64_t>(
          std::count_if(r.token_seconds.begin(), r.token_seconds.end(), [&](double t) { return t > all_first; }));
    prefill_rate.push_back(static_cast<double>(o.prompt_tokens) * o.batch / all_first);
    if (last > all_first) decode_rate.push_back(static_cast<double>(tokens_after) / (last - all_first));
  }
  return {{"prompt_tokens", o.prompt_tokens},
          {"output_tokens", o.output_tokens},
          {"batch", o.batch},
          {"repetitions", o.repetitions},
          {"first_token_s", quantile(first, 0.5)},
          {"prefill_tokens_per_s", quantile(prefill_rate, 0.5)},
          {"decode_tokens_per_s", quantile(decode_rate, 0.5)},
          {"between_tokens_p50_s", quantile(gaps, 0.5)},
          {"between_tokens_p99_s", quantile(gaps, 0.99)}};
}

boost::json::object bench_prefix(Engine& engine, const PrefixOptions& o) {
  const uint32_t length = o.prefix_tokens + o.tail_tokens;
  require_success(run_load(engine, std::vector<LoadRequest>(1, LoadRequest{0, o.tail_tokens + 1, 2, {}}), o.seed));
  double best = std::numeric_limits<double>::max(), first = 0, second = 0;
  uint32_t cached = 0;
  std::vector<double> ratios;
  for (uint32_t i = 1; i <= std::max(1u, o.repetitions); ++i) {
    const std::vector<int32_t> prefix = random_tokens(engine, o.prefix_tokens, o.seed * 1000 + i);
    LoadResult pair[2];
    for (uint64_t k = 0; k < 2; ++k) {
      LoadRequest request{0, length, 1, prefix};
      const auto tail = random_tokens(engine, o.tail_tokens, o.seed * 1000 + i * 10 + k + 500);
      request.prompt.insert(request.prompt.end(), tail.begin(), tail.end());
      const auto results = run_load(engine, {request}, o.seed);
      require_success(results);
      pair[k] = results.front();
    }
    ratios.push_back(pair[1].first_token_seconds / pair[0].first_token_seconds);
    if (ratios.back() >= best) continue;
    best = ratios.back();
    first = pair[0].first_token_seconds, second = pair[1].first_token_seconds;
    cached = pair[1].cached_tokens;
  }
  return {{"prefix_tokens", o.prefix_tokens},
          {"tail_tokens", o.tail_tokens},
          {"repetitions", o.repetitions},
          {"cached_tokens", cached},
          {"uncached_share", static_cast<double>(length - cached) / length},
          {"first_s", first},
          {"second_s", second},
          {"ratio", best},
          {"ratio_median", quantile(ratios, 0.5)}};
}

boost::json::object bench_throughput(Engine& engine, const ThroughputOptions& o) {
  const bool paced = o.requests_per_second > 0;
  const auto requests = paced ? sharegpt_like_requests(o.requests, o.requests_per_second,
                                                       std::min(o.max_tokens * 2, engine.model().max_context), o.seed)
                              : uniform_requests(o.requests, o.min_tokens, o.max_tokens, o.seed);
  run_load(engine, std::vector<LoadRequest>(1, LoadRequest{0, 32, 8, {}}),
           o.seed + 1); // first-use costs are not throughput
  const Stats before = engine.stats();
  const auto counted_before = engine.backend_counters();
  const auto results = run_load(engine, requests, o.seed);
  require_success(results);
  const Stats after = engine.stats();
  const auto counted_after = engine.backend_counters();
  double last = 0, normalised = 0;
  uint64_t in = 0, out = 0;
  std::vector<double> first;
  for (const LoadResult& r : results) {
    last = std::max(last, r.last_token_seconds);
    in += r.prompt_tokens;
    out += r.output_tokens;
    first.push_back(r.first_token_seconds - r.arrival_seconds);
    normalised += (r.last_token_seconds - r.arrival_seconds) / r.output_tokens / static_cast<double>(results.size());
  }
  const double steps = static_cast<double>(after.steps - before.steps);
  const auto decode_steps = static_cast<double>(after.decode_steps - before.decode_steps);
  const auto us = [](double seconds, double count) { return count > 0 ? seconds / count * 1e6 : 0.0; };
  const auto full_steps = static_cast<double>(after.full_decode_steps - before.full_decode_steps);
  boost::json::object backend;
  for (size_t i = 0; i < counted_after.size(); ++i)
    backend[counted_after[i].first] =
        counted_after[i].second - (i < counted_before.size() ? counted_before[i].second : 0.0);
  return {
      {"requests", o.requests},
      {"requests_per_s", o.requests_per_second},
      {"prompt_tokens", in},
      {"output_tokens", out},
      {"seconds", last},
      {"output_tokens_per_s", static_cast<double>(out) / last},
      {"total_tokens_per_s", static_cast<double>(in + out) / last},
      {"first_token_p50_s", quantile(first, 0.5)},
      {"first_token_p99_s", quantile(first, 0.99)},
      {"normalised_latency_s_per_token", normalised},
      {"steps", after.steps - before.steps},
      {"host_us_per_step", us(after.host_seconds - before.host_seconds, steps)},
      {"submit_us_per_step", us(after.submit_seconds - before.submit_seconds, steps)},
      {"wait_us_per_step", us(after.device_wait_seconds - before.device_wait_seconds, steps)},
      {"decode_steps", after.decode_steps - before.decode_steps},
      {"host_us_per_decode_step", us(after.decode_host_seconds - before.decode_host_seconds, decode_steps)},
      {"submit_us_per_decode_step", us(after.decode_submit_seconds - before.decode_submit_seconds, decode_steps)},
      {"schedule_us_per_decode_step", us(after.decode_schedule_seconds - before.decode_schedule_seconds, decode_steps)},
      {"commit_us_per_decode_step", us(after.decode_commit_seconds - before.decode_commit_seconds, decode_steps)},
      {"deliver_us_per_decode_step", us(after.decode_deliver_seconds - before.decode_deliver_seconds, decode_steps)},
      {"full_decode_steps", after.full_decode_steps - before.full_decode_steps},
      {"host_us_per_full_decode_step",
       us(after.full_decode_host_seconds - before.full_decode_host_seconds, full_steps)},
      {"submit_us_per_full_decode_step",
       us(after.full_decode_submit_seconds - before.full_decode_submit_seconds, full_steps)},
      {"backend_counters", backend},
      {"device_idle_share_at_most", (after.device_idle_seconds - before.device_idle_seconds) / last},
      {"preemptions",
       after.preemptions_swap + after.preemptions_recompute - before.preemptions_swap - before.preemptions_recompute}};
}

} // namespace quire::bench
