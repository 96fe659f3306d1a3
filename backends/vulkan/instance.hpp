// An instance of the backend: the verbs of quire_backend over one device.
//
// Tickets rise by one; each owns one of two slots until it is waited for. Errors: Failure; what fails before anything
// is queued leaves the instance as it was. Threads: [engine].
#pragma once

#include "device.hpp"
#include "kv.hpp"
#include "memory.hpp"
#include "pipelines.hpp"
#include "program.hpp"
#include "sampling.hpp"
#include "step.hpp"

#include <quire/plugin.hpp>

#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace quire::vulkan {

struct InstanceOptions {
  DeviceOptions device;
  std::string cache_dir;
  std::function<void(uint64_t done, uint64_t total)> progress;
  bool fuse = true;            // false: every op a dispatch of its own, for tests
  bool texels = true;          // false: no texel views, for tests
  uint64_t largest_buffer = 0; // bytes; 0 = the device's own, less for tests of splitting
};

class VulkanInstance : public Instance {
 public:
  explicit VulkanInstance(const InstanceOptions& options);
  ~VulkanInstance() override;

  quire_memory_info memory() override;
  uint32_t compile(const quire_program& program, const quire_limits& limits) override;
  uint64_t kv_block_bytes(uint32_t program, uint32_t group) override;
  void kv_create(const quire_kv_config& config) override;
  uint64_t submit(const quire_step& step) override;
  void sample(uint64_t ticket, std::span<const quire_sampling_row> rows) override;
  void wait(uint64_t ticket, std::span<quire_sampled_row> rows) override;
  void copy_blocks(std::span<const quire_block_copy> copies) override;
  void swap_out(std::span<const quire_block_copy> copies) override;
  void swap_in(std::span<const quire_block_copy> copies) override;
  void read_output(uint32_t program, uint32_t index, std::span<std::byte> out) override;

  uint32_t profile(const quire_step& step, uint32_t repetitions, std::span<quire_op_time> out) override;
  void ceilings(double& bytes_per_second, double& flops_per_second) override;

  const Pipelines& pipelines() const { return *pipelines_; }
  const Device& device() const { return *device_; }

 private:
  struct Compiled {
    std::unique_ptr<Program> program;
    std::unique_ptr<KvPool> pool;
  };
  struct Slot {
    uint64_t ticket = 0; // 0 = free
    uint32_t program = 0;
    uint32_t rows = 0;
    uint64_t point = 0; // of the timeline
    bool sampled = false;
    StepSizes sizes;
    std::optional<StepArrays> arrays;
    std::optional<SampleSlot> sampling;
    VkCommandBuffer upload = VK_NULL_HANDLE;
    VkCommandBuffer sample = VK_NULL_HANDLE;
  };
  Compiled& compiled(uint32_t program);
  Slot& slot_of(uint64_t ticket) { return slots_[ticket % 2]; }
  uint32_t parallel() const;
  void begin(VkCommandBuffer commands);
  // Fills the slot's arrays and records its upload; returns the bucket.
  Bucket prepare(const quire_step& step, Compiled& own, Slot& slot, uint64_t ticket);
  void move_blocks(KvPool::Direction direction, std::span<const quire_block_copy> copies);

  std::function<void(uint64_t, uint64_t)> progress_;
  bool fuse_;
  bool texels_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Memory> memory_;
  std::unique_ptr<Pipelines> pipelines_;
  std::unique_ptr<SampleScratch> sample_scratch_;
  Buffer sampled_; // int [2, max_sampled_rows]: a ticket's parity has its own
  std::array<Slot, 2> slots_;
  std::vector<Compiled> programs_;
  uint64_t submitted_ = 0;
  uint64_t waited_ = 0;
  uint32_t sampled_rows_ = 0;  // of the last ticket submitted
  uint32_t previous_rows_ = 0; // and of the one before it
  struct Moving {              // block copies on their way
    uint64_t point;
    VkCommandBuffer commands;
  };
  std::vector<Moving> moving_;
};

} // namespace quire::vulkan
