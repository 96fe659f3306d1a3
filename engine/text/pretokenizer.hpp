// Cuts normalized text into the pieces that are tokenized apart from each other (tokenizer.json's "pre_tokenizer"; a
// GGUF file names one). Immutable; [any] thread.
#pragma once

#include "text/byte_level.hpp"
#include "text/regex.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace quire {

// What becomes of a separator's matches.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

class PreTokenizer {
 public:
  struct Split {
    Regex regex;
    SplitBehavior behavior;
    bool invert = false; // the pattern describes what lies between separators
  };
  enum class Prefix { never, first, always };
  struct Metaspace { // spaces become `replacement`, and pieces begin with it
    std::string replacement;
    Prefix prefix;
    bool split;
  };
  struct ByteLevelWords { // the pieces are spelled in ByteLevel's characters from here on
    bool add_prefix_space;
    std::optional<Split> split; // GPT-2's pattern
  };
  using Step = std::variant<Split, Metaspace, ByteLevelWords>;

  void add(Step step) { steps_.push_back(std::move(step)); }

  // The text as it is after all steps and the pieces of it that are tokenized, in order; raw bytes (never ByteLevel's
  // spelling).
  struct Pieces {
    std::string text;
    std::vector<std::pair<uint32_t, uint32_t>> spans; // [begin, end) in text; none is empty
  };
  // at_start: the text is the beginning of the input. Throws quire::Error where a pattern passes its limits.
  Pieces run(std::string text, bool at_start) const;

 private:
  std::vector<Step> steps_;
  ByteLevel byte_level_;
};

// The pattern that GPT-2 cuts words with (Radford et al. 2019, the released encoder).
extern const char* const gpt2_words_pattern;

} // namespace quire
