// Pages logical steps: block tables over a pool with block ids in random order, so that nothing is contiguous by luck.
//
// Errors: a pool that is too small is a test's mistake (assert). Threads: one.
#pragma once

#include "program/program.hpp"
#include "support/logical_step.hpp"
#include "support/random.hpp"

#include "quire/plugin.h"

#include <cstdint>
#include <map>
#include <vector>

namespace quire::tests {

// A quire_step with the memory behind it.
struct PagedStep {
  PagedStep() = default;
  PagedStep(PagedStep&&) = default;
  PagedStep& operator=(PagedStep&&) = default;
  std::vector<int32_t> tokens;
  std::vector<uint32_t> token_rows, query_start, seq_len, table_start, rows;
  std::vector<std::vector<uint32_t>> tables; // [groups]
  std::vector<const uint32_t*> table_pointers;
  // Valid while this lives and is not changed.
  quire_step view(uint32_t program, uint64_t token_ticket = 0) const;
};

class Pager {
 public:
  Pager(const Program& program, uint32_t block_size, const std::vector<uint32_t>& num_blocks, Random& random);

  // The next step of these sequences. Blocks wholly behind a window before the step's first token are freed and become
  // UINT32_MAX.
  PagedStep page(const LogicalStep& step);
  // Gives a sequence's blocks back.
  void drop(uint32_t sequence);
  // The blocks of a sequence in a group, for tests that copy or swap them; they may be changed.
  std::vector<uint32_t>& table(uint32_t sequence, uint32_t group) { return sequences_[sequence].tables[group]; }
  uint32_t length(uint32_t sequence) { return sequences_[sequence].length; }
  // The lengths and blocks of a sequence become those of a new one too (which must not outlive it unless it gets blocks
  // of its own).
  void fork(uint32_t from, uint32_t to) { sequences_[to] = sequences_[from]; }
  // A sequence of that length whose tables the test fills itself: its (empty) one of a group.
  std::vector<uint32_t>& adopt(uint32_t sequence, uint32_t length, uint32_t group) {
    sequences_[sequence].length = length;
    sequences_[sequence].tables.resize(free_.size());
    return sequences_[sequence].tables[group];
  }
  uint32_t take_block(uint32_t group);
  uint32_t free_blocks(uint32_t group) const { return static_cast<uint32_t>(free_[group].size()); }

 private:
  struct Sequence {
    uint32_t length = 0;
    std::vector<std::vector<uint32_t>> tables; // [groups]
  };
  const Program& program_;
  uint32_t block_size_;
  std::vector<std::vector<uint32_t>> free_; // [groups]
  std::map<uint32_t, Sequence> sequences_;
};

} // namespace quire::tests
