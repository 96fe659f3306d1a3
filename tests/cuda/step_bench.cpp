// The host's side of a CUDA decode step, measured without a GPU: an idle device takes the calls, and none of its
// driver's time is in these figures. `meson test --benchmark cuda-step`, or the program itself.
#include "emulator/control.hpp"
#include "sampler.hpp"
#include "step_buffer.hpp"
#include "support.hpp"

#include <benchmark/benchmark.h>

#include <vector>

namespace quire::cuda {
namespace {

// Llama-3.2-1B's and 3.1-8B's attention on an H200.
StepTraits llama_traits(uint32_t sequences) {
  StepTraits traits;
  traits.groups = 1;
  traits.vocab = 128256;
  traits.limits.max_tokens = 8192, traits.limits.max_sequences = traits.limits.max_rows = sequences;
  traits.limits.max_context = 4096;
  AttendClass attend;
  attend.heads = 32, attend.kv_heads = 8, attend.fast = attend.wide = true, attend.blocks = 264;
  traits.classes.push_back(attend);
  return traits;
}

constexpr uint32_t kBlocks = 1 << 17;

// A batch in the middle of `quire bench throughput`: lengths of 100 to 2,048.
struct Batch {
  explicit Batch(uint32_t sequences)
      : traits(llama_traits(sequences)), shape(bucket_shape(sequences, Clusters::none, traits)) {
    layout = lay_out_step(shape, traits.groups, traits.classes);
    staging.resize(most_step_bytes(traits));
    for (uint32_t s = 0; s < sequences; ++s) history.add(100 + s * 7919 % 1949);
    step = history.step();
  }
  // Every sequence a token further; from the start again where one comes to the end of its context.
  void advance() {
    history.grow();
    if (++steps % 1024 == 0)
      for (uint32_t s = 0; s < history.sequences(); ++s) history.cut(s, 100 + s * 7919 % 1949);
    step = history.step();
  }

  StepTraits traits;
  StepShape shape;
  StepLayout layout;
  StepHistory history{16, kBlocks};
  quire_step step{};
  StepPlans plans;
  std::vector<std::byte> staging;
  uint32_t steps = 0;
};

template <class Body> void over_steps(benchmark::State& state, Batch& batch, const Body& body) {
  for (auto _ : state) {
    body();
    state.PauseTiming();
    batch.advance();
    state.ResumeTiming();
  }
}

void bench_check(benchmark::State& state) {
  Batch batch(static_cast<uint32_t>(state.range(0)));
  over_steps(state, batch, [&] { check_step(batch.step, batch.traits, std::array{kBlocks}); });
}

void bench_plan(benchmark::State& state) {
  Batch batch(static_cast<uint32_t>(state.range(0)));
  over_steps(state, batch, [&] { plan_step(batch.step, batch.traits, batch.plans, Clusters::none); });
}

void bench_write(benchmark::State& state) {
  Batch batch(static_cast<uint32_t>(state.range(0)));
  over_steps(state, batch, [&] {
    state.PauseTiming();
    plan_step(batch.step, batch.traits, batch.plans, Clusters::none);
    state.ResumeTiming();
    benchmark::DoNotOptimize(
        write_step(batch.step, batch.traits, batch.plans, batch.shape, batch.layout, 0, batch.staging));
  });
}

// Rows as a request without filters has them.
void bench_sample(benchmark::State& state) {
  emulator::control().idle = true;
  const auto rows = static_cast<uint32_t>(state.range(0));
  Sampler sampler;
  sampler.reserve(rows, 128256);
  std::vector<quire_sampling_row> wanted(rows);
  std::vector<quire_sampled_row> sampled(rows);
  std::vector<SampleRow> packed(rows);
  uint64_t ticket = 0;
  for (auto _ : state) {
    for (quire_sampling_row& row : wanted) row.temperature = 1, row.position = static_cast<uint32_t>(ticket);
    benchmark::DoNotOptimize(sampler.pack_plain(++ticket, wanted, 128256, packed));
    sampler.sampled_plain(ticket, rows);
    sampler.take(ticket, sampled);
  }
}

// All of it, as a submit and a sample do it.
void bench_step(benchmark::State& state) {
  emulator::control().idle = true;
  Batch batch(static_cast<uint32_t>(state.range(0)));
  Sampler sampler;
  const uint32_t rows = batch.step.num_sequences;
  sampler.reserve(rows, batch.traits.vocab);
  std::vector<quire_sampling_row> wanted(rows);
  std::vector<quire_sampled_row> sampled(rows);
  uint64_t ticket = 0;
  over_steps(state, batch, [&] {
    check_step(batch.step, batch.traits, std::array{kBlocks});
    plan_step(batch.step, batch.traits, batch.plans, Clusters::none);
    benchmark::DoNotOptimize(
        write_step(batch.step, batch.traits, batch.plans, batch.shape, batch.layout, 0, batch.staging));
    auto* const packed = reinterpret_cast<SampleRow*>(batch.staging.data() + batch.layout.sampling);
    benchmark::DoNotOptimize(sampler.pack_plain(++ticket, wanted, batch.traits.vocab, {packed, rows}));
    sampler.sampled_plain(ticket, rows);
    sampler.take(ticket, sampled);
  });
}

} // namespace
} // namespace quire::cuda

BENCHMARK(quire::cuda::bench_check)->Arg(64)->Arg(256)->Unit(benchmark::kMicrosecond);
BENCHMARK(quire::cuda::bench_plan)->Arg(64)->Arg(256)->Unit(benchmark::kMicrosecond);
BENCHMARK(quire::cuda::bench_write)->Arg(64)->Arg(256)->Unit(benchmark::kMicrosecond);
BENCHMARK(quire::cuda::bench_sample)->Arg(64)->Arg(256)->Unit(benchmark::kMicrosecond);
BENCHMARK(quire::cuda::bench_step)->Arg(64)->Arg(256)->Unit(benchmark::kMicrosecond);
BENCHMARK_MAIN();
