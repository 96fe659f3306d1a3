#include "device.hpp"

#include "error.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>

namespace quire::cuda {
namespace {

constexpr int kOldest = 75; // compute capability: ldmatrix and fp16 mma.sync

int attribute(cudaDeviceAttr which, uint32_t device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, static_cast<int>(device)), "reading the device's attributes");
  return value;
}

int capability_of(uint32_t device) {
  return 10 * attribute(cudaDevAttrComputeCapabilityMajor, device) +
         attribute(cudaDevAttrComputeCapabilityMinor, device);
}

std::string version_words(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

template <size_t n> void copy_text(char (&to)[n], const std::string& text) { std::snprintf(to, n, "%s", text.c_str()); }

} // namespace

uint32_t count_devices() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return static_cast<uint32_t>(count);
  static_cast<void>(cudaGetLastError());
  if (error == cudaSuccess || error == cudaErrorNoDevice)
    throw Failure(QUIRE_UNSUPPORTED, "CUDA: this machine has no NVIDIA GPU that the driver shows");
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0, runtime = 0;
    ignore(cudaDriverGetVersion(&driver));
    ignore(cudaRuntimeGetVersion(&runtime));
    if (driver == 0)
      throw Failure(QUIRE_UNSUPPORTED, "CUDA: no NVIDIA driver is installed (libcuda.so.1 was not found)");
    throw Failure(QUIRE_UNSUPPORTED, "CUDA: the NVIDIA driver supports CUDA " + version_words(driver) +
                                         ", this plugin needs " + version_words(runtime) + ": install a newer driver");
  }
  throw Failure(QUIRE_UNSUPPORTED, std::string("CUDA: the driver can't be used: ") + cudaGetErrorString(error));
}

quire_device_info describe_device(uint32_t device) {
  if (device >= count_devices()) throw Failure(QUIRE_INVALID, "CUDA: there is no device " + std::to_string(device));
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, static_cast<int>(device)), "reading the device's properties");
  int driver = 0;
  check(cudaDriverGetVersion(&driver), "reading the driver's version");
  quire_device_info info{};
  copy_text(info.name, properties.name);
  copy_text(info.driver, "CUDA " + version_words(driver));
  info.kind = properties.integrated ? QUIRE_DEVICE_INTEGRATED : QUIRE_DEVICE_DISCRETE;
  info.memory_bytes = properties.totalGlobalMem;
  const int capability = 10 * properties.major + properties.minor;
  info.usable = capability >= kOldest;
  if (capability < kOldest) {
    copy_text(info.note, "compute capability " + std::to_string(properties.major) + "." +
                             std::to_string(properties.minor) + " is older than 7.5");
    return info;
  }
  if (capability < 80)
    copy_text(info.note, "older than compute capability 8.0: no bf16 KV cache, and attention on the plain path");
  // Free memory needs a context on the device; it stays for create.
  int current = 0;
  size_t free = 0, total = 0;
  if (cudaGetDevice(&current) == cudaSuccess && cudaSetDevice(static_cast<int>(device)) == cudaSuccess) {
    if (cudaMemGetInfo(&free, &total) == cudaSuccess)
      info.free_bytes = free;
    else
      static_cast<void>(cudaGetLastError());
    ignore(cudaSetDevice(current));
  } else {
    static_cast<void>(cudaGetLastError());
  }
  return info;
}

DeviceTraits open_device(uint32_t device) {
  if (device >= count_devices()) throw Failure(QUIRE_INVALID, "CUDA: there is no device " + std::to_string(device));
  DeviceTraits traits;
  traits.compute_capability = capability_of(device);
  if (traits.compute_capability < kOldest)
    throw Failure(QUIRE_UNSUPPORTED,
                  "CUDA: device " + std::to_string(device) + " is older than compute capability 7.5");
  check(cudaSetDevice(static_cast<int>(device)), "opening the device");
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, static_cast<int>(device)), "reading the device's properties");
  traits.multiprocessors = static_cast<uint32_t>(properties.multiProcessorCount);
  traits.shared_bytes = properties.sharedMemPerBlockOptin;
  traits.total_bytes = properties.totalGlobalMem;
  traits.l2_bytes = static_cast<uint64_t>(properties.l2CacheSize);
  traits.name = properties.name;
  return traits;
}

} // namespace quire::cuda
