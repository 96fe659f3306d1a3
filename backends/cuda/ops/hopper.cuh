// The instructions of compute capability 9.0a that CUDA C++ has no word for, each a function: barriers in shared
// memory, copies by tensor map, asynchronous products of a warpgroup. Sources: PTX ISA, «mbarrier»,
// «cp.async.bulk.tensor», «Asynchronous Warpgroup Level Matrix Instructions».
#pragma once

#include "device_code.cuh"

#include <cuda.h>

namespace quire::cuda::hopper {

// True in one lane of a whole warp, always the same. What stands behind it is known to be one thread's, so that its
// operands go to uniform registers at once instead of in a loop over the lanes.
__device__ __forceinline__ bool elected() {
  uint32_t is = 0;
  asm volatile("{\n\t.reg .pred one;\n\telect.sync _|one, 0xffffffff;\n\tselp.u32 %0, 1, 0, one;\n\t}" : "=r"(is));
  return is != 0;
}

__device__ __forceinline__ void barrier_init(uint64_t* b, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count) : "memory");
}
__device__ __forceinline__ void barrier_expect(uint64_t* b, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint64_t* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}
// An arrival when the thread's cp.async's so far have landed; the barrier counts it among those it expects.
__device__ __forceinline__ void barrier_arrive_copied(uint64_t* b) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(b)) : "memory");
}
__device__ __forceinline__ void barrier_wait(uint64_t* b, uint32_t parity) {
  asm volatile("{\n\t.reg .pred done;\n"
               "again:\n\tmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t@done bra over;\n\tbra "
               "again;\nover:\n\t}" ::"r"(shared_address(b)),
               "r"(parity)
               : "memory");
}

__device__ __forceinline__ void copy_2d(void* to, const CUtensorMap* map, uint64_t* b, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
               "[%2];" ::"r"(shared_address(to)),
               "l"(map), "r"(shared_address(b)), "r"(x), "r"(y)
               : "memory");
}
// How the L2 keeps what a copy reads: first to go, as is right for weights, which are read once a step and would
// displace all that is read more often. What createpolicy.fractional.L2::evict_first makes for the whole of an access;
// source of the encoding: CUTLASS, TMA::CacheHintSm90::EVICT_FIRST.
inline constexpr uint64_t kReadOnce = 0x12f0000000000000;

// Of a multiple of 16 bytes, both ends aligned to 16.
__device__ __forceinline__ void copy_bulk(void* to, const void* from, uint32_t bytes, uint64_t* b, uint64_t policy) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], "
               "%4;" ::"r"(shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(b)), "l"(policy)
               : "memory");
}
// The same, to the L2 alone.
__device__ __forceinline__ void prefetch_bulk(const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_3d(void* to, const CUtensorMap* map, uint64_t* b, int x, int y, int z) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
               "%5}], [%2];" ::"r"(shared_address(to)),
               "l"(map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z)
               : "memory");
}
__device__ __forceinline__ void copy_3d(void* to, const CUtensorMap* map, uint64_t* b, int x, int y, int z,
                                        uint64_t policy) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
               "[%1, {%3, %4, %5}], [%2], %6;" ::"r"(shared_address(to)),
               "l"(map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z), "l"(policy)
               : "memory");
}
__device__ __forceinline__ void copy_4d(void* to, const CUtensorMap* map, uint64_t* b, int x, int y, int z, int w) {
  asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
               "%5, %6}], [%2];" ::"r"(shared_address(to)),
               "l"(map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z), "r"(w)
               : "memory");
}

// A wgmma matrix descriptor of a 128-byte-swizzled tile (PTX ISA, «Matrix descriptor»): the address, the leading and
// the stride byte offset.
__device__ __forceinline__ uint64_t descriptor(uint32_t address, uint32_t leading_bytes, uint32_t stride_bytes) {
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) | static_cast<uint64_t>(leading_bytes >> 4) << 16 |
         static_cast<uint64_t>(stride_bytes >> 4) << 32 | uint64_t{1} << 62;
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending> __device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// d [64, 128] (+)= a [64, 16] b [128, 16]^T, both in shared memory; d [64, 128 or 64] += a [64, 16] (registers) b [16,
// n] (shared memory, n contiguous).
// clang-format off
#define QUIRE_D8(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define QUIRE_D32(d, i) QUIRE_D8(d, i), QUIRE_D8(d, i + 8), QUIRE_D8(d, i + 16), QUIRE_D8(d, i + 24)
#define QUIRE_R32_0 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define QUIRE_R32_1 \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

