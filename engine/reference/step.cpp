#include "reference/step.hpp"

#include "quire/plugin_check.hpp"

#include <algorithm>
#include <string>

namespace quire::reference {
namespace {

[[noreturn]] void fail(const std::string& what) { throw Failure(QUIRE_INVALID, "the step's " + what); }

void check_within(uint32_t count, uint32_t limit, const char* what) {
  if (count > limit) fail(std::to_string(count) + " " + what + " exceed the limit of " + std::to_string(limit));
}

// The positions whose blocks a sequence's new tokens read or write in a group: [first, end).
uint32_t first_live_position(uint32_t window, uint32_t first_new) {
  return window != 0 && first_new + 1 > window ? first_new + 1 - window : 0;
}

} // namespace

void Step::assign(const quire_step& step, const CompiledProgram& compiled, const std::vector<uint32_t>& num_blocks,
                  uint32_t previous_rows) {
  const quire_limits& limits = compiled.limits();
  const uint32_t T = step.num_tokens, S = step.num_sequences, R = step.num_rows;
  if (T == 0 || S == 0) fail("num_tokens and num_sequences must be at least 1");
  check_within(T, limits.max_tokens, "tokens");
  check_within(S, limits.max_sequences, "sequences");
  check_within(R, limits.max_rows, "rows");
  program = step.program;

  tokens.assign(step.tokens, step.tokens + T);
  token_rows.clear();
  if (step.token_rows) token_rows.assign(step.token_rows, step.token_rows + T);
  for (uint32_t t = 0; t < T; ++t) {
    if (!token_rows.empty() && token_rows[t] != 0) {
      if (token_rows[t] > previous_rows)
        fail("token " + std::to_string(t) + " names row " + std::to_string(token_rows[t]) + " of a ticket with " +
             std::to_string(previous_rows) + " sampled rows");
      tokens[t] = 0;
    } else if (tokens[t] < 0 || static_cast<uint32_t>(tokens[t]) >= compiled.vocab_size()) {
      fail("token " + std::to_string(t) + " is id " + std::to_string(tokens[t]) + " of a vocabulary of " +
           std::to_string(compiled.vocab_size()));
    }
  }

  if (step.query_start[0] != 0 || step.query_start[S] != T) fail("query_start must run from 0 to num_tokens");
  seq_len.assign(step.seq_len, step.seq_len + S);
  table_start.assign(step.table_start, step.table_start + S + 1);
  const auto& groups = compiled.kv_groups();
  tables.resize(groups.size());
  for (size_t g = 0; g < groups.size(); ++g) tables[g].assign(step.tables[g], step.tables[g] + table_start[S]);
  if (!groups.empty() && num_blocks.empty()) fail("program has no KV cache: call kv_create first");
  position.resize(T);
  sequence.resize(T);
  query_tiles.clear();
  for (uint32_t s = 0; s < S; ++s) {
    const uint32_t begin = step.query_start[s], end = step.query_start[s + 1];
    const std::string name = "sequence " + std::to_string(s);
    if (end < begin || end > T || end - begin > seq_len[s]) fail(name + " has more tokens than its seq_len");
    if (seq_len[s] > limits.max_context)
      fail(name + " has " + std::to_string(seq_len[s]) + " tokens, over the context of " +
           std::to_string(limits.max_context));
    const uint32_t first_new = seq_len[s] - (end - begin);
    for (uint32_t t = begin; t < end; ++t) {
      position[t] = first_new + (t - begin);
      sequence[t] = s;
    }
    for (uint32_t t = begin; t < end; t += kQueryTile) query_tiles.push_back({s, t, std::min(kQueryTile, end - t)});
    if (groups.empty() || begin == end) continue;
    const uint32_t entries = (seq_len[s] + limits.block_size - 1) / limits.block_size;
    if (table_start[s + 1] < table_start[s] || table_start[s + 1] - table_start[s] < entries)
      fail(name + "'s block table has fewer than " + std::to_string(entries) + " entries");
    for (size_t g = 0; g < groups.size(); ++g)
      for (uint32_t e = first_live_position(groups[g].window, first_new) / limits.block_size; e < entries; ++e)
        if (tables[g][table_start[s] + e] >= num_blocks[g])
          fail(name + " names block " + std::to_string(tables[g][table_start[s] + e]) + " of " +
               std::to_string(num_blocks[g]) + " in KV group " + std::to_string(g));
  }

  rows.assign(step.rows, step.rows + R);
  for (uint32_t r = 0; r < R; ++r)
    if (rows[r] >= T || (r > 0 && rows[r] < rows[r - 1])) fail("rows must be token indices in ascending order");
}

} // namespace quire::reference
