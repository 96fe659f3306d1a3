// Messages from any thread to the engine thread: a mutex, a vector, and a wake-up that costs nothing while the engine
// is busy.
//
// Threads: post and wake are [any]; drain and wait are the engine thread's. The lock is held for a push or a swap,
// never longer.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <vector>

namespace quire {

template <typename Message> class Inbox {
 public:
  using Clock = std::chrono::steady_clock;

  void post(Message&& message) {
    {
      std::lock_guard lock(mutex_);
      messages_.push_back(std::move(message));
    }
    wake_.notify_one();
  }

  // Replaces the contents of `out` by what has come; false if nothing has. Doesn't block.
  bool drain(std::vector<Message>& out) {
    out.clear();
    std::lock_guard lock(mutex_);
    std::swap(out, messages_);
    return !out.empty();
  }

  // Sleeps until a message is there or the time has come.
  void wait(std::optional<Clock::time_point> until) {
    std::unique_lock lock(mutex_);
    const auto ready = [this] { return !messages_.empty(); };
    if (until)
      wake_.wait_until(lock, *until, ready);
    else
      wake_.wait(lock, ready);
  }

 private:
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Message> messages_;
};

} // namespace quire
