#include "parallel_copy.hpp"

#include <algorithm>
#include <cstring>

namespace quire::cuda {
namespace {

constexpr uint32_t kMostHelpers = 15;
constexpr uint64_t kPieceBytes = 1 << 20;

} // namespace

ParallelCopy::ParallelCopy() {
  const uint32_t cores = std::max(1u, std::thread::hardware_concurrency());
  for (uint32_t i = 0; i < std::min(kMostHelpers, cores - 1); ++i)
    helpers_.emplace_back([this] {
      std::unique_lock lock(mutex_);
      while (!stopping_)
        if (!copy_piece(lock)) more_.wait(lock);
    });
}

ParallelCopy::~ParallelCopy() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  more_.notify_all();
  for (std::thread& thread : helpers_) thread.join();
}

bool ParallelCopy::copy_piece(std::unique_lock<std::mutex>& lock) {
  while (next_ < first_ + jobs_.size() && job(next_).taken == job(next_).bytes) ++next_;
  if (next_ == first_ + jobs_.size()) return false;
  const uint64_t number = next_;
  Job& from = job(number);
  const uint64_t at = from.taken, bytes = std::min(kPieceBytes, from.bytes - at);
  from.taken += bytes;
  std::byte* const target = from.to + at;
  const std::byte* const source = from.from + at;
  lock.unlock();
  std::memcpy(target, source, bytes);
  lock.lock();
  Job& to = job(number); // jobs may have been added meanwhile
  to.done += bytes;
  if (to.done == to.bytes) finished_.notify_all();
  return true;
}

uint64_t ParallelCopy::start(std::byte* to, const std::byte* from, uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  jobs_.push_back({to, from, bytes});
  if (bytes > kPieceBytes)
    more_.notify_all();
  else
    more_.notify_one();
  return first_ + jobs_.size() - 1;
}

void ParallelCopy::wait(uint64_t number) {
  std::unique_lock lock(mutex_);
  while (job(number).done != job(number).bytes)
    if (job(number).taken == job(number).bytes || !copy_piece(lock)) finished_.wait(lock);
  job(number).to = nullptr; // waited for
  while (!jobs_.empty() && jobs_.front().to == nullptr) jobs_.pop_front(), ++first_;
  next_ = std::max(next_, first_);
}

} // namespace quire::cuda
