// Texel views of a program's activations and of one buffer of its weights: how kernels read both on a CPU device.
//
// llvmpipe carries out a load by address as a loop over the lanes with a branch each; a texel fetch is straight vector
// code. Set 1 of a pipeline: activations in words by four, weights in words by one, two and four. Errors: Failure.
// Threads: confined to the instance's thread.
#pragma once

#include "memory.hpp"

namespace quire::vulkan {

// The layout of set 1; the caller destroys it.
VkDescriptorSetLayout make_texel_layout(const Device& device);
// The most bytes that a buffer may have to be seen in words.
uint64_t largest_texel_buffer(const Device& device);

class TexelViews {
 public:
  TexelViews(const Device& device, VkDescriptorSetLayout layout, const Buffer& inputs, const Buffer& weights);
  ~TexelViews();
  TexelViews(const TexelViews&) = delete;
  TexelViews& operator=(const TexelViews&) = delete;
  VkDescriptorSet set() const { return set_; }

 private:
  static constexpr uint32_t num_views = 4;
  void destroy();

  const Device& device_;
  VkBufferView views_[num_views] = {};
  VkDescriptorPool pool_ = VK_NULL_HANDLE;
  VkDescriptorSet set_ = VK_NULL_HANDLE;
};

} // namespace quire::vulkan
