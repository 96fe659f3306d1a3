// Where launches go.
#pragma once

#include <cuda_runtime_api.h>

namespace quire::cuda {

// overlap: a kernel may be scheduled before the one before it has ended (programmatic dependent launch); every kernel
// of ops/ waits itself before it touches what others wrote.
struct Queue {
  cudaStream_t stream = nullptr;
  bool overlap = false;
};

} // namespace quire::cuda
