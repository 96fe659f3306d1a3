// What every kernel file builds on: the instructions that CUDA C++ has no word for, each a function, and launching.
//
// Under QUIRE_CUDA_EMULATED (tests/cuda) the same functions run on the CPU. Fragments (PTX ISA, «Matrix fragments for
// mma.m16n8k16»), for lane = 4 g + t: A: a[0] row g, k 2t 2t+1; a[1] row g + 8; a[2] row g, k + 8; a[3] row g + 8, k
// + 8. B: b[0] column g, k 2t 2t+1; b[1] k + 8. C: c[0], c[1] row g, columns 2t, 2t+1; c[2], c[3] row g + 8.
#pragma once

#ifdef QUIRE_CUDA_EMULATED
#include "emulator/device.hpp"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include <cstdint>

#if !defined(QUIRE_CUDA_EMULATED) && !defined(__CUDA_ARCH__)
#define QUIRE_SM 0 // the host's pass
#elif defined(QUIRE_CUDA_EMULATED)
#define QUIRE_SM 900
#else
#define QUIRE_SM __CUDA_ARCH__
#endif

namespace quire::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

// Dynamic shared memory, aligned to 128 bytes.
__device__ __forceinline__ unsigned char* dynamic_shared() {
#ifdef QUIRE_CUDA_EMULATED
  return reinterpret_cast<unsigned char*>(emulator::block->shared);
#else
  extern __shared__ __align__(128) unsigned char quire_shared[];
  return quire_shared;
#endif
}

#ifndef QUIRE_CUDA_EMULATED
__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}
#endif

// ---- What the compiler may know ----

// The same value, of which the compiler knows no more: what is made of it isn't kept in registers through the whole
// kernel, nor taken together with what is made of the value elsewhere.
__device__ __forceinline__ uint32_t not_kept(uint32_t value) {
#ifndef QUIRE_CUDA_EMULATED
  asm volatile("" : "+r"(value));
#endif
  return value;
}
// An address that is formed once: that of static shared memory would otherwise be formed anew from the block's place in
// its cluster wherever it is used.
template <class T> __device__ __forceinline__ T* formed(T* address) {
#ifndef QUIRE_CUDA_EMULATED
  asm volatile("" : "+l"(address));
#endif
  return address;
}

// ---- Copies to shared memory ----

// 16 bytes to `to` + kAt; where valid is false, zeros (and `from` is not read).
template <uint32_t kAt = 0> __device__ __forceinline__ void copy_async16(void* to, const void* from, bool valid) {
#ifdef QUIRE_CUDA_EMULATED
  emulator::copy_async(static_cast<std::byte*>(to) + kAt, from, 16, valid ? 16 : 0);
#elif QUIRE_SM >= 800
  const uint32_t bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0 + %3], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(bytes), "n"(kAt)
               : "memory");
#else
  *reinterpret_cast<uint4*>(static_cast<std::byte*>(to) + kAt) =
      valid ? *static_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
#endif
}

__device__ __forceinline__ void copy_async_commit() {
#ifdef QUIRE_CUDA_EMULATED
  emulator::copy_async_commit();
#elif QUIRE_SM >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int kGroupsLeft> __device__ __forceinline__ void copy_async_wait() {
#ifdef QUIRE_CUDA_EMULATED
  emulator::copy_async_wait(kGroupsLeft);
#elif QUIRE_SM >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroupsLeft) : "memory");
#endif
}

// ---- Matrices ----

