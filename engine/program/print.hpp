// A program as a listing for people: `quire run --print-program`.
//
// Each line is one op with the shapes of all it reads and writes; T, S and R stand for the tokens, sequences and output
// rows of a step. Weights show format and bytes. Threads: pure.
#pragma once

#include "quire/plugin.h"

#include <string>

namespace quire {

// A validated program.
std::string print_program(const quire_program& program);

// «86.3 MiB»
std::string bytes_text(uint64_t bytes);

} // namespace quire
