// An allocator for large arrays that are read here and there: asks the kernel for huge pages, so that each access
// doesn't miss the TLB too. Small ones come from operator new. Where the kernel has none to give, nothing is lost.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <new>
#include <vector>

#include <sys/mman.h>

namespace quire {

template <class T> struct HugePageAllocator {
  using value_type = T;
  static constexpr std::size_t kHugePage = std::size_t{2} << 20;

  HugePageAllocator() = default;
  template <class U> HugePageAllocator(const HugePageAllocator<U>&) {} // as allocators convert

  T* allocate(std::size_t count) {
    if (count > static_cast<std::size_t>(-1) / 2 / sizeof(T)) throw std::bad_array_new_length();
    const std::size_t bytes = count * sizeof(T);
    const bool large = bytes >= kHugePage;
    const std::size_t alignment = large ? kHugePage : std::size_t{64};
    void* memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (!memory) throw std::bad_alloc();
    if (large) madvise(memory, bytes, MADV_HUGEPAGE); // advice: that it isn't taken is no error
    return static_cast<T*>(memory);
  }
  void deallocate(T* memory, std::size_t) { std::free(memory); }
  template <class U> bool operator==(const HugePageAllocator<U>&) const { return true; }
};

template <class T> using HugeVector = std::vector<T, HugePageAllocator<T>>;

} // namespace quire
