// Limits of a request, and the check of them at the engine's edge.
//
// Every number that a client can send has a limit here; what passes is safe for the step loop: no size in it can
// exhaust memory or overflow. Errors: quire::Error, one sentence that names the field, its value and the limit.
// Threads: [any], no state.
#pragma once

#include "quire/engine.hpp"

#include <cstddef>
#include <cstdint>

namespace quire {

// Limits that hold for every model and device.
struct RequestCaps {
  static constexpr uint32_t max_choices = 128;
  static constexpr int32_t max_beam_width =
      64; // 2 * width + the ends that can be passed over must stay below QUIRE_MAX_CANDIDATES
  static constexpr int32_t max_logprobs = 20;
  static constexpr size_t max_stop_strings = 64;
  static constexpr size_t max_stop_string_bytes = 1024;
  static constexpr size_t max_stop_tokens = 64;
  static constexpr size_t max_logit_bias = 1024;
  static constexpr size_t max_banned_tokens = 1024;
  static constexpr size_t max_sampler_parameters = 32;
  static constexpr size_t max_sampler_parameter_bytes = 64;
  static constexpr size_t max_salt_bytes = 256;
  static constexpr float max_temperature = 100.0f;
  static constexpr float max_logit_bias_value = 100.0f;
  static constexpr float max_repetition_penalty = 100.0f;
  static constexpr float max_penalty = 2.0f;
  static constexpr float max_length_penalty = 100.0f;
  static constexpr double max_deadline_seconds = 31'536'000.0; // a year
};

// What this engine can hold.
struct RequestLimits {
  uint32_t vocab_size = 0;
  uint32_t max_context = 0;    // tokens a sequence, prompt and output together
  uint32_t max_sequences = 0;  // running at a time
  uint32_t num_end_tokens = 0; // of the model
};

// num_history: tokens that continue_from puts before request.prompt.
void validate(const Request& request, const RequestLimits& limits, size_t num_history);

// Choices that are sampled: best_of, or n; with beams one (the beams are the group's own).
uint32_t num_sampled_choices(const Request& request);

} // namespace quire
