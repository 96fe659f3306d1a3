// One step, owned: the spans of a quire_step copied, checked, and what the ops need derived from them.
//
// Errors: assign throws Failure, one sentence, and leaves the step unusable. Threads: the verb that fills it, then the
// queue.
#pragma once

#include "quire/plugin.h"
#include "reference/compiled_program.hpp"

#include <cstdint>
#include <vector>

namespace quire::reference {

// Consecutive tokens of one sequence that attend works on together.
struct QueryTile {
  uint32_t sequence;
  uint32_t first_token;
  uint32_t num_tokens;
};
inline constexpr uint32_t kQueryTile = 16;

struct Step {
  uint32_t program = 0;
  std::vector<int32_t> tokens;               // [T]
  std::vector<uint32_t> token_rows;          // [T] or empty: 1-based rows of the ticket before
  std::vector<uint32_t> seq_len;             // [S]
  std::vector<uint32_t> rows;                // [R]
  std::vector<uint32_t> position;            // [T]
  std::vector<uint32_t> sequence;            // [T]
  std::vector<uint32_t> table_start;         // [S + 1]
  std::vector<std::vector<uint32_t>> tables; // [groups][table_start[S]]
  std::vector<QueryTile> query_tiles;

  uint32_t num_tokens() const { return static_cast<uint32_t>(tokens.size()); }
  uint32_t num_sequences() const { return static_cast<uint32_t>(seq_len.size()); }
  uint32_t num_rows() const { return static_cast<uint32_t>(rows.size()); }
  uint32_t count_of(uint32_t rows_symbol) const {
    return rows_symbol == QUIRE_TOKENS ? num_tokens() : rows_symbol == QUIRE_SEQUENCES ? num_sequences() : num_rows();
  }

  // num_blocks: of each group, of the program's cache (empty where it has none). previous_rows: sampled rows of the
  // ticket before.
  void assign(const quire_step& step, const CompiledProgram& program, const std::vector<uint32_t>& num_blocks,
              uint32_t previous_rows);
};

} // namespace quire::reference
