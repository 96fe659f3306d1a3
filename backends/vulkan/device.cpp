#include "device.hpp"

#include <quire/plugin_check.hpp>

#include <vector>

namespace quire::vulkan {

Device::Device(const DeviceOptions& options) : log_(options.log), refuse_(options.refuse) {
  api_ = std::make_unique<Api>(options.validate, options.log);
  if (options.device >= api_->devices().size())
    throw Failure(QUIRE_INVALID, "there is no Vulkan device " + std::to_string(options.device) + ": this machine has " +
                                     std::to_string(api_->devices().size()) + ", counted from 0");
  physical_ = api_->devices()[options.device];
  traits_ = traits_of(physical_);
  if (!traits_.unusable.empty())
    throw Failure(QUIRE_UNSUPPORTED, std::string("the Vulkan backend can't use ") + traits_.properties.deviceName +
                                         ": " + traits_.unusable);
  watchdog_ = options.watchdog.count() != 0 ? options.watchdog : std::chrono::seconds(traits_.cpu ? 1800 : 120);
  create_device();
}

void Device::create_device() {
  const float priority = 1;
  VkDeviceQueueCreateInfo queue{VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO};
  queue.queueFamilyIndex = traits_.queue_family;
  queue.queueCount = 1;
  queue.pQueuePriorities = &priority;
  VkPhysicalDeviceSubgroupSizeControlFeaturesEXT size_control{
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT};
  size_control.subgroupSizeControl = VK_TRUE;
  size_control.computeFullSubgroups = traits_.full_subgroups ? VK_TRUE : VK_FALSE;
  VkPhysicalDeviceVulkan12Features v12{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES};
  v12.bufferDeviceAddress = VK_TRUE;
  v12.timelineSemaphore = VK_TRUE;
  VkPhysicalDeviceFeatures2 features{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2};
  features.features.shaderInt64 = VK_TRUE;
  features.pNext = &v12;
  std::vector<const char*> extensions;
  if (traits_.fixed_subgroup) {
    extensions.push_back(VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
    v12.pNext = &size_control;
  }
  if (traits_.memory_budget) extensions.push_back(VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);
  VkDeviceCreateInfo create{VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO};
  create.pNext = &features;
  create.queueCreateInfoCount = 1;
  create.pQueueCreateInfos = &queue;
  create.enabledExtensionCount = static_cast<uint32_t>(extensions.size());
  create.ppEnabledExtensionNames = extensions.data();
  check(vkCreateDevice(physical_, &create, nullptr, &device_), "creating the device");
  volkLoadDeviceTable(&vk_, device_);
  vk_.vkGetDeviceQueue(device_, traits_.queue_family, 0, &queue_);
  try {
    VkCommandPoolCreateInfo pool{VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO};
    pool.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
    pool.queueFamilyIndex = traits_.queue_family;
    check(vk_.vkCreateCommandPool(device_, &pool, nullptr, &pool_), "creating a command pool");
    VkSemaphoreTypeCreateInfo type{VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO};
    type.semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE;
    VkSemaphoreCreateInfo semaphore{VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO};
    semaphore.pNext = &type;
    check(vk_.vkCreateSemaphore(device_, &semaphore, nullptr, &timeline_), "creating a semaphore");
  } catch (...) {
    if (pool_ != VK_NULL_HANDLE) vk_.vkDestroyCommandPool(device_, pool_, nullptr);
    vk_.vkDestroyDevice(device_, nullptr);
    throw;
  }
}

Device::~Device() {
  if (!lost_) vk_.vkDeviceWaitIdle(device_);
  vk_.vkDestroySemaphore(device_, timeline_, nullptr);
  vk_.vkDestroyCommandPool(device_, pool_, nullptr);
  vk_.vkDestroyDevice(device_, nullptr);
}

void Device::check_lost(VkResult result, const char* doing) {
  if (result == VK_ERROR_DEVICE_LOST) lost_ = true;
  check(result, doing);
}

void Device::check_usable() const {
  if (lost_)
    throw Failure(QUIRE_DEVICE_LOST, std::string("the Vulkan device ") + traits_.properties.deviceName +
                                         " was lost: the backend has to be restarted");
}

uint64_t Device::submit(std::span<const VkCommandBuffer> buffers) {
  check_usable();
  const uint64_t point = submitted_ + 1;
  VkTimelineSemaphoreSubmitInfo timeline{VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO};
  timeline.signalSemaphoreValueCount = 1;
  timeline.pSignalSemaphoreValues = &point;
  VkSubmitInfo submit{VK_STRUCTURE_TYPE_SUBMIT_INFO};
  submit.pNext = &timeline;
  submit.commandBufferCount = static_cast<uint32_t>(buffers.size());
  submit.pCommandBuffers = buffers.data();
  submit.signalSemaphoreCount = 1;
  submit.pSignalSemaphores = &timeline_;
  check_lost(vk_.vkQueueSubmit(queue_, 1, &submit, VK_NULL_HANDLE), "queueing work");
  submitted_ = point;
  return point;
}

uint64_t Device::completed() const {
  uint64_t point = 0;
  return vk_.vkGetSemaphoreCounterValue(device_, timeline_, &point) == VK_SUCCESS ? point : 0;
}

void Device::wait(uint64_t point) {
  check_usable();
  VkSemaphoreWaitInfo wait{VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO};
  wait.semaphoreCount = 1;
  wait.pSemaphores = &timeline_;
  wait.pValues = &point;
  const VkResult result = vk_.vkWaitSemaphores(device_, &wait, static_cast<uint64_t>(watchdog_.count()));
  if (result == VK_TIMEOUT) {
    lost_ = true;
    throw Failure(QUIRE_DEVICE_LOST,
                  std::string("the Vulkan device ") + traits_.properties.deviceName +
                      " did not finish its work within " +
                      std::to_string(std::chrono::duration_cast<std::chrono::seconds>(watchdog_).count()) +
                      " s and is taken for hung: the backend has to be restarted");
  }
  check_lost(result, "waiting for the device");
}

VkCommandBuffer Device::allocate_commands() {
  VkCommandBufferAllocateInfo allocate{VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO};
  allocate.commandPool = pool_;
  allocate.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
  allocate.commandBufferCount = 1;
  VkCommandBuffer buffer = VK_NULL_HANDLE;
  check(vk_.vkAllocateCommandBuffers(device_, &allocate, &buffer), "allocating a command buffer");
  return buffer;
}

void Device::free_commands(VkCommandBuffer buffer) {
  if (buffer != VK_NULL_HANDLE) vk_.vkFreeCommandBuffers(device_, pool_, 1, &buffer);
}

void Device::run_now(const std::function<void(VkCommandBuffer)>& record) {
  struct Commands {
    Device& device;
    VkCommandBuffer buffer;
    ~Commands() { device.free_commands(buffer); }
  } commands{*this, allocate_commands()};
  VkCommandBufferBeginInfo begin{VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
  begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  check(vk_.vkBeginCommandBuffer(commands.buffer, &begin), "recording commands");
  full_barrier(vk_, commands.buffer);
  record(commands.buffer);
  full_barrier(vk_, commands.buffer);
  check(vk_.vkEndCommandBuffer(commands.buffer), "recording commands");
  wait(submit({&commands.buffer, 1}));
}

void full_barrier(const VolkDeviceTable& vk, VkCommandBuffer commands) {
  VkMemoryBarrier barrier{VK_STRUCTURE_TYPE_MEMORY_BARRIER};
  barrier.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
  barrier.dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_READ_BIT |
                          VK_ACCESS_TRANSFER_WRITE_BIT | VK_ACCESS_INDIRECT_COMMAND_READ_BIT |
                          VK_ACCESS_UNIFORM_READ_BIT | VK_ACCESS_HOST_READ_BIT;
  constexpr VkPipelineStageFlags work = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
  vk.vkCmdPipelineBarrier(commands, work, work | VK_PIPELINE_STAGE_DRAW_INDIRECT_BIT | VK_PIPELINE_STAGE_HOST_BIT, 0, 1,
                          &barrier, 0, nullptr, 0, nullptr);
}

} // namespace quire::vulkan
