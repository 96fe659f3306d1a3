#include "metrics.hpp"

#include <cstdio>

namespace quire::server {
namespace {

void line(std::string& out, const char* name, const char* type, const char* help, double value) {
  char number[32];
  std::snprintf(number, sizeof number, "%.17g", value);
  out +=
      std::string("# HELP ") + name + " " + help + "\n# TYPE " + name + " " + type + "\n" + name + " " + number + "\n";
}

} // namespace

void Histogram::observe(double seconds) {
  size_t i = 0;
  while (i < bounds.size() && seconds > bounds[i]) ++i;
  counts_[i].fetch_add(1, std::memory_order_relaxed);
  sum_us_.fetch_add(static_cast<uint64_t>(seconds * 1e6), std::memory_order_relaxed);
}

void Histogram::write(std::string& out, const char* name, const char* help) const {
  out += std::string("# HELP ") + name + " " + help + "\n# TYPE " + name + " histogram\n";
  uint64_t total = 0;
  char text[64];
  for (size_t i = 0; i <= bounds.size(); ++i) {
    total += counts_[i].load(std::memory_order_relaxed);
    if (i < bounds.size())
      std::snprintf(text, sizeof text, "%g", bounds[i]);
    else
      std::snprintf(text, sizeof text, "+Inf");
    out += std::string(name) + "_bucket{le=\"" + text + "\"} " + std::to_string(total) + "\n";
  }
  std::snprintf(text, sizeof text, "%.6f", static_cast<double>(sum_us_.load(std::memory_order_relaxed)) * 1e-6);
  out += std::string(name) + "_sum " + text + "\n" + name + "_count " + std::to_string(total) + "\n";
}

std::string Metrics::prometheus(const Stats* stats) const {
  std::string out;
  const auto gauge = [&](const char* name, const char* help, double v) { line(out, name, "gauge", help, v); };
  const auto counter = [&](const char* name, const char* help, double v) { line(out, name, "counter", help, v); };
  gauge("quire_ready", "1 once the model is loaded", stats != nullptr);
  gauge("quire_connections", "open WebSocket connections", static_cast<double>(connections.load()));
  counter("quire_connections_total", "WebSocket connections accepted", static_cast<double>(connections_total.load()));
  counter("quire_requests_rejected_total", "client events answered by an error",
          static_cast<double>(rejected_requests.load()));
  counter("quire_slow_clients_total", "connections closed because the client read too slowly",
          static_cast<double>(slow_clients.load()));
  if (!stats) return out;

  const auto n = [](uint64_t v) { return static_cast<double>(v); };
  gauge("quire_requests_running", "sequences in the running batch", stats->running);
  gauge("quire_requests_waiting", "requests waiting for admission", stats->waiting);
  gauge("quire_requests_swapped", "sequences preempted to host memory", stats->swapped);
  out += "# HELP quire_kv_blocks KV blocks by state\n# TYPE quire_kv_blocks gauge\n";
  out += "quire_kv_blocks{state=\"free\"} " + std::to_string(stats->blocks_free) + "\n";
  out += "quire_kv_blocks{state=\"cached\"} " + std::to_string(stats->blocks_cached) + "\n";
  out += "quire_kv_blocks{state=\"referenced\"} " + std::to_string(stats->blocks_referenced) + "\n";
  out += "quire_kv_blocks{state=\"draining\"} " + std::to_string(stats->blocks_draining) + "\n";
  gauge("quire_kv_blocks_total", "KV blocks in all", n(stats->blocks_total));
  gauge("quire_kv_tokens_held", "tokens whose KV is in referenced blocks, shared ones once", n(stats->tokens_held));
  gauge("quire_kv_block_size", "tokens a KV block", stats->block_size);
  const double slots = n(stats->blocks_referenced) * stats->block_size;
  gauge("quire_kv_utilisation", "tokens held by slots of referenced blocks; 1 where there are none",
        slots > 0 ? n(stats->tokens_held) / slots : 1.0);
  counter("quire_prompt_tokens_total", "prompt tokens of admitted requests", n(stats->prompt_tokens));
  counter("quire_output_tokens_total", "tokens generated", n(stats->output_tokens));
  counter("quire_cached_tokens_total", "prompt tokens found in the prefix cache", n(stats->cached_tokens));
  counter("quire_prefix_cache_queries_total", "tokens looked up in the prefix cache", n(stats->prefix_queries));
  counter("quire_prefix_cache_hits_total", "tokens found in the prefix cache", n(stats->prefix_hits));
  out += "# HELP quire_preemptions_total sequences preempted\n# TYPE quire_preemptions_total counter\n";
  out += "quire_preemptions_total{by=\"swap\"} " + std::to_string(stats->preemptions_swap) + "\n";
  out += "quire_preemptions_total{by=\"recompute\"} " + std::to_string(stats->preemptions_recompute) + "\n";
  counter("quire_steps_total", "device steps", n(stats->steps));
  counter("quire_requests_total", "requests submitted to the engine", n(stats->requests));
  counter("quire_requests_failed_total", "requests ended by an error", n(stats->requests_failed));
  counter("quire_requests_cancelled_total", "requests cancelled", n(stats->requests_cancelled));
  counter("quire_step_seconds_total", "time in steps", stats->step_seconds);
  counter("quire_device_wait_seconds_total", "time the engine waited for the device", stats->device_wait_seconds);
  counter("quire_host_seconds_total", "time the engine thread worked, the backend's calls apart", stats->host_seconds);
  counter("quire_submit_seconds_total", "time the engine thread was in the backend's submit and sample",
          stats->submit_seconds);
  counter("quire_decode_steps_total", "device steps without prompt tokens", n(stats->decode_steps));
  counter("quire_decode_host_seconds_total", "the engine thread's time for those, submit included and waiting apart",
          stats->decode_host_seconds);
  counter("quire_device_idle_seconds_total", "at most so long the device had nothing queued though there was work",
          stats->device_idle_seconds);
  first_token.write(out, "quire_time_to_first_token_seconds", "from submission to the first token");
  between_tokens.write(out, "quire_inter_token_seconds", "between two tokens of a choice");
  request.write(out, "quire_request_seconds", "from submission to the last token");
  queue.write(out, "quire_queue_seconds", "from submission to admission");
  return out;
}

} // namespace quire::server
