// What an op must move and do at least, for the profile: each input and output once, weights in the file's bytes.
//
// Units: bytes, operations (a multiply-add is two). Threads: pure functions; no device.
#pragma once

#include "compile.hpp"

#include <quire/plugin.h>

#include <cstdint>

namespace quire::cuda {

struct Cost {
  uint64_t bytes = 0, flops = 0;
};

Cost cost_of(const CompiledProgram& program, uint32_t op, const quire_step& step);

} // namespace quire::cuda
