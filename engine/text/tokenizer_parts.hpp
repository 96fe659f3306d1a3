// What the loaders fill and Tokenizer runs on. Private to engine/text.
#pragma once

#include "text/added_tokens.hpp"
#include "text/bpe.hpp"
#include "text/normalizer.hpp"
#include "text/pretokenizer.hpp"
#include "text/tokenizer.hpp"
#include "text/vocabulary.hpp"

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

namespace quire {

struct Tokenizer::Parts {
  std::string source; // names the file in errors

  Vocabulary vocabulary;
  AddedTokens raw_added;        // looked for in the text as it comes
  AddedTokens normalized_added; // looked for in the normalized text, with their own content normalized
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe bpe;

  std::vector<int32_t> prefix_ids, suffix_ids; // what add_special puts around the text
  std::optional<int32_t> bos, eos, unk, pad;
  std::vector<int32_t> end_ids; // ascending, each once
  bool strips_leading_space = false;

  // For the end of a load: makes a list of ends out of `ids` and the spellings that models use for them, and control
  // tokens of bos, eos and all ends, so that a client's text never makes one.
  void finish(std::vector<int32_t> ids);
};

// One past the largest id that a token may have is checked here: throws quire::Error naming source and what.
int32_t checked_token_id(int64_t id, const std::string& source, const char* what);

} // namespace quire
