// The paged cache of one program in host memory.
//
// A layer has K [block, kv_head, token in block, k_dim] and V [.., v_dim] in the format of the limits. A block of a
// group is that block of all its layers. Host slots for swapped blocks have the same layout. Errors: the constructor
// throws Failure where memory is short. Threads: the backend's queue.
#pragma once

#include "quire/plugin.h"
#include "reference/compiled_program.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace quire::reference {

// Bytes of one block of a group, all its layers.
uint64_t kv_block_bytes(const CompiledProgram& program, uint32_t group);

class KvCache {
 public:
  KvCache(const CompiledProgram& program, const quire_kv_config& config);

  const std::vector<uint32_t>& num_blocks() const { return num_blocks_; }   // [groups]
  const std::vector<uint32_t>& host_blocks() const { return host_blocks_; } // [groups]
  uint64_t bytes() const;

  // values [kv_heads, dim] into slot of a block. what: 0 = K, 1 = V.
  void store(uint32_t layer, uint32_t what, uint32_t block, uint32_t slot, const float* values);
  // Slots [first, first + count) of one head as float32 [count, dim].
  void load(uint32_t layer, uint32_t what, uint32_t block, uint32_t head, uint32_t first, uint32_t count,
            float* out) const;

  void copy(std::span<const quire_block_copy> copies);
  void swap_out(std::span<const quire_block_copy> copies);
  void swap_in(std::span<const quire_block_copy> copies);

 private:
  struct Free {
    void operator()(void* p) const;
  };
  struct Plane { // K or V of a layer
    uint32_t group;
    uint32_t heads;
    uint32_t dim;
    uint64_t block_bytes;
    std::unique_ptr<std::byte, Free> device;
    std::unique_ptr<std::byte, Free> host;
  };
  const Plane& plane(uint32_t layer, uint32_t what) const { return planes_[2 * layer + what]; }

  uint32_t format_;
  uint32_t element_bytes_;
  uint32_t block_size_;
  std::vector<uint32_t> num_blocks_;
  std::vector<uint32_t> host_blocks_;
  std::vector<Plane> planes_; // K, V of layer 0, K, V of layer 1, ...
};

} // namespace quire::reference
