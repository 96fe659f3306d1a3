// The weights of a program on the device: planned first, so that a lack of memory changes nothing, then loaded.
//
// Units: bytes. Errors: Failure: QUIRE_OUT_OF_MEMORY, and QUIRE_INVALID or QUIRE_UNSUPPORTED that name the tensor.
// Threads: confined to the instance's thread; loading uses threads of its own for repacking.
#pragma once

#include "memory.hpp"
#include "op_params.h"

#include <quire/plugin.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace quire::vulkan {

// A matrix in panels. Pieces are row ranges (of whole experts), as one buffer has a largest size.
struct Matrix {
  uint32_t format = 0;
  uint64_t rows = 0; // N, of an expert
  uint64_t cols = 0; // K
  uint64_t experts = 0;
  uint32_t blocks = 0;
  uint64_t expert_panels = 0;
  uint64_t piece_panels = 0;      // of each piece but the last
  std::vector<WeightPart> pieces; // addresses of the planes; first_panel, rows and out_column within the matrix
};

class WeightStore {
 public:
  // largest_buffer: bytes; no more than the memory's.
  WeightStore(Memory& memory, uint64_t largest_buffer) : memory_(memory), largest_buffer_(largest_buffer) {}

  // The same weight may be added again, for either use: it is loaded once for each. Return handles.
  uint32_t add_matrix(const quire_weight& weight);
  uint32_t add_vector(const quire_weight& weight); // float32 [experts * rows * cols]
  uint32_t add_words(std::vector<uint32_t> words);

  void load(const std::function<void(uint64_t done, uint64_t total)>& progress);

  const Matrix& matrix(uint32_t handle) const { return entries_[handle].matrix; }
  address vector(uint32_t handle) const { return entries_[handle].where; }
  uint64_t bytes() const { return bytes_; }
  // Once loaded. The buffer that an address lies in.
  const std::vector<Buffer>& buffers() const { return buffers_; }
  uint32_t buffer_of(address where) const;

 private:
  struct Entry {
    const quire_weight* weight = nullptr; // null: words
    bool is_matrix = false;
    Matrix matrix;
    std::vector<uint32_t> words;
    uint64_t bytes = 0; // of a vector
    address where = 0;
  };
  struct Place {
    std::size_t buffer;
    uint64_t offset;
  };
  uint32_t find_or_add(const quire_weight& weight, bool is_matrix);
  Place reserve(uint64_t bytes);
  void load_matrix(const Entry& entry, const std::vector<Place>& places);
  address address_of(const Place& place) const { return buffers_[place.buffer].address() + place.offset; }

  Memory& memory_;
  uint64_t largest_buffer_;
  std::vector<Entry> entries_;
  std::vector<uint64_t> sizes_; // of the buffers, while planning
  std::vector<Buffer> buffers_;
  uint64_t bytes_ = 0;
};

} // namespace quire::vulkan
