// A binary buddy allocator over [0, size) units (Knowlton 1965; Knuth, TAOCP 1, 2.5): chunks are powers of two, aligned
// to their size.
//
// A size that isn't a power of two is covered by descending powers of two. allocate takes the lowest address of the
// smallest sufficient order. O(log size). Not thread safe.
#pragma once

#include <cstdint>
#include <set>
#include <vector>

namespace quire {

class BuddyPool {
 public:
  explicit BuddyPool(std::uint32_t size);
  static constexpr std::uint32_t kNone = UINT32_MAX;

  // First unit of a chunk of `units` (a power of two), or kNone.
  std::uint32_t allocate(std::uint32_t units);
  bool can_allocate(std::uint32_t units) const;
  void free(std::uint32_t first, std::uint32_t units);
  std::uint32_t largest() const { return largest_; } // chunk of the empty pool
  std::uint32_t num_free() const { return num_free_; }

 private:
  std::uint32_t size_, num_free_, largest_ = 0;
  std::vector<std::set<std::uint32_t>> free_; // [order] first units
};

} // namespace quire
