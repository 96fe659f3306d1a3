#include "memory.hpp"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <cassert>
#include <cstring>

namespace quire::vulkan {

Buffer::~Buffer() {
  if (memory_ == nullptr) return;
  const Device& device = memory_->device_;
  device.vk().vkDestroyBuffer(device.handle(), buffer_, nullptr);
  device.vk().vkFreeMemory(device.handle(), device_memory_, nullptr);
  memory_->used_[static_cast<std::size_t>(use_)] -= bytes_;
}

void Buffer::swap(Buffer& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(use_, other.use_);
  std::swap(buffer_, other.buffer_);
  std::swap(device_memory_, other.device_memory_);
  std::swap(address_, other.address_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
}

Memory::Memory(Device& device) : device_(device) {
  const VkPhysicalDeviceMemoryProperties& memory = device.traits().memory;
  // All device-local memory in the host's reach: no staging.
  unified_ = true;
  for (uint32_t type = 0; type < memory.memoryTypeCount; ++type) {
    const VkMemoryPropertyFlags flags = memory.memoryTypes[type].propertyFlags;
    if ((flags & VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT) != 0 && (flags & VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT) == 0)
      unified_ = false;
  }
  // Offsets inside a buffer stay below 2^32, and a driver's own bound on a buffer is never under its bound on an
  // allocation by much.
  largest_ = std::min<uint64_t>({device.traits().max_buffer_bytes, uint64_t{2} << 30, uint64_t{1} << 40});
}

int32_t Memory::find_type(uint32_t allowed, VkMemoryPropertyFlags needed, VkMemoryPropertyFlags wanted) const {
  const VkPhysicalDeviceMemoryProperties& memory = device_.traits().memory;
  int32_t found = -1;
  for (uint32_t type = 0; type < memory.memoryTypeCount; ++type) {
    const VkMemoryPropertyFlags flags = memory.memoryTypes[type].propertyFlags;
    if ((allowed >> type & 1u) == 0 || (flags & needed) != needed) continue;
    if ((flags & wanted) == wanted) return static_cast<int32_t>(type);
    if (found < 0) found = static_cast<int32_t>(type);
  }
  return found;
}

Buffer Memory::allocate(uint64_t bytes, MemoryKind kind, MemoryUse use, const char* what) {
  const VolkDeviceTable& vk = device_.vk();
  const auto out_of_memory = [&](const char* why) {
    throw Failure(QUIRE_OUT_OF_MEMORY, std::string("the Vulkan device ") + device_.traits().properties.deviceName +
                                           " has no " + std::to_string(bytes) + " bytes for " + what + " (" + why +
                                           ")");
  };
  bytes = std::max<uint64_t>(align_up(bytes, 16), 16);
  if (bytes > largest_) out_of_memory("more than one buffer may have");
  if (device_.refuses(bytes)) out_of_memory(result_name(VK_ERROR_OUT_OF_DEVICE_MEMORY));
  Buffer buffer;
  VkBufferCreateInfo create{VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO};
  create.size = bytes;
  create.usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_UNIFORM_BUFFER_BIT |
                 VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT |
                 VK_BUFFER_USAGE_INDIRECT_BUFFER_BIT | VK_BUFFER_USAGE_SHADER_DEVICE_ADDRESS_BIT |
                 VK_BUFFER_USAGE_UNIFORM_TEXEL_BUFFER_BIT;
  if (const VkResult result = vk.vkCreateBuffer(device_.handle(), &create, nullptr, &buffer.buffer_);
      result != VK_SUCCESS)
    out_of_memory(result_name(result));
  buffer.memory_ = this; // from here on the destructor cleans up
  buffer.use_ = use;
  VkMemoryRequirements requirements;
  vk.vkGetBufferMemoryRequirements(device_.handle(), buffer.buffer_, &requirements);
  constexpr VkMemoryPropertyFlags host = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  int32_t type = -1;
  if (kind == MemoryKind::device) {
    if (unified_) type = find_type(requirements.memoryTypeBits, VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | host, 0);
    if (type < 0) type = find_type(requirements.memoryTypeBits, VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, 0);
  } else {
    type = find_type(requirements.memoryTypeBits, host,
                     kind == MemoryKind::readback ? VK_MEMORY_PROPERTY_HOST_CACHED_BIT : 0);
  }
  if (type < 0) out_of_memory("no memory type fits");
  VkMemoryAllocateFlagsInfo flags{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_FLAGS_INFO};
  flags.flags = VK_MEMORY_ALLOCATE_DEVICE_ADDRESS_BIT;
  VkMemoryAllocateInfo allocate{VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO};
  allocate.pNext = &flags;
  allocate.allocationSize = requirements.size;
  allocate.memoryTypeIndex = static_cast<uint32_t>(type);
  if (const VkResult result = vk.vkAllocateMemory(device_.handle(), &allocate, nullptr, &buffer.device_memory_);
      result != VK_SUCCESS)
    out_of_memory(result_name(result));
  if (const VkResult result = vk.vkBindBufferMemory(device_.handle(), buffer.buffer_, buffer.device_memory_, 0);
      result != VK_SUCCESS)
    out_of_memory(result_name(result));
  const VkMemoryPropertyFlags properties = device_.traits().memory.memoryTypes[type].propertyFlags;
  if ((properties & host) == host) {
    void* mapped = nullptr;
    if (const VkResult result = vk.vkMapMemory(device_.handle(), buffer.device_memory_, 0, VK_WHOLE_SIZE, 0, &mapped);
        result != VK_SUCCESS)
      out_of_memory(result_name(result));
    buffer.mapped_ = static_cast<std::byte*>(mapped);
  }
  VkBufferDeviceAddressInfo address{VK_STRUCTURE_TYPE_BUFFER_DEVICE_ADDRESS_INFO};
  address.buffer = buffer.buffer_;
  buffer.address_ = vk.vkGetBufferDeviceAddress(device_.handle(), &address);
  buffer.bytes_ = bytes;
  used_[static_cast<std::size_t>(use)] += bytes;
  return buffer;
}

void Memory::write(const Buffer& to, uint64_t offset, const void* data, uint64_t bytes) {
  assert(offset + bytes <= to.bytes());
  if (bytes == 0) return;
  if (to.mapped() != nullptr) {
    device_.wait_all();
    std::memcpy(to.mapped() + offset, data, bytes);
    return;
  }
  constexpr uint64_t most = uint64_t{64} << 20;
  Buffer staging = allocate(std::min(bytes, most), MemoryKind::upload, MemoryUse::scratch, "staging");
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t part = std::min(bytes - done, staging.bytes());
    std::memcpy(staging.mapped(), static_cast<const std::byte*>(data) + done, part);
    device_.run_now([&](VkCommandBuffer commands) {
      const VkBufferCopy copy{0, offset + done, part};
      device_.vk().vkCmdCopyBuffer(commands, staging.handle(), to.handle(), 1, &copy);
    });
    done += part;
  }
}

void Memory::read(const Buffer& from, uint64_t offset, void* data, uint64_t bytes) {
  assert(offset + bytes <= from.bytes());
  if (bytes == 0) return;
  if (from.mapped() != nullptr) {
    device_.run_now([](VkCommandBuffer) {}); // makes the device's writes visible to the host
    std::memcpy(data, from.mapped() + offset, bytes);
    return;
  }
  constexpr uint64_t most = uint64_t{64} << 20;
  Buffer staging = allocate(std::min(bytes, most), MemoryKind::readback, MemoryUse::scratch, "reading back");
  for (uint64_t done = 0; done < bytes;) {
    const uint64_t part = std::min(bytes - done, staging.bytes());
    device_.run_now([&](VkCommandBuffer commands) {
      const VkBufferCopy copy{offset + done, 0, part};
      device_.vk().vkCmdCopyBuffer(commands, from.handle(), staging.handle(), 1, &copy);
    });
    std::memcpy(static_cast<std::byte*>(data) + done, staging.mapped(), part);
    done += part;
  }
}

} // namespace quire::vulkan
