// The Vulkan backend as a plugin: listing of devices and making of instances.
#include "instance.hpp"
#include "loader.hpp"

#include <quire/plugin.hpp>

#include <memory>
#include <string>

namespace quire::vulkan {
namespace {

class VulkanBackend : public Backend {
 public:
  uint32_t device_count() override { return static_cast<uint32_t>(Api(false).devices().size()); }

  quire_device_info device_info(uint32_t device) override {
    const Api api(false);
    if (device >= api.devices().size())
      throw Failure(QUIRE_INVALID, "there is no Vulkan device " + std::to_string(device) + ": this machine has " +
                                       std::to_string(api.devices().size()) + ", counted from 0");
    return info_of(api.devices()[device]);
  }

  std::unique_ptr<Instance> create(const quire_create_options& options) override {
    InstanceOptions own;
    own.device.device = options.device;
    own.device.validate = options.validate != 0;
    if (options.log != nullptr)
      own.device.log = [host = options.host, log = options.log](int32_t level, const std::string& message) {
        log(host, level, message.c_str());
      };
    if (options.progress != nullptr)
      own.progress = [host = options.host, progress = options.progress](uint64_t done, uint64_t total) {
        progress(host, done, total);
      };
    if (options.cache_dir != nullptr) own.cache_dir = options.cache_dir;
    return std::make_unique<VulkanInstance>(own);
  }
};

} // namespace
} // namespace quire::vulkan

QUIRE_BACKEND_PLUGIN(quire::vulkan::VulkanBackend, "vulkan", QUIRE_VERSION);
