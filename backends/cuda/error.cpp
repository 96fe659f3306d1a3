#include "error.hpp"

namespace quire::cuda {

quire_code code_of(cudaError_t error) noexcept {
  switch (error) {
  case cudaSuccess:
    return QUIRE_OK;
  case cudaErrorMemoryAllocation:
    return QUIRE_OUT_OF_MEMORY;
  case cudaErrorInvalidValue:
  case cudaErrorNotSupported:
  case cudaErrorInvalidDevice:
  case cudaErrorInsufficientDriver:
  case cudaErrorNoDevice:
  case cudaErrorNoKernelImageForDevice:
  case cudaErrorInvalidDeviceFunction:
  case cudaErrorInvalidConfiguration:
  case cudaErrorLaunchOutOfResources:
  case cudaErrorStreamCaptureUnsupported:
  case cudaErrorStreamCaptureInvalidated:
    return QUIRE_FAILED;
  default:
    return QUIRE_DEVICE_LOST; // illegal address, launch failure, ECC, device removed, …: every later call fails with
                              // the same
  }
}

void fail(cudaError_t error, const char* doing) {
  static_cast<void>(cudaGetLastError());
  const quire_code code = code_of(error);
  std::string sentence =
      std::string("CUDA: ") + doing + " failed: " + cudaGetErrorString(error) + " (" + cudaGetErrorName(error) + ")";
  if (error == cudaErrorNoKernelImageForDevice)
    sentence +=
        "; this build has no machine code for this device: configure with its compute capability in -Dnvcc_targets";
  if (code == QUIRE_OUT_OF_MEMORY) sentence += "; lower --memory-fraction, --max-seqs or the context";
  throw Failure(code, sentence);
}

} // namespace quire::cuda
