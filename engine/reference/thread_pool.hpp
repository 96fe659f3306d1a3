// A small pool for the reference backend's loops: work items that do not depend on one another, so their results do not
// depend on who does them or when.
//
// Threads: run is called by one thread at a time (the backend's queue); the body is called from all of them at once.
#pragma once

#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace quire::reference {

class ThreadPool {
 public:
  // The calling thread is worker 0; num_threads - 1 more are started. At least 1.
  explicit ThreadPool(unsigned num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  unsigned num_threads() const { return static_cast<unsigned>(threads_.size()) + 1; }

  // body(index, worker) for every index < count; returns when all are done. body must not throw.
  template <class Body> void run(size_t count, const Body& body) {
    if (count <= 1 || threads_.empty()) {
      for (size_t i = 0; i < count; ++i) body(i, 0u);
      return;
    }
    run_all(
        count, [](const void* b, size_t index, unsigned worker) { (*static_cast<const Body*>(b))(index, worker); },
        &body);
  }

 private:
  using Call = void (*)(const void* body, size_t index, unsigned worker);
  void run_all(size_t count, Call call, const void* body);
  void work(unsigned worker);
  void take_items(unsigned worker);

  // One job at a time: its fields are written before generation_ rises and read only until busy_ is back to 0.
  Call call_ = nullptr;
  const void* body_ = nullptr;
  size_t count_ = 0;
  std::atomic<size_t> next_{0};
  std::atomic<unsigned> busy_{0}; // started threads that have not finished the job
  std::atomic<unsigned> generation_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

} // namespace quire::reference
