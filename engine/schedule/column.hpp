// A vector of plain data that doesn't initialise what it grows by: a step fills every element at once, thousands a
// step. Keeps its capacity when cleared. Elements are trivially copyable; nothing throws but bad_alloc.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <type_traits>

namespace quire {

template <class T> class Column {
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

 public:
  // `count` more elements at the end, to be written by the caller.
  T* grow(std::size_t count) {
    if (capacity_ - size_ < count) enlarge(count);
    T* const at = data_.get() + size_;
    size_ += count;
    return at;
  }
  void push(const T& value) { *grow(1) = value; }
  void append(const T* from, std::size_t count) {
    T* const at = grow(count);
    if (count) std::memcpy(at, from, count * sizeof(T));
  }
  void clear() { size_ = 0; }
  // The first `count` are left.
  void cut(std::size_t count) { size_ = count; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  const T* data() const { return data_.get(); }
  T* data() { return data_.get(); }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }

 private:
  void enlarge(std::size_t count) {
    const std::size_t wanted = std::max(size_ + count, capacity_ * 2);
    auto larger = std::make_unique_for_overwrite<T[]>(wanted);
    if (size_) std::memcpy(larger.get(), data_.get(), size_ * sizeof(T));
    data_ = std::move(larger);
    capacity_ = wanted;
  }
  std::unique_ptr<T[]> data_;
  std::size_t size_ = 0, capacity_ = 0;
};

} // namespace quire
