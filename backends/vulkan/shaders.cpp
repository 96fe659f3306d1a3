#include "shaders.hpp"

#include <cassert>
#include <cstddef>

namespace quire::vulkan {
namespace {
#include "shader_index.hpp"
} // namespace

std::span<const uint32_t> find_shader(std::string_view name) {
  for (const auto& entry : shader_index)
    if (name == entry.name) return {entry.words, entry.bytes / sizeof(uint32_t)};
  assert(false && "no such shader");
  return {};
}

} // namespace quire::vulkan
