// What the ops of a program must move and do, for setting their times against a device's ceilings.
//
// Units: bytes with each input and output once, weights as in the file; operations as multiplications and additions.
// Threads: pure functions over their arguments.
#pragma once

#include <quire/plugin.h>

#include <cstdint>
#include <vector>

namespace quire::vulkan {

struct OpWork {
  uint32_t count = 0; // count_* that the row figures go by
  uint64_t fixed_bytes = 0;
  uint64_t row_bytes = 0;
  uint64_t row_flops = 0;
  uint64_t context_bytes = 0;  // a position of context that a sequence sees
  uint64_t position_flops = 0; // a position that a token sees
  uint32_t window = 0;
};
std::vector<OpWork> work_of(const quire_program& program, const quire_limits& limits); // [num_ops]

} // namespace quire::vulkan
