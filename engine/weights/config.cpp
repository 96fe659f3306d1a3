#include "weights/config.hpp"

#include "quire/error.hpp"
#include "weights/sentence.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

#include <cmath>
#include <vector>

namespace quire {
namespace {

namespace json = boost::json;

constexpr size_t max_text_bytes = size_t(256) << 20;
constexpr size_t max_nesting = 32;

// Depth is limited by the parser.
void flatten(const json::value& value, const std::string& key, Config& config) {
  switch (value.kind()) {
  case json::kind::null:
    return;
  case json::kind::bool_:
    config.set(key, value.get_bool());
    return;
  case json::kind::int64:
    config.set(key, value.get_int64());
    return;
  case json::kind::uint64:
    config.set(key, static_cast<double>(value.get_uint64()));
    return; // beyond int64
  case json::kind::double_:
    config.set(key, value.get_double());
    return;
  case json::kind::string:
    config.set(key, std::string(value.get_string()));
    return;
  case json::kind::array: {
    const json::array& array = value.get_array();
    config.set_length(key, array.size());
    for (size_t i = 0; i < array.size(); ++i) flatten(array[i], key + "." + std::to_string(i), config);
    return;
  }
  case json::kind::object:
    for (const auto& [name, member] : value.get_object())
      flatten(member, key.empty() ? std::string(name) : key + "." + std::string(name), config);
    return;
  }
}

// Gives everything under `from.` also as `to` plus the rest of the key, where that isn't there yet. `to` may be empty
// (the top level).
void also_as(Config& config, const std::string& from, const std::string& to) {
  std::vector<std::pair<std::string, Config::Value>> values;
  std::vector<std::pair<std::string, uint64_t>> lengths;
  const std::string prefix = from + ".";
  const auto top = [&](const std::string& key) { return to + key.substr(prefix.size()); };
  const auto first_word = [&](const std::string& key) { return key.substr(0, key.find('.', to.size())); };
  for (auto at = config.values().lower_bound(prefix); at != config.values().end() && at->first.starts_with(prefix);
       ++at)
    if (!config.has(first_word(top(at->first)))) values.emplace_back(top(at->first), at->second);
  for (auto at = config.lengths().lower_bound(prefix); at != config.lengths().end() && at->first.starts_with(prefix);
       ++at)
    if (!config.has(first_word(top(at->first)))) lengths.emplace_back(top(at->first), at->second);
  for (auto& [key, value] : values) config.set(key, std::move(value));
  for (const auto& [key, length] : lengths) config.set_length(key, length);
}

void also_as_value(Config& config, const std::string& from, const std::string& to) {
  const auto found = config.values().find(from);
  if (found != config.values().end() && !config.has(to)) config.set(to, Config::Value(found->second));
}

// One spelling for what versions of `transformers` have written differently.
void add_older_words(Config& config) {
  also_as(config, "text_config", "");
  also_as_value(config, "rope_parameters.rope_theta", "rope_theta");
  also_as_value(config, "rope_parameters.full_attention.rope_theta", "rope_theta");
  also_as_value(config, "rope_parameters.sliding_attention.rope_theta", "rope_local_base_freq");
  also_as_value(config, "rope_parameters.partial_rotary_factor", "partial_rotary_factor");
  for (const std::string from : {"rope_parameters", "rope_parameters.full_attention"}) {
    const std::string* type = config.string(from + ".rope_type");
    if (type && *type != "default" && !config.has("rope_scaling")) also_as(config, from, "rope_scaling.");
  }
  also_as_value(config, "rope_scaling.type", "rope_scaling.rope_type");
  also_as_value(config, "dtype", "torch_dtype");
}

json::value nested(const Config& config, const std::string& prefix);

// The value or container at `key`.
json::value element(const Config& config, const std::string& key) {
  const auto found = config.values().find(key);
  if (found != config.values().end())
    return std::visit([](const auto& value) { return json::value(value); }, found->second);
  if (const auto length = config.length(key)) {
    json::array array;
    for (uint64_t i = 0; i < *length; ++i) array.push_back(element(config, key + "." + std::to_string(i)));
    return array;
  }
  return config.has(key) ? nested(config, key + ".") : json::value(nullptr);
}

json::value nested(const Config& config, const std::string& prefix) {
  json::object object;
  const auto add = [&](const std::string& key) {
    const std::string name = key.substr(prefix.size(), key.find('.', prefix.size()) - prefix.size());
    if (!object.contains(name)) object[name] = element(config, prefix + name);
  };
  for (auto at = config.values().lower_bound(prefix); at != config.values().end() && at->first.starts_with(prefix);
       ++at)
    add(at->first);
  for (auto at = config.lengths().lower_bound(prefix); at != config.lengths().end() && at->first.starts_with(prefix);
       ++at)
    add(at->first);
  return object;
}

const Config& self_config(void* self) { return *static_cast<const Config*>(self); }

} // namespace

Config Config::from_json(std::string_view text, const std::string& source) {
  if (text.size() > max_text_bytes)
    throw Error(source + " has " + std::to_string(text.size()) + " bytes, more than the " +
                std::to_string(max_text_bytes) + " allowed: this is no configuration");
  json::parse_options options;
  options.max_depth = max_nesting;
  boost::system::error_code code;
  const json::value value = json::parse(json::string_view(text.data(), text.size()), code, {}, options);
  if (code) throw Error(source + " is not valid JSON (" + code.message() + "): fetch it again or correct it");
  if (!value.is_object()) throw Error(source + " must hold a JSON object: fetch it again or correct it");
  Config config(source);
  flatten(value, "", config);
  add_older_words(config);
  return config;
}

std::optional<int64_t> Config::integer(std::string_view key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return std::nullopt;
  if (const auto* integer = std::get_if<int64_t>(&found->second)) return *integer;
  if (const auto* real = std::get_if<double>(&found->second))
    if (std::fabs(*real) < 0x1p53 && *real == std::floor(*real)) return static_cast<int64_t>(*real);
  return std::nullopt;
}

std::optional<double> Config::real(std::string_view key) const {
  const auto found = values_.find(key);
  if (found == values_.end()) return std::nullopt;
  if (const auto* real = std::get_if<double>(&found->second)) return *real;
  if (const auto* integer = std::get_if<int64_t>(&found->second)) return static_cast<double>(*integer);
  return std::nullopt;
}

std::optional<bool> Config::boolean(std::string_view key) const {
  const auto found = values_.find(key);
  const bool* value = found == values_.end() ? nullptr : std::get_if<bool>(&found->second);
  return value ? std::optional(*value) : std::nullopt;
}

const std::string* Config::string(std::string_view key) const {
  const auto found = values_.find(key);
  return found == values_.end() ? nullptr : std::get_if<std::string>(&found->second);
}

std::optional<uint64_t> Config::length(std::string_view key) const {
  const auto found = lengths_.find(key);
  return found == lengths_.end() ? std::nullopt : std::optional(found->second);
}

bool Config::has(std::string_view key) const {
  if (values_.contains(key) || lengths_.contains(key)) return true;
  const std::string prefix = std::string(key) + ".";
  const auto value = values_.lower_bound(prefix);
  if (value != values_.end() && value->first.starts_with(prefix)) return true;
  const auto length = lengths_.lower_bound(prefix);
  return length != lengths_.end() && length->first.starts_with(prefix);
}

int64_t Config::require_integer(std::string_view key) const {
  if (const auto value = integer(key)) return *value;
  throw Error(source_ + ": " + in_quotes(key) + (has(key) ? " is not an integer" : " is missing") +
              ": the configuration is damaged or of another kind of model");
}

double Config::require_real(std::string_view key) const {
  if (const auto value = real(key)) return *value;
  throw Error(source_ + ": " + in_quotes(key) + (has(key) ? " is not a number" : " is missing") +
              ": the configuration is damaged or of another kind of model");
}

void Config::set(const std::string& key, Value value) { values_.insert_or_assign(key, std::move(value)); }
void Config::set_length(const std::string& key, uint64_t elements) { lengths_.insert_or_assign(key, elements); }

std::string Config::to_json() const { return json::serialize(nested(*this, "")); }

quire_config as_quire_config(const Config& config, bool from_gguf) {
  quire_config view = {};
  view.struct_size = sizeof view;
  view.self = const_cast<Config*>(&config);
  view.from_gguf = from_gguf ? 1 : 0;
  view.integer = [](void* self, const char* key, int64_t* out) -> int32_t {
    const auto value = self_config(self).integer(key);
    if (value) *out = *value;
    return value.has_value();
  };
  view.real = [](void* self, const char* key, double* out) -> int32_t {
    const auto value = self_config(self).real(key);
    if (value) *out = *value;
    return value.has_value();
  };
  view.boolean = [](void* self, const char* key, int32_t* out) -> int32_t {
    const auto value = self_config(self).boolean(key);
    if (value) *out = *value;
    return value.has_value();
  };
  view.string = [](void* self, const char* key, const char** out) -> int32_t {
    const std::string* value = self_config(self).string(key);
    if (value) *out = value->c_str();
    return value != nullptr;
  };
  view.length = [](void* self, const char* key, uint64_t* out) -> int32_t {
    const auto value = self_config(self).length(key);
    if (value) *out = *value;
    return value.has_value();
  };
  return view;
}

} // namespace quire
