// A benchmark of the engine thread's work for one decode step, for bench/scheduler.cpp to register: range(0) sequences
// run, with cold caches or warm ones; the time of an iteration is the mean over its decode steps, and the
// counters say where it goes.
#pragma once

#include <benchmark/benchmark.h>

namespace quire::bench {

void engine_step(benchmark::State& state, bool cold);

} // namespace quire::bench
