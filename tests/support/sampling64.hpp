// The sampling of plugin.h in float64, written for the tests, and the judgement of a backend's row against it.
//
// Where rounding decides (two keys nearly equal, a probability nearly at a threshold), each outcome that float32
// arithmetic can give is right; everything else is exact. Threads: pure functions.
#pragma once

#include "quire/plugin.h"

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace quire::tests {

// Philox4x32-10 as in Salmon et al. 2011.
std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);
// u_i of quire_sampling_row.
double uniform64(const quire_sampling_row& row, uint32_t token);

// Step 1 of quire_sampling_row: the edited logits. pending: the token sampled by pending_row, or -1.
std::vector<double> edited64(std::span<const float> logits, const quire_sampling_row& row, int32_t pending);

// The tokens that the filters keep, with their probabilities; for temperatures above 0. Ties and thresholds are decided
// in float64.
struct Kept64 {
  std::vector<uint32_t> tokens;
  std::vector<double> probabilities; // sum 1
};
Kept64 kept64(std::span<const float> logits, const quire_sampling_row& row, int32_t pending);

// Empty if token, logprob and candidates are right for these raw logits [vocab]; else what is wrong.
std::string judge_sampled(std::span<const float> logits, const quire_sampling_row& row, int32_t pending,
                          const quire_sampled_row& got);

} // namespace quire::tests
