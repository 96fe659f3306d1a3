#include "texels.hpp"

namespace quire::vulkan {

VkDescriptorSetLayout make_texel_layout(const Device& device) {
  VkDescriptorSetLayoutBinding bindings[4] = {};
  for (uint32_t i = 0; i < 4; ++i)
    bindings[i] = {i, VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER, 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr};
  VkDescriptorSetLayoutCreateInfo create{VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO};
  create.bindingCount = 4;
  create.pBindings = bindings;
  VkDescriptorSetLayout layout = VK_NULL_HANDLE;
  check(device.vk().vkCreateDescriptorSetLayout(device.handle(), &create, nullptr, &layout),
        "creating a descriptor layout");
  return layout;
}

uint64_t largest_texel_buffer(const Device& device) {
  return uint64_t{device.traits().properties.limits.maxTexelBufferElements} * 4;
}

TexelViews::TexelViews(const Device& device, VkDescriptorSetLayout layout, const Buffer& inputs, const Buffer& weights)
    : device_(device) {
  const VolkDeviceTable& vk = device.vk();
  const VkFormat formats[num_views] = {VK_FORMAT_R32G32B32A32_UINT, VK_FORMAT_R32_UINT, VK_FORMAT_R32G32_UINT,
                                       VK_FORMAT_R32G32B32A32_UINT};
  try {
    for (uint32_t i = 0; i < num_views; ++i) {
      VkBufferViewCreateInfo create{VK_STRUCTURE_TYPE_BUFFER_VIEW_CREATE_INFO};
      create.buffer = i == 0 ? inputs.handle() : weights.handle();
      create.format = formats[i];
      create.range = VK_WHOLE_SIZE;
      check(vk.vkCreateBufferView(device.handle(), &create, nullptr, &views_[i]), "creating a texel view");
    }
    const VkDescriptorPoolSize size{VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER, num_views};
    VkDescriptorPoolCreateInfo pool{VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO};
    pool.maxSets = 1;
    pool.poolSizeCount = 1;
    pool.pPoolSizes = &size;
    check(vk.vkCreateDescriptorPool(device.handle(), &pool, nullptr, &pool_), "creating a descriptor pool");
    VkDescriptorSetAllocateInfo allocate{VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO};
    allocate.descriptorPool = pool_;
    allocate.descriptorSetCount = 1;
    allocate.pSetLayouts = &layout;
    check(vk.vkAllocateDescriptorSets(device.handle(), &allocate, &set_), "allocating descriptors");
  } catch (...) {
    destroy();
    throw;
  }
  VkWriteDescriptorSet write{VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET};
  write.dstSet = set_;
  write.descriptorCount = 1;
  write.descriptorType = VK_DESCRIPTOR_TYPE_UNIFORM_TEXEL_BUFFER;
  for (uint32_t i = 0; i < num_views; ++i) {
    write.dstBinding = i;
    write.pTexelBufferView = &views_[i];
    vk.vkUpdateDescriptorSets(device.handle(), 1, &write, 0, nullptr);
  }
}

TexelViews::~TexelViews() { destroy(); }

void TexelViews::destroy() {
  const VolkDeviceTable& vk = device_.vk();
  vk.vkDestroyDescriptorPool(device_.handle(), pool_, nullptr);
  for (const VkBufferView view : views_) vk.vkDestroyBufferView(device_.handle(), view, nullptr);
}

} // namespace quire::vulkan
