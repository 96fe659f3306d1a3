// The CUDA backend's plugin: what the host finds, and what it makes of it.
#include "device.hpp"
#include "instance.hpp"

#include <quire/plugin.hpp>

namespace quire::cuda {

class CudaBackend final : public Backend {
 public:
  uint32_t device_count() override { return count_devices(); }
  quire_device_info device_info(uint32_t device) override { return describe_device(device); }
  std::unique_ptr<Instance> create(const quire_create_options& options) override {
    return std::make_unique<CudaInstance>(options);
  }
};

} // namespace quire::cuda

QUIRE_BACKEND_PLUGIN(quire::cuda::CudaBackend, "cuda", QUIRE_VERSION);
