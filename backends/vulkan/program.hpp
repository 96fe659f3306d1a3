// A compiled program: its weights, buffers and dispatches on the device, and the command buffers recorded from them.
//
// A bucket is what decides which dispatches run and how many columns their kernels take at once; its command buffer is
// recorded once, at its first use, and carried out indirectly from then on: sizes come from the step buffer. Barriers
// stand only before a dispatch that touches what an unsynchronised one wrote, or writes what one read. Errors: Failure.
// Threads: confined to the instance's thread.
#pragma once

#include "kv.hpp"
#include "launch.hpp"
#include "lower.hpp"
#include "memory.hpp"
#include "pipelines.hpp"
#include "profile.hpp"
#include "texels.hpp"
#include "weights.hpp"

#include <quire/plan.hpp>
#include <quire/plugin.h>

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace quire::vulkan {

// The step's uniform block as it lies in the step buffer, before the grids.
struct StepBlock {
  StepHeader header;
  StepGroup groups[max_groups];
};

struct Bucket {
  uint32_t token_columns = 1; // columns a workgroup of linears over tokens
  uint32_t row_columns = 1;   // and over rows (and sequences)
  bool items = false;
  bool tile_items = false;
  bool combines = false;
  auto operator<=>(const Bucket&) const = default;
};

class Program {
 public:
  struct Options {
    bool fuse = true;
    bool texels = true; // where the device is better off with them
    std::function<void(uint64_t done, uint64_t total)> progress;
  };
  Program(Memory& memory, Pipelines& pipelines, const quire_program& program, const quire_limits& limits,
          const Options& options);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  const quire_limits& limits() const { return limits_; }
  const KvLayout& kv() const { return kv_; }
  uint32_t num_groups() const { return static_cast<uint32_t>(kv_.block_bytes.size()); }
  uint32_t vocab() const { return vocab_; }
  uint32_t max_partials() const { return max_partials_; }
  // Work units of one decoded token's segment over all heads, and query tokens of an item of the tiled list.
  uint32_t attend_width() const { return attend_width_; }
  uint32_t tile_tokens() const { return tile_tokens_; }
  uint32_t max_segments() const { return shape_.max_segments; }

  struct Output {
    address data = 0;
    uint64_t offset = 0; // in the scratch buffer
    uint32_t stride = 0;
    uint32_t columns = 0;
    uint32_t rows = 0; // quire_rows
  };
  const std::vector<Output>& outputs() const { return outputs_; }
  const Buffer& scratch() const { return scratch_; }
  const Buffer& step_buffer() const { return step_; }
  const std::vector<Dispatch>& dispatches() const { return dispatches_; }
  const std::vector<OpWork>& work() const { return work_; } // [num_ops]

  Bucket bucket_of(const StepSizes& sizes) const;
  // The contents of the step buffer for a step: block, then a VkDispatchIndirectCommand a distinct grid of its bucket.
  std::vector<std::byte> step_bytes(const StepBlock& block, const StepSizes& sizes, const Bucket& bucket) const;
  VkCommandBuffer commands(const Bucket& bucket);
  // One dispatch alone, for profiling; false if the bucket leaves it out.
  bool record_dispatch(VkCommandBuffer commands, const Bucket& bucket, std::size_t index);

 private:
  struct Recorded {
    VkPipeline pipeline;
    uint32_t grid; // index among the bucket's grids
  };
  bool included(const Dispatch& dispatch, const Bucket& bucket) const;
  uint32_t columns_of(const Dispatch& dispatch, const Bucket& bucket) const;
  Grid grid_of(const Dispatch& dispatch, const Bucket& bucket) const;
  VkPipeline pipeline_of(const Dispatch& dispatch, const Bucket& bucket);
  void record(VkCommandBuffer commands, const Bucket& bucket);
  void warm_up();

  Memory& memory_;
  Pipelines& pipelines_;
  KernelShape shape_;
  quire_limits limits_;
  KvLayout kv_;
  uint32_t vocab_ = 0;
  uint32_t max_partials_ = 0;
  uint32_t attend_width_ = 1;
  uint32_t tile_tokens_ = 0; // 0: no attention
  WeightStore weights_;
  Buffer scratch_;
  Buffer partials_;
  Buffer parameters_;
  Buffer step_;
  VkDescriptorSet set_ = VK_NULL_HANDLE;
  std::vector<std::unique_ptr<TexelViews>> texels_; // by buffer of weights
  uint32_t parameter_stride_ = 0;
  std::vector<Dispatch> dispatches_;
  std::vector<OpWork> work_;
  std::vector<Grid> grids_; // distinct, over all buckets
  std::vector<Output> outputs_;
  std::map<Bucket, VkCommandBuffer> commands_;
};

} // namespace quire::vulkan
