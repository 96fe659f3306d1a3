#include "bench/scheduler.hpp"
#include "bench/engine_step.hpp"

#include "kv/kv_manager.hpp"
#include "schedule/scheduler.hpp"

#include <benchmark/benchmark.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

namespace quire::bench {

namespace {

// One block taken and given back.
void allocate_free(benchmark::State& state) {
  BlockPool pool(8192);
  for (auto _ : state) {
    const BlockId block = pool.allocate();
    benchmark::DoNotOptimize(block);
    pool.release(block, 0);
  }
  state.counters["pairs/s"] = benchmark::Counter(static_cast<double>(state.iterations()), benchmark::Counter::kIsRate);
}

// The same as a sequence does it: 256 blocks taken one by one, which then drain through a ticket.
void allocate_free_sequence(benchmark::State& state) {
  BlockPool pool(8192);
  std::vector<BlockId> blocks(256);
  Ticket ticket = 0;
  for (auto _ : state) {
    for (BlockId& block : blocks) block = pool.allocate();
    ++ticket;
    for (std::size_t i = blocks.size(); i-- > 0;) pool.release(blocks[i], ticket);
    pool.tickets_done(ticket);
  }
  state.counters["pairs/s"] = benchmark::Counter(
      static_cast<double>(state.iterations()) * static_cast<double>(blocks.size()), benchmark::Counter::kIsRate);
}

KvConfig config_of(std::uint32_t num_blocks) {
  KvConfig config;
  config.groups = {{.num_blocks = num_blocks}};
  return config;
}

std::vector<std::int32_t> tokens_from(std::int32_t first, std::size_t count) {
  std::vector<std::int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// Computes a prompt once, so that its blocks are cached.
void fill_cache(KvManager& kv, const std::vector<std::int32_t>& prompt) {
  const KvSeq seq = kv.create();
  kv.admit(seq, prompt, 0);
  kv.append(seq, static_cast<std::uint32_t>(prompt.size()) - kv.num_slots(seq));
  const Ticket ticket = kv.building();
  kv.submitted(ticket);
  kv.done(ticket);
  kv.commit(seq, prompt, static_cast<std::uint32_t>(prompt.size()));
  kv.destroy(seq);
}

// Hashing 4,096 tokens, finding and verifying 255 blocks, sharing them. Leaving again isn't counted.
void admit_cached(benchmark::State& state) {
  KvManager kv(config_of(65536));
  const auto prompt = tokens_from(0, 4096);
  for (std::int32_t other = 1; other < 200; ++other) fill_cache(kv, tokens_from(other * 10000, 4096)); // a cache in use
  fill_cache(kv, prompt);
  for (auto _ : state) {
    const KvSeq seq = kv.create();
    const AdmitResult result = kv.admit(seq, prompt, 100);
    state.PauseTiming();
    if (result.cached_tokens != 4080) state.SkipWithError("the prefix was not found");
    kv.destroy(seq);
    state.ResumeTiming();
  }
}

// Admission and leaving together, without the pauses' cost in the clock.
void admit_cached_and_leave(benchmark::State& state) {
  KvManager kv(config_of(65536));
  const auto prompt = tokens_from(0, 4096);
  fill_cache(kv, prompt);
  for (auto _ : state) {
    const KvSeq seq = kv.create();
    benchmark::DoNotOptimize(kv.admit(seq, prompt, 100));
    kv.destroy(seq);
  }
}

// One turn of the engine's loop on the host, without the device: schedule, submitted, and the commit of the step
// before, with two steps in flight. Every sequence decodes one token a step, 500 to 1,500 tokens into its context.
void scheduler_step(benchmark::State& state) {
  const auto running = static_cast<std::uint32_t>(state.range(0));
  KvManager kv(config_of(running * 130));
  Scheduler scheduler({.max_sequences = running, .max_batched_tokens = 8192, .vocab_size = 32000}, kv);
  std::vector<std::unique_ptr<SequenceGroup>> groups;
  std::vector<Step> steps(2);
  std::uint64_t ticket = 0, arrival = 0;
  std::int32_t next_token = 0;
  const auto plan =
      std::make_shared<const SamplingPlan>(SamplingParameters{}, std::span<const std::int32_t>{}, 1, 32000);
  const auto add = [&](std::uint32_t prompt) {
    auto group = std::make_unique<SequenceGroup>();
    auto sequence = std::make_unique<Sequence>();
    group->id = group->arrival = ++arrival;
    sequence->group = group.get();
    sequence->tokens = tokens_from(static_cast<std::int32_t>(arrival) * 4000, prompt);
    sequence->tokens.reserve(4096);
    sequence->num_prompt = prompt;
    sequence->sampling = SamplingState(plan, 0, sequence->tokens);
    sequence->max_length = 2000;
    group->sequences.push_back(std::move(sequence));
    groups.push_back(std::move(group));
    scheduler.add(*groups.back());
  };
  for (std::uint32_t i = 0; i < running; ++i) add(500 + i * 1000 / running);
  bool in_flight[2] = {false, false};
  const auto turn = [&](std::size_t slot) {
    if (in_flight[slot]) {
      for (quire_sampled_row& row : steps[slot].sampled()) row.token = next_token++ & 0x7fff;
      scheduler.commit(steps[slot]);
      in_flight[slot] = false;
    }
    if (scheduler.schedule(steps[slot])) {
      scheduler.submitted(steps[slot], ++ticket);
      in_flight[slot] = true;
    }
  };
  std::size_t slot = 0;
  const auto caught_up = [&] {
    for (const auto& group : groups)
      if (group->sequences[0]->num_output() < 2) return false;
    return true;
  };
  while (!caught_up()) turn(slot++ % 2);
  std::uint32_t left = 400; // steps until the longest would end
  for (auto _ : state) {
    turn(slot++ % 2);
    if (--left > 0) continue;
    // Cut everyone back to the start: a fresh set of sequences.
    state.PauseTiming();
    for (std::size_t i = 0; i < 2; ++i)
      if (in_flight[(slot + i) % 2]) {
        for (quire_sampled_row& row : steps[(slot + i) % 2].sampled()) row.token = 1;
        scheduler.commit(steps[(slot + i) % 2]);
        in_flight[(slot + i) % 2] = false;
      }
    for (const auto& group : groups) scheduler.finish(*group->sequences[0]);
    groups.clear();
    for (std::uint32_t i = 0; i < running; ++i) add(500 + i * 1000 / running);
    while (!caught_up()) turn(slot++ % 2);
    left = 400;
    state.ResumeTiming();
  }
  state.counters["us/sequence"] = benchmark::Counter(static_cast<double>(state.iterations()) * running * 1e-6,
                                                     benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

} // namespace

int run_scheduler_benchmarks(const SchedulerBenchOptions& options) {
  benchmark::ClearRegisteredBenchmarks();
  const auto add = [&](const char* name, void (*function)(benchmark::State&)) {
    return benchmark::RegisterBenchmark(name, function)->MinTime(options.min_time_s);
  };
  add("block_pool/allocate_free", allocate_free);
  add("block_pool/allocate_free_sequence", allocate_free_sequence);
  add("kv/admit_4096_cached", admit_cached)->Unit(benchmark::kMicrosecond);
  add("kv/admit_4096_cached_and_leave", admit_cached_and_leave)->Unit(benchmark::kMicrosecond);
  add("scheduler/step", scheduler_step)->Arg(256)->Arg(1024)->Unit(benchmark::kMicrosecond);
  for (const bool cold : {false, true})
    benchmark::RegisterBenchmark(cold ? "engine/step_cold" : "engine/step", engine_step, cold)
        ->Arg(64)
        ->Arg(256)
        ->UseManualTime()
        ->Iterations(cold ? 1 : 5)
        ->Unit(benchmark::kMicrosecond);

  std::string name = "quire bench scheduler",
              format = options.json ? "--benchmark_format=json" : "--benchmark_format=console";
  std::vector<char*> arguments{name.data(), format.data()};
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  const std::size_t run = benchmark::RunSpecifiedBenchmarks(options.filter ? options.filter : "all");
  benchmark::Shutdown();
  return run > 0 ? 0 : 1;
}

} // namespace quire::bench
