// Decode steps one after the other, as an engine makes them: sequences that grow, and their block tables.
#pragma once

#include <quire/plugin.h>

#include <array>
#include <cstdint>
#include <vector>

namespace quire::cuda {

class StepHistory {
 public:
  StepHistory(uint32_t block_size, uint32_t num_blocks) : block_size_(block_size), num_blocks_(num_blocks) {}

  uint32_t sequences() const { return static_cast<uint32_t>(lengths_.size()); }
  void add(uint32_t length) {
    lengths_.push_back(0);
    tables_.emplace_back();
    cut(sequences() - 1, length);
  }
  void remove(uint32_t sequence) {
    lengths_.erase(lengths_.begin() + sequence);
    tables_.erase(tables_.begin() + sequence);
  }
  // Another sequence of that length in its place.
  void cut(uint32_t sequence, uint32_t length) {
    tables_[sequence].clear();
    lengths_[sequence] = length;
    fill(sequence);
  }
  void grow() {
    for (uint32_t s = 0; s < sequences(); ++s) {
      ++lengths_[s];
      fill(s);
    }
  }
  // One token a sequence. Valid until the next call of any kind.
  quire_step step() {
    const uint32_t count = sequences();
    query_start_.assign(1, 0), table_start_.assign(1, 0), flat_.clear(), rows_.clear();
    for (uint32_t s = 0; s < count; ++s) {
      query_start_.push_back(s + 1);
      flat_.insert(flat_.end(), tables_[s].begin(), tables_[s].end());
      table_start_.push_back(static_cast<uint32_t>(flat_.size()));
      rows_.push_back(s);
    }
    tokens_.assign(count, -1), token_rows_.resize(count);
    for (uint32_t s = 0; s < count; ++s) token_rows_[s] = s + 1;
    pointers_[0] = flat_.data();
    quire_step step{};
    step.struct_size = sizeof step;
    step.program = 1;
    step.num_tokens = step.num_sequences = step.num_rows = count;
    step.tokens = tokens_.data(), step.token_rows = token_rows_.data();
    step.query_start = query_start_.data(), step.seq_len = lengths_.data();
    step.table_start = table_start_.data(), step.tables = pointers_.data();
    step.rows = rows_.data();
    return step;
  }

 private:
  void fill(uint32_t sequence) {
    while (uint64_t{tables_[sequence].size()} * block_size_ < lengths_[sequence])
      tables_[sequence].push_back(next_block_++ % num_blocks_);
  }

  uint32_t block_size_, num_blocks_, next_block_ = 0;
  std::vector<uint32_t> lengths_;
  std::vector<std::vector<uint32_t>> tables_;
  std::vector<int32_t> tokens_;
  std::vector<uint32_t> token_rows_, query_start_, table_start_, flat_, rows_;
  std::array<const uint32_t*, 1> pointers_{};
};

} // namespace quire::cuda
