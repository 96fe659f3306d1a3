#include "protocol.hpp"

#include <boost/system/error_code.hpp>

#include <charconv>
#include <cmath>
#include <limits>
#include <random>
#include <set>

namespace quire::server {
namespace {

[[noreturn]] void fail(const std::string& param, const std::string& sentence, const char* code = "invalid_value") {
  throw ProtocolError(sentence, param, code);
}

bool is_null(const json::value* v) { return v == nullptr || v->is_null(); }

// A number within [low, high]; absent and null leave `out` alone.
void read_number(const json::object& o, const char* key, double low, double high, float& out) {
  const json::value* v = o.if_contains(key);
  if (is_null(v)) return;
  if (!v->is_number()) fail(key, std::string("`") + key + "` must be a number", "invalid_type");
  const double x = v->to_number<double>();
  if (!std::isfinite(x) || x < low || x > high)
    fail(key, std::string("`") + key + "` must lie between " + json::serialize(json::value(low)) + " and " +
                  json::serialize(json::value(high)));
  out = static_cast<float>(x);
}

std::optional<int64_t> read_integer(const json::object& o, const char* key, int64_t low, int64_t high) {
  const json::value* v = o.if_contains(key);
  if (is_null(v)) return std::nullopt;
  boost::system::error_code ec;
  const int64_t x = v->is_number() ? v->to_number<int64_t>(ec) : 0;
  if (!v->is_number() || ec || x < low || x > high)
    fail(key,
         std::string("`") + key + "` must be an integer between " + std::to_string(low) + " and " +
             std::to_string(high),
         v->is_number() ? "invalid_value" : "invalid_type");
  return x;
}

std::optional<bool> read_bool(const json::object& o, const char* key) {
  const json::value* v = o.if_contains(key);
  if (is_null(v)) return std::nullopt;
  if (!v->is_bool()) fail(key, std::string("`") + key + "` must be true or false", "invalid_type");
  return v->as_bool();
}

std::optional<std::string> read_string(const json::object& o, const char* key, size_t max_bytes) {
  const json::value* v = o.if_contains(key);
  if (is_null(v)) return std::nullopt;
  if (!v->is_string()) fail(key, std::string("`") + key + "` must be a string", "invalid_type");
  if (v->as_string().size() > max_bytes)
    fail(key, std::string("`") + key + "` is longer than " + std::to_string(max_bytes) + " bytes");
  return std::string(v->as_string());
}

// The text of an item's content: a string, or parts of type input_text, output_text or text.
std::string content_text(const json::value& content, const std::string& where) {
  if (content.is_string()) return std::string(content.as_string());
  if (!content.is_array()) fail(where, "`" + where + "` must be a string or a list of text parts", "invalid_type");
  std::string text;
  for (const json::value& part : content.as_array()) {
    const json::object* o = part.if_object();
    const json::value* type = o ? o->if_contains("type") : nullptr;
    const json::value* value = o ? o->if_contains("text") : nullptr;
    const bool known =
        type && type->is_string() &&
        (type->as_string() == "input_text" || type->as_string() == "output_text" || type->as_string() == "text");
    if (!known || !value || !value->is_string())
      fail(where,
           "`" + where +
               "` holds a part that is not text: this model reads text parts (`input_text`, `output_text`) only",
           "unsupported_content");
    text += std::string_view(value->as_string());
  }
  return text;
}

json::array read_input(const json::value* input, const ProtocolLimits& limits) {
  if (is_null(input)) return {};
  if (input->is_string()) return {{{"role", "user"}, {"content", input->as_string()}}};
  if (!input->is_array()) fail("input", "`input` must be a string or a list of items", "invalid_type");
  if (input->as_array().size() > limits.max_items)
    fail("input", "`input` has " + std::to_string(input->as_array().size()) + " items, the limit is " +
                      std::to_string(limits.max_items));
  json::array messages;
  size_t index = 0;
  for (const json::value& item : input->as_array()) {
    const std::string where = "input[" + std::to_string(index++) + "]";
    const json::object* o = item.if_object();
    if (!o) fail(where, "`" + where + "` must be an object", "invalid_type");
    if (const auto type = read_string(*o, "type", 64); type && *type != "message")
      fail(where, "`" + where + "` is of type `" + *type + "`: only messages are supported yet", "unsupported_item");
    const auto role = read_string(*o, "role", 64);
    if (!role) fail(where, "`" + where + "` has no role");
    const std::string mapped = *role == "developer" ? "system" : *role;
    if (mapped != "user" && mapped != "assistant" && mapped != "system")
      fail(where, "`" + where + "` has the role `" + *role + "`: use user, assistant, system or developer");
    const json::value* content = o->if_contains("content");
    if (is_null(content)) fail(where, "`" + where + "` has no content");
    messages.push_back({{"role", mapped}, {"content", content_text(*content, where + ".content")}});
  }
  return messages;
}

void read_stop(const json::object& o, Request& request) {
  const json::value* v = o.if_contains("stop");
  if (is_null(v)) return;
  if (v->is_string()) {
    request.stop.emplace_back(v->as_string());
    return;
  }
  if (!v->is_array()) fail("stop", "`stop` must be a string or a list of strings", "invalid_type");
  if (v->as_array().size() > 64)
    fail("stop", "`stop` has " + std::to_string(v->as_array().size()) + " strings, the limit is 64");
  for (const json::value& s : v->as_array()) {
    if (!s.is_string()) fail("stop", "`stop` must be a string or a list of strings", "invalid_type");
    request.stop.emplace_back(s.as_string());
  }
}

std::vector<int32_t> read_tokens(const json::object& o, const char* key, size_t limit) {
  std::vector<int32_t> tokens;
  const json::value* v = o.if_contains(key);
  if (is_null(v)) return tokens;
  if (!v->is_array()) fail(key, std::string("`") + key + "` must be a list of token ids", "invalid_type");
  if (v->as_array().size() > limit)
    fail(key, std::string("`") + key + "` has " + std::to_string(v->as_array().size()) + " ids, the limit is " +
                  std::to_string(limit));
  for (const json::value& id : v->as_array()) {
    boost::system::error_code ec;
    const int32_t token = id.is_number() ? id.to_number<int32_t>(ec) : -1;
    if (ec || token < 0) fail(key, std::string("`") + key + "` must be a list of token ids");
    tokens.push_back(token);
  }
  return tokens;
}

void read_logit_bias(const json::object& o, SamplingParameters& sampling) {
  const json::value* v = o.if_contains("logit_bias");
  if (is_null(v)) return;
  if (!v->is_object()) fail("logit_bias", "`logit_bias` must be an object from token id to bias", "invalid_type");
  if (v->as_object().size() > 1024)
    fail("logit_bias", "`logit_bias` has " + std::to_string(v->as_object().size()) + " entries, the limit is 1024");
  for (const auto& [key, bias] : v->as_object()) {
    int32_t token = 0;
    const auto [end, ec] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (ec != std::errc() || end != key.data() + key.size() || token < 0)
      fail("logit_bias", "`logit_bias` has the key `" + std::string(key).substr(0, 32) + "`, which is no token id");
    const double b = bias.is_number() ? bias.to_number<double>() : std::numeric_limits<double>::quiet_NaN();
    if (!(b >= -100 && b <= 100)) fail("logit_bias", "`logit_bias` values must lie between -100 and 100");
    sampling.logit_bias.emplace_back(token, static_cast<float>(b));
  }
}

// Fields that OpenAI's API has and this server takes only at the value that asks for nothing.
void refuse_unsupported(const json::object& o) {
  for (const char* key : {"background", "background_options", "context_management", "conversation", "image",
                          "moderation", "prompt", "max_tool_calls", "access_programs"}) {
    const json::value* v = o.if_contains(key);
    if (is_null(v) || (v->is_bool() && !v->as_bool())) continue;
    fail(key, std::string("`") + key + "` is not supported by this server: leave it out", "unsupported_parameter");
  }
  if (const json::value* tools = o.if_contains("tools");
      !is_null(tools) && !(tools->is_array() && tools->as_array().empty()))
    fail("tools", "`tools` are not supported yet: leave them out", "unsupported_parameter");
  if (const json::value* text = o.if_contains("text"); text && text->is_object()) {
    const json::value* format = text->as_object().if_contains("format");
    if (format && format->is_object()) {
      const json::value* type = format->as_object().if_contains("type");
      if (type && (!type->is_string() || type->as_string() != "text"))
        fail("text.format", "`text.format` can only be of type `text` yet", "unsupported_parameter");
    }
  }
}

void refuse_unknown(const json::object& o) {
  static const std::set<std::string_view> known{
      "type", "stream_id", "model", "input", "instructions", "previous_response_id", "max_output_tokens", "temperature",
      "top_p", "top_logprobs", "include", "metadata", "store", "stream", "stream_options", "user", "safety_identifier",
      "service_tier", "truncation", "parallel_tool_calls", "tool_choice", "tools", "text", "reasoning",
      "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "background", "background_options",
      "context_management", "conversation", "image", "moderation", "prompt", "max_tool_calls", "access_programs",
      "generate", "event_id",
      // beyond OpenAI's, in vLLM's words
      "top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed", "stop",
      "stop_token_ids", "ignore_eos", "min_tokens", "logit_bias", "allowed_token_ids", "banned_token_ids", "n",
      "best_of", "beam_width", "length_penalty", "early_stopping", "priority", "cache_salt", "deadline", "sampler"};
  for (const auto& [key, value] : o)
    if (!known.contains(key))
      fail(std::string(key).substr(0, 64), "Unknown parameter: `" + std::string(key).substr(0, 64) + "`",
           "unknown_parameter");
}

void read_sampling(const json::object& o, CreateRequest& create) {
  SamplingParameters& s = create.request.sampling;
  read_number(o, "temperature", 0, 100, s.temperature);
  read_number(o, "top_p", 0, 1, s.top_p);
  read_number(o, "min_p", 0, 1, s.min_p);
  read_number(o, "typical_p", 0, 1, s.typical_p);
  read_number(o, "repetition_penalty", 0, 100, s.repetition_penalty);
  read_number(o, "presence_penalty", -2, 2, s.presence_penalty);
  read_number(o, "frequency_penalty", -2, 2, s.frequency_penalty);
  constexpr int64_t int_max = std::numeric_limits<int32_t>::max();
  if (auto k = read_integer(o, "top_k", -1, int_max)) s.top_k = static_cast<int32_t>(std::max<int64_t>(*k, 0));
  if (auto m = read_integer(o, "min_tokens", 0, int_max)) s.min_tokens = static_cast<int32_t>(*m);
  if (const json::value* seed = o.if_contains("seed"); !is_null(seed)) {
    if (seed->is_uint64())
      s.seed = seed->get_uint64();
    else if (auto x = read_integer(o, "seed", std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()))
      s.seed = static_cast<uint64_t>(*x);
  }
  read_logit_bias(o, s);
  s.allowed_tokens = read_tokens(o, "allowed_token_ids", 1024);
  s.banned_tokens = read_tokens(o, "banned_token_ids", 1024);
  if (const json::value* include = o.if_contains("include"); include && include->is_array())
    for (const json::value& word : include->as_array())
      if (word.is_string() && word.as_string() == "message.output_text.logprobs") create.logprobs = true;
  if (auto top = read_integer(o, "top_logprobs", 0, 20)) {
    create.logprobs = true;
    s.logprobs = static_cast<int32_t>(*top);
  } else if (create.logprobs) {
    s.logprobs = 0;
  }
  if (const json::value* sampler = o.if_contains("sampler"); !is_null(sampler)) {
    if (!sampler->is_object()) fail("sampler", "`sampler` must be an object with a name", "invalid_type");
    const auto name = read_string(sampler->as_object(), "name", 64);
    if (!name || name->empty()) fail("sampler", "`sampler` must be an object with a name");
    s.sampler = *name;
    if (sampler->as_object().size() > 64) fail("sampler", "`sampler` has more than 64 parameters");
    for (const auto& [key, value] : sampler->as_object()) {
      if (key == "name") continue;
      if (!value.is_number())
        fail("sampler", "`sampler." + std::string(key).substr(0, 64) + "` must be a number", "invalid_type");
      s.sampler_parameters.emplace_back(std::string(key), value.to_number<double>());
    }
  }
}

void read_decoding(const json::object& o, const ProtocolLimits& limits, Request& r) {
  constexpr int64_t int_max = std::numeric_limits<int32_t>::max();
  if (auto m = read_integer(o, "max_output_tokens", 1, int_max)) r.max_tokens = static_cast<uint32_t>(*m);
  if (auto n = read_integer(o, "n", 1, 128)) r.n = static_cast<uint32_t>(*n);
  if (auto b = read_integer(o, "best_of", 1, 128)) r.best_of = static_cast<uint32_t>(*b);
  if (auto w = read_integer(o, "beam_width", 0, 64)) r.beam.width = static_cast<int32_t>(*w);
  read_number(o, "length_penalty", -100, 100, r.beam.length_penalty);
  r.beam.early_stopping = read_bool(o, "early_stopping").value_or(false);
  read_stop(o, r);
  r.stop_tokens = read_tokens(o, "stop_token_ids", 64);
  r.ignore_eos = read_bool(o, "ignore_eos").value_or(false);
  if (auto p = read_integer(o, "priority", std::numeric_limits<int32_t>::min(), int_max))
    r.priority = static_cast<int32_t>(*p);
  if (auto salt = read_string(o, "cache_salt", limits.max_id_bytes)) r.cache_salt = *salt;
  float deadline = 0;
  read_number(o, "deadline", 0, 86400, deadline);
  r.deadline_seconds = deadline;
}

} // namespace

json::object parse_frame(std::string_view frame, const ProtocolLimits& limits) {
  json::parse_options options;
  options.max_depth = limits.max_json_depth;
  boost::system::error_code ec;
  json::value value = json::parse(json::string_view(frame.data(), frame.size()), ec, {}, options);
  if (ec) throw ProtocolError("The message is not valid JSON: " + ec.message(), "", "invalid_json");
  if (!value.is_object()) throw ProtocolError("The message must be a JSON object", "", "invalid_json");
  return std::move(value.as_object());
}

CreateRequest parse_create(const json::object& event, const ProtocolLimits& limits, std::string_view model_name) {
  CreateRequest create;
  create.stream_id = read_string(event, "stream_id", limits.max_id_bytes);
  refuse_unknown(event);
  refuse_unsupported(event);
  if (auto model = read_string(event, "model", 1024); model && !model->empty() && *model != model_name)
    throw ProtocolError("The model `" + *model + "` is not served here: this server has `" + std::string(model_name) +
                            "`",
                        "model", "model_not_found", 404);
  create.previous_response_id = read_string(event, "previous_response_id", limits.max_id_bytes).value_or("");
  create.instructions = read_string(event, "instructions", limits.max_frame_bytes);
  create.messages = read_input(event.if_contains("input"), limits);
  if (create.messages.empty() && create.previous_response_id.empty())
    fail("input", "`input` is missing: give a string or a list of messages", "missing_required_parameter");
  create.store = read_bool(event, "store").value_or(true);
  read_sampling(event, create);
  read_decoding(event, limits, create.request);
  for (const char* key : {"metadata", "user", "safety_identifier", "prompt_cache_key", "service_tier"})
    if (const json::value* v = event.if_contains(key)) create.echo[key] = *v;
  return create;
}

json::object error_event(const ProtocolError& error, const std::optional<std::string>& stream_id) {
  json::object body{{"type", error.status >= 500 ? "server_error" : "invalid_request_error"},
                    {"code", error.code},
                    {"message", error.what()}};
  body["param"] = error.param.empty() ? json::value(nullptr) : json::value(error.param);
  json::object event{{"type", "error"}, {"status", error.status}, {"error", std::move(body)}};
  if (stream_id) event["stream_id"] = *stream_id;
  return event;
}

namespace {

json::array bytes_json(std::string_view text) {
  json::array bytes;
  for (unsigned char c : text) bytes.push_back(c);
  return bytes;
}

} // namespace

json::array logprobs_json(const std::vector<TokenLogprob>& logprobs, bool with_bytes) {
  const auto entry = [with_bytes](const TokenLogprob& l) {
    json::object o{{"token", l.token}, {"logprob", l.logprob}};
    if (with_bytes) o["bytes"] = bytes_json(l.bytes);
    return o;
  };
  json::array out;
  for (const TokenLogprob& l : logprobs) {
    json::object o = entry(l);
    json::array top;
    for (const TokenLogprob& alternative : l.top) top.push_back(entry(alternative));
    o["top_logprobs"] = std::move(top);
    out.push_back(std::move(o));
  }
  return out;
}

json::object usage_json(const Usage& usage) {
  return {{"input_tokens", usage.input_tokens},
          {"input_tokens_details", {{"cached_tokens", usage.cached_tokens}, {"cache_write_tokens", 0}}},
          {"output_tokens", usage.output_tokens},
          {"output_tokens_details", {{"reasoning_tokens", 0}}},
          {"total_tokens", usage.input_tokens + usage.output_tokens}};
}

json::object output_text_part(std::string_view text, const std::vector<TokenLogprob>& logprobs) {
  return {{"type", "output_text"},
          {"text", json::string_view(text.data(), text.size())},
          {"annotations", json::array()},
          {"logprobs", logprobs_json(logprobs, true)}};
}

json::object message_item(std::string_view id, std::string_view status, json::array content) {
  return {{"id", json::string_view(id.data(), id.size())},
          {"type", "message"},
          {"role", "assistant"},
          {"status", json::string_view(status.data(), status.size())},
          {"content", std::move(content)}};
}

json::object response_json(ResponseView view) {
  const auto text = [](std::string_view s) { return json::string_view(s.data(), s.size()); };
  const Request& r = view.request->request;
  json::object o{{"id", text(view.id)},
                 {"object", "response"},
                 {"created_at", view.created_at},
                 {"status", text(view.status)},
                 {"model", text(view.model)},
                 {"output", std::move(view.output)},
                 {"parallel_tool_calls", true},
                 {"tool_choice", "auto"},
                 {"tools", json::array()},
                 {"temperature", r.sampling.temperature},
                 {"top_p", r.sampling.top_p},
                 {"store", view.request->store},
                 {"truncation", "disabled"},
                 {"background", false},
                 {"text", {{"format", {{"type", "text"}}}}}};
  o["error"] = nullptr;
  if (!view.error_message.empty()) o["error"] = {{"code", "server_error"}, {"message", text(view.error_message)}};
  o["incomplete_details"] = nullptr;
  if (!view.incomplete_reason.empty()) o["incomplete_details"] = {{"reason", text(view.incomplete_reason)}};
  o["instructions"] = view.request->instructions ? json::value(*view.request->instructions) : json::value(nullptr);
  o["max_output_tokens"] = r.max_tokens ? json::value(r.max_tokens) : json::value(nullptr);
  o["previous_response_id"] = view.request->previous_response_id.empty()
                                  ? json::value(nullptr)
                                  : json::value(view.request->previous_response_id);
  o["usage"] = view.usage ? json::value(usage_json(*view.usage)) : json::value(nullptr);
  o["metadata"] = json::object();
  for (const auto& [key, value] : view.request->echo) o[key] = value;
  return o;
}

std::string random_id(std::string_view prefix) {
  thread_local std::random_device source; // the kernel's generator
  static constexpr char hex[] = "0123456789abcdef";
  std::string id(prefix);
  id += '_';
  for (int word = 0; word < 4; ++word) {
    uint32_t bits = source();
    for (int i = 0; i < 8; ++i, bits >>= 4) id += hex[bits & 15];
  }
  return id;
}

} // namespace quire::server
