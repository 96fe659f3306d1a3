#include "support/paged_steps.hpp"

#include <cstdlib>
#include <iostream>

namespace quire::tests {

quire_step PagedStep::view(uint32_t program, uint64_t token_ticket) const {
  quire_step step{};
  step.struct_size = sizeof(step);
  step.program = program;
  step.num_tokens = static_cast<uint32_t>(tokens.size());
  step.num_sequences = static_cast<uint32_t>(seq_len.size());
  step.num_rows = static_cast<uint32_t>(rows.size());
  step.tokens = tokens.data();
  step.token_rows = token_rows.empty() ? nullptr : token_rows.data();
  step.token_ticket = token_ticket;
  step.query_start = query_start.data();
  step.seq_len = seq_len.data();
  step.table_start = table_start.data();
  step.tables = table_pointers.data();
  step.rows = rows.data();
  return step;
}

Pager::Pager(const Program& program, uint32_t block_size, const std::vector<uint32_t>& num_blocks, Random& random)
    : program_(program), block_size_(block_size) {
  for (const uint32_t count : num_blocks) free_.push_back(random.permutation(count));
}

uint32_t Pager::take_block(uint32_t group) {
  if (free_[group].empty()) {
    std::cerr << "the test's KV pool of group " << group << " is too small\n";
    std::abort();
  }
  const uint32_t block = free_[group].back();
  free_[group].pop_back();
  return block;
}

void Pager::drop(uint32_t id) {
  for (size_t g = 0; g < sequences_[id].tables.size(); ++g)
    for (const uint32_t block : sequences_[id].tables[g])
      if (block != UINT32_MAX) free_[g].push_back(block);
  sequences_.erase(id);
}

PagedStep Pager::page(const LogicalStep& step) {
  PagedStep paged;
  paged.rows = step.rows;
  paged.query_start = {0};
  paged.table_start = {0};
  paged.tables.resize(free_.size());
  for (const LogicalStep::Part& part : step.parts) {
    Sequence& sequence = sequences_[part.sequence];
    sequence.tables.resize(free_.size());
    sequence.length += part.skip;
    const uint32_t first_new = sequence.length;
    sequence.length += static_cast<uint32_t>(part.tokens.size());
    const uint32_t entries = (sequence.length + block_size_ - 1) / block_size_;
    for (size_t g = 0; g < free_.size(); ++g) {
      auto& table = sequence.tables[g];
      while (table.size() < entries) table.push_back(take_block(static_cast<uint32_t>(g)));
      const uint32_t window = program_.kv_groups[g].window;
      const uint32_t first_seen = window != 0 && first_new + 1 > window ? first_new + 1 - window : 0;
      for (uint32_t e = 0; e < first_seen / block_size_; ++e)
        if (table[e] != UINT32_MAX) {
          free_[g].insert(free_[g].begin(), table[e]); // reused last
          table[e] = UINT32_MAX;
        }
      paged.tables[g].insert(paged.tables[g].end(), table.begin(), table.begin() + entries);
    }
    paged.tokens.insert(paged.tokens.end(), part.tokens.begin(), part.tokens.end());
    paged.query_start.push_back(static_cast<uint32_t>(paged.tokens.size()));
    paged.seq_len.push_back(sequence.length);
    paged.table_start.push_back(paged.table_start.back() + entries);
  }
  for (const auto& table : paged.tables) paged.table_pointers.push_back(table.data());
  return paged;
}

} // namespace quire::tests
