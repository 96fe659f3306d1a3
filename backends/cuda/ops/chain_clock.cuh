// Notes a chain's times (chain_times.hpp) where the build asks for them; otherwise nothing, at no cost.
#pragma once

#include "chain_share.cuh"
#include "chain_times.hpp"

#include <type_traits>

namespace quire::cuda {

template <bool kTraced> class ChainClock {
 public:
  __device__ __forceinline__ void framed() {}
  __device__ __forceinline__ void asked() {}
  __device__ __forceinline__ void released(const ChainArgs&, uint32_t, uint32_t) {}
  __device__ __forceinline__ void skipped(uint32_t) {}
  __device__ __forceinline__ void input(uint32_t) {}
  template <class Wait> __device__ __forceinline__ void wait(const Wait& wait) { wait(); }
  __device__ __forceinline__ void multiplied() {}
  __device__ __forceinline__ void handed() {}
};

template <> class ChainClock<true> {
  static_assert(std::extent_v<decltype(ChainTimes::phases), 0> == kChainWarps &&
                std::extent_v<decltype(ChainTimes::phases), 1> == kMaxPhases);

 public:
  __device__ __forceinline__ ChainClock() : begun_(now()) {}
  __device__ __forceinline__ void framed() { framed_ = now(); }
  __device__ __forceinline__ void asked() { asked_ = now(); }
  __device__ __forceinline__ void released(const ChainArgs& a, uint32_t launch, uint32_t warp) {
    if (a.times == nullptr) return;
    times_ = a.times + size_t{launch % kTracedLaunches} * gridDim.x + blockIdx.x;
    if (threadIdx.x == 0) {
      times_->launch = launch, times_->num_phases = a.shape.num_phases;
      times_->begun = begun_, times_->framed = framed_, times_->asked = asked_, times_->released = now();
    }
    of_warp_ = threadIdx.x % 32 == 0 ? times_->phases[warp] : nullptr;
  }
  __device__ __forceinline__ void skipped(uint32_t phase) { // what another launch noted there
    if (of_warp_ != nullptr) of_warp_[phase].input = 0;
  }
  __device__ __forceinline__ void input(uint32_t phase) {
    phase_ = phase, waited_ = 0;
    if (of_warp_ != nullptr) of_warp_[phase_].input = now();
  }
  // wait(): for a stage of weights.
  template <class Wait> __device__ __forceinline__ void wait(const Wait& wait) {
    const uint32_t from = now();
    wait();
    waited_ += now() - from;
  }
  __device__ __forceinline__ void multiplied() { // the last round's counts
    if (of_warp_ != nullptr) of_warp_[phase_].multiplied = now(), of_warp_[phase_].waited = waited_;
  }
  __device__ __forceinline__ void handed() {
    if (of_warp_ != nullptr) of_warp_[phase_].handed = now();
  }

 private:
  static __device__ __forceinline__ uint32_t now() {
#ifdef QUIRE_CUDA_EMULATED
    return emulator::nanoseconds();
#else
    uint32_t t;
    asm volatile("mov.u32 %0, %globaltimer_lo;" : "=r"(t)::"memory");
    return t;
#endif
  }

  uint32_t begun_, framed_ = 0, asked_ = 0, phase_ = 0, waited_ = 0;
  ChainTimes* times_ = nullptr;
  ChainTimes::Phase* of_warp_ = nullptr; // lane 0's
};

} // namespace quire::cuda
