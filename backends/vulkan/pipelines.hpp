// Pipelines by shader and constants, and their cache on disk.
//
// Every pipeline has one layout: set 0 with the launch's parameters (dynamic uniform buffer) and the step (uniform
// buffer), set 1 with texel views (texels.hpp), which few shaders read. Constants 0 and 1 are always the workgroup's
// and the subgroup's sizes. Errors: Failure; an unreadable or foreign cache file is ignored. Threads: confined to the
// instance's thread.
#pragma once

#include "device.hpp"

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quire::vulkan {

constexpr uint64_t parameter_bytes = 512; // most that one launch's parameters have

class Pipelines {
 public:
  // cache_dir: empty = keep nothing.
  Pipelines(Device& device, const std::string& cache_dir);
  ~Pipelines();
  Pipelines(const Pipelines&) = delete;
  Pipelines& operator=(const Pipelines&) = delete;

  // workgroup: invocations, a multiple of the subgroup. constants: specialization constants from 2 on.
  VkPipeline get(std::string_view shader, uint32_t workgroup, const std::vector<uint32_t>& constants);
  VkPipelineLayout layout() const { return layout_; }
  VkDescriptorSetLayout texel_layout() const { return texel_layout_; }
  // A set over a parameter buffer (from its start, parameter_bytes at each dynamic offset) and a step buffer. Lives as
  // long as this.
  VkDescriptorSet describe(VkBuffer parameters, VkBuffer step, uint64_t step_bytes);

  // Writes the cache to disk where there is something new; a failure is logged.
  void save();
  bool loaded_from_disk() const { return loaded_; }
  uint32_t created() const { return static_cast<uint32_t>(pipelines_.size()); }

 private:
  struct Key {
    std::string shader;
    uint32_t workgroup;
    std::vector<uint32_t> constants;
    auto operator<=>(const Key&) const = default;
  };
  VkPipeline create(const Key& key);
  void destroy();

  Device& device_;
  std::filesystem::path file_;
  bool loaded_ = false;
  uint32_t saved_ = 0;
  VkDescriptorSetLayout set_layout_ = VK_NULL_HANDLE;
  VkDescriptorSetLayout texel_layout_ = VK_NULL_HANDLE;
  VkPipelineLayout layout_ = VK_NULL_HANDLE;
  VkPipelineCache cache_ = VK_NULL_HANDLE;
  std::vector<VkDescriptorPool> pools_;
  std::map<std::string, VkShaderModule, std::less<>> modules_;
  std::map<Key, VkPipeline> pipelines_;
};

} // namespace quire::vulkan
