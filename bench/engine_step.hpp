// A benchmark of the engine thread's work for one decode step, for bench/scheduler.cpp to register: range(0) sequences
// run; the time of an iteration is the mean over its decode steps.
#pragma once

#include <benchmark/benchmark.h>

namespace quire::bench {

void engine_step(benchmark::State& state);

} // namespace quire::bench
