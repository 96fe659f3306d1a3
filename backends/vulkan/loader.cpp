#include "loader.hpp"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <cstring>
#include <mutex>

namespace quire::vulkan {

const char* result_name(VkResult result) {
  switch (result) {
  case VK_ERROR_OUT_OF_HOST_MEMORY:
    return "VK_ERROR_OUT_OF_HOST_MEMORY";
  case VK_ERROR_OUT_OF_DEVICE_MEMORY:
    return "VK_ERROR_OUT_OF_DEVICE_MEMORY";
  case VK_ERROR_INITIALIZATION_FAILED:
    return "VK_ERROR_INITIALIZATION_FAILED";
  case VK_ERROR_DEVICE_LOST:
    return "VK_ERROR_DEVICE_LOST";
  case VK_ERROR_LAYER_NOT_PRESENT:
    return "VK_ERROR_LAYER_NOT_PRESENT";
  case VK_ERROR_EXTENSION_NOT_PRESENT:
    return "VK_ERROR_EXTENSION_NOT_PRESENT";
  case VK_ERROR_FEATURE_NOT_PRESENT:
    return "VK_ERROR_FEATURE_NOT_PRESENT";
  case VK_ERROR_INCOMPATIBLE_DRIVER:
    return "VK_ERROR_INCOMPATIBLE_DRIVER";
  case VK_ERROR_TOO_MANY_OBJECTS:
    return "VK_ERROR_TOO_MANY_OBJECTS";
  case VK_ERROR_FRAGMENTED_POOL:
    return "VK_ERROR_FRAGMENTED_POOL";
  case VK_ERROR_OUT_OF_POOL_MEMORY:
    return "VK_ERROR_OUT_OF_POOL_MEMORY";
  case VK_TIMEOUT:
    return "VK_TIMEOUT";
  default:
    return "an unexpected result";
  }
}

void fail(VkResult result, const std::string& doing) {
  const std::string name = std::string(result_name(result)) + " (" + std::to_string(result) + ")";
  switch (result) {
  case VK_ERROR_OUT_OF_HOST_MEMORY:
  case VK_ERROR_OUT_OF_DEVICE_MEMORY:
  case VK_ERROR_OUT_OF_POOL_MEMORY:
  case VK_ERROR_FRAGMENTED_POOL:
  case VK_ERROR_TOO_MANY_OBJECTS:
    throw Failure(QUIRE_OUT_OF_MEMORY, "the Vulkan device ran out of memory while " + doing + ": " + name);
  case VK_ERROR_DEVICE_LOST:
    throw Failure(QUIRE_DEVICE_LOST,
                  "the Vulkan device was lost while " + doing + ": " + name + "; the backend has to be restarted");
  default:
    throw Failure(QUIRE_FAILED, "Vulkan failed while " + doing + ": " + name);
  }
}

namespace {

// volk keeps the loader's entry points in variables of its own; they are set once.
void open_loader() {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  static bool opened = false;
  if (opened) return;
  if (volkInitialize() != VK_SUCCESS)
    throw Failure(QUIRE_UNSUPPORTED,
                  "there is no Vulkan loader on this machine (libvulkan.so.1): install libvulkan1 and a Vulkan driver "
                  "such as mesa-vulkan-drivers");
  // An instance that stays: else the loader unloads the driver with the last instance, and NVIDIA's (580) can't be
  // loaded again after some thirty times.
  VkApplicationInfo application{VK_STRUCTURE_TYPE_APPLICATION_INFO};
  application.apiVersion = VK_API_VERSION_1_2;
  VkInstanceCreateInfo create{VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO};
  create.pApplicationInfo = &application;
  static VkInstance lasting = VK_NULL_HANDLE;
  if (volkGetInstanceVersion() >= VK_API_VERSION_1_2) vkCreateInstance(&create, nullptr, &lasting);
  opened = lasting != VK_NULL_HANDLE;
}

bool has_layer(const char* name) {
  uint32_t count = 0;
  vkEnumerateInstanceLayerProperties(&count, nullptr);
  std::vector<VkLayerProperties> layers(count);
  vkEnumerateInstanceLayerProperties(&count, layers.data());
  return std::any_of(layers.begin(), layers.end(),
                     [&](const VkLayerProperties& layer) { return std::strcmp(layer.layerName, name) == 0; });
}

bool has_instance_extension(const char* name, const char* layer) {
  uint32_t count = 0;
  vkEnumerateInstanceExtensionProperties(layer, &count, nullptr);
  std::vector<VkExtensionProperties> extensions(count);
  vkEnumerateInstanceExtensionProperties(layer, &count, extensions.data());
  return std::any_of(extensions.begin(), extensions.end(), [&](const VkExtensionProperties& extension) {
    return std::strcmp(extension.extensionName, name) == 0;
  });
}

} // namespace

Api::Api(bool validate, Log log) : log_(std::move(log)) {
  open_loader();
  constexpr const char* layer = "VK_LAYER_KHRONOS_validation";
  if (volkGetInstanceVersion() < VK_API_VERSION_1_2)
    throw Failure(QUIRE_UNSUPPORTED, "the Vulkan loader is older than Vulkan 1.2: install a newer libvulkan1");
  std::vector<const char*> layers, extensions;
  if (validate && has_layer(layer)) {
    layers.push_back(layer);
    if (has_instance_extension(VK_EXT_DEBUG_UTILS_EXTENSION_NAME, layer) ||
        has_instance_extension(VK_EXT_DEBUG_UTILS_EXTENSION_NAME, nullptr))
      extensions.push_back(VK_EXT_DEBUG_UTILS_EXTENSION_NAME);
  } else if (validate && log_) {
    log_(QUIRE_LOG_WARNING,
         "Vulkan validation was asked for, but its layer is not installed: install vulkan-validationlayers");
  }
  VkApplicationInfo application{VK_STRUCTURE_TYPE_APPLICATION_INFO};
  application.pApplicationName = application.pEngineName = "quire";
  application.apiVersion = VK_API_VERSION_1_2;
  VkDebugUtilsMessengerCreateInfoEXT messages{VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT};
  messages.messageSeverity =
      VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
  messages.messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_GENERAL_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT |
                         VK_DEBUG_UTILS_MESSAGE_TYPE_PERFORMANCE_BIT_EXT;
  messages.pfnUserCallback = &Api::on_message;
  messages.pUserData = this;
  VkInstanceCreateInfo create{VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO};
  create.pApplicationInfo = &application;
  create.enabledLayerCount = static_cast<uint32_t>(layers.size());
  create.ppEnabledLayerNames = layers.data();
  create.enabledExtensionCount = static_cast<uint32_t>(extensions.size());
  create.ppEnabledExtensionNames = extensions.data();
  if (!extensions.empty()) create.pNext = &messages;
  const VkResult result = vkCreateInstance(&create, nullptr, &instance_);
  if (result == VK_ERROR_INCOMPATIBLE_DRIVER)
    throw Failure(QUIRE_UNSUPPORTED,
                  "there is no Vulkan driver on this machine: install one, such as mesa-vulkan-drivers");
  check(result, "creating a Vulkan instance");
  volkLoadInstanceOnly(instance_);
  try {
    if (!extensions.empty())
      check(vkCreateDebugUtilsMessengerEXT(instance_, &messages, nullptr, &messenger_), "setting up validation");
    uint32_t count = 0;
    check(vkEnumeratePhysicalDevices(instance_, &count, nullptr), "listing devices");
    devices_.resize(count);
    check(vkEnumeratePhysicalDevices(instance_, &count, devices_.data()), "listing devices");
    devices_.resize(count);
  } catch (...) {
    if (messenger_ != VK_NULL_HANDLE) vkDestroyDebugUtilsMessengerEXT(instance_, messenger_, nullptr);
    vkDestroyInstance(instance_, nullptr);
    throw;
  }
}

Api::~Api() {
  if (messenger_ != VK_NULL_HANDLE) vkDestroyDebugUtilsMessengerEXT(instance_, messenger_, nullptr);
  vkDestroyInstance(instance_, nullptr);
}

VkBool32 Api::on_message(VkDebugUtilsMessageSeverityFlagBitsEXT severity, VkDebugUtilsMessageTypeFlagsEXT,
                         const VkDebugUtilsMessengerCallbackDataEXT* data, void* self) {
  const Log& log = static_cast<Api*>(self)->log_;
  if (log)
    log(severity >= VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT ? QUIRE_LOG_ERROR : QUIRE_LOG_WARNING,
        std::string("Vulkan validation: ") + (data->pMessage != nullptr ? data->pMessage : ""));
  return VK_FALSE;
}

namespace {

bool has_device_extension(VkPhysicalDevice device, const char* name) {
  uint32_t count = 0;
  vkEnumerateDeviceExtensionProperties(device, nullptr, &count, nullptr);
  std::vector<VkExtensionProperties> extensions(count);
  vkEnumerateDeviceExtensionProperties(device, nullptr, &count, extensions.data());
  return std::any_of(extensions.begin(), extensions.end(), [&](const VkExtensionProperties& extension) {
    return std::strcmp(extension.extensionName, name) == 0;
  });
}

} // namespace

Traits traits_of(VkPhysicalDevice device) {
  Traits traits;
  VkPhysicalDeviceSubgroupSizeControlPropertiesEXT size_control{
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_PROPERTIES_EXT};
  VkPhysicalDeviceVulkan12Properties v12{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES};
  VkPhysicalDeviceVulkan11Properties v11{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES};
  VkPhysicalDeviceProperties2 properties{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
  vkGetPhysicalDeviceProperties(device, &traits.properties);
  vkGetPhysicalDeviceMemoryProperties(device, &traits.memory);
  traits.cpu = traits.properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_CPU;
  if (traits.properties.apiVersion < VK_API_VERSION_1_2) {
    traits.unusable = "its driver has Vulkan " + std::to_string(VK_API_VERSION_MAJOR(traits.properties.apiVersion)) +
                      "." + std::to_string(VK_API_VERSION_MINOR(traits.properties.apiVersion)) + "; 1.2 is needed";
    return traits;
  }
  const bool control = has_device_extension(device, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME);
  properties.pNext = &v11;
  v11.pNext = &v12;
  if (control) v12.pNext = &size_control;
  vkGetPhysicalDeviceProperties2(device, &properties);
  traits.driver = std::string(v12.driverName) + " " + v12.driverInfo;
  traits.subgroup = v11.subgroupSize;
  traits.max_buffer_bytes = v11.maxMemoryAllocationSize;
  traits.memory_budget = has_device_extension(device, VK_EXT_MEMORY_BUDGET_EXTENSION_NAME);

  VkPhysicalDeviceSubgroupSizeControlFeaturesEXT control_features{
      VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT};
  VkPhysicalDeviceVulkan12Features f12{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES};
  VkPhysicalDeviceFeatures2 features{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2};
  features.pNext = &f12;
  if (control) f12.pNext = &control_features;
  vkGetPhysicalDeviceFeatures2(device, &features);
  traits.fixed_subgroup = control && control_features.subgroupSizeControl != 0 &&
                          (size_control.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT) != 0 &&
                          traits.subgroup >= size_control.minSubgroupSize &&
                          traits.subgroup <= size_control.maxSubgroupSize;
  traits.full_subgroups = control && control_features.computeFullSubgroups != 0;

  uint32_t count = 0;
  vkGetPhysicalDeviceQueueFamilyProperties(device, &count, nullptr);
  std::vector<VkQueueFamilyProperties> families(count);
  vkGetPhysicalDeviceQueueFamilyProperties(device, &count, families.data());
  const auto family = std::find_if(families.begin(), families.end(), [](const VkQueueFamilyProperties& one) {
    return (one.queueFlags & VK_QUEUE_COMPUTE_BIT) != 0;
  });
  if (family != families.end()) {
    traits.queue_family = static_cast<uint32_t>(family - families.begin());
    traits.timestamp_bits = family->timestampValidBits;
  }
  constexpr VkSubgroupFeatureFlags needed = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
  if (family == families.end())
    traits.unusable = "it has no compute queue";
  else if (f12.bufferDeviceAddress == 0)
    traits.unusable = "it lacks buffer device addresses (bufferDeviceAddress)";
  else if (features.features.shaderInt64 == 0)
    traits.unusable = "it lacks 64-bit integers in shaders (shaderInt64)";
  else if (f12.timelineSemaphore == 0)
    traits.unusable = "it lacks timeline semaphores";
  else if ((v11.subgroupSupportedOperations & needed) != needed ||
           (v11.subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) == 0)
    traits.unusable = "it lacks subgroup shuffles in compute shaders";
  else if (traits.subgroup < 4 || traits.subgroup > 64 || (traits.subgroup & (traits.subgroup - 1)) != 0)
    traits.unusable = "its subgroups have " + std::to_string(traits.subgroup) + " invocations; 4 to 64 are needed";
  return traits;
}

void device_memory(VkPhysicalDevice device, const Traits& traits, uint64_t& total_bytes, uint64_t& free_bytes) {
  VkPhysicalDeviceMemoryBudgetPropertiesEXT budget{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
  VkPhysicalDeviceMemoryProperties2 memory{VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2};
  if (traits.memory_budget) memory.pNext = &budget;
  vkGetPhysicalDeviceMemoryProperties2(device, &memory);
  total_bytes = free_bytes = 0;
  for (uint32_t heap = 0; heap < memory.memoryProperties.memoryHeapCount; ++heap) {
    if ((memory.memoryProperties.memoryHeaps[heap].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) == 0) continue;
    const uint64_t size = memory.memoryProperties.memoryHeaps[heap].size;
    total_bytes += size;
    free_bytes += !traits.memory_budget                              ? size
                  : budget.heapBudget[heap] > budget.heapUsage[heap] ? budget.heapBudget[heap] - budget.heapUsage[heap]
                                                                     : 0;
  }
}

quire_device_info info_of(VkPhysicalDevice device) {
  const Traits traits = traits_of(device);
  quire_device_info info{};
  const auto copy = [](char* to, std::size_t size, const std::string& text) {
    std::memcpy(to, text.data(), std::min(text.size(), size - 1));
  };
  copy(info.name, sizeof info.name, traits.properties.deviceName);
  copy(info.driver, sizeof info.driver, traits.driver);
  info.usable = traits.unusable.empty() ? 1 : 0;
  info.kind = traits.properties.deviceType == VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU ? QUIRE_DEVICE_DISCRETE
              : traits.cpu                                                         ? QUIRE_DEVICE_CPU
                                                                                   : QUIRE_DEVICE_INTEGRATED;
  if (!traits.unusable.empty())
    copy(info.note, sizeof info.note, "The Vulkan backend can't use this device: " + traits.unusable + ".");
  else if (traits.cpu)
    copy(info.note, sizeof info.note,
         "A software device: shaders run on the CPU, " + std::to_string(traits.subgroup) + " lanes at a time.");
  device_memory(device, traits, info.memory_bytes, info.free_bytes);
  return info;
}

} // namespace quire::vulkan
