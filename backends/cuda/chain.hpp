// Which launches of a compiled program a linear_chain can stand for when a step has few rows.
//
// A chain is a run of linears (with glu, and with the norm before each) that follow one another without anything
// between, each reading what the one before made and nobody else reads. What they hand over lies in a small buffer of
// the chains' own, so that the buffer plan stays as it is; for steps of more rows the launches run one by one. A
// gather_rows between a norm and its linear may belong to a chain, for steps whose rows are the tokens in order: then
// it has nothing to do. None under fixed_order, whose sums have another order. Errors: Failure. Threads: [load] for
// make_chains, then the backend's queue.
#pragma once

#include "compile.hpp"

namespace quire::cuda {

// Fills c.chains; after make_launches.
void make_chains(const quire_program& program, const FusionPlan& fusion, const CompileContext& context,
                 CompiledProgram& c);

} // namespace quire::cuda
