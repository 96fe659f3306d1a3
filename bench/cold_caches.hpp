// Between two steps the engine thread waits for the device for milliseconds, and finds little in the caches of what it
// used before. A benchmark that repeats a step at once doesn't see what that costs.
//
// Threads: one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace quire::bench {

inline constexpr std::size_t kPrivateCaches = std::size_t{8} << 20, kAllCaches = std::size_t{64} << 20;

// Fills caches with something else, which is so large: a core's own, or all of them.
inline void cool_caches(std::size_t bytes) {
  static const std::vector<uint64_t> other(kAllCaches / sizeof(uint64_t), 1);
  uint64_t sum = 0;
  for (std::size_t i = 0; i < bytes / sizeof(uint64_t); i += 64 / sizeof(uint64_t)) sum += other[i];
  [[maybe_unused]] static volatile uint64_t kept;
  kept = sum;
}

} // namespace quire::bench
