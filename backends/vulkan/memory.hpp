// Buffers in device memory, each with an address, and what they add up to.
//
// Units: bytes. Errors: Failure QUIRE_OUT_OF_MEMORY with a sentence that says how much was asked for and for what;
// nothing is left behind. Threads: confined to the instance's thread.
#pragma once

#include "device.hpp"

#include <cstddef>
#include <cstdint>
#include <utility>

namespace quire::vulkan {

enum class MemoryKind {
  device,   // device-local; mapped where all of it is in the host's reach (a CPU or integrated device)
  upload,   // written by the host, read by the device
  readback, // written by the device, read by the host
};
enum class MemoryUse { weights, kv, scratch, count };

// Owns a VkBuffer and its memory. Empty when default-constructed.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer();

  VkBuffer handle() const { return buffer_; }
  uint64_t bytes() const { return bytes_; }
  VkDeviceAddress address() const { return address_; }
  std::byte* mapped() const { return mapped_; } // nullptr if the host can't reach it
  explicit operator bool() const { return buffer_ != VK_NULL_HANDLE; }

 private:
  friend class Memory;
  void swap(Buffer& other) noexcept;

  class Memory* memory_ = nullptr;
  MemoryUse use_ = MemoryUse::scratch;
  VkBuffer buffer_ = VK_NULL_HANDLE;
  VkDeviceMemory device_memory_ = VK_NULL_HANDLE;
  VkDeviceAddress address_ = 0;
  uint64_t bytes_ = 0;
  std::byte* mapped_ = nullptr;
};

class Memory {
 public:
  explicit Memory(Device& device);

  // bytes is at most largest_buffer(); `what` completes «... bytes for ».
  Buffer allocate(uint64_t bytes, MemoryKind kind, MemoryUse use, const char* what);
  // The most that one buffer may have; larger things are split.
  uint64_t largest_buffer() const { return largest_; }
  void set_largest_buffer(uint64_t bytes) { largest_ = bytes; } // for tests of the splitting
  uint64_t used(MemoryUse use) const { return used_[static_cast<std::size_t>(use)]; }
  bool host_reaches_device() const { return unified_; }
  Device& device() const { return device_; }

  // Copies between the host and a buffer of any kind; waits until it is done.
  void write(const Buffer& to, uint64_t offset, const void* data, uint64_t bytes);
  void read(const Buffer& from, uint64_t offset, void* data, uint64_t bytes);

 private:
  friend class Buffer;
  int32_t find_type(uint32_t allowed, VkMemoryPropertyFlags needed, VkMemoryPropertyFlags wanted) const;

  Device& device_;
  bool unified_ = false;
  uint64_t largest_ = 0;
  uint64_t used_[static_cast<std::size_t>(MemoryUse::count)] = {};
};

inline uint64_t align_up(uint64_t value, uint64_t alignment) { return (value + alignment - 1) / alignment * alignment; }

} // namespace quire::vulkan
