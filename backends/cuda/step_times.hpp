// Where a decode step's time goes: the host's, piece by piece, and the device's by its own timers.
//
// Totals since the instance was made, over steps that ran as a graph and were sampled. The pieces of a step are added
// together once it was queued as a whole. Units: seconds. Errors: none. Threads: the backend's queue.
#pragma once

#include <quire/plugin.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <span>

namespace quire::cuda {

// Time from one call to the next.
class Lap {
 public:
  void add(double& seconds) {
    const Clock::time_point now = Clock::now();
    seconds += std::chrono::duration<double>(now - at_).count();
    at_ = now;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point at_ = Clock::now();
};

struct StepTimes {
  struct Parts {
    double check = 0, plan = 0, write = 0; // the step: is it right, attention's work lists, into pinned memory
    double launch = 0;                     // the driver's: the graph's call, with its timer
    double pack = 0, sample = 0;           // sampling's rows; the driver's calls behind the graph
  };
  Parts now, total;
  double take = 0; // sampled rows for the caller, and reading the timers
  // Of the device, in the steps that are timed: from when it begins to fetch the step to its sampled rows; from those
  // of the step before to that.
  double run = 0, gap = 0;
  uint64_t steps = 0, runs = 0, gaps = 0;

  void add_submitted() {
    total.check += now.check, total.plan += now.plan, total.write += now.write;
    total.launch += now.launch;
    total.pack += now.pack, total.sample += now.sample;
    ++steps;
  }
  void add_run(double seconds) { run += seconds, ++runs; }
  void add_gap(double seconds) { gap += seconds, ++gaps; }

  uint32_t report(std::span<quire_counter> out) const {
    uint32_t count = 0;
    const auto put = [&](const char* name, double value) {
      if (count < out.size()) {
        std::snprintf(out[count].name, sizeof out[count].name, "%s", name);
        out[count].value = value;
      }
      ++count;
    };
    put("decode_submits", static_cast<double>(steps));
    put("decode_check_seconds", total.check);
    put("decode_plan_seconds", total.plan);
    put("decode_write_seconds", total.write);
    put("decode_launch_seconds", total.launch);
    put("decode_pack_seconds", total.pack);
    put("decode_sample_seconds", total.sample);
    put("decode_take_seconds", take);
    put("device_timed_steps", static_cast<double>(runs));
    put("device_step_seconds", run);
    put("device_timed_gaps", static_cast<double>(gaps));
    put("device_gap_seconds", gap);
    return count;
  }
};

} // namespace quire::cuda
