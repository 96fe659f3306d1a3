#include "reference/reference.hpp"

#include "quire/plugin.hpp"
#include "reference/instance.hpp"

#include <cstdio>
#include <fstream>
#include <string>
#include <thread>
#include <unistd.h>

namespace quire {
namespace reference {
namespace {

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name"))
      if (const size_t colon = line.find(": "); colon != std::string::npos) return line.substr(colon + 2);
  return "CPU";
}

class ReferenceBackend final : public Backend {
 public:
  uint32_t device_count() override { return 1; }

  quire_device_info device_info(uint32_t device) override {
    check(device);
    quire_device_info info{};
    const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    std::snprintf(info.name, sizeof(info.name), "%s", cpu_name().c_str());
    std::snprintf(info.driver, sizeof(info.driver), "quire reference %s", QUIRE_VERSION);
    std::snprintf(info.note, sizeof(info.note), "float32 by plain loops on %u threads: made to be right, not fast",
                  std::max(1u, std::thread::hardware_concurrency()));
    info.kind = QUIRE_DEVICE_CPU;
    info.usable = 1;
    info.memory_bytes = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * page;
    info.free_bytes = static_cast<uint64_t>(sysconf(_SC_AVPHYS_PAGES)) * page;
    return info;
  }

  std::unique_ptr<Instance> create(const quire_create_options& options) override {
    check(options.device);
    return std::make_unique<ReferenceInstance>(options);
  }

 private:
  static void check(uint32_t device) {
    if (device != 0)
      throw Failure(QUIRE_INVALID,
                    "device " + std::to_string(device) + " does not exist: the reference backend has device 0 only");
  }
};

} // namespace
} // namespace reference

const quire_plugin& reference_plugin() {
  static constexpr quire_plugin plugin = backend_plugin<reference::ReferenceBackend>("reference", QUIRE_VERSION);
  return plugin;
}

} // namespace quire
