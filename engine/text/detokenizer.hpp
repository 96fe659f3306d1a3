// Token ids to text, one at a time. One Detokenizer belongs to one stream and one thread at a time; it is cheap to copy
// (a forked sequence copies its own). The chunks, joined, equal Tokenizer::decode() of all ids.
//
// A chunk is final: never part of a UTF-8 character, never text that a later token changes. Bytes that can only be a
// prefix of a character (three at most) wait for the next token; what can't become one any more is U+FFFD, by the
// WHATWG decoder's rule (one for each maximal prefix of a valid sequence). Amortised cost: the token's bytes.
#pragma once

#include "text/tokenizer.hpp"

#include <cstdint>
#include <memory>
#include <string>

namespace quire {

class Detokenizer {
 public:
  // at_start: the first text is the beginning of a text, so that the leading space of a SentencePiece vocabulary is
  // taken off; false where the stream continues text that is already there.
  explicit Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, DecodeOptions options = {}, bool at_start = true);

  // The text that became final by this token; often empty. Ids outside the vocabulary and skipped special tokens give
  // nothing.
  std::string push(int32_t id);
  // The same, appended: no allocation where `out` has room.
  void push(int32_t id, std::string& out);
  // The end of the stream: waiting bytes come out as U+FFFD. The stream may go on after it (the next chunk begins a new
  // character).
  std::string flush();

  // Bytes held back, 0 to 3.
  int pending_bytes() const { return pending_size_; }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  DecodeOptions options_;
  bool strip_space_ = false; // the next byte of text, if it is a space, is the dummy prefix
  int pending_size_ = 0;
  char pending_[4] = {}; // [pending_size_] a proper prefix of one valid UTF-8 character
};

} // namespace quire
