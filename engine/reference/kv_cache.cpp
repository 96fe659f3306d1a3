#include "reference/kv_cache.hpp"

#include "quire/plugin_check.hpp"
#include "weights/formats.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace quire::reference {
namespace {

// Copies block `from` of one pool to block `to` of another.
void copy_block(std::byte* to_pool, uint32_t to, const std::byte* from_pool, uint32_t from, uint64_t block_bytes) {
  std::memcpy(to_pool + to * block_bytes, from_pool + from * block_bytes, block_bytes);
}

} // namespace

uint64_t kv_block_bytes(const CompiledProgram& program, uint32_t group) {
  uint64_t bytes = 0;
  for (const quire_kv_layer& layer : program.kv_layers())
    if (layer.group == group)
      bytes += uint64_t{layer.kv_heads} * (layer.k_dim + layer.v_dim) * program.limits().block_size *
               kv_element_bytes(program.limits().kv_format);
  return bytes;
}

KvCache::KvCache(const CompiledProgram& program, const quire_kv_config& config)
    : format_(program.limits().kv_format), element_bytes_(kv_element_bytes(format_)),
      block_size_(program.limits().block_size) {
  const size_t groups = program.kv_groups().size();
  num_blocks_.assign(config.num_blocks, config.num_blocks + groups);
  host_blocks_.assign(config.host_blocks, config.host_blocks + groups);
  // Zeroed by the system at the first touch, so that a large pool costs no time here.
  const auto allocate = [](uint64_t blocks, uint64_t bytes) {
    auto* pool = static_cast<std::byte*>(std::calloc(std::max<uint64_t>(blocks, 1), bytes));
    if (!pool)
      throw Failure(QUIRE_OUT_OF_MEMORY, "the reference backend can't get " + std::to_string(blocks) +
                                             " KV blocks of " + std::to_string(bytes) + " bytes: lower the KV memory");
    return std::unique_ptr<std::byte, Free>(pool);
  };
  for (const quire_kv_layer& layer : program.kv_layers())
    for (const uint32_t dim : {layer.k_dim, layer.v_dim}) {
      const uint64_t block_bytes = uint64_t{layer.kv_heads} * block_size_ * dim * element_bytes_;
      planes_.push_back({layer.group, layer.kv_heads, dim, block_bytes, allocate(num_blocks_[layer.group], block_bytes),
                         allocate(host_blocks_[layer.group], block_bytes)});
    }
}

uint64_t KvCache::bytes() const {
  uint64_t bytes = 0;
  for (const Plane& plane : planes_) bytes += num_blocks_[plane.group] * plane.block_bytes;
  return bytes;
}

void KvCache::store(uint32_t layer, uint32_t what, uint32_t block, uint32_t slot, const float* values) {
  const Plane& p = plane(layer, what);
  for (uint32_t head = 0; head < p.heads; ++head) {
    std::byte* to =
        p.device.get() + block * p.block_bytes + (uint64_t{head} * block_size_ + slot) * p.dim * element_bytes_;
    const float* from = values + size_t{head} * p.dim;
    if (format_ == QUIRE_F32) {
      std::memcpy(to, from, p.dim * sizeof(float));
      continue;
    }
    if (format_ == QUIRE_KV_E4M3) {
      for (uint32_t d = 0; d < p.dim; ++d) to[d] = std::byte{float_to_e4m3(from[d])};
      continue;
    }
    auto* narrow = reinterpret_cast<uint16_t*>(to);
    for (uint32_t d = 0; d < p.dim; ++d)
      narrow[d] = format_ == QUIRE_F16 ? float_to_half(from[d]) : float_to_bfloat16(from[d]);
  }
}

void KvCache::load(uint32_t layer, uint32_t what, uint32_t block, uint32_t head, uint32_t first, uint32_t count,
                   float* out) const {
  const Plane& p = plane(layer, what);
  const std::byte* from =
      p.device.get() + block * p.block_bytes + (uint64_t{head} * block_size_ + first) * p.dim * element_bytes_;
  if (format_ == QUIRE_KV_E4M3) {
    for (size_t i = 0; i < size_t{count} * p.dim; ++i) out[i] = e4m3_to_float(std::to_integer<uint8_t>(from[i]));
    return;
  }
  dequantize(format_, from, uint64_t{count} * p.dim, out);
}

void KvCache::copy(std::span<const quire_block_copy> copies) {
  for (const quire_block_copy& c : copies)
    for (const Plane& p : planes_)
      if (p.group == c.group) copy_block(p.device.get(), c.to, p.device.get(), c.from, p.block_bytes);
}

void KvCache::swap_out(std::span<const quire_block_copy> copies) {
  for (const quire_block_copy& c : copies)
    for (const Plane& p : planes_)
      if (p.group == c.group) copy_block(p.host.get(), c.to, p.device.get(), c.from, p.block_bytes);
}

void KvCache::swap_in(std::span<const quire_block_copy> copies) {
  for (const quire_block_copy& c : copies)
    for (const Plane& p : planes_)
      if (p.group == c.group) copy_block(p.device.get(), c.to, p.host.get(), c.from, p.block_bytes);
}

void KvCache::Free::operator()(void* p) const { std::free(p); }

} // namespace quire::reference
