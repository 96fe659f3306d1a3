// Sampling on the device: a step's rows as the shaders take them (shaders/sample.glsl has the order of work), and what
// comes back.
//
// Errors: Failure. Threads: confined to the instance's thread.
#pragma once

#include "memory.hpp"
#include "op_params.h"
#include "pipelines.hpp"

#include <quire/plugin.h>

#include <cstdint>
#include <span>
#include <vector>

namespace quire::vulkan {

// Where a step's logits lie and what its rows may refer to.
struct SampleSource {
  address logits = 0; // float [R, vocab]
  VkBuffer buffer = VK_NULL_HANDLE;
  uint64_t buffer_offset = 0;
  uint32_t stride = 0;
  uint32_t vocab = 0;
  address sampled = 0;        // int [max_sampled_rows], written
  address previous = 0;       // of the ticket before
  uint32_t previous_rows = 0; // that the ticket before sampled
};

// Rows as the shaders take them; the data of one sample call.
struct SampleBatch {
  SampleBatch(std::span<const quire_sampling_row> rows, const SampleSource& source);
  std::vector<SampleRow> rows;
  std::vector<SampleEdit> edits;
  std::vector<uint32_t> masks;
  uint32_t num_edited = 0;
  uint32_t num_candidates = 0; // of all rows
  bool any_cut = false;
  std::vector<float*> logits; // [R] where the host wants them; nullptr = not
};

// What all slots share: scratch that the queue's order protects.
class SampleScratch {
 public:
  SampleScratch(Memory& memory, Pipelines& pipelines);
  // Grows to the batch, waiting for the device if it must.
  void reserve(const SampleBatch& batch, const SampleSource& source);

 private:
  friend class SampleSlot;
  Memory& memory_;
  Pipelines& pipelines_;
  uint32_t subgroup_, element_group_, reduce_group_, chunk_;
  bool cpu_;
  Buffer edited_, chunks_, cuts_;
};

// Buffers of one ticket's sampling.
class SampleSlot {
 public:
  SampleSlot(Memory& memory, Pipelines& pipelines);
  // Prepares and records a batch; the last one of this slot must be done. Nothing changes if it throws.
  void record(VkCommandBuffer commands, SampleScratch& scratch, const SampleBatch& batch, const SampleSource& source);
  // After the device is done.
  void take(std::span<quire_sampled_row> rows) const;

 private:
  Memory& memory_;
  Buffer parameters_; // host-written uniform block and, behind it, what stands in for a step
  Buffer input_;
  Buffer results_;
  Buffer logits_;
  VkDescriptorSet set_ = VK_NULL_HANDLE;
  uint64_t candidates_offset_ = 0;
  std::vector<uint32_t> first_candidate_;
  std::vector<float*> wanted_logits_;
  uint32_t vocab_ = 0;
};

} // namespace quire::vulkan
