// Fuzzes encoding and decoding: any bytes, through the pre-tokenizers of public models. The first byte chooses the
// tokenizer, the second the options. Bytes come back, chunks join to the whole, and plain text makes no special token.
//
// sources: engine/text/added_tokens.cpp engine/text/bpe.cpp engine/text/byte_level.cpp engine/text/detokenizer.cpp
// engine/text/gguf_pretokenizers.cpp engine/text/normalizer.cpp engine/text/pretokenizer.cpp engine/text/regex.cpp
// engine/text/tokenizer.cpp engine/text/tokenizer_gguf.cpp engine/text/unicode/characters.cpp
// engine/text/unicode/normalize.cpp
// libraries: boost_json pcre2-8
#include "text/byte_level.hpp"
#include "text/detokenizer.hpp"
#include "text/tokenizer.hpp"

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace {

// Every byte, some merges and two control tokens.
std::shared_ptr<const quire::Tokenizer> byte_level(const char* pre) {
  quire::GgufVocabulary v;
  v.model = "gpt2";
  v.pre = pre;
  const quire::ByteLevel spelling;
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    spelling.spell(std::string(1, static_cast<char>(byte)), token);
    v.tokens.push_back(token);
  }
  for (const char* merge :
       {"t h", "th e", "a a", "aa aa", "e r", "1 2", "\u0120 t", "\u0120 \u0120", "\u0120\u0120 \u0120\u0120"}) {
    v.merges.emplace_back(merge);
    std::string joined = merge;
    joined.erase(joined.find(' '), 1);
    v.tokens.push_back(joined);
  }
  v.token_types.assign(v.tokens.size(), 1);
  for (const char* control : {"<|end|>", "<|start|>", "<s>"})
    v.tokens.emplace_back(control), v.token_types.push_back(3);
  return quire::Tokenizer::from_gguf(v, "fuzz");
}

std::shared_ptr<const quire::Tokenizer> sentence_piece() {
  quire::GgufVocabulary v;
  v.model = "llama";
  v.tokens = {"<unk>", "<s>", "</s>"};
  v.token_types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    static const char* digits = "0123456789ABCDEF";
    v.tokens.push_back(std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">");
    v.token_types.push_back(6);
  }
  for (const char* token :
       {"a", "b", "\u2581", "\u2581a", "aa", "aaaa", "ab", "\u2581\u2581", "\u65E5\u672C", "x\u00E9"})
    v.tokens.emplace_back(token), v.token_types.push_back(1);
  for (size_t i = 0; i < v.tokens.size(); ++i) v.scores.push_back(-static_cast<float>(i % 7));
  v.unk_id = 0, v.bos_id = 1, v.eos_id = 2;
  return quire::Tokenizer::from_gguf(v, "fuzz");
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const std::vector<std::shared_ptr<const quire::Tokenizer>> tokenizers = {
      byte_level("gpt-2"),        byte_level("smollm"),      byte_level("llama-bpe"), byte_level("gpt-4o"),
      byte_level("deepseek-llm"), byte_level("deepseek-v3"), byte_level("default"),   byte_level("falcon"),
      byte_level("bloom"),        byte_level("superbpe"),    sentence_piece()};
  if (size < 2) return 0;
  const auto& tokenizer = tokenizers[data[0] % tokenizers.size()];
  const quire::EncodeOptions options{.add_special = (data[1] & 1) != 0, .parse_special = (data[1] & 2) != 0};
  const std::string text(reinterpret_cast<const char*>(data) + 2, size - 2);
  const auto ids = tokenizer->encode(text, options);
  if (!options.parse_special) {
    // U+2581 is a space to SentencePiece.
    const bool spaces_alike = tokenizer->strips_leading_space() && text.find("\u2581") != text.npos;
    if (!spaces_alike && tokenizer->decode_bytes(ids) != text) abort();
    for (const int32_t id : tokenizer->encode(text, {.add_special = false}))
      if (tokenizer->is_special(id)) abort();
    for (const int32_t id : tokenizer->encode(tokenizer->shield_special(text),
                                              {.add_special = false, .parse_special = true, .shielded = true}))
      if (tokenizer->is_special(id)) abort();
  }
  quire::Detokenizer detokenizer(tokenizer);
  std::string joined;
  for (const int32_t id : ids) joined += detokenizer.push(id);
  joined += detokenizer.flush();
  if (joined != tokenizer->decode(ids)) abort();
  return 0;
}
