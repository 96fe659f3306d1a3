// rope and kv_store, together or alone: q and k rotated by each token's position, k and v written into the cache.
//
// Shapes: q [T, heads, dim], k [T, kv_heads, k_dim], v [T, kv_heads, v_dim]; frequencies [rotary_dim / 2]. Bytes: each
// input and output once. A warp a head of a token.
#include "elements.cuh"
#include "kv_element.cuh"
#include "turn.cuh"

#include <cassert>

namespace quire::cuda {
namespace {

constexpr uint32_t kWarps = 8;

struct RopeKernelArgs {
  RopeArgs a;
  KvLayer kv;
};

__device__ __forceinline__ void store_kv(const KvLayer& kv, uint64_t offset, uint32_t dim, uint32_t head, uint32_t slot,
                                         uint32_t col, float value) {
  std::byte* block = kv.base + uint64_t{slot / kv.block_size} * kv.block_bytes + offset;
  const uint32_t row = (head * kv.block_size + slot % kv.block_size) * dim, index = row + col;
  if (kv.format == QUIRE_KV_E4M3)
    reinterpret_cast<E4m3*>(block)[row + e4m3_place(col, dim)] = to_e4m3(value);
  else if (kv.format == QUIRE_F16)
    reinterpret_cast<__half*>(block)[index] = to_half(value);
  else if (kv.format == QUIRE_BF16)
    reinterpret_cast<__nv_bfloat16*>(block)[index] = __float2bfloat16_rn(value);
  else
    reinterpret_cast<float*>(block)[index] = value;
}

__global__ void __launch_bounds__(kWarps * 32) rope_kernel(StepArrays step, RopeKernelArgs args) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const RopeArgs& a = args.a;
  const uint32_t t = blockIdx.x, lane = threadIdx.x % 32;
  uint32_t item = blockIdx.y * kWarps + threadIdx.x / 32; // a head of q, then of k, then of v
  const uint32_t q_heads = a.q_in.data != nullptr ? a.q_in.heads : 0,
                 k_heads = a.k_in.data != nullptr ? a.k_in.heads : 0;
  const uint32_t v_heads = a.v_in.data != nullptr ? a.v_in.heads : 0;
  if (item >= q_heads + k_heads + v_heads) return;
  const bool stores = a.slots != nullptr;
  const uint32_t slot = stores ? a.slots[t] : kNoSlot;
  if (item >= q_heads + k_heads) {
    item -= q_heads + k_heads;
    if (slot == kNoSlot) return;
    for (uint32_t i = lane; i < a.v_in.dim; i += 32)
      store_kv(args.kv, args.kv.v_offset, a.v_in.dim, item, slot, i, load<1>(a.v_in, t, item * a.v_in.dim + i).x[0]);
    return;
  }
  const bool is_q = item < q_heads;
  if (!is_q) item -= q_heads;
  const Tensor& in = is_q ? a.q_in : a.k_in;
  const Tensor& out = is_q ? a.q_out : a.k_out;
  const uint32_t base = item * in.dim;
  const auto put = [&](uint32_t col, float value) {
    if (out.data != nullptr) store<1>(out, t, base + col, {value});
    if (!is_q && slot != kNoSlot) store_kv(args.kv, args.kv.k_offset, in.dim, item, slot, col, value);
  };
  const uint32_t pairs = a.frequencies != nullptr ? a.rotary_dim / 2 : 0;
  for (uint32_t i = lane; i < pairs; i += 32) {
    const float2 turn = turn_of(step.positions[t], a.frequencies[i], a.magnitude);
    const uint32_t ia = a.interleaved ? 2 * i : i, ib = a.interleaved ? 2 * i + 1 : i + pairs;
    const float x = load<1>(in, t, base + ia).x[0], y = load<1>(in, t, base + ib).x[0];
    const float2 turned = rotate(x, y, turn);
    put(ia, turned.x);
    put(ib, turned.y);
  }
  for (uint32_t i = 2 * pairs + lane; i < in.dim; i += 32) put(i, load<1>(in, t, base + i).x[0]);
}

} // namespace

void rope(const Queue& queue, const StepArrays& step, uint32_t tokens, const RopeArgs& a) {
  assert(!a.v_in || (a.kv != nullptr && a.slots != nullptr));
  const uint32_t heads = (a.q_in ? a.q_in.heads : 0) + (a.k_in ? a.k_in.heads : 0) + (a.v_in ? a.v_in.heads : 0);
  launch("rope", rope_kernel, dim3(tokens, (heads + kWarps - 1) / kWarps), kWarps * 32, 0, queue, step,
         RopeKernelArgs{a, a.kv != nullptr ? *a.kv : KvLayer{}});
}

} // namespace quire::cuda
