// copy_blocks: blocks `from` to blocks `to` of one pool. Bytes: each block read once and written once.
#include "copy_blocks.hpp"

#include "launch.hpp"

#include <algorithm>

namespace quire::cuda {
namespace {

constexpr uint32_t kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    copy_blocks_kernel(std::byte* base, uint64_t block_bytes, BlockPairs pairs) {
  wait_for_previous_kernels();
  const auto* from = reinterpret_cast<const uint4*>(base + pairs.from[blockIdx.y] * block_bytes);
  auto* to = reinterpret_cast<uint4*>(base + pairs.to[blockIdx.y] * block_bytes);
  const uint64_t pieces = block_bytes / 16;
  for (uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x; i < pieces; i += uint64_t{gridDim.x} * kThreads)
    to[i] = from[i];
}

} // namespace

void copy_blocks(const Queue& queue, std::byte* base, uint64_t block_bytes, const BlockPairs& pairs) {
  const auto pieces =
      static_cast<uint32_t>(std::min<uint64_t>((block_bytes / 16 + 4 * kThreads - 1) / (4 * kThreads), 64));
  launch("copy_blocks", copy_blocks_kernel, dim3(pieces, pairs.count), kThreads, 0, queue, base, block_bytes, pairs);
}

} // namespace quire::cuda
