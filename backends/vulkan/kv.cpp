#include "kv.hpp"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <bit>
#include <string>

namespace quire::vulkan {

KvLayout::KvLayout(const quire_program& program, const quire_limits& limits)
    : block_bytes(program.num_kv_groups, 0), block_shift(static_cast<uint32_t>(std::countr_zero(limits.block_size))) {
  const uint64_t element = limits.kv_format == QUIRE_F32 ? 4 : 2;
  for (uint32_t group = 0; group < program.num_kv_groups; ++group) windows.push_back(program.kv_groups[group].window);
  for (uint32_t i = 0; i < program.num_kv_layers; ++i) {
    const quire_kv_layer& layer = program.kv_layers[i];
    uint64_t& bytes = block_bytes[layer.group];
    KvLayerPlace place;
    place.k_row = static_cast<uint32_t>(align_up(layer.k_dim, 8));
    place.v_row = static_cast<uint32_t>(align_up(layer.v_dim, 8));
    const uint64_t rows = uint64_t{layer.kv_heads} * limits.block_size;
    const uint64_t k_bytes = rows * place.k_row * element, v_bytes = rows * place.v_row * element;
    if (bytes + k_bytes + v_bytes >= uint64_t{1} << 32)
      throw Failure(QUIRE_UNSUPPORTED, "a KV block of group " + std::to_string(layer.group) +
                                           " would pass 4 GiB: lower the block size (" +
                                           std::to_string(limits.block_size) + ")");
    place.k_offset = static_cast<uint32_t>(bytes);
    place.v_offset = static_cast<uint32_t>(bytes + k_bytes);
    bytes += k_bytes + v_bytes;
    layers.push_back(place);
  }
  for (uint64_t& bytes : block_bytes) bytes = align_up(bytes, 256);
}

namespace {

// Buffers for `count` blocks, 2^shift in each.
std::vector<Buffer> allocate_blocks(Memory& memory, uint32_t count, uint64_t block_bytes, MemoryKind kind,
                                    uint32_t& shift, const char* what) {
  std::vector<Buffer> buffers;
  shift = 0;
  if (count == 0 || block_bytes == 0) return buffers;
  if (block_bytes > memory.largest_buffer())
    throw Failure(QUIRE_UNSUPPORTED, "a KV block of " + std::to_string(block_bytes) +
                                         " bytes is more than one buffer holds (" +
                                         std::to_string(memory.largest_buffer()) + "): lower the block size");
  const uint64_t fit = std::min<uint64_t>(memory.largest_buffer() / block_bytes, std::bit_ceil(count));
  shift = static_cast<uint32_t>(std::bit_width(fit)) - 1;
  for (uint64_t first = 0; first < count; first += uint64_t{1} << shift)
    buffers.push_back(memory.allocate(std::min<uint64_t>(uint64_t{1} << shift, count - first) * block_bytes, kind,
                                      MemoryUse::kv, what));
  return buffers;
}

} // namespace

KvPool::KvPool(Memory& memory, const KvLayout& layout, const quire_kv_config& config) : memory_(memory) {
  for (uint32_t g = 0; g < layout.block_bytes.size(); ++g) {
    Group group;
    group.num_blocks = config.num_blocks[g];
    group.host_blocks = config.host_blocks[g];
    group.block_bytes = layout.block_bytes[g];
    group.chunks = allocate_blocks(memory, group.num_blocks, group.block_bytes, MemoryKind::device, group.chunk_shift,
                                   "the KV cache");
    group.host = allocate_blocks(memory, group.host_blocks, group.block_bytes, MemoryKind::readback, group.host_shift,
                                 "swapped KV blocks");
    std::vector<address> table;
    for (const Buffer& chunk : group.chunks) table.push_back(chunk.address());
    group.chunk_table =
        memory.allocate(table.size() * sizeof(address), MemoryKind::device, MemoryUse::kv, "the KV cache's table");
    memory.write(group.chunk_table, 0, table.data(), table.size() * sizeof(address));
    groups_.push_back(std::move(group));
  }
}

void KvPool::describe(uint32_t group, StepGroup& out) const {
  const Group& own = groups_[group];
  out.chunks = own.chunk_table.address();
  out.chunk_shift = own.chunk_shift;
  out.block_bytes_256 = static_cast<uint32_t>(own.block_bytes / 256);
  out.num_blocks = own.num_blocks;
}

void KvPool::check(Direction direction, std::span<const quire_block_copy> copies) const {
  for (const quire_block_copy& copy : copies) {
    if (copy.group >= groups_.size())
      throw Failure(QUIRE_INVALID, "a block copy names KV group " + std::to_string(copy.group) + " of " +
                                       std::to_string(groups_.size()));
    const Group& group = groups_[copy.group];
    const uint32_t from = direction == Direction::host_to_device ? group.host_blocks : group.num_blocks;
    const uint32_t to = direction == Direction::device_to_host ? group.host_blocks : group.num_blocks;
    if (copy.from >= from || copy.to >= to)
      throw Failure(QUIRE_INVALID, "a block copy goes from " + std::to_string(copy.from) + " of " +
                                       std::to_string(from) + " to " + std::to_string(copy.to) + " of " +
                                       std::to_string(to));
  }
}

KvPool::Place KvPool::block_place(const Group& group, uint32_t block) {
  const uint32_t chunk = block >> group.chunk_shift, slot = block & ((1u << group.chunk_shift) - 1);
  return {group.chunks[chunk].handle(), slot * group.block_bytes};
}
KvPool::Place KvPool::slot_place(const Group& group, uint32_t slot) {
  const uint32_t chunk = slot >> group.host_shift, rest = slot & ((1u << group.host_shift) - 1);
  return {group.host[chunk].handle(), rest * group.block_bytes};
}

void KvPool::record(VkCommandBuffer commands, Direction direction, std::span<const quire_block_copy> copies) const {
  const VolkDeviceTable& vk = memory_.device().vk();
  for (const quire_block_copy& copy : copies) {
    const Group& group = groups_[copy.group];
    const Place from =
        direction == Direction::host_to_device ? slot_place(group, copy.from) : block_place(group, copy.from);
    const Place to = direction == Direction::device_to_host ? slot_place(group, copy.to) : block_place(group, copy.to);
    const VkBufferCopy region{from.offset, to.offset, group.block_bytes};
    vk.vkCmdCopyBuffer(commands, from.buffer, to.buffer, 1, &region);
  }
}

} // namespace quire::vulkan
