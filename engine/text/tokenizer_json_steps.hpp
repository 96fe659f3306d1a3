// The parts of a tokenizer.json that are pipelines: normalizer, pre_tokenizer, decoder, post_processor. Each throws
// quire::Error naming the field for a type that this version does not have. Private to engine/text.
#pragma once

#include "text/json_view.hpp"
#include "text/tokenizer_parts.hpp"

namespace quire {

void read_normalizer(const JsonView& json, Normalizer& normalizer);

struct PreTokenizerTraits {
  bool byte_level = false; // pieces are bytes, spelled in ByteLevel's characters in the vocabulary
};
PreTokenizerTraits read_pre_tokenizer(const JsonView& json, PreTokenizer& pre_tokenizer);

struct DecoderTraits {
  bool present = false;
  bool byte_level = false;
  bool space_mark = false;    // U+2581 is a space
  bool byte_fallback = false; // <0xNN> is a byte
  bool strips_leading_space = false;
};
DecoderTraits read_decoder(const JsonView& json);

void read_post_processor(const JsonView& json, Tokenizer::Parts& parts);

} // namespace quire
