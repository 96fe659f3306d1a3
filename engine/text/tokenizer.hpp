// Text to token ids and back. A Tokenizer is immutable once loaded; every const member is [any] thread, at the same
// time, without locks.
//
// Two families: byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM …) and SentencePiece-style BPE with byte fallback (Llama
// 2, Mistral, Phi-3, Gemma). WordPiece and Unigram vocabularies are refused at load.
//
// Invalid UTF-8 is input like any other. For pre-tokenization and normalization a byte that belongs to no valid
// sequence counts as one control character; the byte itself is kept, so that a byte-level or byte-fallback vocabulary
// gives it back by decode_bytes().
//
// Errors: quire::Error, one sentence that names the file and field at load; encode() throws one if the text is longer
// than max_text_bytes or a pre-tokenizer's regular expression passes its limits on this text. Nothing else throws but
// std::bad_alloc.
#pragma once

#include "text/gguf_vocabulary.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

struct EncodeOptions {
  bool add_special =
      true; // put BOS and EOS (or what the post-processor says) around the text, as the model was trained
  bool parse_special =
      false; // a special token spelled in the text becomes its id: only for text that a chat template rendered.
             // false: such a spelling is plain text. Added tokens that are not special are always found.
  bool shielded =
      false; // the text has passed shield_special(): its shields are dropped once special tokens have been looked for
};

struct DecodeOptions {
  bool skip_special = true; // leave special tokens out
};

// The texts of a Hugging Face model folder that a tokenizer is made of; an absent file is an empty string.
struct HuggingFaceTokenizerFiles {
  std::string tokenizer_json;          // required
  std::string tokenizer_config_json;   // bos, eos, unk, pad tokens; add_bos_token, add_eos_token
  std::string special_tokens_map_json; // the same tokens where tokenizer_config.json lacks them
  std::string generation_config_json;  // eos_token_id: one id or a list, all of which end generation
  std::string config_json;             // eos_token_id, bos_token_id, as the last resort
};

class Tokenizer {
 public:
  // Longer texts are refused by encode(), so that no count of tokens can pass int32.
  static constexpr size_t max_text_bytes = size_t{1} << 30;
  // What shield_special() puts into a special token's spelling; the byte occurs in no valid UTF-8.
  static constexpr char shield_byte = '\xFF';

  // [load] `source` names the file in errors.
  static std::shared_ptr<const Tokenizer> from_gguf(const GgufVocabulary& vocabulary, const std::string& source);
  static std::shared_ptr<const Tokenizer> from_huggingface(const HuggingFaceTokenizerFiles& files,
                                                           const std::string& source);
  static std::shared_ptr<const Tokenizer> from_folder(const std::filesystem::path& folder);
  // Ids 0 to 255 are bytes, 256 is BOS, 257 EOS, both only if vocab_size has room for them; further ids decode to
  // nothing. For models without a vocabulary (--load-format dummy). vocab_size >= 256.
  static std::shared_ptr<const Tokenizer> from_bytes(int32_t vocab_size);

  ~Tokenizer();
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  std::vector<int32_t> encode(std::string_view text, EncodeOptions options = {}) const;

  // Text with every invalid UTF-8 sequence replaced by U+FFFD, as the WHATWG decoder does. Ids outside the vocabulary
  // decode to nothing.
  std::string decode(std::span<const int32_t> ids, DecodeOptions options = {}) const;
  // The same before the replacement: the bytes as they are.
  std::string decode_bytes(std::span<const int32_t> ids, DecodeOptions options = {}) const;

  // The text with a shield inside every special token's spelling: rendered into a chat template and encoded with
  // parse_special and shielded, it stays plain text, while the template's own special tokens are found.
  std::string shield_special(std::string_view text) const;

  int32_t vocab_size() const;
  // The raw bytes that a token stands for (a special token's are its spelling); empty for ids outside the vocabulary.
  std::string_view token_bytes(int32_t id) const;
  // The spelling in the vocabulary file ("Ġthe", "▁the", "<0x0A>"); empty for ids outside the vocabulary.
  std::string_view token_text(int32_t id) const;
  std::optional<int32_t> id_of(std::string_view token_text) const;
  // Control tokens: never produced from user text, left out by skip_special.
  bool is_special(int32_t id) const;

  std::optional<int32_t> bos() const;
  std::optional<int32_t> eos() const;
  std::optional<int32_t> unk() const;
  std::optional<int32_t> pad() const;
  // Every id that ends generation (eos, end of turn, end of message …), ascending.
  std::span<const int32_t> end_ids() const;
  bool is_end(int32_t id) const;
  // Whether encode(add_special) begins with bos(): a chat template that writes its own must then be encoded without
  // add_special.
  bool adds_bos() const;
  bool adds_eos() const;
  // SentencePiece's dummy prefix: the text gets a leading space when encoded, and decoding takes it off again.
  bool strips_leading_space() const;

  struct Parts; // the loaders' result; private to engine/text
  explicit Tokenizer(std::unique_ptr<const Parts> parts);

 private:
  std::unique_ptr<const Parts> parts_;
};

} // namespace quire
