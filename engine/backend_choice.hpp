// Which backend and device serve: what was asked for, or the best there is, with the reason in one line.
//
// auto: CUDA, else a Vulkan GPU, else the CPU by what decodes fastest on it: Vulkan where a driver for CPUs is
// installed (lavapipe), or the reference interpreter. Errors: quire::Error names what was asked for and what there is.
// Threads: [load].
#pragma once

#include "plugin_host.hpp"
#include "quire/engine.hpp"

#include <functional>
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

// Tokens a second that a candidate would decode; throws Error where it can't.
using DecodeRate = std::function<double(const BackendCandidate&)>;

// In the order in which they should be tried: one for a backend asked for by name, several for «auto». device: an
// index, or -1 for the best. rate is asked only where there is no GPU and several ways to use the CPU; without it,
// loaded backends come before what is built in.
std::vector<BackendCandidate> choose_backends(const PluginHost& host, const std::string& backend, int32_t device,
                                              const DecodeRate& rate = {});

} // namespace quire
