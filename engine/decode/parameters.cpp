#include "decode/parameters.hpp"

#include "quire/error.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

namespace quire {
namespace {

using Caps = RequestCaps;

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.12g", value);
  return text;
}

[[noreturn]] void refuse(const std::string& sentence) { throw Error(sentence); }

// NaN and infinities fail every comparison or the range.
void check_range(const char* field, double value, double low, double high, bool low_open = false) {
  if (low_open ? (value > low && value <= high) : (value >= low && value <= high)) return;
  refuse(std::string(field) + " is " + number(value) + ": it must be " +
         (low_open ? "above " + number(low) + " and at most " + number(high)
                   : "from " + number(low) + " to " + number(high)));
}

void check_count(const char* field, size_t count, size_t limit) {
  if (count > limit)
    refuse(std::string(field) + " has " + std::to_string(count) + " entries: the limit is " + std::to_string(limit));
}

void check_token(const char* field, int32_t token, uint32_t vocab_size) {
  if (token < 0 || static_cast<uint32_t>(token) >= vocab_size)
    refuse(std::string(field) + " names token " + std::to_string(token) + ": the model's vocabulary has ids 0 to " +
           std::to_string(vocab_size - 1));
}

void check_tokens(const char* field, const std::vector<int32_t>& tokens, uint32_t vocab_size) {
  for (int32_t token : tokens) check_token(field, token, vocab_size);
}

void check_sampling(const SamplingParameters& s, const RequestLimits& limits, uint32_t max_tokens) {
  check_range("temperature", s.temperature, 0, Caps::max_temperature);
  check_range("top_p", s.top_p, 0, 1, true);
  check_range("top_k", s.top_k, 0, 2147483647.0);
  check_range("min_p", s.min_p, 0, 1);
  check_range("typical_p", s.typical_p, 0, 1, true);
  check_range("repetition_penalty", s.repetition_penalty, 0, Caps::max_repetition_penalty, true);
  check_range("presence_penalty", s.presence_penalty, -Caps::max_penalty, Caps::max_penalty);
  check_range("frequency_penalty", s.frequency_penalty, -Caps::max_penalty, Caps::max_penalty);
  check_range("logprobs", s.logprobs, -1, Caps::max_logprobs);
  check_range("min_tokens", s.min_tokens, 0, limits.max_context);
  if (max_tokens && static_cast<uint32_t>(s.min_tokens) > max_tokens)
    refuse("min_tokens is " + std::to_string(s.min_tokens) + ": it must be at most max_tokens, " +
           std::to_string(max_tokens));

  check_count("logit_bias", s.logit_bias.size(), Caps::max_logit_bias);
  check_count("banned_tokens", s.banned_tokens.size(), Caps::max_banned_tokens);
  check_count("allowed_tokens", s.allowed_tokens.size(), limits.vocab_size);
  check_tokens("banned_tokens", s.banned_tokens, limits.vocab_size);
  check_tokens("allowed_tokens", s.allowed_tokens, limits.vocab_size);
  std::vector<int32_t> biased;
  biased.reserve(s.logit_bias.size());
  for (const auto& [token, bias] : s.logit_bias) {
    check_token("logit_bias", token, limits.vocab_size);
    check_range("logit_bias", bias, -Caps::max_logit_bias_value, Caps::max_logit_bias_value);
    biased.push_back(token);
  }
  std::sort(biased.begin(), biased.end());
  if (auto twice = std::adjacent_find(biased.begin(), biased.end()); twice != biased.end())
    refuse("logit_bias names token " + std::to_string(*twice) + " twice: each token may have one bias");

  check_count("sampler_parameters", s.sampler_parameters.size(), Caps::max_sampler_parameters);
  for (const auto& [key, value] : s.sampler_parameters) {
    if (key.empty() || key.size() > Caps::max_sampler_parameter_bytes)
      refuse("sampler_parameters has a name of " + std::to_string(key.size()) + " bytes: names have 1 to " +
             std::to_string(Caps::max_sampler_parameter_bytes));
    if (!std::isfinite(value))
      refuse("sampler_parameters `" + key + "` is " + number(value) + ": it must be a finite number");
  }
  if (!s.sampler_parameters.empty() && s.sampler.empty())
    refuse("sampler_parameters are given without a sampler: name the sampler plugin they are for");
}

// What changes the distribution has no meaning where the most probable sequences are searched for.
void check_beams(const Request& r, const RequestLimits& limits) {
  const SamplingParameters& s = r.sampling;
  check_range("beam_width", r.beam.width, 0, Caps::max_beam_width);
  if (r.beam.width == 0) return;
  check_range("length_penalty", r.beam.length_penalty, -Caps::max_length_penalty, Caps::max_length_penalty);
  const auto width = static_cast<uint32_t>(r.beam.width);
  if (width > limits.max_sequences)
    refuse("beam_width is " + std::to_string(width) + ": this engine runs at most " +
           std::to_string(limits.max_sequences) + " sequences at a time (max_sequences)");
  if (2 * width > limits.vocab_size)
    refuse("beam_width is " + std::to_string(width) + ": it must be at most half of the vocabulary, " +
           std::to_string(limits.vocab_size));
  if (r.n > width)
    refuse("n is " + std::to_string(r.n) + ": with beam search it must be at most beam_width, " +
           std::to_string(width));
  if (r.best_of) refuse("best_of is set: beam search keeps its own best, so leave best_of out");
  const char* field = nullptr;
  if (s.temperature != 0 && s.temperature != 1)
    field = "temperature";
  else if (s.top_p != 1)
    field = "top_p";
  else if (s.top_k != 0)
    field = "top_k";
  else if (s.min_p != 0)
    field = "min_p";
  else if (s.typical_p != 1)
    field = "typical_p";
  else if (s.repetition_penalty != 1)
    field = "repetition_penalty";
  else if (s.presence_penalty != 0)
    field = "presence_penalty";
  else if (s.frequency_penalty != 0)
    field = "frequency_penalty";
  else if (!s.logit_bias.empty())
    field = "logit_bias";
  else if (!s.allowed_tokens.empty())
    field = "allowed_tokens";
  else if (!s.banned_tokens.empty())
    field = "banned_tokens";
  else if (!s.sampler.empty())
    field = "sampler";
  else if (!r.stop.empty())
    field = "stop";
  if (field)
    refuse(std::string(field) +
           " can't be combined with beam_width: beam search follows the model's own probabilities to its ends");
}

} // namespace

