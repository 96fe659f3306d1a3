// The devices that CUDA shows, and whether this build can use each.
//
// Errors: devices() throws Failure with one sentence where there is no driver or none that fits. Threads: [any].
#pragma once

#include <quire/plugin.hpp>

#include <cstdint>
#include <string>

namespace quire::cuda {

// Number of devices; QUIRE_UNSUPPORTED where CUDA has none to offer, with the reason.
uint32_t count_devices();

quire_device_info describe_device(uint32_t device);

// What planning needs to know of a device.
struct DeviceTraits {
  int compute_capability = 0; // 10 * major + minor
  uint32_t multiprocessors = 0;
  uint64_t shared_bytes = 0; // of a block, at most
  uint64_t total_bytes = 0;
  uint64_t l2_bytes = 0;
  std::string name;
};

// Makes the device the calling thread's and reads its traits; throws where this build has no code for it.
DeviceTraits open_device(uint32_t device);

} // namespace quire::cuda
