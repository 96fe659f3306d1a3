// From a request's sampling parameters to the rows that a backend samples by.
//
// A SamplingPlan is what all choices of a request have in common, built once, on the caller's thread. A SamplingState
// is one sequence's: the counts of the tokens it has seen, copied when it forks. fill() costs a copy of the row;
// nothing is allocated but the first time a token is seen. Threads: the plan is immutable, [any]; a state belongs to
// the engine thread.
#pragma once

#include "quire/engine.hpp"
#include "quire/plugin.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace quire {

class SamplingPlan {
 public:
  // `ends`: every token that stops a sequence of this request. The parameters have passed validate().
  SamplingPlan(const SamplingParameters& parameters, std::span<const int32_t> ends, uint64_t seed, uint32_t vocab_size);

  bool stops(int32_t token) const; // O(log ends)
  bool uses_counts() const { return uses_counts_; }
  uint64_t seed() const { return row_.seed; }
  uint32_t min_tokens() const { return min_tokens_; }
  uint32_t num_candidates() const { return row_.num_candidates; }
  std::span<const int32_t> ends() const { return ends_; }
  void set_num_candidates(uint32_t count) { row_.num_candidates = count; } // before the plan is shared

 private:
  friend class SamplingState;
  // What each step reads comes first.
  quire_sampling_row row_{}; // all that doesn't change from step to step
  uint32_t min_tokens_ = 0;
  bool uses_counts_ = false;
  std::vector<quire_logit_bias> bias_;       // logit_bias and banned_tokens
  std::vector<int32_t> ends_;                // ascending
  std::vector<quire_logit_bias> bias_early_; // the bias and the ends banned: before min_tokens
  std::vector<uint32_t> mask_;               // [(vocab + 31) / 32], or empty
};

class SamplingState {
 public:
  SamplingState() = default;
  SamplingState(std::shared_ptr<const SamplingPlan> plan, uint32_t choice, std::span<const int32_t> prompt);

  const SamplingPlan& plan() const { return *plan_; }
  // Starts loading what fill() and count() read of the plan.
  void prefetch() const {
    const auto* const plan = reinterpret_cast<const std::byte*>(plan_.get());
    for (size_t at = 0; at < sizeof(quire_sampling_row) + 64; at += 64) __builtin_prefetch(plan + at);
  }
  uint32_t choice() const { return choice_; }
  void set_choice(uint32_t choice) { choice_ = choice; } // of a fork

  // A token of the output has become known.
  void count(int32_t token) {
    if (uses_counts_) ++entry(token).in_output;
  }

  // position: of the token to be sampled. num_output: tokens of the output before it. pending_row: 1-based row of the
  // step before whose token is among those but not yet counted; 0 = none. Spans in the row live until the next count().
  void fill(quire_sampling_row& row, uint32_t position, uint32_t num_output, uint32_t pending_row) const {
    row = plan_->row_;
    row.choice = choice_;
    row.position = position;
    if (plan_->uses_counts_) {
      row.pending_row = pending_row;
      row.counts = counts_.data();
      row.num_counts = static_cast<uint32_t>(counts_.size());
    }
    const std::vector<quire_logit_bias>& bias = num_output < plan_->min_tokens_ ? plan_->bias_early_ : plan_->bias_;
    row.bias = bias.data();
    row.num_bias = static_cast<uint32_t>(bias.size());
  }

 private:
  quire_token_count& entry(int32_t token);
  void grow();

  std::shared_ptr<const SamplingPlan> plan_;
  uint32_t choice_ = 0;
  bool uses_counts_ = false; // the plan's
  std::vector<quire_token_count> counts_;
  std::vector<uint32_t> slots_; // open addressing: 1-based index into counts_; a power of two, at most half full
};

// The logits as a choosing sampler gets them: step 1 of quire_sampling_row's order, in place. logits [vocab].
void apply_row(const quire_sampling_row& row, std::span<float> logits);

// Natural logarithm of the sum of exponentials of logits [vocab], in double precision.
double log_sum_exp(std::span<const float> logits);

} // namespace quire
