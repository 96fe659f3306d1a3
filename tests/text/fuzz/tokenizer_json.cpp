// Fuzzes the loading of tokenizer.json: whatever the bytes are, there is a tokenizer that works or a quire::Error.
//
// sources: engine/text/added_tokens.cpp engine/text/bpe.cpp engine/text/byte_level.cpp engine/text/detokenizer.cpp
// engine/text/normalizer.cpp engine/text/pretokenizer.cpp engine/text/regex.cpp engine/text/tokenizer.cpp
// engine/text/tokenizer_json.cpp engine/text/tokenizer_json_steps.cpp engine/text/unicode/characters.cpp
// engine/text/unicode/normalize.cpp
// libraries: boost_json pcre2-8
#include "text/tokenizer.hpp"

#include <quire/error.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    quire::HuggingFaceTokenizerFiles files;
    files.tokenizer_json.assign(reinterpret_cast<const char*>(data), size);
    const auto tokenizer = quire::Tokenizer::from_huggingface(files, "fuzz");
    for (const char* text : {"", "hello world", " <|end|> caf\xC3\xA9\xFF\n\n 123 \xE2\x96\x81the"}) {
      for (const int32_t id : tokenizer->encode(text, {.parse_special = true}))
        if (id < 0 || id >= tokenizer->vocab_size()) abort();
      (void)tokenizer->decode(tokenizer->encode(text));
    }
  } catch (const quire::Error&) {
  }
  return 0;
}
