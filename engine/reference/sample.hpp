// Sampling of one row of logits, exactly as quire_sampling_row says: exact over the whole vocabulary.
//
// Probabilities and keys are formed in double. Errors: none; a row that holds a NaN, or where nothing is allowed, gives
// token -1. Threads: pure but for the scratch given.
#pragma once

#include "quire/plugin.h"

#include <cstdint>
#include <span>
#include <vector>

namespace quire::reference {

// A quire_sampling_row with spans of its own.
struct SamplingRow {
  quire_sampling_row parameters{};
  std::vector<quire_token_count> counts;
  std::vector<quire_logit_bias> bias;
  std::vector<uint32_t> mask; // [(vocab + 31) / 32] or empty

  // Copies; tokens outside the vocabulary throw Failure.
  void assign(const quire_sampling_row& row, uint32_t vocab_size);
};

struct SampledRow {
  int32_t token = -1;
  float logprob = 0;
  std::vector<quire_candidate> candidates;
};

struct SampleScratch {
  std::vector<float> logits; // [vocab], edited
  std::vector<uint32_t> kept;
  std::vector<double> weight; // of kept
  std::vector<uint32_t> order;
};

// pending: the token sampled by parameters.pending_row, or -1.
void sample_row(std::span<const float> logits, const SamplingRow& row, int32_t pending, SampleScratch& scratch,
                SampledRow& out);

} // namespace quire::reference
