// What happens to text before it is cut into words: a list of small steps (tokenizer.json's "normalizer"). Immutable;
// [any] thread. Invalid bytes pass every step unchanged.
#pragma once

#include "text/regex.hpp"
#include "text/unicode/unicode.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace quire {

class Normalizer {
 public:
  struct Prepend { // to a text that is not empty
    std::string prefix;
  };
  struct Replace {
    std::string literal; // used if there is no pattern
    std::optional<Regex> regex;
    std::string content;
  };
  struct Form {
    unicode::Form form;
  };
  struct Lowercase {};
  struct StripAccents {}; // leaves out marks
  struct Strip {
    bool left, right;
  };
  using Step = std::variant<Prepend, Replace, Form, Lowercase, StripAccents, Strip>;

  void add(Step step);
  bool empty() const { return steps_.empty(); }
  // Throws quire::Error where a pattern passes its limits.
  std::string run(std::string_view text) const;

 private:
  std::vector<Step> steps_;
};

// The text with every byte that belongs to no valid character replaced by U+007F, byte for byte: what patterns see
// instead. Empty if the text is valid and can be used itself.
std::string shadow_of(std::string_view text);

} // namespace quire
