// Thread-block clusters: blocks that run together and send to each other's shared memory.
//
// A block makes its Mailbox ready and arrives at the cluster's barrier before anything else; past the barrier any
// block of the cluster may send there. What is sent counts by its bytes, and the mailbox's owner waits for as many as
// it said; nobody waits for the sender. Sources: PTX ISA, «barrier.cluster», «st.async», «mbarrier». From compute
// capability 9.0 on.
#pragma once

#include "device_code.cuh"

namespace quire::cuda {

struct Mailbox {
  alignas(8) uint64_t barrier;
};

// By one thread of the block, before cluster_arrive.
__device__ __forceinline__ void mailbox_init(Mailbox& box) {
#ifdef QUIRE_CUDA_EMULATED
  box.barrier = uint64_t{1} << 32; // the expectation is to come; below, the bytes still to come
#elif QUIRE_SM >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n\tfence.mbarrier_init.release.cluster;" ::"r"(
                   shared_address(&box.barrier))
               : "memory");
#endif
}

// By one thread, once: what will have come when mailbox_wait returns. Some of it may be there already.
__device__ __forceinline__ void mailbox_expect(Mailbox& box, uint32_t bytes) {
#ifdef QUIRE_CUDA_EMULATED
  box.barrier = static_cast<uint32_t>(box.barrier) + bytes;
#elif QUIRE_SM >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&box.barrier)), "r"(bytes)
               : "memory");
#endif
}

__device__ __forceinline__ void mailbox_wait(Mailbox& box) {
#ifdef QUIRE_CUDA_EMULATED
  while (box.barrier != 0) emulator::spin();
#elif QUIRE_SM >= 900
  asm volatile("{\n\t.reg .pred done;\n"
               "again:\n\tmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], 0;\n\t@done bra "
               "over;\n\tbra again;\nover:\n\t}" ::"r"(shared_address(&box.barrier))
               : "memory");
#endif
}

// By every thread of the block, once each.
__device__ __forceinline__ void cluster_arrive() {
#ifdef QUIRE_CUDA_EMULATED
  ++*emulator::block->cluster_arrived;
#elif QUIRE_SM >= 900
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory"); // mailbox_init has the fence
#endif
}
__device__ __forceinline__ void cluster_wait() {
#ifdef QUIRE_CUDA_EMULATED
  while (*emulator::block->cluster_arrived != emulator::block->cluster_threads) emulator::spin();
#elif QUIRE_SM >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

#ifdef QUIRE_CUDA_EMULATED
// What lies in block `rank` of the cluster where `own` lies here.
template <class T> T* in_block(T* own, uint32_t rank) {
  const emulator::Block& here = *emulator::block;
  return reinterpret_cast<T*>((&here - here.cluster_rank)[rank].shared +
                              (reinterpret_cast<std::byte*>(own) - here.shared));
}
template <class T> void send(T* to, const T& value, Mailbox& box, uint32_t rank) {
  emulator::check_alive((emulator::block - emulator::block->cluster_rank)[rank]);
  *in_block(to, rank) = value;
  Mailbox& there = *in_block(&box, rank);
  there.barrier = (there.barrier >> 32 << 32) | static_cast<uint32_t>(there.barrier - sizeof(T));
}
#else
__device__ __forceinline__ uint32_t address_in_block(const void* own, uint32_t rank) {
  uint32_t r = 0;
#if QUIRE_SM >= 900
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(r) : "r"(shared_address(own)), "r"(rank));
#endif
  return r;
}
// To where `to` and the mailbox lie in block `rank`.
__device__ __forceinline__ void send(float4* to, const float4& v, Mailbox& box, uint32_t rank) {
#if QUIRE_SM >= 900
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                   address_in_block(to, rank)),
               "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w), "r"(address_in_block(&box.barrier, rank))
               : "memory");
#endif
}
__device__ __forceinline__ void send(float2* to, const float2& v, Mailbox& box, uint32_t rank) {
#if QUIRE_SM >= 900
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
                   address_in_block(to, rank)),
               "f"(v.x), "f"(v.y), "r"(address_in_block(&box.barrier, rank))
               : "memory");
#endif
}
#endif

} // namespace quire::cuda
