// One step as flat vectors: what the scheduler fills, what the backend reads, and what the commit needs to know again.
//
// Vectors keep their capacity from step to step: after the first ones nothing is allocated. A Step is filled,
// submitted, waited for and committed, then cleared for another; two or three of them take turns. Owned by the engine
// thread.
#pragma once

#include "kv/kv_manager.hpp"
#include "quire/plugin.h"
#include "schedule/column.hpp"
#include "schedule/sequence.hpp"
#include "schedule/step_tables.hpp"

#include <array>
#include <cstdint>
#include <span>
#include <vector>

namespace quire {

struct StepChunk {
  Sequence* sequence;
  uint32_t epoch;
  uint32_t num_computed; // after this chunk
};

struct StepRow {
  Sequence* sequence;
  uint32_t logits;     // 1-based index into Step::logits; 0 = stays on the device
  uint32_t candidates; // start in Step::candidates
  bool dropped;        // set by commit: its sequence has ended
};

class Step {
 public:
  void clear(uint32_t num_groups);
  bool empty() const { return tokens_.empty(); }
  uint32_t num_tokens() const { return static_cast<uint32_t>(tokens_.size()); }

  // Adds `count` tokens of the sequence from num_computed on, whose slots the KV manager has made. The last may be one
  // that the step before sampled.
  void add_chunk(const KvManager& kv, StepTables& tables, Sequence& sequence, uint32_t count);
  // A row of the last token added, sampled for this sequence.
  void add_row(Sequence& sequence, uint32_t vocab_size);
  // Makes the spans: no more may be added. Those of the tables last until the next step is filled.
  void seal(const StepTables& tables, uint32_t program, Ticket before);

  const quire_step& view() const { return view_; }
  const quire_sampling& sampling() const { return sampling_; }
  std::span<quire_sampled_row> sampled() { return {sampled_.data(), sampled_.size()}; }

  Ticket ticket = 0;          // of the KV manager, once submitted
  uint64_t device_ticket = 0; // of the backend's instance
  KvTransfers transfers;
  std::vector<StepChunk> chunks;
  std::vector<StepRow> rows;
  std::vector<std::vector<float>> logits; // [used][vocab] of the rows that bring theirs to the host
  std::vector<quire_candidate> candidates;

 private:
  Column<int32_t> tokens_;       // [T]
  Column<uint32_t> token_rows_;  // [T]
  Column<uint32_t> query_start_; // [S + 1]
  Column<uint32_t> seq_len_;     // [S]
  Column<uint32_t> table_start_; // [S + 1]
  std::array<const uint32_t*, QUIRE_MAX_GROUPS> tables_{};
  Column<uint32_t> row_tokens_; // [R]
  Column<quire_sampling_row> sampling_rows_;
  Column<quire_sampled_row> sampled_;
  uint32_t num_groups_ = 0, num_logits_ = 0;
  bool fed_ = false; // some token comes from the device
  quire_step view_{};
  quire_sampling sampling_{};
};

} // namespace quire
