// Owners of what CUDA hands out: device and pinned memory, streams, events, graphs.
//
// Units: bytes. Errors: the constructors throw Failure (QUIRE_OUT_OF_MEMORY names what the memory was for). Threads:
// one at a time; the device must be current on the calling thread.
#pragma once

#include "error.hpp"

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

namespace quire::cuda {

class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  // purpose: «the weights», for the error.
  DeviceBuffer(uint64_t bytes, const char* purpose);
  DeviceBuffer(DeviceBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceBuffer();

  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  template <class T> T* as(uint64_t offset_bytes = 0) const { return reinterpret_cast<T*>(data_ + offset_bytes); }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

// Host memory that the device copies from and to asynchronously.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(uint64_t bytes, const char* purpose);
  PinnedBuffer(PinnedBuffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~PinnedBuffer();

  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  template <class T> T* as(uint64_t offset_bytes = 0) const { return reinterpret_cast<T*>(data_ + offset_bytes); }

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

class Stream {
 public:
  Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

class Event {
 public:
  explicit Event(bool timed = false);
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(const Event&) = delete;
  ~Event();
  cudaEvent_t get() const { return event_; }
  void record(cudaStream_t stream) { check(cudaEventRecord(event_, stream), "recording an event"); }
  void wait() { check(cudaEventSynchronize(event_), "waiting for the device"); }
  // Whether everything before the last record is done.
  bool done() const;

 private:
  cudaEvent_t event_ = nullptr;
};

// Seconds between two timed events that are done.
double seconds_between(const Event& from, const Event& to);

// «1.5 GiB».
std::string in_words(uint64_t bytes);

} // namespace quire::cuda