#define QUIRE_WGMMA(ELEMENT, PTX)                                                                                       \
  template <> __device__ __forceinline__ void wgmma_ss<ELEMENT>(float (&d)[64], uint64_t a, uint64_t b, bool add) {     \
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %66, 0;\n\t"                                                   \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." PTX "." PTX                                              \
                 " {" QUIRE_R32_0 ", " QUIRE_R32_1 "}, %64, %65, p, 1, 1, 0, 0;\n\t}"                                   \
                 : QUIRE_D32(d, 0), QUIRE_D32(d, 32)                                                                     \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)));                                                          \
  }                                                                                                                      \
  template <> __device__ __forceinline__ void wgmma_rs<ELEMENT>(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {    \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." PTX "." PTX                                              \
                 " {" QUIRE_R32_0 ", " QUIRE_R32_1 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"                            \
                 : QUIRE_D32(d, 0), QUIRE_D32(d, 32)                                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                  \
  }                                                                                                                      \
  template <> __device__ __forceinline__ void wgmma_rs<ELEMENT>(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {    \
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." PTX "." PTX                                               \
                 " {" QUIRE_R32_0 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"                                             \
                 : QUIRE_D32(d, 0)                                                                                       \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                                  \
  }
template <class Element> __device__ __forceinline__ void wgmma_ss(float (&d)[64], uint64_t a, uint64_t b, bool add);
template <class Element> __device__ __forceinline__ void wgmma_rs(float (&d)[64], const uint32_t (&a)[4], uint64_t b);
template <class Element> __device__ __forceinline__ void wgmma_rs(float (&d)[32], const uint32_t (&a)[4], uint64_t b);
QUIRE_WGMMA(__half, "f16")
QUIRE_WGMMA(__nv_bfloat16, "bf16")
#undef QUIRE_WGMMA

// d [64, n] += a [64, 16] (registers) b [n, 16]^T (shared memory, 16 contiguous), fp16; n is twice d's length.
#define QUIRE_R32_2 \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define QUIRE_R32_3 \
  "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
__device__ __forceinline__ void wgmma_rows(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" QUIRE_R32_0 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 0;"
               : QUIRE_D32(d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_rows(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" QUIRE_R32_0 ", " QUIRE_R32_1 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;"
               : QUIRE_D32(d, 0), QUIRE_D32(d, 32)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_rows(float (&d)[128], const uint32_t (&a)[4], uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {" QUIRE_R32_0 ", " QUIRE_R32_1 ", " QUIRE_R32_2 ", " QUIRE_R32_3
               "}, {%128, %129, %130, %131}, %132, 1, 1, 1, 0;"
               : QUIRE_D32(d, 0), QUIRE_D32(d, 32), QUIRE_D32(d, 64), QUIRE_D32(d, 96)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef QUIRE_R32_3
#undef QUIRE_R32_2
#undef QUIRE_R32_1
#undef QUIRE_R32_0
#undef QUIRE_D32
#undef QUIRE_D8
// clang-format on

template <int kRegisters> __device__ __forceinline__ void more_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters> __device__ __forceinline__ void fewer_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kThreads> __device__ __forceinline__ void named_wait_of(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}
// Named barriers of 256 threads: waiting at one, and only arriving.
__device__ __forceinline__ void named_wait(int id) { asm volatile("bar.sync %0, 256;" ::"r"(id) : "memory"); }
__device__ __forceinline__ void named_arrive(int id) { asm volatile("bar.arrive %0, 256;" ::"r"(id) : "memory"); }

// 8 x 8 matrices of 16-bit elements in fragment order (lane 4 g + t has row g, columns 2t, 2t+1), transposed: lane 8 i
// + r brings the address for column r of matrix i.
__device__ __forceinline__ void store_matrix_transposed(void* column, const uint32_t (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(column)),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// What was written to shared memory by plain stores can be read by copies and products that begin later.
__device__ __forceinline__ void fence_async_proxy() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

} // namespace quire::cuda::hopper
