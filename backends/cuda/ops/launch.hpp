// Launching a kernel: one function for the driver and for the emulator of the tests.
//
// Errors: Failure with the kernel's name. Threads: the backend's queue.
#pragma once

#include "device_code.cuh"
#include "queue.hpp"

#include "../error.hpp"

#include <cstddef>
#include <tuple>

namespace quire::cuda {

template <class... Parameters, class... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            const Queue& queue, Arguments&&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
#ifdef QUIRE_CUDA_EMULATED
  (void)name;
  emulator::enqueue(queue.stream, [=, values = std::tuple<std::decay_t<Parameters>...>(arguments...)] {
    emulator::run_grid(grid, block, shared_bytes, [&] { std::apply(kernel, values); });
  });
#else
  if (shared_bytes > 48u << 10)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          name);
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = queue.stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = queue.overlap ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name);
#endif
}

} // namespace quire::cuda
