// The vocabulary of a GGUF file as plain data: what engine/weights reads out of the metadata and the tokenizer is built
// from. Any thread; no behaviour. Every field names the metadata key that it comes from; what a file lacks stays at its
// default here, and the tokenizer decides.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace quire {

// Values of tokenizer.ggml.token_type (the GGUF specification's enumeration).
enum class GgufTokenType : int32_t {
  undefined = 0,
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6,
};

struct GgufVocabulary {
  std::string
      model; // tokenizer.ggml.model: "gpt2" (byte-level BPE) or "llama" (SentencePiece-style BPE); others are refused
  std::string pre;        // tokenizer.ggml.pre: names the pre-tokenizer of a "gpt2" model; empty means "default"
  std::string model_name; // general.name: only for families whose special tokens swallow white space (Phi-3), which
                          // GGUF can't say

  std::vector<std::string> tokens;  // tokenizer.ggml.tokens      [vocab_size]
  std::vector<int32_t> token_types; // tokenizer.ggml.token_type  [vocab_size], or empty: all normal
  std::vector<float> scores;        // tokenizer.ggml.scores      [vocab_size], or empty; "llama" needs them
  std::vector<std::string> merges;  // tokenizer.ggml.merges      "left right" in order of rank; "gpt2" needs them

  std::optional<int32_t> bos_id; // tokenizer.ggml.bos_token_id
  std::optional<int32_t> eos_id; // tokenizer.ggml.eos_token_id
  std::optional<int32_t> unk_id; // tokenizer.ggml.unknown_token_id
  std::optional<int32_t> pad_id; // tokenizer.ggml.padding_token_id
  std::optional<int32_t> eot_id; // tokenizer.ggml.eot_token_id: end of a turn, ends generation as eos does
  std::optional<int32_t> eom_id; // tokenizer.ggml.eom_token_id: end of a message, likewise

  std::optional<bool> add_bos;          // tokenizer.ggml.add_bos_token
  std::optional<bool> add_eos;          // tokenizer.ggml.add_eos_token
  std::optional<bool> add_space_prefix; // tokenizer.ggml.add_space_prefix
};

} // namespace quire
