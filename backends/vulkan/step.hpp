// Steps on their way to the device: checking, the attention's work list, and the buffers of the two steps that may be
// in flight.
//
// Errors: Failure QUIRE_INVALID that names the field; QUIRE_OUT_OF_MEMORY. Threads: confined to the instance's thread.
#pragma once

#include "kv.hpp"
#include "launch.hpp"
#include "memory.hpp"
#include "program.hpp"

#include <quire/plugin.h>

#include <cstdint>
#include <vector>

namespace quire::vulkan {

// The attention's work list of one KV group.
struct AttendWork {
  std::vector<AttendItem> items;      // one query token each: decode
  std::vector<AttendItem> tile_items; // several: prefill
  std::vector<CombineItem> combines;
};
// parallel: work units that keep the device busy; a decoded token's context is split into its segments only while there
// are fewer.
// An item has at most max_segments: beyond, every token is split, and max_partials has to do for that (Failure).
struct AttendBounds {
  uint32_t tile_tokens;
  uint32_t width; // work units of one token's segment
  uint32_t parallel;
  uint32_t max_partials;
  uint32_t max_segments;
};
AttendWork plan_attention(const quire_step& step, uint32_t window, const AttendBounds& bounds);

// Throws QUIRE_INVALID where the step does not fit the program, its limits or its cache.
void check_step(const quire_step& step, const Program& program, const KvPool* pool);

// A step's arrays, as the host writes them and the device reads them. One a ticket in flight.
class StepArrays {
 public:
  explicit StepArrays(Memory& memory) : memory_(memory) {}

  // Fills the arrays for a step whose header's addresses come back in `block`. The last step of this slot must be done.
  void fill(const quire_step& step, const Program& program, const KvPool* pool, uint32_t parallel, StepBlock& block,
            StepSizes& sizes);
  // Copies the arrays to the device, where it does not read the host's memory.
  void record_upload(VkCommandBuffer commands) const;

 private:
  void reserve(uint64_t host_bytes, uint64_t derived_bytes);

  Memory& memory_;
  Buffer host_;
  Buffer device_; // empty where the device reads host_
  Buffer derived_;
  uint64_t used_ = 0;
};

} // namespace quire::vulkan
