// The embedded shaders by name: `linear_q4_1`, `norm`, ... (shaders/meson.build has the list). Threads: immutable data,
// [any].
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace quire::vulkan {

// SPIR-V words; asserts that there is such a shader.
std::span<const uint32_t> find_shader(std::string_view name);

} // namespace quire::vulkan
