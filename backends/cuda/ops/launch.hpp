// Launching a kernel: one function for the driver and for the emulator of the tests.
//
// Errors: Failure with the kernel's name. Threads: the backend's queue.
#pragma once

#include "device_code.cuh"
#include "queue.hpp"

#include "../error.hpp"

#include <cstddef>
#include <tuple>
#include <utility>

namespace quire::cuda {

#ifndef QUIRE_CUDA_EMULATED
// Lets the kernel be launched with so much dynamic shared memory, in clusters of so many blocks.
template <class... Parameters>
cudaError_t allow_clusters(void (*kernel)(Parameters...), uint32_t cluster, size_t shared_bytes) {
  const auto* function = reinterpret_cast<const void*>(kernel);
  cudaError_t error = cudaSuccess;
  if (shared_bytes > 48u << 10)
    error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
  if (error == cudaSuccess && cluster > 8)
    error = cudaFuncSetAttribute(function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
  return error;
}
#endif

// cluster: blocks of the x dimension that run together, of a size that the device holds (cluster.cuh).
template <class... Parameters, class... Arguments>
void launch_clusters(const char* name, void (*kernel)(Parameters...), uint32_t cluster, dim3 grid, dim3 block,
                     size_t shared_bytes, const Queue& queue, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#ifdef QUIRE_CUDA_EMULATED
  (void)name;
  emulator::enqueue(queue.stream, [=, values = std::tuple<std::decay_t<Parameters>...>(arguments...)] {
    emulator::run_grid(cluster, grid, block, shared_bytes, [&] { std::apply(kernel, values); });
  });
#else
  check(allow_clusters(kernel, cluster, shared_bytes), name);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = queue.stream;
  cudaLaunchAttribute attributes[3]{};
  config.attrs = attributes;
  if (queue.overlap) {
    attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (cluster > 1) { // on as many multiprocessors as may be
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
    attributes[config.numAttrs++].val.clusterDim = {cluster, 1, 1};
    attributes[config.numAttrs].id = cudaLaunchAttributeClusterSchedulingPolicyPreference;
    attributes[config.numAttrs++].val.clusterSchedulingPolicyPreference = cudaClusterSchedulingPolicySpread;
  }
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
#endif
}

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            const Queue& queue, Arguments&&... arguments) {
  launch_clusters(name, kernel, 1, grid, block, shared_bytes, queue, std::forward<Arguments>(arguments)...);
}

} // namespace quire::cuda
