// From the ops of a program to its launches.
#pragma once

#include "compile.hpp"

namespace quire::cuda {

// Memory that launches share; each uses it alone while it runs.
struct WorkspaceNeeds {
  uint64_t split_bytes = 0;  // the linear kernels' split sums
  uint64_t attend_bytes = 0; // partial results
  uint64_t expert_bytes = 0;
  uint64_t convert_bytes = 0; // an input in another type: beside the others
  uint64_t counters = 0;      // words

  uint64_t shared() const { return std::max({split_bytes, attend_bytes, expert_bytes}); }
  uint64_t total() const { return shared() + convert_bytes + 256; }
};

// Fills c.launches; the closures read c's buffers when they run.
void make_launches(const quire_program& program, const FusionPlan& fusion, const CompileContext& context,
                   CompiledProgram& c, WorkspaceNeeds& needs);

// Adds to c.chains, for steps of one token a sequence, an attend_decode in the place of a rope_store and the attend
// behind it; after make_launches and make_chains.
void make_rotated_attends(const FusionPlan& fusion, const CompileContext& context, CompiledProgram& c);

} // namespace quire::cuda
