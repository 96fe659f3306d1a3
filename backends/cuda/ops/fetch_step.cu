// fetch_step: a decode step from the host's memory into the step buffer. Bytes: the step's, once over the link.
//
// The header, which tells how long the step is, takes as long to come as the step itself, so that each thread asks for
// its first 16 bytes along with it. The block that is done last hands the turn on.
#include "fetch_step.hpp"

#include "launch.hpp"

#include <algorithm>

namespace quire::cuda {
namespace {

constexpr uint32_t kThreads = 128;

__global__ void __launch_bounds__(kThreads) fetch_step_kernel(FetchArgs a) {
  let_next_kernel_begin();
  const uint32_t slot = a.turn[0];
  const std::byte* const from = a.slots + slot * a.slot_bytes;
  const auto* const pieces = reinterpret_cast<const uint4*>(from + sizeof(FetchHeader));
  auto* const to = reinterpret_cast<uint4*>(a.to);
  const auto room = static_cast<uint32_t>((a.slot_bytes - sizeof(FetchHeader)) / sizeof(uint4));
  uint32_t i = blockIdx.x * kThreads + threadIdx.x;
  const uint4 first = pieces[min(i, room - 1)];
  const auto count =
      min(static_cast<uint32_t>((reinterpret_cast<const FetchHeader*>(from)->bytes + 15) / sizeof(uint4)), room);
  if (i < count) to[i] = first;
  for (i += gridDim.x * kThreads; i < count; i += gridDim.x * kThreads) to[i] = pieces[i];
  __syncthreads(); // all of the block have read whose turn it is
  if (threadIdx.x == 0 && atomicAdd(a.turn + 1, 1u) == gridDim.x - 1) {
    a.turn[0] = (slot + 1) % kFetchSlots;
    a.turn[1] = 0;
  }
}

} // namespace

void fetch_step(const Queue& queue, uint64_t expected_bytes, const FetchArgs& a) {
  const auto blocks =
      static_cast<uint32_t>((std::min(expected_bytes, a.slot_bytes) / sizeof(uint4) + kThreads - 1) / kThreads);
  launch("fetch_step", fetch_step_kernel, std::max(blocks, 1u), kThreads, 0, {queue.stream, false}, a);
}

} // namespace quire::cuda
