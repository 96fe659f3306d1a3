// sample: a token, its logprob and the most probable candidates of each row of logits.
//
// Shapes: logits [R, vocab] float32. Bytes: the logits once for plain rows (greedy, or temperature alone); rows that
// are adjusted are copied, and read again by each filter, from the L2. Two launches: `scan` over stretches of 4,096
// tokens: the raw row's log-sum-exp, and the whole choice of plain rows; then `join_stretches`, a warp a row, where all
// rows are plain, else `choose`, a block a row: joins the stretches, and for the others applies penalties and bias to
// the copy, selects thresholds, and draws. All results are independent of the order of the threads but for the last
// bits of the log-sum-exp, whose order is fixed.
#include "sample.cuh"

#include <cassert>

namespace quire::cuda {
namespace {

constexpr uint32_t kScanThreads = 256, kJoinThreads = 128;

__device__ __forceinline__ void join(float& largest, float& sum, float other_largest, float other_sum) {
  const float both = fmaxf(largest, other_largest);
  if (both == kNever) return;
  sum = sum * expf(largest - both) + other_sum * expf(other_largest - both);
  largest = both;
}
__device__ __forceinline__ void join(SamplePartial& to, const SamplePartial& part) {
  join(to.largest, to.sum, part.largest, part.sum);
  Best best{to.best, to.best_token};
  if (part.best_token >= 0) best.offer(part.best, part.best_token);
  if (best.token != to.best_token) to.best_logit = part.best_logit;
  to.best = best.value, to.best_token = best.token;
  to.has_nan |= part.has_nan;
}
// Over the warp, for lane 0.
__device__ __forceinline__ void join_warp(SamplePartial& mine) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    SamplePartial other;
    other.largest = __shfl_xor_sync(kAllLanes, mine.largest, step);
    other.sum = __shfl_xor_sync(kAllLanes, mine.sum, step);
    other.best = __shfl_xor_sync(kAllLanes, mine.best, step);
    other.best_token = __shfl_xor_sync(kAllLanes, mine.best_token, step);
    other.best_logit = __shfl_xor_sync(kAllLanes, mine.best_logit, step);
    other.has_nan = __shfl_xor_sync(kAllLanes, mine.has_nan, step);
    join(mine, other);
  }
}
constexpr SamplePartial kNothing{kNever, 0.f, kNever, -1, 0.f, 0};

__global__ void __launch_bounds__(kScanThreads) scan_kernel(SampleArgs a) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  constexpr uint32_t kGroups = kStretch / (4 * kScanThreads); // of four tokens, a thread
  const uint32_t r = blockIdx.y, tid = threadIdx.x, first = blockIdx.x * kStretch + 4 * tid;
  const SampleRow& row = a.rows[r];
  const float* logits = a.logits + size_t{r} * a.vocab;
  const auto token_of = [&](uint32_t group) { return first + group * 4 * kScanThreads; };
  float l[kGroups][4]; // all asked for at once, before it is known what is wanted of them
#pragma unroll
  for (uint32_t g = 0; g < kGroups; ++g) {
    const uint32_t token = token_of(g);
    if (a.vocab % 4 == 0) {
      const float4 four = token < a.vocab ? *reinterpret_cast<const float4*>(logits + token)
                                          : make_float4(kNever, kNever, kNever, kNever);
      l[g][0] = four.x, l[g][1] = four.y, l[g][2] = four.z, l[g][3] = four.w;
    } else {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) l[g][i] = token + i < a.vocab ? logits[token + i] : kNever;
    }
  }
  if (row.out == kNotSampled) return;
  const bool plain = row.adjusts == 0, greedy = plain && row.temperature == 0.f;
  SamplePartial mine = kNothing;
  Best best;
#pragma unroll
  for (uint32_t g = 0; g < kGroups; ++g)
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      mine.has_nan |= l[g][i] != l[g][i];
      mine.largest = fmaxf(mine.largest, l[g][i]);
      if (greedy && l[g][i] != kNever) best.offer(l[g][i], static_cast<int32_t>(token_of(g) + i));
    }
  if (mine.largest != kNever)
