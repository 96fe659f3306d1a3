#include "kv_cache.hpp"

#include "ops/copy_blocks.hpp"

#include <algorithm>
#include <cassert>

namespace quire::cuda {
namespace {
uint64_t align_up(uint64_t bytes) { return (bytes + 255) / 256 * 256; }
} // namespace

KvGroupLayout lay_out_group(const quire_program& program, const quire_limits& limits, uint32_t group) {
  KvGroupLayout layout;
  layout.layers.resize(program.num_kv_layers);
  const uint32_t element = kv_element_bytes(limits.kv_format);
  for (uint32_t i = 0; i < program.num_kv_layers; ++i) {
    const quire_kv_layer& layer = program.kv_layers[i];
    if (layer.group != group) continue;
    KvLayer& to = layout.layers[i];
    to.kv_heads = layer.kv_heads, to.k_dim = layer.k_dim, to.v_dim = layer.v_dim;
    to.block_size = limits.block_size, to.format = limits.kv_format;
    to.window = program.kv_groups[group].window;
    to.k_offset = layout.block_bytes;
    layout.block_bytes += align_up(uint64_t{layer.kv_heads} * limits.block_size * layer.k_dim * element);
    to.v_offset = layout.block_bytes;
    layout.block_bytes += align_up(uint64_t{layer.kv_heads} * limits.block_size * layer.v_dim * element);
  }
  for (KvLayer& layer : layout.layers) layer.block_bytes = layout.block_bytes;
  return layout;
}

KvCache::KvCache(const std::vector<KvGroupLayout>& layouts, const quire_kv_config& config) : groups_(layouts.size()) {
  for (uint32_t g = 0; g < layouts.size(); ++g) {
    Group& group = groups_[g];
    group.block_bytes = layouts[g].block_bytes;
    group.num_blocks = config.num_blocks[g];
    group.host_blocks = config.host_blocks[g];
    group.device = DeviceBuffer(group.block_bytes * group.num_blocks, "the KV cache");
    group.host = PinnedBuffer(group.block_bytes * group.host_blocks, "swapped KV blocks");
    group.busy.assign(group.num_blocks, 0);
    if (layers_.size() < layouts[g].layers.size()) {
      layers_.resize(layouts[g].layers.size());
      group_of_layer_.resize(layouts[g].layers.size());
    }
    for (uint32_t i = 0; i < layouts[g].layers.size(); ++i)
      if (layouts[g].layers[i].kv_heads != 0) layers_[i] = layouts[g].layers[i], group_of_layer_[i] = g;
  }
}

KvLayer KvCache::layer(uint32_t index) const {
  KvLayer layer = layers_[index];
  layer.base = groups_[group_of_layer_[index]].device.data();
  return layer;
}

uint64_t KvCache::bytes() const {
  uint64_t bytes = 0;
  for (const Group& group : groups_) bytes += group.device.bytes();
  return bytes;
}

void KvCache::copy(std::span<const quire_block_copy> copies, cudaStream_t stream) {
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    BlockPairs pairs;
    const auto flush = [&] {
      if (pairs.count != 0) copy_blocks({stream, false}, groups_[g].device.data(), groups_[g].block_bytes, pairs);
      pairs.count = 0;
    };
    for (const quire_block_copy& copy : copies) {
      if (copy.group != g) continue;
      assert(copy.from < groups_[g].num_blocks && copy.to < groups_[g].num_blocks);
      pairs.from[pairs.count] = copy.from;
      pairs.to[pairs.count] = copy.to;
      if (++pairs.count == kMaxBlockPairs) flush();
    }
    flush();
  }
}

void KvCache::swap(std::span<const quire_block_copy> copies, cudaStream_t main, bool out) {
  if (copies.empty()) return;
  main_reached_.record(main);
  check(cudaStreamWaitEvent(swap_stream_.get(), main_reached_.get(), 0), "ordering the swap of KV blocks");
  swapping_ = true;
  for (const quire_block_copy& copy : copies) {
    Group& group = groups_[copy.group];
    const uint32_t block = out ? copy.from : copy.to, slot = out ? copy.to : copy.from;
    assert(block < group.num_blocks && slot < group.host_blocks);
    std::byte* device = group.device.data() + uint64_t{block} * group.block_bytes;
    std::byte* host = group.host.data() + uint64_t{slot} * group.block_bytes;
    group.busy[block] = 1;
    check(out ? cudaMemcpyAsync(host, device, group.block_bytes, cudaMemcpyDeviceToHost, swap_stream_.get())
              : cudaMemcpyAsync(device, host, group.block_bytes, cudaMemcpyHostToDevice, swap_stream_.get()),
          "swapping a KV block");
  }
  swaps_done_.record(swap_stream_.get());
}

void KvCache::swap_out(std::span<const quire_block_copy> copies, cudaStream_t main) { swap(copies, main, true); }
void KvCache::swap_in(std::span<const quire_block_copy> copies, cudaStream_t main) { swap(copies, main, false); }

void KvCache::join_swaps(cudaStream_t main) {
  if (!swapping_) return;
  check(cudaStreamWaitEvent(main, swaps_done_.get(), 0), "waiting for swapped KV blocks");
  swapping_ = false;
  for (Group& group : groups_) std::fill(group.busy.begin(), group.busy.end(), uint8_t{0});
}

void KvCache::settle() {
  if (!swapping_ || !swaps_done_.done()) return;
  swapping_ = false;
  for (Group& group : groups_) std::fill(group.busy.begin(), group.busy.end(), uint8_t{0});
}

} // namespace quire::cuda
