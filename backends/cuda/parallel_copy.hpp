// memcpy by several threads: one is slower than the link to the device.
//
// Threads: run() by one thread at a time; the helpers end with the object.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace quire::cuda {

class ParallelCopy {
 public:
  ParallelCopy();
  ~ParallelCopy();
  ParallelCopy(const ParallelCopy&) = delete;
  ParallelCopy& operator=(const ParallelCopy&) = delete;

  void run(std::byte* to, const std::byte* from, uint64_t bytes);

 private:
  void helper(uint32_t index);
  void copy_part(uint32_t part) const;

  std::mutex mutex_;
  std::condition_variable started_, finished_;
  std::byte* to_ = nullptr;
  const std::byte* from_ = nullptr;
  uint64_t bytes_ = 0;
  uint64_t round_ = 0;
  uint32_t working_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> helpers_;
};

} // namespace quire::cuda
