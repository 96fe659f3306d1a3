// A CUDA device on the CPU, for tests: what kernel code sees.
//
// A block's threads are fibers of one host thread, switched at collective operations in a shuffled order, so that the
// very kernels of backends/cuda/ops run without a GPU. It shows wrong indices (device memory is malloc'ed:
// AddressSanitizer works), missing barriers (the order of the threads changes from run to run), reads of shared memory
// that nothing wrote (it is filled with NaNs), and copies whose wait is missing (cp.async lands only at its wait). It
// models no timing, no memory ordering between blocks (they run one after another, those of a cluster in turns).
// Included by ops/device_code.cuh when QUIRE_CUDA_EMULATED is defined. Threads: one host thread.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <vector>

namespace quire::cuda::emulator {

// A barrier of a fixed number of threads with room for what each brings; two generations, as a thread may be one ahead.
struct Exchange {
  uint32_t expected = 0;
  uint32_t arrived = 0;
  uint32_t generation = 0;
  std::vector<std::array<uint64_t, 8>> slots[2];
};

struct PendingCopy {
  void* to;
  const void* from;
  uint32_t bytes, valid_bytes;
  uint32_t group;
};

struct Thread {
  uint3 thread_idx{};
  uint32_t rank = 0, lane = 0, warp = 0;
  std::vector<PendingCopy> copies;
  uint32_t copy_group = 0;
};

struct Block {
  dim3 block_dim{}, grid_dim{};
  uint3 block_idx{};
  std::vector<Exchange> warps;
  Exchange all;
  Exchange named[16];
  std::byte* shared = nullptr; // dynamic shared memory
  uint32_t cluster_rank = 0;   // the blocks of a cluster lie behind each other
  uint32_t* cluster_arrived = nullptr;
  uint32_t cluster_threads = 0;
  uint32_t live = 0; // threads that have not ended
};

extern thread_local Thread* thread;
extern thread_local Block* block;

// Lets the others run, for a thread that looks again and again at what they may change.
void spin();
uint32_t nanoseconds(); // of a clock that never goes back, the lower 32 bits
// Aborts where all threads of a block have ended: its shared memory is not there any more.
void check_alive(const Block& to);
// Brings `words` words and waits for the others; afterwards the slots of this generation hold everyone's.
const std::vector<std::array<uint64_t, 8>>& exchange(Exchange& barrier, uint32_t slot, const uint64_t* words,
                                                     uint32_t count);
// Blocks run one after another; `cluster` of them, neighbours in x, at once.
void run_grid(uint32_t cluster, dim3 grid, dim3 block_dim, size_t shared_bytes, const std::function<void()>& body);
// Runs now, or when the graph that the stream records is launched.
void enqueue(cudaStream_t stream, std::function<void()> work);

template <class T> T shuffle(T value, uint32_t source_lane) {
  static_assert(sizeof(T) <= 8);
  uint64_t word = 0;
  std::memcpy(&word, &value, sizeof(T));
  const auto& slots = exchange(block->warps[thread->warp], thread->lane, &word, 1);
  const uint64_t got = slots[source_lane % 32][0];
  T result;
  std::memcpy(&result, &got, sizeof(T));
  return result;
}

} // namespace quire::cuda::emulator

#define QUIRE_EMU ::quire::cuda::emulator
#undef __shared__
#undef __launch_bounds__
#define __launch_bounds__(...)
#define __shared__ static thread_local
#define threadIdx (QUIRE_EMU::thread->thread_idx)
#define blockIdx (QUIRE_EMU::block->block_idx)
#define blockDim (QUIRE_EMU::block->block_dim)
#define gridDim (QUIRE_EMU::block->grid_dim)