#pragma unroll
    for (uint32_t g = 0; g < kGroups; ++g)
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) mine.sum += __expf(l[g][i] - mine.largest);
  if (greedy) {
    mine.best_logit = best.value;
  } else if (plain) {
#pragma unroll 1
    for (uint32_t g = 0; g < kGroups; ++g) { // read again: from the L1
      const uint32_t token = token_of(g), end = min(token + 4, a.vocab);
      const Philox noise(row.seed_low, row.seed_high, token / 4, row.position, row.choice, 0);
      for (uint32_t at = token; at < end; ++at) {
        const int32_t before = best.token;
        offer_sampled(best, false, noise, logits[at] / row.temperature, at);
        if (best.token != before) mine.best_logit = logits[at];
      }
    }
  } else {
    float* adjusted = a.adjusted + size_t{r} * a.vocab;
    const uint32_t* mask = row.mask != kNoMask ? a.masks + row.mask : nullptr;
#pragma unroll
    for (uint32_t g = 0; g < kGroups; ++g)
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i)
        if (const uint32_t at = token_of(g) + i; at < a.vocab)
          adjusted[at] = mask != nullptr && (mask[at / 32] >> (at % 32) & 1) == 0 ? kNever : l[g][i];
  }
  mine.best = best.value, mine.best_token = best.token;
  join_warp(mine);
  __shared__ SamplePartial warps[kScanThreads / 32];
  if (tid % 32 == 0) warps[tid / 32] = mine;
  __syncthreads();
  if (tid >= 32) return;
  mine = tid < kScanThreads / 32 ? warps[tid] : kNothing;
  join_warp(mine);
  if (tid == 0) a.partials[size_t{r} * gridDim.x + blockIdx.x] = mine;
}

// The whole row, for lane 0 of the warp that calls it.
__device__ __forceinline__ SamplePartial join_row(const SamplePartial* partials, uint32_t stretches) {
  SamplePartial all = kNothing;
  for (uint32_t s = threadIdx.x % 32; s < stretches; s += 32) join(all, partials[s]);
  join_warp(all);
  return all;
}
__device__ __forceinline__ float log_sum_of(const SamplePartial& row) { return row.largest + logf(row.sum); }

__global__ void __launch_bounds__(kJoinThreads) join_stretches_kernel(uint32_t rows, uint32_t stretches, SampleArgs a) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint32_t r = blockIdx.x * (kJoinThreads / 32) + threadIdx.x / 32;
  if (r >= rows) return;              // a whole warp
  const uint32_t out = a.rows[r].out; // rows that aren't sampled are joined all the same: nobody waits to know
  const SamplePartial all = join_row(a.partials + size_t{r} * stretches, stretches);
  if (out == kNotSampled || threadIdx.x % 32 != 0) return;
  const int32_t token = all.has_nan == 0 ? all.best_token : -1;
  a.tokens[out] = token;
  a.results[out] = {token, token >= 0 ? all.best_logit - log_sum_of(all) : 0.f, 0, 0};
}

// The most probable tokens of the raw logits, best first: into `out` [num_candidates].
__device__ void find_candidates(SelectMemory& m, const float* logits, uint32_t vocab, uint32_t wanted, float largest,
                                float log_sum, quire_candidate* out) {
  const uint32_t tid = threadIdx.x;
  const auto raw = [&](uint32_t i) {
    const float l = logits[i];
    return Element{l != kNever, bin_of(largest - l), ordered(l), 0};
  };
  const Threshold threshold = select(m, vocab, wanted, 0.f, raw);
  // Those above the threshold all belong; of those at it the lowest ids: their id is the key of a second selection.
  const auto at_threshold = [&](uint32_t i) {
    const Element e = raw(i);
    return Element{e.valid && e.bin == threshold.bin && e.key == threshold.key, 0, ~i, 0};
  };
  __syncthreads();
  if (tid == 0) m.listed = 0;
  __syncthreads();
  for (uint32_t i = tid; i < vocab; i += kSampleThreads) {
    const Element e = raw(i);
    if (!e.valid || !threshold.keeps(e) || at_threshold(i).valid) continue;
    const uint32_t place = atomicAdd(&m.listed, 1u);
    m.list_mass[place] = static_cast<unsigned long long>(e.key) << 32 | ~i;
  }
  __syncthreads();
  const uint32_t above = m.listed;
  if (threshold.bin < kBins && above < wanted) {
    const Threshold ids = select(m, vocab, wanted - above, 0.f, at_threshold);
    __syncthreads();
    if (tid == 0) m.listed = 0; // select has used the list: it is filled anew
    __syncthreads();
    for (uint32_t i = tid; i < vocab; i += kSampleThreads) {
      const Element e = raw(i), tie = at_threshold(i);
      if (!e.valid || !threshold.keeps(e) || (tie.valid && !ids.keeps(tie))) continue;
      const uint32_t place = atomicAdd(&m.listed, 1u);
      m.list_mass[place] = static_cast<unsigned long long>(e.key) << 32 | ~i;
    }
    __syncthreads();
  }
  const uint32_t count = min(m.listed, wanted);
  // Each finds its rank among at most 256.
  for (uint32_t i = tid; i < count; i += kSampleThreads) {
    const unsigned long long mine = m.list_mass[i];
    uint32_t rank = 0;
    for (uint32_t j = 0; j < count; ++j) rank += m.list_mass[j] > mine;
    out[rank] = {static_cast<int32_t>(~static_cast<uint32_t>(mine)),
                 unordered(static_cast<uint32_t>(mine >> 32)) - log_sum};
  }
  __syncthreads();
  if (tid == 0) m.found_count = count;
  __syncthreads();
}

