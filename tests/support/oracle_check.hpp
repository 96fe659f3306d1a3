// A real model on any backend against what Hugging Face says of it.
//
// First the logits, teacher-forced on the oracle's tokens; then greedy decoding by the backend's own sampling, several
// sequences at a time. Errors: exceptions of the engine (files, plugins) and BackendError. Threads: one.
#pragma once

#include "support/backend_session.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace quire::tests {

struct OracleOptions {
  std::string model;        // the GGUF
  std::string goldens;      // empty = those of the source tree
  bool full = false;        // all 24 prompts, else a few short ones
  double row_limit = 1e-4;  // of RMS(difference) / RMS(oracle) of a row
  double mean_limit = 1e-4; // of the same, over all rows
  bool exact_tokens = true; // false: where the oracle's top two lie within the error bound, either will do
  uint32_t kv_format = 0;   // QUIRE_F32
  uint32_t chunk = 256;     // tokens a step of a prompt
  uint32_t batch = 8;       // sequences decoded together
  BackendSession::Options session;
};
// What is required of a backend: 1e-4 and the same tokens of the reference, 1e-2 with 16-bit storage of Vulkan, 3e-2
// with 16-bit operands of CUDA; with a cache in f8 what that costs, by rows (more over all prompts) and on average.
// kv_format: a word of the command line, or empty: f32 for the reference, else f16.
OracleOptions oracle_options(const std::string& backend, bool full, const std::string& kv_format = {});

struct OracleResult {
  size_t prompts = 0, rows = 0, tokens = 0;
  size_t excused = 0; // greedy tokens that differ where the oracle's top two lie within the error bound
  double worst_row = 0, mean_row = 0;
  double prefill_tokens_per_second = 0;
  double single_tokens_per_second = 0; // decoding one sequence
  double batch_tokens_per_second = 0;  // decoding `batch`
  std::vector<std::string> problems;   // empty: right

  std::string summary(const OracleOptions& options) const; // one line
};
OracleResult check_oracle(const quire_plugin& backend, const OracleOptions& options);

// QUIRE_MODEL, else the user's cache; empty where the file is not there.
std::string find_test_model();

} // namespace quire::tests
