#include "parallel_copy.hpp"

#include <algorithm>
#include <cstring>

namespace quire::cuda {
namespace {
constexpr uint32_t kMostHelpers = 11;
constexpr uint64_t kWorthIt = 1 << 20; // bytes below which one thread is enough
} // namespace

ParallelCopy::ParallelCopy() {
  const uint32_t cores = std::max(1u, std::thread::hardware_concurrency());
  for (uint32_t i = 0; i < std::min(kMostHelpers, cores - 1); ++i) helpers_.emplace_back([this, i] { helper(i); });
}

ParallelCopy::~ParallelCopy() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  started_.notify_all();
  for (std::thread& thread : helpers_) thread.join();
}

void ParallelCopy::copy_part(uint32_t part) const {
  const uint64_t parts = helpers_.size() + 1, begin = bytes_ * part / parts, end = bytes_ * (part + 1) / parts;
  std::memcpy(to_ + begin, from_ + begin, end - begin);
}

void ParallelCopy::helper(uint32_t index) {
  uint64_t seen = 0;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      started_.wait(lock, [&] { return stopping_ || round_ != seen; });
      if (stopping_) return;
      seen = round_;
    }
    copy_part(index + 1);
    const std::lock_guard lock(mutex_);
    if (--working_ == 0) finished_.notify_one();
  }
}

void ParallelCopy::run(std::byte* to, const std::byte* from, uint64_t bytes) {
  if (helpers_.empty() || bytes < kWorthIt) {
    if (bytes != 0) std::memcpy(to, from, bytes);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    to_ = to, from_ = from, bytes_ = bytes;
    working_ = static_cast<uint32_t>(helpers_.size());
    ++round_;
  }
  started_.notify_all();
  copy_part(0);
  std::unique_lock lock(mutex_);
  finished_.wait(lock, [&] { return working_ == 0; });
}

} // namespace quire::cuda
