// attend_any: attention of any shape: float32 caches, keys and values of different sizes, any number of heads a group.
//
// Shapes: q [T, heads, k_dim], cache [block, kv_head, token in block, k_dim or v_dim], out [T, heads, v_dim]. Bytes: K
// and V of what a query sees, once a head. A warp a query and head: a lane a position for the scores, a lane an element
// for the sums, 32 positions at a time at absolute multiples of 32, so that a row is summed in one order only.
#include "attend.cuh"
#include "elements.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kWarps = 4;

__device__ __forceinline__ float cached(const KvLayer& kv, const std::byte* row, uint32_t i, uint32_t dim) {
  if (kv.format == QUIRE_KV_E4M3) return to_float(reinterpret_cast<const E4m3*>(row)[e4m3_place(i, dim)]);
  if (kv.format == QUIRE_F16) return __half2float(reinterpret_cast<const __half*>(row)[i]);
  if (kv.format == QUIRE_BF16) return __bfloat162float(reinterpret_cast<const __nv_bfloat16*>(row)[i]);
  return reinterpret_cast<const float*>(row)[i];
}

__global__ void __launch_bounds__(kWarps * 32, 8)
    attend_any_kernel(uint32_t tokens, const uint32_t* positions, const uint32_t* token_tables, AttendArgs a) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, k_dim = a.kv.k_dim, v_dim = a.kv.v_dim;
  const uint64_t item = uint64_t{blockIdx.x} * kWarps + warp;
  const auto token = static_cast<uint32_t>(item / a.q.heads), head = static_cast<uint32_t>(item % a.q.heads);
  if (token >= tokens) return;
  if (token_tables[token] == kNoSlot) return; // padding
  float* q = reinterpret_cast<float*>(dynamic_shared()) + size_t{warp} * (k_dim + v_dim);
  float* sums = q + k_dim;
  for (uint32_t i = lane; i < k_dim; i += 32) q[i] = load<1>(a.q, token, head * k_dim + i).x[0];
  for (uint32_t i = lane; i < v_dim; i += 32) sums[i] = 0;
  __syncwarp();
  const uint32_t position = positions[token], kv_head = head / (a.q.heads / a.kv.kv_heads), size = a.kv.block_size;
  const uint32_t begin = a.kv.window != 0 && position + 1 > a.kv.window ? position + 1 - a.kv.window : 0;
  const uint32_t* table = a.table + token_tables[token];
  const uint32_t element = a.kv.format == QUIRE_F32 ? 4 : a.kv.format == QUIRE_KV_E4M3 ? 1 : 2;
  const auto row_of = [&](uint32_t at, uint64_t offset, uint32_t dim) {
    return a.kv.base + uint64_t{table[at / size]} * a.kv.block_bytes + offset +
           uint64_t{kv_head * size + at % size} * dim * element;
  };
  float m = -kInfinity, l = 0;
  for (uint32_t tile = begin / 32 * 32; tile <= position; tile += 32) {
    const uint32_t at = tile + lane;
    float score = -kInfinity;
    if (at >= begin && at <= position) {
      const std::byte* key = row_of(at, a.kv.k_offset, k_dim);
      float dot = 0;
      for (uint32_t i = 0; i < k_dim; ++i) dot += q[i] * cached(a.kv, key, i, k_dim);
      score = in_base2(dot, a.scale, a.softcap);
    }
    const float largest = fmaxf(m, warp_max(score)), safe = finite_or_zero(largest);
    const float p = exp2_fast(score - safe), keep = exp2_fast(m - safe);
    l = l * keep + warp_sum(p);
    m = largest;
    const uint32_t first = tile >= begin ? 0 : begin - tile, last = min(32u, position + 1 - tile);
    for (uint32_t base = 0; base < v_dim; base += 32) { // all lanes stay for the shuffles
      const uint32_t i = base + lane;
      float sum = i < v_dim ? sums[i] * keep : 0.f;
      for (uint32_t j = first; j < last; ++j) {
        const float weight = __shfl_sync(kAllLanes, p, static_cast<int>(j));
        if (i < v_dim) sum += weight * cached(a.kv, row_of(tile + j, a.kv.v_offset, v_dim), i, v_dim);
      }
      if (i < v_dim) sums[i] = sum;
    }
  }
  const float scale = normaliser(m, l, a.sinks, head);
  __syncwarp();
  for (uint32_t i = lane; i < v_dim; i += 32) store<1>(a.out, token, head * v_dim + i, {sums[i] * scale});
}

} // namespace

void attend_any(const Queue& queue, uint32_t tokens, const uint32_t* positions, const uint32_t* token_tables,
                const AttendArgs& a) {
  const auto blocks = static_cast<uint32_t>((uint64_t{tokens} * a.q.heads + kWarps - 1) / kWarps);
  launch("attend_any", attend_any_kernel, blocks, kWarps * 32, size_t{kWarps} * (a.kv.k_dim + a.kv.v_dim) * 4, queue,
         tokens, positions, token_tables, a);
}

} // namespace quire::cuda
