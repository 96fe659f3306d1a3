// Finds tokens that are spelled in the text as they are, before anything else is done to it: special tokens
// (<|im_end|>) and others that a model's authors added. Immutable once built; [any] thread.
#pragma once

#include "text/regex.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

struct AddedToken {
  std::string content;
  int32_t id;
  bool special = false;
  bool lstrip = false;      // takes the white space before it along
  bool rstrip = false;      // and after it
  bool single_word = false; // only where no word character stands next to it
};

class AddedTokens {
 public:
  static constexpr size_t max_content_bytes = 512; // longer ones are an error at load: the scan looks that far ahead

  // Precondition: content is not empty, at most max_content_bytes. The first of equal contents stays.
  void add(AddedToken token);
  // False if no token has this id.
  bool make_special(int32_t id);
  bool empty() const { return tokens_.empty(); }
  const std::vector<AddedToken>& tokens() const { return tokens_; }

  struct Match {
    size_t begin, end; // of the text, with the white space that is taken along
    const AddedToken* token;
  };
  // Leftmost, then longest, from `from` on; matches before it took [0, from). Special tokens are passed over, whole,
  // unless parse_special. False: there is none.
  bool find(std::string_view text, size_t from, bool parse_special, Match& match) const;
  // Whether some special token's content begins at `at`, however long others there are.
  bool special_begins(std::string_view text, size_t at) const;

 private:
  int32_t child(int32_t node, char byte) const; // -1: none
  bool is_word(char32_t code) const;
  int32_t longest_at(std::string_view text, size_t at) const; // index of the token, -1: none

  struct Node {
    int32_t token = -1;                         // ends here
    std::vector<std::pair<char, int32_t>> next; // by byte, ascending
  };
  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<bool, 256> begins_{};
  std::vector<AddedToken> tokens_;
  std::optional<Regex> word_; // if some token is single_word
};

} // namespace quire