uint32_t num_sampled_choices(const Request& request) {
  if (request.beam.width > 0) return 1;
  return request.best_of ? request.best_of : request.n;
}

void validate(const Request& r, const RequestLimits& limits, size_t num_history) {
  const size_t num_prompt = r.prompt.size() + num_history;
  if (num_prompt == 0) refuse("prompt is empty: it must have at least one token");
  if (num_prompt >= limits.max_context)
    refuse("prompt has " + std::to_string(num_prompt) + " tokens and the context holds " +
           std::to_string(limits.max_context) + ", of which one is for the answer: shorten the prompt");
  check_tokens("prompt", r.prompt, limits.vocab_size);
  if (!r.sink) refuse("sink is missing: the request has nowhere to send its tokens");

  check_range("n", r.n, 1, Caps::max_choices);
  if (r.best_of) {
    check_range("best_of", r.best_of, 1, Caps::max_choices);
    if (r.best_of < r.n)
      refuse("best_of is " + std::to_string(r.best_of) + ": it must be at least n, " + std::to_string(r.n));
  }
  check_sampling(r.sampling, limits, r.max_tokens);
  check_beams(r, limits);

  check_count("stop", r.stop.size(), Caps::max_stop_strings);
  for (const std::string& stop : r.stop)
    if (stop.empty() || stop.size() > Caps::max_stop_string_bytes)
      refuse("stop has a string of " + std::to_string(stop.size()) + " bytes: strings have 1 to " +
             std::to_string(Caps::max_stop_string_bytes));
  check_count("stop_tokens", r.stop_tokens.size(), Caps::max_stop_tokens);
  check_tokens("stop_tokens", r.stop_tokens, limits.vocab_size);
  if (r.cache_salt.size() > Caps::max_salt_bytes)
    refuse("cache_salt has " + std::to_string(r.cache_salt.size()) + " bytes: the limit is " +
           std::to_string(Caps::max_salt_bytes));
  check_range("deadline_seconds", r.deadline_seconds, 0, Caps::max_deadline_seconds);
}

} // namespace quire
