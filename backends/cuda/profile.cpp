// The verbs that measure: profile and ceilings.
#include "cost.hpp"
#include "instance.hpp"
#include "ops/linear.hpp"
#include "ops/measure.hpp"

#include <algorithm>
#include <cstdio>

namespace quire::cuda {
namespace {

constexpr uint64_t kColdBytes = 200'000'000; // more than any L2 keeps
constexpr size_t kTimedLaunches = 24;        // of attention, at least
constexpr uint32_t kHeadStartUs = 3000;      // for the host: the launches and timers of a step queue up meanwhile

template <class Body> double best_seconds(const Stream& stream, int repetitions, const Body& body) {
  Event from(true), to(true);
  double best = 1e30;
  for (int i = 0; i < repetitions; ++i) {
    from.record(stream.get());
    body();
    to.record(stream.get());
    to.wait();
    best = std::min(best, seconds_between(from, to));
  }
  return best;
}

// Attention's launches once more, one layer's behind the other's and overlapping in a graph, as decode steps are: a
// launch of a few microseconds can't be told from its own beginning and end otherwise. Only where what they read passes
// the L2 between two readings of a layer; they change nothing that they read. Each launch of a kind gets the mean over
// so many launches that the beginning of the first and the end of the last count for little.
void time_attention(const Stream& stream, const CompiledProgram& program, const quire_step& step, const StepRun& run,
                    std::span<const Launch* const> launches, uint32_t repetitions,
                    std::span<std::vector<double>> seconds) {
  for (uint32_t kind = 0; kind < program.step.classes.size(); ++kind) {
    std::vector<size_t> attends;
    uint64_t bytes = 0;
    for (size_t i = 0; i < launches.size(); ++i) {
      const uint32_t op = launches[i]->ops.back(); // the first ones may be its rope_store's
      if (program.data.ops[op].kind != QUIRE_OP_ATTEND || program.class_of_attend[op] != kind) continue;
      attends.push_back(i);
      bytes += cost_of(program, op, step).bytes;
    }
    if (bytes < kColdBytes) continue;
    for (const size_t i : attends) seconds[i].clear();
    const size_t rounds = (kTimedLaunches + attends.size() - 1) / attends.size();
    const Graph graph = Graph::capture(stream.get(), [&] {
      for (size_t round = 0; round < rounds; ++round)
        for (const size_t i : attends) launches[i]->run(run);
    });
    Event from(true), to(true);
    for (uint32_t repetition = 0; repetition < repetitions + 2; ++repetition) {
      delay(run.queue, kHeadStartUs);
      from.record(stream.get());
      graph.launch(stream.get());
      to.record(stream.get());
      to.wait();
      const double mean = seconds_between(from, to) / static_cast<double>(rounds * attends.size());
      for (const size_t i : attends)
        if (repetition >= 2) seconds[i].push_back(mean);
    }
  }
}

} // namespace

uint32_t CudaInstance::profile(const quire_step& step, uint32_t repetitions, std::span<quire_op_time> out) {
  return verb([&] {
    Loaded& target = loaded(step.program);
    CompiledProgram& program = *target.program;
    Queued queued;
    queue_step(step, target, false, queued);
    queued.run.queue.overlap = false; // a launch's time is its own
    const std::vector<const Launch*> launches = launches_of(program, queued.run);
    const size_t count = launches.size();
    std::vector<Event> events;
    for (size_t i = 0; i <= count; ++i) events.emplace_back(true);
    std::vector<std::vector<double>> seconds(count);
    for (uint32_t repetition = 0; repetition < repetitions + 2; ++repetition) { // the first two warm up
      delay(queued.run.queue, kHeadStartUs);
      events[0].record(stream_.get());
      for (size_t i = 0; i < count; ++i) {
        launches[i]->run(queued.run);
        events[i + 1].record(stream_.get());
      }
      events[count].wait();
      for (size_t i = 0; i < count && repetition >= 2; ++i)
        seconds[i].push_back(seconds_between(events[i], events[i + 1]));
    }
    queued.run.queue.overlap = device_.compute_capability >= 90;
    time_attention(stream_, program, step, queued.run, launches, repetitions, seconds);
    uint32_t written = 0, entries = 0;
    const auto put = [&](const quire_op_time& time) {
      if (written < out.size()) out[written++] = time;
      ++entries;
    };
    for (uint32_t op = 0; op < program.data.ops.size(); ++op) {
      const auto launch = std::find_if(launches.begin(), launches.end(), [&](const Launch* l) {
        return std::find(l->ops.begin(), l->ops.end(), op) != l->ops.end();
      });
      quire_op_time time{};
      time.op = op;
      const Cost cost = cost_of(program, op, step);
      time.bytes = cost.bytes, time.flops = cost.flops;
      if ((*launch)->ops.front() == op) {
        std::vector<double>& taken = seconds[static_cast<size_t>(launch - launches.begin())];
        std::nth_element(taken.begin(), taken.begin() + static_cast<std::ptrdiff_t>(taken.size() / 2), taken.end());
        time.seconds = taken.empty() ? 0 : taken[taken.size() / 2];
        time.num_fused = static_cast<uint32_t>((*launch)->ops.size());
        const uint32_t value = program.data.ops[op].out[0];
        const uint32_t symbol = value != 0 ? program.data.values[value - 1].rows : uint32_t{QUIRE_TOKENS};
        const uint32_t rows = symbol == QUIRE_TOKENS      ? step.num_tokens
                              : symbol == QUIRE_SEQUENCES ? step.num_sequences
                                                          : step.num_rows;
        std::snprintf(time.kernel, sizeof time.kernel, "%s", (*launch)->kernel(rows).c_str());
      }
      put(time);
    }
    return entries;
  });
}

void CudaInstance::ceilings(double& bytes_per_second, double& flops_per_second) {
  verb([&] {
    const Queue queue{stream_.get(), false};
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    {
      const uint64_t bytes = std::min<uint64_t>(4ull << 30, free / 4 * 3) / 4096 * 4096;
      DeviceBuffer data(bytes, "measuring the memory's speed"), sum(256, "measuring the memory's speed");
      check(cudaMemsetAsync(data.data(), 0x5a, bytes, stream_.get()), "measuring the memory's speed");
      const double seconds = best_seconds(
          stream_, 6, [&] { read_stream(queue, data.data(), bytes, device_.multiprocessors, sum.as<uint32_t>()); });
      bytes_per_second = static_cast<double>(bytes) / seconds;
    }
    uint32_t n = 8192;
    while (n > 256 && 3ull * n * n * 2 > free / 2) n /= 2;
    const uint64_t matrix = uint64_t{n} * n * 2;
    DeviceBuffer a(matrix, "measuring the matrix rate"), b(matrix, "measuring the matrix rate"),
        c(matrix, "measuring the matrix rate");
    fill_random(queue, a.data(), uint64_t{n} * n, 1);
    fill_random(queue, b.data(), uint64_t{n} * n, 2);
    LinearArgs args;
    args.in = {a.data(), n, 1, n, Type::f16};
    args.out = {c.data(), n, 1, n, Type::f16};
    args.num_parts = 1;
    Weight& w = args.parts[0].weight;
    w.rows = w.cols = w.stride = n;
    w.data = b.data();
    const double seconds = best_seconds(stream_, 6, [&] {
      if (library_->available())
        library_->multiply(stream_.get(), {n, n, n, n, n, n, Type::f16}, a.data(), b.data(), c.data());
      else
        linear_tile(queue, n, args);
    });
    flops_per_second = 2.0 * n * n * n / seconds;
  });
}

} // namespace quire::cuda
