#include "backend_choice.hpp"

#include "quire/error.hpp"

#include <algorithm>
#include <cstdio>
#include <optional>

namespace quire {
namespace {

// A GPU before the CPU, a card before a chip's own, then by memory.
bool better(const quire_device_info& a, const quire_device_info& b) {
  return a.kind != b.kind ? a.kind > b.kind : a.memory_bytes > b.memory_bytes;
}

const char* kind_word(uint32_t kind) {
  switch (kind) {
  case QUIRE_DEVICE_DISCRETE:
    return "discrete GPU";
  case QUIRE_DEVICE_INTEGRATED:
    return "integrated GPU";
  default:
    return "CPU";
  }
}

BackendCandidate candidate(const Plugin& plugin, uint32_t device, const quire_device_info& info,
                           const std::string& why) {
  return {&plugin, device, info, {plugin.id, info.name, why, info.driver}};
}

// The usable device that serves best, if its kind will do.
std::optional<uint32_t> best_device(const std::vector<quire_device_info>& devices, bool gpu, bool cpu) {
  std::optional<uint32_t> best;
  for (uint32_t d = 0; d < devices.size(); ++d) {
    const bool is_cpu = devices[d].kind == QUIRE_DEVICE_CPU;
    if (!devices[d].usable || (is_cpu ? !cpu : !gpu)) continue;
    if (!best || better(devices[d], devices[*best])) best = d;
  }
  return best;
}

std::string why_not(const std::string& id, const std::vector<quire_device_info>& devices, const std::string& error) {
  if (!error.empty()) return id + ": " + error;
  for (const quire_device_info& info : devices)
    if (!info.usable && info.note[0]) return id + ": " + info.name + " can't be used, " + info.note;
  return id + ": no GPU";
}

std::vector<BackendCandidate> by_name(const PluginHost& host, const std::string& backend, int32_t device) {
  const Plugin& plugin = host.backend(backend);
  std::string error;
  const std::vector<quire_device_info> devices = devices_of(plugin, error);
  if (devices.empty()) throw Error("backend " + backend + " has no device" + (error.empty() ? "" : ": " + error));
  if (device < 0) {
    const std::optional<uint32_t> best = best_device(devices, true, true);
    if (!best) throw Error("backend " + backend + " has no usable device: " + why_not(backend, devices, error));
    return {candidate(plugin, *best, devices[*best], "asked for by --backend " + backend)};
  }
  if (static_cast<size_t>(device) >= devices.size())
    throw Error("device " + std::to_string(device) + " of backend " + backend + " doesn't exist: it has " +
                std::to_string(devices.size()) +
                (devices.size() == 1 ? " device, number 0" : " devices, numbered from 0"));
  const quire_device_info& info = devices[static_cast<size_t>(device)];
  if (!info.usable) throw Error(std::string(info.name) + " can't be used: " + info.note);
  return {candidate(plugin, static_cast<uint32_t>(device), info,
                    "asked for by --backend " + backend + " --device " + std::to_string(device))};
}

// «reference 34 tokens/s, vulkan 14», and the candidates by it, those that can't last.
std::string by_rate(std::vector<BackendCandidate>& candidates, const DecodeRate& rate) {
  struct Measured {
    BackendCandidate candidate;
    double rate = 0;
    std::string error;
  };
  std::vector<Measured> all;
  for (const BackendCandidate& c : candidates) {
    all.push_back({c, 0, {}});
    try {
      all.back().rate = rate(c);
    } catch (const Error& error) {
      all.back().error = error.what();
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const Measured& a, const Measured& b) { return a.rate > b.rate; });
  std::string text;
  for (std::size_t i = 0; i < all.size(); ++i) {
    candidates[i] = all[i].candidate;
    char number[64];
    std::snprintf(number, sizeof number, all[i].rate < 10 ? " about %.1f tokens/s" : " about %.0f tokens/s",
                  all[i].rate);
    text += (i == 0 ? "" : ", ") + all[i].candidate.plugin->id +
            (all[i].error.empty() ? number : " can't (" + all[i].error + ")");
  }
  return text;
}

} // namespace

std::vector<quire_device_info> devices_of(const Plugin& backend, std::string& error) {
  std::vector<quire_device_info> devices;
  quire_status status{};
  const uint32_t count = backend.backend.device_count(backend.backend.self, &status);
  for (uint32_t d = 0; d < count && status.code == QUIRE_OK; ++d) {
    quire_device_info info{};
    backend.backend.device_info(backend.backend.self, d, &info, &status);
    if (status.code == QUIRE_OK) devices.push_back(info);
  }
  if (status.code != QUIRE_OK) error = status.message;
  return devices;
}

// What a backend offers to «auto»: its best GPU, and its best way to use the CPU.
std::vector<BackendCandidate> choose_backends(const PluginHost& host, const std::string& backend, int32_t device,
                                              const DecodeRate& rate) {
  if (backend != "auto") return by_name(host, backend, device);
  if (device >= 0) throw Error("--device needs --backend: device numbers are a backend's own");

  std::vector<BackendCandidate> candidates;
  std::string missing; // why backends offer no GPU
  for (const Plugin* plugin : host.backends()) {
    std::string error;
    const std::vector<quire_device_info> devices = devices_of(*plugin, error);
    const auto gpu = best_device(devices, true, false), cpu = best_device(devices, false, true);
    if (gpu)
      candidates.push_back(candidate(*plugin, *gpu, devices[*gpu], ""));
    else if (!plugin->path.empty() || !error.empty())
      missing += "; " + why_not(plugin->id, devices, error);
    if (cpu) candidates.push_back(candidate(*plugin, *cpu, devices[*cpu], ""));
  }
  if (candidates.empty()) throw Error("no device can be used" + missing);
  // Where kinds are equal, loaded backends come before what is built in, in the order found (by file name within a
  // folder).
  std::stable_sort(candidates.begin(), candidates.end(), [](const BackendCandidate& a, const BackendCandidate& b) {
    if (a.info.kind != b.info.kind) return a.info.kind > b.info.kind;
    return !a.plugin->path.empty() && b.plugin->path.empty();
  });
  std::string rates;
  if (rate && candidates.size() > 1 && candidates[0].info.kind == QUIRE_DEVICE_CPU) rates = by_rate(candidates, rate);
  for (BackendCandidate& c : candidates) {
    const bool built_in = c.plugin->path.empty();
    if (c.info.kind != QUIRE_DEVICE_CPU)
      c.choice.why = std::string("the best device there is, a ") + kind_word(c.info.kind) + missing;
    else if (!rates.empty())
      c.choice.why = "there is no GPU; on this CPU the model's decoding was measured at start: " + rates + missing;
    else
      c.choice.why = "there is no GPU: the CPU, by " +
                     (built_in ? std::string("the reference interpreter") : "the " + c.plugin->id + " backend") +
                     missing;
  }
  return candidates;
}

} // namespace quire