// Four 8 x 8 matrices of 16-bit elements; lane 8 i + r brings the address of row r of matrix i.
__device__ __forceinline__ void load_matrix(uint32_t (&r)[4], const void* row) {
#ifdef QUIRE_CUDA_EMULATED
  emulator::ldmatrix_x4(r, row, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

__device__ __forceinline__ void load_matrix_transposed(uint32_t (&r)[4], const void* row) {
#ifdef QUIRE_CUDA_EMULATED
  emulator::ldmatrix_x4(r, row, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

// Two matrices: the addresses of lanes 0 to 15 count.
__device__ __forceinline__ void load_matrix2(uint32_t (&r)[2], const void* row) {
#ifdef QUIRE_CUDA_EMULATED
  uint32_t all[4];
  emulator::ldmatrix_x4(all, row, false);
  r[0] = all[0], r[1] = all[1];
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
#endif
}

__device__ __forceinline__ void load_matrix2_transposed(uint32_t (&r)[2], const void* row) {
#ifdef QUIRE_CUDA_EMULATED
  uint32_t all[4];
  emulator::ldmatrix_x4(all, row, true);
  r[0] = all[0], r[1] = all[1];
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
#endif
}

// c += a b, 16 x 8 x 16, fp16 or bf16 operands, fp32 sums.
template <class Element>
__device__ __forceinline__ void matrix_multiply(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

template <>
__device__ __forceinline__ void matrix_multiply<__half>(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef QUIRE_CUDA_EMULATED
  emulator::mma_16816<__half>(c, a, b);
#elif QUIRE_SM >= 800
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif QUIRE_SM >= 750
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(b[0]));
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[2]), "r"(a[3]), "r"(b[1]));
#endif
}

template <>
__device__ __forceinline__ void matrix_multiply<__nv_bfloat16>(float (&c)[4], const uint32_t (&a)[4],
                                                               const uint32_t (&b)[2]) {
#ifdef QUIRE_CUDA_EMULATED
  emulator::mma_16816<__nv_bfloat16>(c, a, b);
#elif QUIRE_SM >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  (void)c, (void)a, (void)b; // sm_75 has no bf16 matrices: the host refuses them there (attend.cpp)
#endif
}

// c += a b, 16 x 8 x 32, a bytes without a sign, b bytes with one; a's word i has row g or (i odd) g + 8, columns 4t to
// 4t + 3, and 16 further (i >= 2); b's those rows of column g. From compute capability 8.0 on.
__device__ __forceinline__ void matrix_multiply_bytes(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef QUIRE_CUDA_EMULATED
  emulator::mma_16832(c, a, b);
#elif QUIRE_SM >= 800
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  (void)c, (void)a, (void)b;
#endif
}

// ---- Arithmetic ----

__device__ __forceinline__ float exp2_fast(float x) {
#ifdef QUIRE_CUDA_EMULATED
  return std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// Off by a unit in the last place; 0 for what is larger than 2^126.
__device__ __forceinline__ float reciprocal_fast(float x) {
#ifdef QUIRE_CUDA_EMULATED
  return 1.f / x;
#else
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

__device__ __forceinline__ uint32_t bits_of(__half2 h) {
  union {
    __half2 h;
    uint32_t u;
  } pun{h};
  return pun.u;
}
__device__ __forceinline__ __half2 half2_of(uint32_t bits) {
  union {
    uint32_t u;
    __half2 h;
  } pun{bits};
  return pun.h;
}

// a b + c, rounded once.
__device__ __forceinline__ __half2 fma_half2(__half2 a, __half2 b, __half2 c) {
#ifdef QUIRE_CUDA_EMULATED
  const float2 x = __half22float2(a), y = __half22float2(b), z = __half22float2(c);
  return __floats2half2_rn(std::fma(x.x, y.x, z.x), std::fma(x.y, y.y, z.y));
#else
  return __hfma2(a, b, c);
#endif
}

// (a & mask) | bits, one instruction.
template <uint32_t kMask, uint32_t kBits> __device__ __forceinline__ uint32_t and_or(uint32_t a) {
#ifdef QUIRE_CUDA_EMULATED
  return (a & kMask) | kBits;
#else
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(a), "n"(kMask), "n"(kBits));
  return r;
#endif
}

// To fp16, the finite beyond its range to the largest; NaN stays NaN.
__device__ __forceinline__ uint32_t pack_half2(float low, float high) {
#if QUIRE_SM >= 800 && !defined(QUIRE_CUDA_EMULATED)
  uint32_t r;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
#else
  const auto clamp = [](float x) { return x > 65504.f ? 65504.f : x < -65504.f ? -65504.f : x; };
  return bits_of(__floats2half2_rn(clamp(low), clamp(high)));
#endif
}
__device__ __forceinline__ __half to_half(float x) { return __low2half(half2_of(pack_half2(x, x))); }

__device__ __forceinline__ uint32_t pack_bfloat2(float low, float high) {
  union {
    __nv_bfloat162 h;
    uint32_t u;
  } pun{__floats2bfloat162_rn(low, high)};
  return pun.u;
}

// ---- Memory ----

// 16 bytes that nobody else reads: don't keep them in L1.
__device__ __forceinline__ uint4 load_stream(const void* p) {
#ifdef QUIRE_CUDA_EMULATED
  uint4 v;
  std::memcpy(&v, p, 16);
  return v;
#else
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(p));
  return v;
#endif
}
__device__ __forceinline__ uint2 load_stream8(const void* p) {
#ifdef QUIRE_CUDA_EMULATED
  uint2 v;
  std::memcpy(&v, p, 8);
  return v;
#else
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
  return v;
#endif
}
__device__ __forceinline__ uint32_t load_stream4(const void* p) {
#ifdef QUIRE_CUDA_EMULATED
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
#else
  uint32_t v;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
#endif
}

// Asks for the 128 bytes around p to be brought to the L2.
__device__ __forceinline__ void prefetch_l2([[maybe_unused]] const void* p) {
#ifndef QUIRE_CUDA_EMULATED
  asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
#endif
}

// *to += x, what was there before; in order with what this thread, and others of the block before a barrier, wrote and
// will read.
__device__ __forceinline__ uint32_t add_in_order(uint32_t* to, uint32_t x) {
#if QUIRE_SM >= 700 && !defined(QUIRE_CUDA_EMULATED)
  uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;" : "=r"(before) : "l"(to), "r"(x) : "memory");
  return before;
#else
  return atomicAdd(to, x);
#endif
}

// ---- Programmatic dependent launch: a kernel may begin while the one before it ends ----

// Nothing that the kernels before wrote may be read, and nothing that they read may be written, before this.
__device__ __forceinline__ void wait_for_previous_kernels() {
#if QUIRE_SM >= 900 && !defined(QUIRE_CUDA_EMULATED)
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel may be launched when every block has said so (or ended). It still waits for the end of this one
// above.
__device__ __forceinline__ void let_next_kernel_begin() {
#if QUIRE_SM >= 900 && !defined(QUIRE_CUDA_EMULATED)
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Brings a kernel's parameters near, a line of the constant cache (64 bytes) a warp. Where a line has not been looked
// at for a token's time it takes up to a microsecond to come, and a warp waits for one after the other as it meets
// them. To be made first of all, of a __grid_constant__; need_not_come_before() stands behind what is not to wait for
// it.
template <uint32_t kThreads, class Parameters> class ParametersAhead {
 public:
  __device__ __forceinline__ explicit ParametersAhead(const Parameters& parameters) {
#ifndef QUIRE_CUDA_EMULATED
    const auto* words = reinterpret_cast<const uint32_t*>(&parameters);
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i)
      words_[i] = words[min((i * kWarps + threadIdx.x / 32) * 16, static_cast<uint32_t>(sizeof(Parameters) / 4 - 1))];
#endif
  }
  // scratch: a word of shared memory of the warp's; a load whose value nobody takes would be left out.
  __device__ __forceinline__ void need_not_come_before([[maybe_unused]] void* scratch) const {
#ifndef QUIRE_CUDA_EMULATED
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i)
      if (threadIdx.x % 32 == 0)
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(shared_address(scratch)), "r"(words_[i]) : "memory");
#endif
  }

 private:
  static constexpr uint32_t kWarps = kThreads / 32, kLines = sizeof(Parameters) / 64 + 1;
  static constexpr uint32_t kEach = (kLines + kWarps - 1) / kWarps;
  [[maybe_unused]] uint32_t words_[kEach];
};

// ---- Reductions over a warp: every lane gets the result, in a fixed order ----

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x += __shfl_xor_sync(kAllLanes, x, mask);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int mask = 16; mask > 0; mask /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, mask));
  return x;
}

} // namespace quire::cuda
