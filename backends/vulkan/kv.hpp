// The paged KV cache on the device: a pool of equal blocks for each KV group of a program.
//
// A block holds, for each layer of its group, K [kv_head, token in block, k_row] and V [kv_head, token in block,
// v_row], rows padded to 8 elements with zeros; layers follow one another. A pool is cut into chunks of a power of two
// blocks, as one buffer has a largest size; a block's address is worked out on the device from the table of chunks.
// Swapped blocks lie in host memory, a slot a block. Errors: Failure. Threads: confined to the instance's thread.
#pragma once

#include "memory.hpp"
#include "op_params.h"

#include <quire/plugin.h>

#include <cstdint>
#include <span>
#include <vector>

namespace quire::vulkan {

// Where a layer's cache lies in a block. Units: elements for rows, bytes for offsets.
struct KvLayerPlace {
  uint32_t k_row = 0;
  uint32_t v_row = 0;
  uint32_t k_offset = 0;
  uint32_t v_offset = 0;
};
struct KvLayout {
  KvLayout(const quire_program& program, const quire_limits& limits);
  std::vector<KvLayerPlace> layers;  // [num_kv_layers]
  std::vector<uint64_t> block_bytes; // [num_kv_groups], multiples of 256
  std::vector<uint32_t> windows;     // [num_kv_groups]
  uint32_t block_shift = 0;          // log2 of tokens a block
};

class KvPool {
 public:
  KvPool(Memory& memory, const KvLayout& layout, const quire_kv_config& config);

  // Fills in where the step's shaders find the group's blocks.
  void describe(uint32_t group, StepGroup& out) const;
  uint32_t num_blocks(uint32_t group) const { return groups_[group].num_blocks; }

  enum class Direction { device_to_device, device_to_host, host_to_device };
  // Throws where a group, block or slot does not exist.
  void check(Direction direction, std::span<const quire_block_copy> copies) const;
  void record(VkCommandBuffer commands, Direction direction, std::span<const quire_block_copy> copies) const;

 private:
  struct Group {
    uint32_t num_blocks = 0;
    uint32_t host_blocks = 0;
    uint32_t chunk_shift = 0;
    uint64_t block_bytes = 0;
    std::vector<Buffer> chunks;
    Buffer chunk_table; // address [chunks]
    uint32_t host_shift = 0;
    std::vector<Buffer> host;
  };
  struct Place {
    VkBuffer buffer;
    uint64_t offset;
  };
  static Place block_place(const Group& group, uint32_t block);
  static Place slot_place(const Group& group, uint32_t slot);

  Memory& memory_;
  std::vector<Group> groups_;
};

} // namespace quire::vulkan
