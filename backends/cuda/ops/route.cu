// route: weights [T, k] and expert ids [T, k] from scores [T, experts]: best first, the lowest id on ties.
//
// Bytes: the scores once. A warp a token; scores and what is chosen by in shared memory.
// Sources: Shazeer et al. 2017 (top k of a softmax); DeepSeek-V3 2024, section 2.1.2 (sigmoid, bias for choosing,
// groups).
#include "elements.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kWarps = 4;
constexpr float kNever = -__builtin_inff();

struct Scored {
  float value;
  uint32_t index;
};

// The largest, the lowest index on ties, over the warp.
__device__ __forceinline__ Scored warp_best(Scored best) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const float value = __shfl_xor_sync(kAllLanes, best.value, mask);
    const uint32_t index = __shfl_xor_sync(kAllLanes, best.index, mask);
    if (value > best.value || (value == best.value && index < best.index)) best = {value, index};
  }
  return best;
}

__global__ void __launch_bounds__(kWarps * 32) route_kernel(uint32_t tokens, RouteArgs a) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, token = blockIdx.x * kWarps + warp;
  if (token >= tokens) return;
  const uint32_t experts = a.scores.width(), groups = a.op.groups, top_k = a.op.top_k;
  float* scores = reinterpret_cast<float*>(dynamic_shared()) + size_t{warp} * (2 * experts + groups + top_k);
  float* choosing = scores + experts;
  float* group_scores = choosing + experts;
  float* chosen = group_scores + groups;
  for (uint32_t e = lane; e < experts; e += 32) scores[e] = load<1>(a.scores, token, e).x[0];
  __syncwarp();
  if (a.op.scoring == QUIRE_ROUTE_SOFTMAX) {
    float largest = kNever, sum = 0;
    for (uint32_t e = lane; e < experts; e += 32) largest = fmaxf(largest, scores[e]);
    largest = warp_max(largest);
    for (uint32_t e = lane; e < experts; e += 32) sum += scores[e] = expf(scores[e] - largest);
    sum = warp_sum(sum);
    for (uint32_t e = lane; e < experts; e += 32) scores[e] /= sum;
  } else if (a.op.scoring == QUIRE_ROUTE_SIGMOID) {
    for (uint32_t e = lane; e < experts; e += 32) scores[e] = 1.f / (1.f + expf(-scores[e]));
  }
  for (uint32_t e = lane; e < experts; e += 32) choosing[e] = scores[e] + (a.bias != nullptr ? a.bias[e] : 0.f);
  __syncwarp();

  if (groups > 1 && a.op.top_groups != 0 && a.op.top_groups < groups) {
    const uint32_t size = experts / groups;
    for (uint32_t g = lane; g < groups; g += 32) {
      float first = kNever, second = kNever;
      for (uint32_t e = g * size; e < (g + 1) * size; ++e) {
        second = fmaxf(second, fminf(first, choosing[e]));
        first = fmaxf(first, choosing[e]);
      }
      group_scores[g] = size == 1 ? first : first + second;
    }
    __syncwarp();
    // A group stays if fewer than top_groups are better, or as good with a lower id.
    for (uint32_t g = lane; g < groups; g += 32) {
      uint32_t better = 0;
      for (uint32_t other = 0; other < groups; ++other)
        better += group_scores[other] > group_scores[g] || (group_scores[other] == group_scores[g] && other < g);
      if (better >= a.op.top_groups)
        for (uint32_t e = g * size; e < (g + 1) * size; ++e) choosing[e] = kNever;
    }
    __syncwarp();
  }

  float sum = 0;
  for (uint32_t i = 0; i < top_k; ++i) {
    Scored best{kNever, experts};
    for (uint32_t e = lane; e < experts; e += 32)
      if (choosing[e] > best.value || best.index == experts) best = {choosing[e], e};
    best = warp_best(best);
    __syncwarp();
    if (lane == 0) {
      choosing[best.index] = kNever;
      chosen[i] = scores[best.index];
      static_cast<int32_t*>(a.ids.data)[size_t{token} * a.ids.stride + i] = static_cast<int32_t>(best.index);
    }
    __syncwarp();
    sum += chosen[i];
  }
  if (lane != 0) return;
  if (a.op.scoring == QUIRE_ROUTE_SOFTMAX_SELECTED) {
    float largest = kNever;
    for (uint32_t i = 0; i < top_k; ++i) largest = fmaxf(largest, chosen[i]);
    sum = 0;
    for (uint32_t i = 0; i < top_k; ++i) sum += chosen[i] = expf(chosen[i] - largest);
  }
  const bool divide = a.op.scoring == QUIRE_ROUTE_SOFTMAX_SELECTED || a.op.normalise != 0;
  const float scale = a.op.scale == 0.f ? 1.f : a.op.scale;
  for (uint32_t i = 0; i < top_k; ++i) store<1>(a.weights, token, i, {(divide ? chosen[i] / sum : chosen[i]) * scale});
}

} // namespace

void route(const Queue& queue, uint32_t tokens, const RouteArgs& a) {
  const size_t shared = size_t{kWarps} * (2 * a.scores.width() + a.op.groups + a.op.top_k) * 4;
  launch("route", route_kernel, (tokens + kWarps - 1) / kWarps, kWarps * 32, shared, queue, tokens, a);
}

} // namespace quire::cuda
