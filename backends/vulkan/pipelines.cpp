#include "pipelines.hpp"

#include "shaders.hpp"
#include "texels.hpp"

#include <quire/plugin_check.hpp>

#include <cassert>
#include <cstring>
#include <fstream>

#include <unistd.h>

namespace quire::vulkan {
namespace {

// One file a device and driver: what another one wrote is of no use, and is rejected by the driver besides.
std::filesystem::path cache_file(const Device& device, const std::string& cache_dir) {
  if (cache_dir.empty()) return {};
  const VkPhysicalDeviceProperties& properties = device.traits().properties;
  std::string name = "vulkan-";
  for (const uint8_t byte : properties.pipelineCacheUUID) {
    constexpr char digits[] = "0123456789abcdef";
    name += digits[byte >> 4];
    name += digits[byte & 15];
  }
  return std::filesystem::path(cache_dir) / (name + "-" + std::to_string(properties.deviceID) + ".pipelines");
}

std::vector<char> read_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// The header that the specification gives a cache (VkPipelineCacheHeaderVersionOne) names the device it was made for.
bool fits(const std::vector<char>& data, const VkPhysicalDeviceProperties& properties) {
  VkPipelineCacheHeaderVersionOne header;
  if (data.size() < sizeof header) return false;
  std::memcpy(&header, data.data(), sizeof header);
  return header.headerVersion == VK_PIPELINE_CACHE_HEADER_VERSION_ONE && header.vendorID == properties.vendorID &&
         header.deviceID == properties.deviceID &&
         std::memcmp(header.pipelineCacheUUID, properties.pipelineCacheUUID, VK_UUID_SIZE) == 0;
}

} // namespace

Pipelines::Pipelines(Device& device, const std::string& cache_dir)
    : device_(device), file_(cache_file(device, cache_dir)) {
  const VolkDeviceTable& vk = device_.vk();
  try {
    const VkDescriptorSetLayoutBinding bindings[2] = {
        {0, VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER_DYNAMIC, 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr},
        {1, VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER, 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr}};
    VkDescriptorSetLayoutCreateInfo set{VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO};
    set.bindingCount = 2;
    set.pBindings = bindings;
    check(vk.vkCreateDescriptorSetLayout(device_.handle(), &set, nullptr, &set_layout_),
          "creating a descriptor layout");
    texel_layout_ = make_texel_layout(device_);
    const VkDescriptorSetLayout sets[2] = {set_layout_, texel_layout_};
    VkPipelineLayoutCreateInfo layout{VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO};
    layout.setLayoutCount = 2;
    layout.pSetLayouts = sets;
    check(vk.vkCreatePipelineLayout(device_.handle(), &layout, nullptr, &layout_), "creating a pipeline layout");
    std::vector<char> data;
    if (!file_.empty()) data = read_file(file_);
    loaded_ = fits(data, device_.traits().properties);
    VkPipelineCacheCreateInfo cache{VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO};
    if (loaded_) {
      cache.initialDataSize = data.size();
      cache.pInitialData = data.data();
    }
    check(vk.vkCreatePipelineCache(device_.handle(), &cache, nullptr, &cache_), "creating the pipeline cache");
  } catch (...) {
    destroy();
    throw;
  }
}

Pipelines::~Pipelines() {
  save();
  destroy();
}

void Pipelines::destroy() {
  const VolkDeviceTable& vk = device_.vk();
  for (const auto& [key, pipeline] : pipelines_) vk.vkDestroyPipeline(device_.handle(), pipeline, nullptr);
  for (const auto& [name, module] : modules_) vk.vkDestroyShaderModule(device_.handle(), module, nullptr);
  for (const VkDescriptorPool pool : pools_) vk.vkDestroyDescriptorPool(device_.handle(), pool, nullptr);
  vk.vkDestroyPipelineCache(device_.handle(), cache_, nullptr);
  vk.vkDestroyPipelineLayout(device_.handle(), layout_, nullptr);
  vk.vkDestroyDescriptorSetLayout(device_.handle(), texel_layout_, nullptr);
  vk.vkDestroyDescriptorSetLayout(device_.handle(), set_layout_, nullptr);
}

VkPipeline Pipelines::get(std::string_view shader, uint32_t workgroup, const std::vector<uint32_t>& constants) {
  Key key{std::string(shader), workgroup, constants};
  if (const auto found = pipelines_.find(key); found != pipelines_.end()) return found->second;
  const VkPipeline pipeline = create(key);
  pipelines_.emplace(std::move(key), pipeline);
  return pipeline;
}

VkPipeline Pipelines::create(const Key& key) {
  const VolkDeviceTable& vk = device_.vk();
  auto module = modules_.find(key.shader);
  if (module == modules_.end()) {
    const std::span<const uint32_t> words = find_shader(key.shader);
    VkShaderModuleCreateInfo create{VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO};
    create.codeSize = words.size_bytes();
    create.pCode = words.data();
    VkShaderModule made = VK_NULL_HANDLE;
    check(vk.vkCreateShaderModule(device_.handle(), &create, nullptr, &made), "loading a shader");
    module = modules_.emplace(key.shader, made).first;
  }
  const Traits& traits = device_.traits();
  assert(key.workgroup % traits.subgroup == 0);
  std::vector<uint32_t> values = {key.workgroup, traits.subgroup};
  values.insert(values.end(), key.constants.begin(), key.constants.end());
  std::vector<VkSpecializationMapEntry> entries;
  for (uint32_t i = 0; i < values.size(); ++i) entries.push_back({i, i * 4, 4});
  const VkSpecializationInfo specialization{static_cast<uint32_t>(entries.size()), entries.data(), values.size() * 4,
                                            values.data()};
  VkPipelineShaderStageRequiredSubgroupSizeCreateInfoEXT size{
      VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO_EXT};
  size.requiredSubgroupSize = traits.subgroup;
  VkComputePipelineCreateInfo create{VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO};
  create.layout = layout_;
  create.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
  if (traits.fixed_subgroup) {
    create.stage.pNext = &size;
    if (traits.full_subgroups) create.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT_EXT;
  }
  create.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
  create.stage.module = module->second;
  create.stage.pName = "main";
  create.stage.pSpecializationInfo = &specialization;
  VkPipeline pipeline = VK_NULL_HANDLE;
  const VkResult result = vk.vkCreateComputePipelines(device_.handle(), cache_, 1, &create, nullptr, &pipeline);
  if (result != VK_SUCCESS) fail(result, "building the pipeline of shader " + key.shader);
  return pipeline;
}

VkDescriptorSet Pipelines::describe(VkBuffer parameters, VkBuffer step, uint64_t step_bytes) {
  const VolkDeviceTable& vk = device_.vk();
  const VkDescriptorPoolSize sizes[2] = {{VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER_DYNAMIC, 1},
                                         {VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER, 1}};
  VkDescriptorPoolCreateInfo pool{VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO};
  pool.maxSets = 1;
  pool.poolSizeCount = 2;
  pool.pPoolSizes = sizes;
  VkDescriptorPool made = VK_NULL_HANDLE;
  check(vk.vkCreateDescriptorPool(device_.handle(), &pool, nullptr, &made), "creating a descriptor pool");
  pools_.push_back(made);
  VkDescriptorSetAllocateInfo allocate{VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO};
  allocate.descriptorPool = made;
  allocate.descriptorSetCount = 1;
  allocate.pSetLayouts = &set_layout_;
  VkDescriptorSet set = VK_NULL_HANDLE;
  check(vk.vkAllocateDescriptorSets(device_.handle(), &allocate, &set), "allocating descriptors");
  const VkDescriptorBufferInfo buffers[2] = {{parameters, 0, parameter_bytes}, {step, 0, step_bytes}};
  VkWriteDescriptorSet writes[2] = {{VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET}, {VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET}};
  for (uint32_t i = 0; i < 2; ++i) {
    writes[i].dstSet = set;
    writes[i].dstBinding = i;
    writes[i].descriptorCount = 1;
    writes[i].descriptorType = i == 0 ? VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER_DYNAMIC : VK_DESCRIPTOR_TYPE_UNIFORM_BUFFER;
    writes[i].pBufferInfo = &buffers[i];
  }
  vk.vkUpdateDescriptorSets(device_.handle(), 2, writes, 0, nullptr);
  return set;
}

void Pipelines::save() {
  if (file_.empty() || created() == saved_ || device_.lost()) return;
  saved_ = created();
  const VolkDeviceTable& vk = device_.vk();
  std::size_t size = 0;
  if (vk.vkGetPipelineCacheData(device_.handle(), cache_, &size, nullptr) != VK_SUCCESS) return;
  std::vector<char> data(size);
  if (vk.vkGetPipelineCacheData(device_.handle(), cache_, &size, data.data()) != VK_SUCCESS) return;
  // Written aside and renamed, so that a reader never sees half of it.
  std::error_code error;
  std::filesystem::create_directories(file_.parent_path(), error);
  const std::filesystem::path aside = file_.string() + "." + std::to_string(getpid());
  std::ofstream out(aside, std::ios::binary);
  out.write(data.data(), static_cast<std::streamsize>(size));
  out.close();
  if (out) std::filesystem::rename(aside, file_, error);
  if (!out || error) {
    std::filesystem::remove(aside, error);
    device_.log(QUIRE_LOG_WARNING, "the pipeline cache can't be written to " + file_.string());
  }
}

} // namespace quire::vulkan
