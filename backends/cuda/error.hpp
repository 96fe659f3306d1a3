// CUDA's error codes as failures of the plugin: each call is checked where it is made.
//
// Out of memory → QUIRE_OUT_OF_MEMORY (nothing changed), an error that the context does not survive →
// QUIRE_DEVICE_LOST, else QUIRE_FAILED. Threads: pure functions.
#pragma once

#include <quire/plugin.hpp>

#include <cuda_runtime_api.h>

#include <string>

namespace quire::cuda {

// What the code means for the host.
quire_code code_of(cudaError_t error) noexcept;

[[noreturn]] void fail(cudaError_t error, const char* doing);

// doing: what was being done, «copying weights to the device»; the sentence is made of it.
inline void check(cudaError_t error, const char* doing) {
  if (error != cudaSuccess) [[unlikely]]
    fail(error, doing);
}

// For destructors and clean-up after another failure: the error is taken off CUDA's books and dropped.
inline void ignore(cudaError_t error) noexcept {
  if (error != cudaSuccess) static_cast<void>(cudaGetLastError());
}

} // namespace quire::cuda
