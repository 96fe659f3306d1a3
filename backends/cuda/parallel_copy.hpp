// Copies by several threads: one is slower than the link to the device.
//
// A job is cut into pieces that the helpers take in order, from the oldest job on, so that none waits for the slowest
// between two jobs. Plain stores: staging that is used again and again stays in the last cache, where the device reads
// it (on an H200's host 97 % of the link's rate; stores past the caches reached 85 %). Threads: start and wait by one
// thread; the helpers end with the object.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
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

  // The job's number. Both ranges must stay until it was waited for.
  uint64_t start(std::byte* to, const std::byte* from, uint64_t bytes);
  // Helps until the job is done; jobs may be waited for in any order, each once.
  void wait(uint64_t job);

 private:
  struct Job {
    std::byte* to;
    const std::byte* from;
    uint64_t bytes;
    uint64_t taken = 0, done = 0; // bytes
  };
  // Copies a piece of the oldest job that has one left; false: there is none. The lock is held before and after.
  bool copy_piece(std::unique_lock<std::mutex>& lock);
  Job& job(uint64_t number) { return jobs_[static_cast<size_t>(number - first_)]; }

  std::mutex mutex_;
  std::condition_variable more_, finished_;
  std::deque<Job> jobs_; // [first_, first_ + size): those not waited for, and some that were
  uint64_t first_ = 0;
  uint64_t next_ = 0; // the oldest that may have pieces left
  bool stopping_ = false;
  std::vector<std::thread> helpers_;
};

} // namespace quire::cuda
