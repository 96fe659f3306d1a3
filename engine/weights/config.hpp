// A model's configuration as flat keys in the words of Hugging Face's config.json, whatever file it came from.
//
// Nested keys are joined by dots (`rope_scaling.factor`), elements of arrays too (`architectures.0`, `layer_types.3`).
// null is absent. What newer files say in other words is also given in the older ones: `rope_parameters.*` as
// `rope_theta` and `rope_scaling.*`, `text_config.*` at the top level where the top level has no such key. Threads:
// filled while loading, then [any].
#pragma once

#include "quire/plugin.h"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

namespace quire {

class Config {
 public:
  using Value = std::variant<bool, int64_t, double, std::string>;

  Config() = default;
  explicit Config(std::string source) : source_(std::move(source)) {}

  // Of a JSON object's text. Errors name `source` and the place. Nesting is limited to 32, text to 256 MiB.
  static Config from_json(std::string_view text, const std::string& source);

  // The value if the key is there and of that type; an integer is a real too, and a real without a fraction an integer.
  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> real(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  const std::string* string(std::string_view key) const;
  std::optional<uint64_t> length(std::string_view key) const; // of an array
  bool has(std::string_view key) const;                       // as a scalar, an array or an object

  // Throw Error «config.json: `hidden_size` is missing …» where the getter above gives nothing.
  int64_t require_integer(std::string_view key) const;
  double require_real(std::string_view key) const;

  void set(const std::string& key, Value value);
  void set_length(const std::string& key, uint64_t elements);

  const std::string& source() const { return source_; } // «config.json», «model.gguf»: for errors
  const std::map<std::string, Value, std::less<>>& values() const { return values_; }
  const std::map<std::string, uint64_t, std::less<>>& lengths() const { return lengths_; }
  // Nested again, as JSON text: for write_dummy.
  std::string to_json() const;

 private:
  std::string source_;
  std::map<std::string, Value, std::less<>> values_;
  std::map<std::string, uint64_t, std::less<>> lengths_; // of arrays
};

// The ABI's view of a configuration; valid as long as `config` lives and isn't changed.
quire_config as_quire_config(const Config& config, bool from_gguf);

} // namespace quire
