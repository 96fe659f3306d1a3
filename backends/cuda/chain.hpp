// Which launches of a compiled program a linear_chain can stand for when a step has few rows.
//
// A chain is a run of linears (with glu, and with the norm before each) that follow one another without anything
// between, each reading what the one before made and nobody else reads. That lies in a small buffer of the chains' own,
// so that the buffer plan stays as it is; for steps of more rows the launches run one by one. None under fixed_order,
// whose sums have another order. Errors: Failure. Threads: [load] for make_chains, then the backend's queue.
#pragma once

#include "compile.hpp"

namespace quire::cuda {

// Fills c.chains; after make_launches.
void make_chains(const quire_program& program, const FusionPlan& fusion, const CompileContext& context,
                 CompiledProgram& c);

} // namespace quire::cuda
