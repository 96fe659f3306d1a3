#include "linear_tuning.hpp"

#include "ops/measure.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <utility>

namespace quire::cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kCandidates = 32;      // of the library's
constexpr uint32_t kMostLaunches = 8;     // timed together
constexpr double kSampleSeconds = 250e-6; // about, of a sample's launches

} // namespace

LinearStopwatch::LinearStopwatch(std::vector<const CompiledProgram*> programs, MatrixLibrary& library,
                                 const LinearChoices& choices, const DeviceTraits& device, cudaStream_t stream)
    : library_(library), choices_(choices), device_(device), stream_(stream), sum_(256, "timing kernels") {
  for (const CompiledProgram* program : programs)
    for (const TunableLinear& linear : program->tunable) {
      Layers& of_shape = shapes_[*linear.launch->shape()];
      of_shape.layers.push_back({program, linear});
      of_shape.weight_bytes += linear.launch->weight_bytes();
    }
}

std::vector<TuningJob> LinearStopwatch::jobs() const {
  std::vector<TuningJob> jobs;
  for (const auto& [shape, of_shape] : shapes_)
    for (const Layer& layer : of_shape.layers) {
      const quire_limits& limits = layer.program->limits;
      const uint32_t most = layer.linear.rows_symbol == QUIRE_TOKENS      ? limits.max_tokens
                            : layer.linear.rows_symbol == QUIRE_SEQUENCES ? limits.max_sequences
                                                                          : limits.max_rows;
      for (const uint32_t rows : timed_rows(limits.max_sequences, std::max(most, limits.max_sequences)))
        if (const TuningJob job{shape, rows}; std::find(jobs.begin(), jobs.end(), job) == jobs.end())
          jobs.push_back(job);
    }
  return jobs;
}

std::vector<LinearChoice> LinearStopwatch::candidates(const TuningJob& job) {
  Layers& of_shape = shapes_.at(job.shape);
  const Layer& layer = of_shape.layers[of_shape.next];
  std::vector<LinearChoice> found;
  for (const LibraryAlgorithm& algorithm : library_.candidates(layer.linear.launch->product(job.rows), kCandidates))
    found.push_back({false, algorithm, 0});
  found.insert(job.rows <= kSmallRows ? found.begin() : found.end(), {true, {}, 0}); // first what runs untimed
  for (const Layer& each : of_shape.layers) fill_input(each, job.rows);
  return found;
}

LinearMemory LinearStopwatch::memory_of(const Layer& layer) const {
  const CompiledProgram& program = *layer.program;
  void* in = layer.linear.launch->in().data;
  if (layer.linear.converted) in = program.workspace.data() + program.convert_offset;
  return {in, program.workspace.as<float>(), program.split_bytes};
}

void LinearStopwatch::fill_input(const Layer& layer, uint32_t rows) {
  const Tensor& in = layer.linear.launch->in();
  fill_random({stream_, false}, static_cast<std::byte*>(memory_of(layer).in), uint64_t{rows - 1} * in.stride + in.dim,
              rows);
}

void LinearStopwatch::clear_cache(const Layer& layer) {
  const DeviceBuffer& weights = layer.program->weights.arena;
  const uint64_t bytes = std::min(weights.bytes(), 3 * device_.l2_bytes) / 16 * 16;
  read_stream({stream_, false}, weights.data(), bytes, device_.multiprocessors, sum_.as<uint32_t>());
}

std::optional<double> LinearStopwatch::time(const TuningJob& job, const LinearChoice& choice) {
  Layers& of_shape = shapes_.at(job.shape);
  const auto& layers = of_shape.layers;
  const Product product = layers[of_shape.next].linear.launch->product(job.rows);
  if (!choice.own && !library_.accepts(product, choice.algorithm)) return std::nullopt;
  const double bytes = static_cast<double>(of_shape.weight_bytes) / static_cast<double>(layers.size()),
               flops = 2.0 * job.rows * product.outputs * product.cols;
  // At some fast chip's rates: only how many launches make a sample.
  const double launch_seconds = std::max({bytes / 4e12, flops / 6e14, 5e-6});
  auto launches = std::clamp(static_cast<uint32_t>(kSampleSeconds / launch_seconds), 1u, kMostLaunches);
  // Each layer at most once behind a cleared cache; as often as it likes where the others pass through it meanwhile.
  const bool passes = of_shape.weight_bytes >= 3 * device_.l2_bytes;
  if (!passes) launches = std::min(launches, static_cast<uint32_t>(layers.size()));
  const Queue queue{stream_, device_.compute_capability >= 90};
  try {
    if (!passes) clear_cache(layers[of_shape.next]);
    delay({stream_, false}, 20 + 8 * launches);
    from_.record(stream_);
    for (uint32_t i = 0; i < launches; ++i) {
      const Layer& layer = layers[of_shape.next];
      of_shape.next = (of_shape.next + 1) % layers.size();
      layer.linear.launch->run(library_, choices_, queue, job.rows, memory_of(layer), &choice);
    }
    to_.record(stream_);
    to_.wait();
  } catch (const Failure& failure) {
    if (failure.code() == QUIRE_DEVICE_LOST) throw;
    check(cudaStreamSynchronize(stream_), "timing a kernel");
    return std::nullopt;
  }
  return seconds_between(from_, to_) / launches;
}

LinearTuning::LinearTuning(std::vector<const CompiledProgram*> programs, MatrixLibrary& library, LinearChoices& choices,
                           const DeviceTraits& device, cudaStream_t stream, LinearChoiceFile file, std::string path,
                           Hooks hooks)
    : choices_(choices), stopwatch_(std::move(programs), library, choices, device, stream),
      tuner_(stopwatch_.jobs(), choices, stopwatch_), file_(std::move(file)), path_(std::move(path)),
      hooks_(std::move(hooks)) {}

bool LinearTuning::slice(uint32_t microseconds) {
  const auto begin = Clock::now();
  bool more = true;
  double seconds = 0;
  while (more && seconds * 1e6 < microseconds) {
    if (seconds > 0 && (tuner_.has_settled() || tuner_.next_is_long())) break; // alone in its slice
    more = piece();
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  seconds_ += seconds;
  longest_ = std::max(longest_, seconds);
  if (!more) report();
  return more;
}

bool LinearTuning::piece() {
  if (const uint32_t rows = tuner_.take_settled(); rows != 0) {
    hooks_.settled(rows);
    if (path_.empty()) return true;
    if (const std::string wrong = file_.save(path_, choices_); !wrong.empty()) {
      hooks_.log(QUIRE_LOG_WARNING, "CUDA: " + wrong);
      path_.clear();
    }
    return true;
  }
  return tuner_.step() || tuner_.has_settled();
}

void LinearTuning::report() {
  const Tuner::Totals& totals = tuner_.totals();
  if (totals.jobs == 0 || std::exchange(reported_, true)) return;
  char line[240];
  std::snprintf(
      line, sizeof line,
      "CUDA: timed the kernels of %u linears in %.1f s, at most %.0f ms at a time: %u get another, and all of "
      "them together are %.1f %% faster",
      totals.jobs, seconds_, longest_ * 1e3, totals.changed, 100 * (totals.before_seconds / totals.after_seconds - 1));
  hooks_.log(QUIRE_LOG_INFO, line);
}

LinearChoiceFile choices_of(const DeviceTraits& device, const MatrixLibrary& library) {
  return {device.name, device.compute_capability, device.multiprocessors, library.version()};
}

bool tuning_wanted() {
  const char* word = std::getenv("QUIRE_CUDA_TUNE");
  return word == nullptr || std::string_view(word) != "0";
}

} // namespace quire::cuda
