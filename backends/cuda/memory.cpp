#include "memory.hpp"

#include <cstdio>

namespace quire::cuda {

std::string in_words(uint64_t bytes) {
  char text[32];
  const double size = static_cast<double>(bytes);
  if (bytes >= 1ull << 30)
    std::snprintf(text, sizeof text, "%.2f GiB", size / (1ull << 30));
  else
    std::snprintf(text, sizeof text, "%.1f MiB", size / (1ull << 20));
  return text;
}

namespace {

[[noreturn]] void fail_allocation(cudaError_t error, uint64_t bytes, const char* purpose, const char* where) {
  static_cast<void>(cudaGetLastError());
  if (code_of(error) != QUIRE_OUT_OF_MEMORY) fail(error, purpose);
  throw Failure(QUIRE_OUT_OF_MEMORY,
                "CUDA: no " + std::string(where) + " memory for " + purpose + " (" + in_words(bytes) +
                    "): lower --memory-fraction or --kv-memory, --max-seqs, or take a smaller model");
}

} // namespace

DeviceBuffer::DeviceBuffer(uint64_t bytes, const char* purpose) {
  if (bytes == 0) return;
  void* data = nullptr;
  if (const cudaError_t error = cudaMalloc(&data, bytes); error != cudaSuccess)
    fail_allocation(error, bytes, purpose, "device");
  data_ = static_cast<std::byte*>(data);
  bytes_ = bytes;
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ != nullptr) ignore(cudaFree(data_));
}

PinnedBuffer::PinnedBuffer(uint64_t bytes, const char* purpose) {
  if (bytes == 0) return;
  void* data = nullptr;
  if (const cudaError_t error = cudaMallocHost(&data, bytes); error != cudaSuccess)
    fail_allocation(error, bytes, purpose, "pinned host");
  data_ = static_cast<std::byte*>(data);
  bytes_ = bytes;
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ != nullptr) ignore(cudaFreeHost(data_));
}

Stream::Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream"); }
Stream::~Stream() { ignore(cudaStreamDestroy(stream_)); }

Event::Event(bool timed) {
  check(cudaEventCreateWithFlags(&event_, timed ? cudaEventDefault : cudaEventDisableTiming), "creating an event");
}
Event::~Event() {
  if (event_ != nullptr) ignore(cudaEventDestroy(event_));
}

bool Event::done() const {
  const cudaError_t error = cudaEventQuery(event_);
  if (error == cudaErrorNotReady) {
    static_cast<void>(cudaGetLastError());
    return false;
  }
  check(error, "asking for an event");
  return true;
}

double seconds_between(const Event& from, const Event& to) {
  float milliseconds = 0;
  check(cudaEventElapsedTime(&milliseconds, from.get(), to.get()), "reading a timer");
  return milliseconds * 1e-3;
}

} // namespace quire::cuda
