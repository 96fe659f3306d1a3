// The paged cache of one program on the device, and its swapped blocks in pinned host memory.
//
// A block of a group is one contiguous piece: for each layer of the group K [kv_head, token, k_dim], then V [kv_head,
// token, v_dim], every plane at a multiple of 256 bytes. So a block is copied and swapped by one copy. Errors: Failure.
// Threads: the backend's queue.
#pragma once

#include "memory.hpp"
#include "ops/ops.hpp"

#include <quire/plugin.h>

#include <cstdint>
#include <span>
#include <vector>

namespace quire::cuda {

// The layout of one group's blocks; needs no device.
struct KvGroupLayout {
  uint64_t block_bytes = 0;
  std::vector<KvLayer> layers; // [num_kv_layers]; those of other groups are empty; base is null
};
KvGroupLayout lay_out_group(const quire_program& program, const quire_limits& limits, uint32_t group);

class KvCache {
 public:
  // layouts: [groups].
  KvCache(const std::vector<KvGroupLayout>& layouts, const quire_kv_config& config);

  KvLayer layer(uint32_t index) const;
  uint32_t num_blocks(uint32_t group) const { return groups_[group].num_blocks; }
  uint32_t num_groups() const { return static_cast<uint32_t>(groups_.size()); }
  uint64_t bytes() const;

  // On `stream`, after everything queued there.
  void copy(std::span<const quire_block_copy> copies, cudaStream_t stream);

  // On a stream of their own, after everything queued on `main` so far. Until settle says so, later work on `main` may
  // not touch the blocks.
  void swap_out(std::span<const quire_block_copy> copies, cudaStream_t main);
  void swap_in(std::span<const quire_block_copy> copies, cudaStream_t main);

  bool swapping() const { return swapping_; }
  // Whether a swap that may still run touches the block.
  bool is_busy(uint32_t group, uint32_t block) const { return groups_[group].busy[block] != 0; }
  // Makes `main` wait for the swaps (on the device).
  void join_swaps(cudaStream_t main);
  // Forgets swaps that are done.
  void settle();

 private:
  struct Group {
    uint64_t block_bytes = 0;
    uint32_t num_blocks = 0;
    uint32_t host_blocks = 0;
    DeviceBuffer device;
    PinnedBuffer host;
    std::vector<uint8_t> busy; // [num_blocks]
  };
  void swap(std::span<const quire_block_copy> copies, cudaStream_t main, bool out);

  std::vector<Group> groups_;
  std::vector<KvLayer> layers_;
  std::vector<uint32_t> group_of_layer_;
  Stream swap_stream_;
  Event main_reached_, swaps_done_;
  bool swapping_ = false;
};

} // namespace quire::cuda
