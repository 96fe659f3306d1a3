#include "schedule/step.hpp"

#include <algorithm>
#include <cassert>

namespace quire {

void Step::clear(uint32_t num_groups) {
  ticket = device_ticket = 0;
  transfers.clear();
  chunks.clear();
  rows.clear();
  candidates.clear();
  tokens_.clear();
  token_rows_.clear();
  query_start_.clear();
  query_start_.push(0);
  seq_len_.clear();
  table_start_.clear();
  table_start_.push(0);
  row_tokens_.clear();
  sampling_rows_.clear();
  sampled_.clear();
  num_groups_ = num_groups;
  num_logits_ = 0;
  fed_ = false;
}

void Step::add_chunk(const KvManager& kv, StepTables& tables, Sequence& s, uint32_t count) {
  const uint32_t from = s.num_computed, to = from + count;
  const auto known = static_cast<uint32_t>(s.tokens.size());
  assert(count > 0 && to <= s.length());
  int32_t* const tokens = tokens_.grow(count);
  uint32_t* const token_rows = token_rows_.grow(count);
  if (const uint32_t here = std::min(to, known) - from; here > 0) { // mostly the device has it
    std::copy_n(s.tokens.data() + from, here, tokens);
    std::fill_n(token_rows, here, 0u);
  }
  if (to > known) { // only the newest token can be on the device still: whatever feeds it was committed
    assert(to == known + 1 && s.num_pending == 1);
    tokens[count - 1] = -1;
    token_rows[count - 1] = s.pending_row;
    fed_ = true;
  }
  query_start_.push(num_tokens());
  seq_len_.push(to);
  table_start_.push(tables.add(kv, s.kv, s.max_length));
  s.part_in = kv.building();
  s.before_part = from;
  s.num_computed = to;
  ++s.in_flight;
  chunks.push_back({&s, s.epoch, to});
}

void Step::add_row(Sequence& s, uint32_t vocab_size) {
  row_tokens_.push(num_tokens() - 1);
  quire_sampling_row& row = *sampling_rows_.grow(1);
  s.sampling.fill(row, s.length(), s.length() - s.num_prompt, s.num_pending ? s.pending_row : 0);
  StepRow& mine = rows.emplace_back(StepRow{&s, 0, static_cast<uint32_t>(candidates.size()), false});
  ++s.in_flight;
  if (s.host_chosen) {
    // The device's own token doesn't matter: it is spared the work.
    row.temperature = 0;
    row.counts = nullptr;
    row.bias = nullptr;
    row.mask = nullptr;
    row.num_counts = row.num_bias = row.pending_row = 0;
    s.awaiting = true;
    if (!s.group->gang) {
      if (logits.size() == num_logits_) logits.emplace_back();
      logits[num_logits_].resize(vocab_size);
      row.logits = logits[num_logits_].data();
      row.num_candidates = 0;
      mine.logits = ++num_logits_;
    }
  } else {
    ++s.num_pending;
    s.pending_row = static_cast<uint32_t>(rows.size());
  }
  if (row.num_candidates) candidates.resize(candidates.size() + row.num_candidates);
}

void Step::seal(const StepTables& tables, uint32_t program, Ticket before) {
  sampled_.clear();
  sampled_.grow(rows.size());
  for (size_t r = 0; r < rows.size(); ++r)
    sampled_[r] = {-1, 0, sampling_rows_[r].num_candidates, candidates.data() + rows[r].candidates};
  view_ = {};
  view_.struct_size = sizeof view_;
  view_.program = program;
  view_.num_tokens = num_tokens();
  view_.num_sequences = static_cast<uint32_t>(seq_len_.size());
  view_.num_rows = static_cast<uint32_t>(rows.size());
  view_.tokens = tokens_.data();
  view_.token_rows = fed_ ? token_rows_.data() : nullptr;
  view_.token_ticket = fed_ ? before : 0;
  view_.query_start = query_start_.data();
  view_.seq_len = seq_len_.data();
  view_.table_start = table_start_.data();
  for (uint32_t g = 0; g < num_groups_; ++g) tables_[g] = tables.table(g);
  view_.tables = tables_.data();
  view_.rows = row_tokens_.data();
  sampling_ = {};
  sampling_.struct_size = sizeof sampling_;
  sampling_.rows = sampling_rows_.data();
  sampling_.num_rows = static_cast<uint32_t>(rows.size());
  sampling_.row_size = sizeof(quire_sampling_row);
}

} // namespace quire
