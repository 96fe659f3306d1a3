// The generator and the selections that sampling is made of.
//
// Philox4x32-10: Salmon et al. 2011. Gumbel-max: argmax of l + g is distributed as softmax(l). Sums of probabilities
// are integers (multiples of 2^-44 of the largest), so that they don't depend on the order of the threads.
#pragma once

#include "launch.hpp"
#include "sample.hpp"

namespace quire::cuda {

inline constexpr float kNever = -__builtin_inff();

struct Philox {
  uint32_t words[4];

  __device__ __forceinline__ Philox(uint32_t key_low, uint32_t key_high, uint32_t c0, uint32_t c1, uint32_t c2,
                                    uint32_t c3)
      : words{c0, c1, c2, c3} {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const uint32_t high0 = __umulhi(0xD2511F53u, words[0]), low0 = 0xD2511F53u * words[0];
      const uint32_t high1 = __umulhi(0xCD9E8D57u, words[2]), low1 = 0xCD9E8D57u * words[2];
      words[0] = high1 ^ words[1] ^ key_low;
      words[1] = low1;
      words[2] = high0 ^ words[3] ^ key_high;
      words[3] = low0;
      key_low += 0x9E3779B9u;
      key_high += 0xBB67AE85u;
    }
  }
};

// -log(-log(u)), u = (word + 0.5) 2^-32, to float32's precision at both ends.
__device__ __forceinline__ float gumbel(uint32_t word) {
  constexpr float kUnit = 2.3283064365386963e-10f; // 2^-32
  const float e = word >= 0x80000000u ? -log1pf(-(static_cast<float>(0xffffffffu - word) + 0.5f) * kUnit)
                                      : -logf((static_cast<float>(word) + 0.5f) * kUnit);
  return -logf(e);
}

// Whether l + gumbel(word) can exceed best: -log(u) >= 1 - u, so not where 1 - u > exp(l - best).
__device__ __forceinline__ bool may_win(uint32_t word, float l, float best) {
  constexpr float kUnit = 2.3283064365386963e-10f;
  return (static_cast<float>(0xffffffffu - word) + 0.5f) * kUnit <= __expf(l - best) * 1.001f + 1e-12f;
}

struct Best {
  float value = kNever;
  int32_t token = -1;

  // The larger value, the lower token on ties.
  __device__ __forceinline__ void offer(float v, int32_t t) {
    if (v > value || (v == value && v != kNever && static_cast<uint32_t>(t) < static_cast<uint32_t>(token)))
      value = v, token = t;
  }
};

// l of token `token`: greedy or with noise. words: of the token's group of four.
__device__ __forceinline__ void offer_sampled(Best& best, bool greedy, const Philox& noise, float l, uint32_t token) {
  if (l == kNever) return;
  if (greedy) return best.offer(l, static_cast<int32_t>(token));
  const uint32_t word = noise.words[token % 4];
  if (best.token < 0 || may_win(word, l, best.value)) best.offer(l + gumbel(word), static_cast<int32_t>(token));
}

__device__ __forceinline__ Best warp_best(Best best) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    const float value = __shfl_xor_sync(kAllLanes, best.value, mask);
    const int32_t token = __shfl_xor_sync(kAllLanes, best.token, mask);
    if (token >= 0) best.offer(value, token);
  }
  return best;
}

// Floats in the order of unsigned integers; -0 is 0, so that the token's number decides.
__device__ __forceinline__ uint32_t ordered(float x) {
  const uint32_t bits = x == 0.f ? 0 : __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float unordered(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// exp(d), d <= 0, in units of 2^-44.
__device__ __forceinline__ uint64_t mass_of(float d) { return static_cast<uint64_t>(expf(d) * 17592186044416.f); }

// ---- Selection by a block of 1,024 threads ----

inline constexpr uint32_t kSampleThreads = 1024;
inline constexpr uint32_t kBins = 2048, kList = 4096;

struct SelectMemory { // shared
  unsigned long long mass[kBins];
  uint32_t count[kBins];
  uint32_t list_key[kList];
  unsigned long long list_mass[kList];
  unsigned long long digit_mass[256];
  uint32_t digit_count[256];
  unsigned long long found_mass, total_mass;
  uint32_t found_bin, found_count, listed;
  unsigned long long sum_mass[32], group_count[32];
};

// An element of the set that is selected from: bin in rising order of badness; within a bin the larger key is better.
struct Element {
  bool valid;
  uint32_t bin, key;
  unsigned long long mass;
};

// The bin of something that is `distance` >= 0 from the best.
__device__ __forceinline__ uint32_t bin_of(float distance) {
  const float b = distance * 32.f;
  return b >= static_cast<float>(kBins - 1) ? kBins - 1 : static_cast<uint32_t>(b);
}

struct Threshold {
  uint32_t bin, key; // kept: bin less, or equal and key at least this

  __device__ __forceinline__ bool keeps(const Element& e) const {
    return e.bin < bin || (e.bin == bin && e.key >= key);
  }
};

__device__ __forceinline__ unsigned long long block_total(SelectMemory& m, unsigned long long value) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) value += __shfl_xor_sync(kAllLanes, value, mask);
  __syncthreads();
  if (threadIdx.x % 32 == 0) m.sum_mass[threadIdx.x / 32] = value;
  __syncthreads();
  value = 0;
  for (uint32_t w = 0; w < kSampleThreads / 32; ++w) value += m.sum_mass[w];
  return value;
}

