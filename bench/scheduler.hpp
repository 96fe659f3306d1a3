// `quire bench scheduler`: what the host pays for blocks and steps, by Google Benchmark. No device.
//
//   block pool: allocate + free pairs            goal: at least 50 million a second on one core
//   admit 4,096 tokens whose prefix is cached    goal: at most 10 us
//   one scheduler step of N running sequences    goal: at most 40 us for 256, 150 us for 1,024
#pragma once

namespace quire::bench {

struct SchedulerBenchOptions {
  bool json = false;            // Google Benchmark's own format
  const char* filter = nullptr; // a regular expression over the names; all by default
  double min_time_s = 0.5;      // a benchmark at least
};

// Prints to standard output; the exit code.
int run_scheduler_benchmarks(const SchedulerBenchOptions& options);

} // namespace quire::bench
