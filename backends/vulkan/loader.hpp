// The Vulkan loader, an instance of it and what devices it has.
//
// Errors: Failure with one sentence: no loader on this machine, no driver, a device index out of range. Threads:
// constructing and listing are [any]; an Api is otherwise confined to its owner.
#pragma once

#include <quire/plugin.h>

#include <volk.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace quire::vulkan {

// The sentence of a result that is not VK_SUCCESS, thrown as Failure with the fitting quire_code. `doing` completes
// «... while ».
[[noreturn]] void fail(VkResult result, const std::string& doing);
inline void check(VkResult result, const char* doing) {
  if (result != VK_SUCCESS) fail(result, doing);
}
const char* result_name(VkResult result);

// One line for the host's log; level is a quire_log_level.
using Log = std::function<void(int32_t level, const std::string& message)>;

// A VkInstance of Vulkan 1.2 or later.
class Api {
 public:
  // validate: with VK_LAYER_KHRONOS_validation, where it is installed; its messages go to the log, as does its absence.
  explicit Api(bool validate, Log log = {});
  ~Api();
  Api(const Api&) = delete;
  Api& operator=(const Api&) = delete;

  VkInstance handle() const { return instance_; }
  const std::vector<VkPhysicalDevice>& devices() const { return devices_; }
  bool validating() const { return messenger_ != VK_NULL_HANDLE; }

 private:
  static VKAPI_ATTR VkBool32 VKAPI_CALL on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity,
                                                   VkDebugUtilsMessageTypeFlagsEXT type,
                                                   const VkDebugUtilsMessengerCallbackDataEXT* data, void* self);

  Log log_;
  VkInstance instance_ = VK_NULL_HANDLE;
  VkDebugUtilsMessengerEXT messenger_ = VK_NULL_HANDLE;
  std::vector<VkPhysicalDevice> devices_;
};

// What the backend asks of a device and what it goes by when choosing kernels.
struct Traits {
  VkPhysicalDeviceProperties properties{};
  VkPhysicalDeviceMemoryProperties memory{};
  std::string driver;   // name and version
  std::string unusable; // why the backend can't use it; empty if it can
  uint32_t queue_family = 0;
  uint32_t subgroup = 0;       // invocations
  bool fixed_subgroup = false; // a pipeline can ask for that size
  bool full_subgroups = false; // and for whole subgroups
  bool cpu = false;            // one row an invocation, no shared memory: lanes are SIMD lanes of a core
  bool memory_budget = false;  // VK_EXT_memory_budget
  uint64_t max_buffer_bytes = 0;
  uint64_t timestamp_bits = 0;
};
Traits traits_of(VkPhysicalDevice device);
quire_device_info info_of(VkPhysicalDevice device);
// Bytes of device-local memory, and what is free of it where the driver tells (else all of it).
void device_memory(VkPhysicalDevice device, const Traits& traits, uint64_t& total_bytes, uint64_t& free_bytes);

} // namespace quire::vulkan