// The first entry, in order (from the last where `backwards`), at which the running number or mass has reached its
// target: found_bin, in that order; found_count and found_mass grow by what lies before it. kEntries where none has.
// (All sums are integers: once a bin reaches the target, one of its digits does.)
template <uint32_t kEntries, class Reached>
__device__ __forceinline__ void find_entry(SelectMemory& m, const uint32_t* counts, const unsigned long long* masses,
                                           bool backwards, const Reached& reached) {
  constexpr uint32_t kGroup = kEntries / 32; // entries a warp
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto index = [&](uint32_t i) { return backwards ? kEntries - 1 - i : i; };
  unsigned long long number = 0, mass = 0;
  for (uint32_t i = lane; i < kGroup; i += 32) {
    number += counts[index(warp * kGroup + i)];
    mass += masses[index(warp * kGroup + i)];
  }
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) {
    number += __shfl_xor_sync(kAllLanes, number, mask);
    mass += __shfl_xor_sync(kAllLanes, mass, mask);
  }
  if (lane == 0) m.group_count[warp] = number, m.sum_mass[warp] = mass;
  __syncthreads();
  if (threadIdx.x == 0) {
    number = m.found_count, mass = m.found_mass;
    uint32_t group = 0, found = kEntries;
    for (; group < 32; ++group) {
      if (m.group_count[group] == 0) continue;
      if (reached(number + m.group_count[group], mass + m.sum_mass[group])) break;
      number += m.group_count[group], mass += m.sum_mass[group];
    }
    for (uint32_t i = group * kGroup; i < kEntries && found == kEntries; ++i) {
      const uint32_t n = counts[index(i)];
      if (n == 0) continue;
      const unsigned long long w = masses[index(i)];
      if (reached(number + n, mass + w))
        found = i;
      else
        number += n, mass += w;
    }
    m.found_bin = found;
    m.found_count = static_cast<uint32_t>(number);
    m.found_mass = mass;
  }
}

// The fewest best elements whose number reaches `count`, or (count 0) whose mass reaches share * the whole; ties at the
// threshold are in. All threads call it and get the same.
template <class At>
__device__ Threshold select(SelectMemory& m, uint32_t size, uint32_t count, float share, const At& at) {
  const uint32_t tid = threadIdx.x;
  __syncthreads();
  for (uint32_t i = tid; i < kBins; i += kSampleThreads) m.mass[i] = 0, m.count[i] = 0;
  if (tid == 0) m.listed = 0;
  __syncthreads();
  for (uint32_t i = tid; i < size; i += kSampleThreads) {
    const Element e = at(i);
    if (!e.valid) continue;
    atomicAdd(&m.count[e.bin], 1u);
    if (count == 0) atomicAdd(&m.mass[e.bin], e.mass);
  }
  __syncthreads();
  if (count == 0) {
    unsigned long long mine = 0;
    for (uint32_t i = tid; i < kBins; i += kSampleThreads) mine += m.mass[i];
    mine = block_total(m, mine);
    if (tid == 0) m.total_mass = mine;
  }
  if (tid == 0) m.found_count = 0, m.found_mass = 0;
  __syncthreads();
  const auto reached = [&](unsigned long long elements, unsigned long long mass) {
    return count != 0 ? elements >= count
                      : static_cast<double>(mass) >= static_cast<double>(share) * static_cast<double>(m.total_mass);
  };
  find_entry<kBins>(m, m.count, m.mass, false, reached);
  __syncthreads();
  const uint32_t bin = m.found_bin;
  if (bin == kBins) return {kBins, 0};
  const bool listed = m.count[bin] <= kList;
  if (listed) {
    for (uint32_t i = tid; i < size; i += kSampleThreads) {
      const Element e = at(i);
      if (!e.valid || e.bin != bin) continue;
      const uint32_t place = atomicAdd(&m.listed, 1u);
      m.list_key[place] = e.key;
      m.list_mass[place] = e.mass;
    }
    __syncthreads();
  }
  const uint32_t candidates = listed ? m.listed : size;
  uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    for (uint32_t i = tid; i < 256; i += kSampleThreads) m.digit_mass[i] = 0, m.digit_count[i] = 0;
    __syncthreads();
    for (uint32_t i = tid; i < candidates; i += kSampleThreads) {
      Element e{true, bin, 0, 0};
      if (listed)
        e.key = m.list_key[i], e.mass = m.list_mass[i];
      else
        e = at(i);
      if (!e.valid || e.bin != bin || (shift < 24 && e.key >> (shift + 8) != prefix >> (shift + 8))) continue;
      const uint32_t digit = e.key >> shift & 255;
      atomicAdd(&m.digit_count[digit], 1u);
      if (count == 0) atomicAdd(&m.digit_mass[digit], e.mass);
    }
    __syncthreads();
    find_entry<256>(m, m.digit_count, m.digit_mass, true, reached);
    __syncthreads();
    prefix |= (255 - m.found_bin) << shift;
    __syncthreads();
  }
  return {bin, prefix};
}

} // namespace quire::cuda
