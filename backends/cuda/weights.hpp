// A program's weights on the device: laid out, streamed from the mapped file, converted on the way.
//
// Matrices (linear, expert_linear, embed) get the layout of ops/weight.hpp, one each, whoever uses them (a float32
// table that only embed reads stays float32); the parts of one linear lie behind each other. Vectors become float32.
// All lie in one allocation. Bytes stream through pinned staging, filled by several threads, while the copies before
// are under way and the device converts. Errors: Failure, naming the weight. Threads: [load].
#pragma once

#include "memory.hpp"
#include "ops/weight.hpp"

#include <quire/plugin.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace quire::cuda {

struct DeviceWeights {
  DeviceBuffer arena;
  std::vector<std::optional<Weight>> matrices; // [num_weights], by id - 1
  std::vector<const float*> vectors;           // [num_weights] or null
  bool saturated = false;                      // some element was beyond fp16's range

  const Weight& matrix(uint32_t id) const { return *matrices[id - 1]; }
  const float* vector(uint32_t id) const { return id == 0 ? nullptr : vectors[id - 1]; }
};

// Where each plane and vector of the program will lie; needs no device.
struct WeightPlan {
  std::vector<std::optional<Weight>> matrices; // pointers are offsets from the arena
  std::vector<uint64_t> vector_offsets;        // bytes, or kNone
  uint64_t bytes = 0;

  static constexpr uint64_t kNone = ~uint64_t{0};
};
WeightPlan plan_weights(const quire_program& program);

using Progress = std::function<void(uint64_t done_bytes, uint64_t total_bytes)>;
DeviceWeights load_weights(const quire_program& program, cudaStream_t stream, const Progress& progress);

} // namespace quire::cuda
