// Kernels that measure: reading alone, waiting, random operands.
#pragma once

#include "queue.hpp"

#include <cstddef>
#include <cstdint>

namespace quire::cuda {

// Reads bytes (a multiple of 16) once; sum keeps the reads alive.
void read_stream(const Queue&, const std::byte* data, uint64_t bytes, uint32_t multiprocessors, uint32_t* sum);
// Keeps the device busy for about so long, so that launches queue up behind it.
void delay(const Queue&, uint32_t microseconds);
// fp16 in [-1, 1), seeded.
void fill_random(const Queue&, std::byte* data, uint64_t elements, uint32_t seed);

} // namespace quire::cuda
