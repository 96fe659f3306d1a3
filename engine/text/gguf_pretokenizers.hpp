// The pre-tokenizers that GGUF files name by tokenizer.ggml.pre. Private to engine/text.
#pragma once

#include "text/normalizer.hpp"
#include "text/pretokenizer.hpp"

#include <string>

namespace quire {

struct GgufPreTokenizer {
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  bool ignore_merges; // whole words that are tokens are taken as they are
  bool add_bos;       // where the file does not say
};

// Throws quire::Error for a name that is not known, with those that are. Empty means "default".
GgufPreTokenizer gguf_pre_tokenizer(const std::string& name, const std::string& source);

} // namespace quire
