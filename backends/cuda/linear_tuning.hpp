// Choosing the kernels of a program's linears while nothing else is to be done: slices of a few milliseconds.
//
// Each candidate runs on the weights of the program's own layers, one layer after another, so that none is in the L2
// when its turn comes (where the layers of a shape don't pass the cache, other weights are read in between); inputs are
// random, launches are queued up behind a pause and timed together. When all shapes of a count of rows are chosen, the
// decode graph of that count is captured again. Activations are overwritten: no step may be in flight, and outputs are
// lost. Errors: Failure. Threads: the backend's queue.
#pragma once

#include "compile.hpp"
#include "tuner.hpp"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace quire::cuda {

// Times on the device.
class LinearStopwatch final : public Stopwatch {
 public:
  LinearStopwatch(std::vector<const CompiledProgram*> programs, MatrixLibrary& library, const LinearChoices& choices,
                  const DeviceTraits& device, cudaStream_t stream);
  // Every shape at every count of rows that the programs' steps may have.
  std::vector<TuningJob> jobs() const;
  std::vector<LinearChoice> candidates(const TuningJob& job) override;
  std::optional<double> time(const TuningJob& job, const LinearChoice& choice) override;

 private:
  struct Layer {
    const CompiledProgram* program;
    TunableLinear linear;
  };
  struct Layers {
    std::vector<Layer> layers;
    uint64_t weight_bytes = 0; // of all
    size_t next = 0;           // to run
  };
  LinearMemory memory_of(const Layer& layer) const;
  void fill_input(const Layer& layer, uint32_t rows);
  void clear_cache(const Layer& layer);

  std::map<LinearShape, Layers> shapes_;
  MatrixLibrary& library_;
  const LinearChoices& choices_;
  const DeviceTraits& device_;
  cudaStream_t stream_;
  Event from_{true}, to_{true};
  DeviceBuffer sum_; // of what is read to clear the cache
};

class LinearTuning {
 public:
  struct Hooks {
    std::function<void(uint32_t rows)> settled; // a count's choices are made: capture its graphs again
    std::function<void(int32_t level, const std::string& message)> log;
  };
  // path: of the file of choices; empty: kept nowhere.
  LinearTuning(std::vector<const CompiledProgram*> programs, MatrixLibrary& library, LinearChoices& choices,
               const DeviceTraits& device, cudaStream_t stream, LinearChoiceFile file, std::string path, Hooks hooks);

  // Works for about so long, at least one piece of work. Whether something is left to do.
  bool slice(uint32_t microseconds);

 private:
  bool piece();
  void report();

  LinearChoices& choices_;
  LinearStopwatch stopwatch_;
  Tuner tuner_;
  LinearChoiceFile file_;
  std::string path_;
  Hooks hooks_;
  double seconds_ = 0, longest_ = 0; // spent, and in one slice
  bool reported_ = false;
};

// What choices hold for, on this device.
LinearChoiceFile choices_of(const DeviceTraits& device, const MatrixLibrary& library);
// Unless QUIRE_CUDA_TUNE=0 is in the environment.
bool tuning_wanted();

} // namespace quire::cuda
