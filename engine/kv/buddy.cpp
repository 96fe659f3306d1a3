#include "kv/buddy.hpp"

#include <bit>
#include <cassert>

namespace quire {

namespace {
std::size_t order_of(std::uint32_t units) {
  assert(std::has_single_bit(units));
  return static_cast<std::size_t>(std::countr_zero(units));
}
} // namespace

BuddyPool::BuddyPool(std::uint32_t size) : size_(size), num_free_(size), free_(32) {
  for (std::uint32_t first = 0; first < size;) {
    const std::uint32_t units = std::bit_floor(size - first);
    if (!largest_) largest_ = units;
    free_[order_of(units)].insert(first);
    first += units;
  }
}

bool BuddyPool::can_allocate(std::uint32_t units) const {
  for (std::size_t order = order_of(units); order < free_.size(); ++order)
    if (!free_[order].empty()) return true;
  return false;
}

std::uint32_t BuddyPool::allocate(std::uint32_t units) {
  const std::size_t wanted = order_of(units);
  std::size_t order = wanted;
  while (order < free_.size() && free_[order].empty()) ++order;
  if (order == free_.size()) return kNone;
  const std::uint32_t first = *free_[order].begin();
  free_[order].erase(free_[order].begin());
  while (order > wanted) {
    --order;
    free_[order].insert(first + (1u << order));
  }
  num_free_ -= units;
  return first;
}

void BuddyPool::free(std::uint32_t first, std::uint32_t units) {
  num_free_ += units;
  std::size_t order = order_of(units);
  for (; order + 1 < free_.size(); ++order) {
    const std::uint32_t buddy = first ^ (1u << order);
    const auto found = free_[order].find(buddy);
    if (found == free_[order].end()) break;
    free_[order].erase(found);
    first &= ~(1u << order);
  }
  assert(first + (1u << order) <= size_);
  free_[order].insert(first);
}

} // namespace quire