inline void __syncthreads() { QUIRE_EMU::exchange(QUIRE_EMU::block->all, QUIRE_EMU::thread->rank, nullptr, 0); }
inline void __syncwarp(unsigned = 0xffffffffu) {
  QUIRE_EMU::exchange(QUIRE_EMU::block->warps[QUIRE_EMU::thread->warp], QUIRE_EMU::thread->lane, nullptr, 0);
}
template <class T> T __shfl_xor_sync(unsigned, T value, int mask, int width = 32) {
  (void)width;
  return QUIRE_EMU::shuffle(value, QUIRE_EMU::thread->lane ^ static_cast<uint32_t>(mask));
}
template <class T> T __shfl_sync(unsigned, T value, int lane, int width = 32) {
  const uint32_t base = QUIRE_EMU::thread->lane / static_cast<uint32_t>(width) * static_cast<uint32_t>(width);
  return QUIRE_EMU::shuffle(value, base + static_cast<uint32_t>(lane) % static_cast<uint32_t>(width));
}
template <class T> T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const uint32_t lane = QUIRE_EMU::thread->lane;
  return QUIRE_EMU::shuffle(value, lane >= delta ? lane - delta : lane);
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
  const uint64_t word = predicate;
  const auto& slots =
      QUIRE_EMU::exchange(QUIRE_EMU::block->warps[QUIRE_EMU::thread->warp], QUIRE_EMU::thread->lane, &word, 1);
  unsigned bits = 0;
  for (uint32_t i = 0; i < 32; ++i) bits |= static_cast<unsigned>(slots[i][0]) << i;
  return bits;
}
inline int __any_sync(unsigned mask, bool predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __syncthreads_or(int predicate) {
  const uint64_t word = predicate != 0;
  const auto& slots = QUIRE_EMU::exchange(QUIRE_EMU::block->all, QUIRE_EMU::thread->rank, &word, 1);
  for (const auto& slot : slots)
    if (slot[0]) return 1;
  return 0;
}
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(unsigned x) { return std::countl_zero(x); }
inline int __ffs(unsigned x) { return x == 0 ? 0 : std::countr_zero(x) + 1; }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned s) {
  const uint64_t bytes = uint64_t{b} << 32 | a;
  unsigned r = 0;
  for (int i = 0; i < 4; ++i) r |= static_cast<unsigned>(bytes >> (8 * ((s >> (4 * i)) & 7)) & 0xff) << (8 * i);
  return r;
}
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline void sincospif(float x, float* s, float* c) {
  constexpr double kPi = 3.14159265358979323846;
  *s = static_cast<float>(std::sin(kPi * x)), *c = static_cast<float>(std::cos(kPi * x));
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { QUIRE_EMU::spin(); }
template <class T> T __ldg(const T* p) { return *p; }
template <class T> T __ldcs(const T* p) { return *p; }
template <class T> T __ldcg(const T* p) { return *p; }
template <class T> void __stcg(T* p, T value) { *p = value; }
template <class T> T atomicAdd(T* at, T value) {
  const T old = *at;
  *at = old + value;
  return old;
}
template <class T> T atomicMax(T* at, T value) {
  const T old = *at;
  if (value > old) *at = value;
  return old;
}
template <class T> T atomicOr(T* at, T value) {
  const T old = *at;
  *at = old | value;
  return old;
}
template <class T> T atomicExch(T* at, T value) {
  const T old = *at;
  *at = value;
  return old;
}
using std::max;
using std::min;
inline unsigned min(unsigned a, int b) { return std::min(a, static_cast<unsigned>(b)); }

namespace quire::cuda::emulator {

// D = A B + C of mma.m16n8k16, fragments as in the PTX manual. Products and sums in float, k rising.
template <class Element> void mma_16816(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint64_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const auto& slots = exchange(block->warps[thread->warp], thread->lane, words, 6);
  const auto element = [](uint64_t word, uint32_t half) {
    return static_cast<float>(std::bit_cast<Element>(static_cast<uint16_t>(word >> (16 * half))));
  };
  const uint32_t g = thread->lane / 4, t = thread->lane % 4;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t row = g + 8 * (i / 2), col = 2 * t + i % 2;
    float sum = 0;
    for (uint32_t k = 0; k < 16; ++k) {
      const uint32_t a_lane = row % 8 * 4 + k % 8 / 2, a_word = row / 8 + 2 * (k / 8);
      const uint32_t b_lane = col * 4 + k % 8 / 2, b_word = 4 + k / 8;
      sum += element(slots[a_lane][a_word], k % 2) * element(slots[b_lane][b_word], k % 2);
    }
    c[i] += sum;
  }
}

// The same of mma.m16n8k32, bytes without a sign by bytes with one; exact.
inline void mma_16832(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint64_t words[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const auto& slots = exchange(block->warps[thread->warp], thread->lane, words, 6);
  const uint32_t g = thread->lane / 4, t = thread->lane % 4;
  for (uint32_t i = 0; i < 4; ++i) {
    const uint32_t row = g + 8 * (i / 2), col = 2 * t + i % 2;
    for (uint32_t k = 0; k < 32; ++k) {
      const uint32_t of_word = k % 16 / 4, at = 8 * (k % 4);
      const uint64_t from_a = slots[row % 8 * 4 + of_word][row / 8 + 2 * (k / 16)];
      const uint64_t from_b = slots[col * 4 + of_word][4 + k / 16];
      c[i] += static_cast<uint8_t>(from_a >> at) * static_cast<int8_t>(from_b >> at);
    }
  }
}

// ldmatrix.x4: row r of matrix i at the address that lane 8 i + r brings; lane l receives elements 2 (l % 4), +1 of row
// l / 4 (transposed: of column l / 4).
inline void ldmatrix_x4(uint32_t (&r)[4], const void* address, bool transposed) {
  const uint64_t word = reinterpret_cast<uint64_t>(address);
  const auto& slots = exchange(block->warps[thread->warp], thread->lane, &word, 1);
  const uint32_t g = thread->lane / 4, t = thread->lane % 4;
  for (uint32_t i = 0; i < 4; ++i) {
    uint32_t packed = 0;
    for (uint32_t half = 0; half < 2; ++half) {
      const uint32_t row = transposed ? 2 * t + half : g, col = transposed ? g : 2 * t + half;
      const auto* from = reinterpret_cast<const uint16_t*>(slots[8 * i + row][0]);
      packed |= static_cast<uint32_t>(from[col]) << (16 * half);
    }
    r[i] = packed;
  }
  // A lane may write the memory only after all have read it.
  exchange(block->warps[thread->warp], thread->lane, nullptr, 0);
}

void copy_async(void* to, const void* from, uint32_t bytes, uint32_t valid_bytes);
void copy_async_commit();
void copy_async_wait(uint32_t groups_left);

} // namespace quire::cuda::emulator
