// A logical device and its one queue: everything an instance queues is carried out in order, and a timeline semaphore
// counts what is done.
//
// Errors: Failure; a lost device and a wait past the watchdog's bound throw QUIRE_DEVICE_LOST, and so does every later
// verb. Threads: confined to the instance's thread.
#pragma once

#include "loader.hpp"

#include <volk.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

namespace quire::vulkan {

// For tests of the error paths: asked before every allocation of device memory; true refuses it.
using RefuseAllocation = std::function<bool(uint64_t bytes)>;

struct DeviceOptions {
  uint32_t device = 0;
  bool validate = false;
  Log log;
  RefuseAllocation refuse;
  std::chrono::seconds watchdog{0}; // longest wait for the device; 0 = 120 s, on a CPU device 1,800 s
};

class Device {
 public:
  explicit Device(const DeviceOptions& options);
  ~Device(); // waits for the device
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const VolkDeviceTable& vk() const { return vk_; }
  VkDevice handle() const { return device_; }
  VkPhysicalDevice physical() const { return physical_; }
  const Traits& traits() const { return traits_; }
  void log(int32_t level, const std::string& message) const {
    if (log_) log_(level, message);
  }
  bool refuses(uint64_t bytes) const { return refuse_ && refuse_(bytes); }

  // Queues command buffers behind everything queued before; returns the point of the timeline at which they are done.
  uint64_t submit(std::span<const VkCommandBuffer> buffers);
  uint64_t submitted() const { return submitted_; }
  uint64_t completed() const; // the point reached so far
  // Blocks until the point is reached; bounded by the watchdog.
  void wait(uint64_t point);
  void wait_all() { wait(submitted_); }
  bool lost() const { return lost_; }
  void check_usable() const; // throws QUIRE_DEVICE_LOST after a loss

  VkCommandBuffer allocate_commands();
  void free_commands(VkCommandBuffer buffer);
  // Records and carries out commands at once.
  void run_now(const std::function<void(VkCommandBuffer)>& record);

 private:
  void create_device();
  void check_lost(VkResult result, const char* doing);

  Log log_;
  RefuseAllocation refuse_;
  std::chrono::nanoseconds watchdog_;
  std::unique_ptr<Api> api_;
  VkPhysicalDevice physical_ = VK_NULL_HANDLE;
  Traits traits_;
  VkDevice device_ = VK_NULL_HANDLE;
  VolkDeviceTable vk_{};
  VkQueue queue_ = VK_NULL_HANDLE;
  VkCommandPool pool_ = VK_NULL_HANDLE;
  VkSemaphore timeline_ = VK_NULL_HANDLE;
  uint64_t submitted_ = 0;
  bool lost_ = false;
};

// A barrier between all work of compute and transfer before and after it, for commands that are recorded a step and
// few.
void full_barrier(const VolkDeviceTable& vk, VkCommandBuffer commands);

} // namespace quire::vulkan