// Penalties and bias on the row's copy, each entry by one thread.
__device__ void apply_edits(const SampleArgs& a, const SampleRow& row, float* adjusted) {
  const uint32_t tid = threadIdx.x;
  const int32_t pending = row.pending_row != 0 ? a.pending[row.pending_row - 1] : -1;
  const auto penalise = [&](int32_t token, uint32_t in_prompt, uint32_t in_output) {
    if (token < 0 || static_cast<uint32_t>(token) >= a.vocab) return;
    float l = adjusted[token];
    if (in_prompt + in_output > 0 && row.repetition_penalty != 1.f)
      l = l > 0 ? l / row.repetition_penalty : l * row.repetition_penalty;
    if (in_output > 0) l -= row.frequency_penalty * static_cast<float>(in_output) + row.presence_penalty;
    adjusted[token] = l;
  };
  bool counted = false;
  for (uint32_t i = tid; i < row.num_counts; i += kSampleThreads) {
    const quire_token_count& count = a.counts[row.counts + i];
    const bool is_pending = count.token == pending && pending >= 0;
    counted = counted || is_pending;
    penalise(count.token, count.in_prompt, count.in_output + (is_pending ? 1 : 0));
  }
  const bool any = __syncthreads_or(counted) != 0;
  if (!any && pending >= 0 && tid == 0) penalise(pending, 0, 1);
  __syncthreads();
  for (uint32_t i = tid; i < row.num_bias; i += kSampleThreads) {
    const quire_logit_bias& bias = a.bias[row.bias + i];
    if (bias.token >= 0 && static_cast<uint32_t>(bias.token) < a.vocab) adjusted[bias.token] += bias.bias;
  }
  __syncthreads();
}

