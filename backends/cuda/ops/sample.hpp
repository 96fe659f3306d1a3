// Sampling on the device: what plugin.h says of quire_sampling_row, for all rows of a ticket.
//
// Threads: the backend's queue. Pointers are device memory.
#pragma once

#include "queue.hpp"

#include <quire/plugin.h>

#include <cstdint>

namespace quire::cuda {

inline constexpr uint32_t kNoMask = 0xffffffffu;
inline constexpr uint32_t kNotSampled = 0xffffffffu; // a padding row's `out`

// A row as the device reads it; counts, bias and masks lie behind each other in one upload.
struct SampleRow {
  float temperature, top_p, min_p, typical_p; // 0 where off
  uint32_t top_k;
  float repetition_penalty, presence_penalty, frequency_penalty; // repetition 1 where off
  uint32_t seed_low, seed_high, choice, position;
  uint32_t num_candidates;
  uint32_t pending_row; // 1-based row of the ticket before
  uint32_t counts, num_counts;
  uint32_t bias, num_bias;
  uint32_t mask;    // index of its first word, or kNoMask
  uint32_t adjusts; // 1: the logits are changed, masked or filtered
  uint32_t out;     // its place in tokens and results, or kNotSampled
};

struct alignas(16) SampleResult { // one store: it may lie in the host's memory
  int32_t token;
  float logprob;
  uint32_t num_candidates;
  uint32_t reserved;
};

// What a stretch of a row comes to.
struct alignas(8) SamplePartial {
  float largest, sum; // of the raw logits: max, sum of exp(l - max)
  float best;         // of a row that isn't adjusted: what the argmax is of
  int32_t best_token; // -1: none
  float best_logit;   // its raw one
  uint32_t has_nan;
};

struct SampleArgs {
  const float* logits; // [R, vocab] raw, kept as they are
  float* adjusted;     // [R, vocab]
  uint32_t vocab;
  const SampleRow* rows;
  const quire_token_count* counts;
  const quire_logit_bias* bias;
  const uint32_t* masks;
  const int32_t* pending;      // tokens of the ticket before
  SamplePartial* partials;     // [R, sample_stretches(vocab)], unsampled rows' too
  int32_t* tokens;             // [places] for the next step
  SampleResult* results;       // [places] pinned memory of the host
  quire_candidate* candidates; // [R, QUIRE_MAX_CANDIDATES]
};

inline constexpr uint32_t kStretch = 4096; // tokens
constexpr uint32_t sample_stretches(uint32_t vocab) { return (vocab + kStretch - 1) / kStretch; }

// plain: no row is adjusted or wants candidates.
void sample(const Queue&, uint32_t rows, bool plain, const SampleArgs&);

} // namespace quire::cuda
