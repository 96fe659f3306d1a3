// One thread that carries out jobs in the order in which they were pushed: the device queue of the reference backend.
//
// Threads: push and wait by the engine thread; jobs run on the queue's own. Jobs must not throw.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

namespace quire::reference {

class WorkQueue {
 public:
  WorkQueue() : thread_([this] { work(); }) {}
  ~WorkQueue() { // all jobs are done first
    push({});
    thread_.join();
  }
  WorkQueue(const WorkQueue&) = delete;
  WorkQueue& operator=(const WorkQueue&) = delete;

  // The job's number, from 1.
  uint64_t push(std::function<void()> job) {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
    changed_.notify_all();
    return ++pushed_;
  }
  // Until the job of that number is done.
  void wait(uint64_t job) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_ >= job; });
  }
  void wait_all() { wait(pushed_); }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return !jobs_.empty(); });
      const std::function<void()> job = std::move(jobs_.front());
      jobs_.pop_front();
      if (!job) return;
      lock.unlock();
      job();
      lock.lock();
      ++done_;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_; // an empty one ends the thread
  uint64_t pushed_ = 0;                    // written by the engine thread
  uint64_t done_ = 0;
  std::thread thread_; // last: it starts when all else is there
};

} // namespace quire::reference
