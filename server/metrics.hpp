// What /metrics shows: the engine's counters and the server's latency histograms as Prometheus text (exposition format
// 0.0.4). Thread contract: [any], by atomics.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>

#include "quire/engine.hpp"

namespace quire::server {

// Counts of observations up to fixed bounds, in seconds.
class Histogram {
 public:
  static constexpr std::array<double, 16> bounds{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                                 0.5,   1,      2.5,   5,    10,    30,   60,  300};

  void observe(double seconds);
  void write(std::string& out, const char* name, const char* help) const;

 private:
  std::array<std::atomic<uint64_t>, bounds.size() + 1> counts_{};
  std::atomic<uint64_t> sum_us_{0};
};

struct Metrics {
  Histogram first_token, between_tokens, request, queue;
  std::atomic<uint64_t> connections{0}, connections_total{0}, rejected_requests{0}, slow_clients{0};

  // stats: nullptr while the model loads.
  std::string prometheus(const Stats* stats) const;
};

} // namespace quire::server
