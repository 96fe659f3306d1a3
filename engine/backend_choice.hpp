// Which backend and device serve: what was asked for, or the best there is, with the reason in one line.
//
// auto: CUDA, else a Vulkan GPU, else the CPU: through Vulkan where a driver for it is installed (lavapipe), else the
// reference interpreter. Errors: quire::Error names what was asked for and what there is. Threads: [load].
#pragma once

#include "plugin_host.hpp"
#include "quire/engine.hpp"

#include <string>
#include <vector>

namespace quire {

struct BackendCandidate {
  const Plugin* plugin = nullptr;
  uint32_t device = 0;
  quire_device_info info{};
  DeviceChoice choice;
};

// All devices of a backend; empty where it has none or can't say (`error` gets its sentence).
std::vector<quire_device_info> devices_of(const Plugin& backend, std::string& error);

// In the order in which they should be tried: one for a backend asked for by name, several for «auto». device: an
// index, or -1 for the best.
std::vector<BackendCandidate> choose_backends(const PluginHost& host, const std::string& backend, int32_t device);

} // namespace quire
