// Reads what tests/reference/make_logits.py wrote: the logits that Hugging Face's Llama gives for SmolLM2 at Q4_1.
//
// Errors: std::runtime_error that names the file. Threads: pure.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace quire::tests {

struct GoldenRow {
  uint32_t position;           // of the token whose logits these are
  float rms;                   // of the whole row
  std::array<int32_t, 8> ids;  // the largest logits, largest first
  std::array<float, 8> logits; // theirs
  std::array<float, 64> sums;  // of the whole row with random signs
};

struct GoldenPrompt {
  std::vector<int32_t> ids; // the prompt's, then 64 greedy ones
  uint32_t prompt_tokens;
  std::vector<GoldenRow> rows; // by rising position; the last 64 chose the greedy tokens
};

struct LogitGoldens {
  uint32_t vocab;
  std::vector<GoldenPrompt> prompts;
};

LogitGoldens read_logit_goldens(const std::string& file);

// RMS(row - golden) / RMS(golden), an unbiased estimate of the squares (9 % deviation) from the golden's 64 sums.
class RowError {
 public:
  explicit RowError(uint32_t vocab);
  double operator()(std::span<const float> row, const GoldenRow& golden) const;

 private:
  std::vector<uint64_t> signs_; // [vocab] bit s: the sign of the column in sum s
};

} // namespace quire::tests
