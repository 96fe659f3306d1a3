// The wire of OpenAI's Responses WebSocket mode: client JSON to a checked CreateRequest, and the server's events to
// JSON. Pure functions and values: no I/O, no engine state. Source of the event and field names: OpenAI's API
// reference, «Responses», as typed in the PyPI package `openai` (types/responses). Thread contract: [any].
#pragma once

#include <boost/json.hpp>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "quire/engine.hpp"

namespace quire::server {

namespace json = boost::json;

// A request the client has to mend. what() is the sentence; param names the field, code is OpenAI's word for it.
class ProtocolError : public std::runtime_error {
 public:
  ProtocolError(const std::string& message, std::string param_, std::string code_ = "invalid_value", int status_ = 400)
      : std::runtime_error(message), param(std::move(param_)), code(std::move(code_)), status(status_) {}
  std::string param, code;
  int status; // as HTTP would have it
};

// What one connection may ask for; each error names the limit.
struct ProtocolLimits {
  size_t max_frame_bytes = 16u << 20;
  size_t max_json_depth = 32;
  size_t max_items = 4096; // input items of a request
  size_t max_lanes = 64;   // stream_ids with work on a socket
  size_t max_queued = 64;  // responses waiting in one lane
  size_t max_id_bytes = 256;
};

// A `response.create`, checked.
struct CreateRequest {
  std::optional<std::string> stream_id;
  std::string previous_response_id;
  std::optional<std::string> instructions; // a system message for this response only
  json::array messages;                    // [{role, content}], content flattened to one string
  Request request;                         // everything but the prompt and the sink
  bool store = true;
  bool logprobs = false; // asked for in `include` or by top_logprobs
  json::object echo;     // fields that the response object repeats
};

// Parses a text frame into an object; throws ProtocolError.
json::object parse_frame(std::string_view frame, const ProtocolLimits& limits);

// The event must be `response.create`; model_name is what the server serves. Throws ProtocolError.
CreateRequest parse_create(const json::object& event, const ProtocolLimits& limits, std::string_view model_name);

// A protocol error as the `error` event.
json::object error_event(const ProtocolError& error, const std::optional<std::string>& stream_id);

struct TokenLogprob {
  std::string token; // its text, valid UTF-8: half a character shows as U+FFFD
  std::string bytes; // what it stands for
  float logprob = 0;
  std::vector<TokenLogprob> top; // alternatives, without any of their own
};
json::array logprobs_json(const std::vector<TokenLogprob>& logprobs, bool with_bytes);

struct Usage {
  uint64_t input_tokens = 0, cached_tokens = 0, output_tokens = 0;
};
json::object usage_json(const Usage& usage);

// The parts of a response's output: one message item a choice.
json::object output_text_part(std::string_view text, const std::vector<TokenLogprob>& logprobs);
json::object message_item(std::string_view id, std::string_view status, json::array content);

// The `response` object of created, in_progress, completed, incomplete and failed.
struct ResponseView {
  std::string_view id, model, status; // in_progress, completed, incomplete, failed
  int64_t created_at = 0;
  const CreateRequest* request = nullptr;
  json::array output;
  std::optional<Usage> usage;
  std::string_view incomplete_reason; // max_output_tokens
  std::string_view error_message;     // failed
};
json::object response_json(ResponseView view);

// 128 random bits as `prefix_<hex>`: not to be guessed.
std::string random_id(std::string_view prefix);

} // namespace quire::server