__device__ float block_max(float value, float* scratch) {
  value = warp_max(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = scratch[0];
  for (uint32_t w = 1; w < kSampleThreads / 32; ++w) value = fmaxf(value, scratch[w]);
  return value;
}

// The token of an adjusted row: -1 where nothing is allowed.
__device__ int32_t draw(SelectMemory& m, const SampleArgs& a, const SampleRow& row, const float* adjusted) {
  __shared__ float scratch[32];
  __shared__ Best warps[32];
  const uint32_t tid = threadIdx.x;
  const bool greedy = row.temperature == 0.f;
  const auto scaled = [&](uint32_t i) { return greedy ? adjusted[i] : adjusted[i] / row.temperature; };
  float largest = kNever;
  for (uint32_t i = tid; i < a.vocab; i += kSampleThreads) largest = fmaxf(largest, scaled(i));
  largest = block_max(largest, scratch);
  if (largest == kNever) return -1;

  // Kept: within min_p, up to a threshold of value, and of distance from the entropy.
  Threshold by_value{kBins, 0}, by_surprise{kBins, 0};
  float log_sum = 0, entropy = 0;
  bool typical = false;
  const auto in_min_p = [&](float l) { return row.min_p == 0.f || expf(l - largest) >= row.min_p; };
  const auto value_element = [&](float l) {
    return Element{l != kNever && in_min_p(l), bin_of(largest - l), ordered(l),
                   row.top_k != 0 || l == kNever ? 0 : mass_of(l - largest)};
  };
  const auto surprise = [&](float l) { return fabsf(log_sum - (l - largest) - entropy); };
  const auto surprise_element = [&](float l) {
    const float s = surprise(l);
    const Element e = value_element(l);
    return Element{e.valid && by_value.keeps(e), bin_of(s), ~ordered(s), l == kNever ? 0 : mass_of(l - largest)};
  };
  if (!greedy) {
    if (row.top_k != 0 && row.top_k < a.vocab)
      by_value = select(m, a.vocab, row.top_k, 0.f, [&](uint32_t i) { return value_element(scaled(i)); });
    if (row.typical_p != 0.f) {
      unsigned long long mass = 0, surprises = 0; // of exp(d) and of -d exp(d)
      for (uint32_t i = tid; i < a.vocab; i += kSampleThreads) {
        const float l = scaled(i);
        const Element e = value_element(l);
        if (!e.valid || !by_value.keeps(e)) continue;
        const float d = l - largest;
        mass += mass_of(d);
        surprises += static_cast<unsigned long long>(-d * expf(d) * 17592186044416.f);
      }
      mass = block_total(m, mass);
      surprises = block_total(m, surprises);
      log_sum = static_cast<float>(log(static_cast<double>(mass) / 17592186044416.));
      entropy = log_sum + static_cast<float>(static_cast<double>(surprises) / static_cast<double>(mass));
      by_surprise = select(m, a.vocab, 0, row.typical_p, [&](uint32_t i) { return surprise_element(scaled(i)); });
      typical = true;
    }
    if (row.top_p != 0.f) {
      const Threshold before = by_value;
      const Threshold by_mass = select(m, a.vocab, 0, row.top_p, [&](uint32_t i) {
        const float l = scaled(i);
        Element e = value_element(l);
        e.valid = e.valid && before.keeps(e) && (!typical || by_surprise.keeps(surprise_element(l)));
        e.mass = l == kNever ? 0 : mass_of(l - largest);
        return e;
      });
      if (by_mass.bin < by_value.bin || (by_mass.bin == by_value.bin && by_mass.key > by_value.key)) by_value = by_mass;
    }
  }
  const auto kept = [&](float l) {
    if (greedy) return true;
    const Element e = value_element(l);
    return e.valid && by_value.keeps(e) && (!typical || by_surprise.keeps(surprise_element(l)));
  };
  Best best;
  for (uint32_t token = 4 * tid; token < a.vocab; token += 4 * kSampleThreads) {
    float l[4];
    bool any = false;
    for (uint32_t i = 0; i < 4; ++i) {
      l[i] = token + i < a.vocab ? scaled(token + i) : kNever;
      if (l[i] != kNever && !kept(l[i])) l[i] = kNever;
      any = any || l[i] != kNever;
    }
    if (!any) continue;
    const Philox noise(row.seed_low, row.seed_high, token / 4, row.position, row.choice, 0);
    for (uint32_t i = 0; i < 4; ++i) offer_sampled(best, greedy, noise, l[i], token + i);
  }
  best = warp_best(best);
  __syncthreads();
  if (tid % 32 == 0) warps[tid / 32] = best;
  __syncthreads();
  best = warps[0];
  for (uint32_t w = 1; w < kSampleThreads / 32; ++w)
    if (warps[w].token >= 0) best.offer(warps[w].value, warps[w].token);
  return best.token;
}

__global__ void __launch_bounds__(kSampleThreads) choose_kernel(uint32_t stretches, SampleArgs a) {
  SelectMemory& m = *reinterpret_cast<SelectMemory*>(dynamic_shared());
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint32_t r = blockIdx.x, tid = threadIdx.x;
  const SampleRow row = a.rows[r];
  if (row.out == kNotSampled) return;
  __shared__ SamplePartial joined;
  if (tid < 32) {
    const SamplePartial of_row = join_row(a.partials + size_t{r} * stretches, stretches);
    if (tid == 0) joined = of_row;
  }
  __syncthreads();
  const SamplePartial all = joined;
  const float* logits = a.logits + size_t{r} * a.vocab;
  const float log_sum = log_sum_of(all);
  uint32_t num_candidates = 0;
  int32_t token = -1;
  if (all.has_nan == 0) {
    if (row.num_candidates != 0) {
      find_candidates(m, logits, a.vocab, row.num_candidates, all.largest, log_sum,
                      a.candidates + size_t{r} * QUIRE_MAX_CANDIDATES);
      num_candidates = m.found_count;
    }
    if (row.adjusts == 0) {
      token = all.best_token;
    } else {
      float* adjusted = a.adjusted + size_t{r} * a.vocab;
      apply_edits(a, row, adjusted);
      token = draw(m, a, row, adjusted);
    }
  }
  if (tid == 0) {
    a.tokens[row.out] = token;
    a.results[row.out] = {token, token >= 0 ? logits[token] - log_sum : 0.f, num_candidates, 0};
  }
}

} // namespace

void sample(const Queue& queue, uint32_t rows, bool plain, const SampleArgs& a) {
  const uint32_t stretches = sample_stretches(a.vocab);
  launch("sample_scan", scan_kernel, dim3(stretches, rows), kScanThreads, 0, queue, a);
  if (plain)
    launch("sample_join", join_stretches_kernel, (rows + kJoinThreads / 32 - 1) / (kJoinThreads / 32), kJoinThreads, 0,
           queue, rows, stretches, a);
  else
    launch("sample_choose", choose_kernel, rows, kSampleThreads, sizeof(SelectMemory), queue, stretches, a);
}

} // namespace quire::cuda
