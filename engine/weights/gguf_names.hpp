// The one file of GGUF's names and conventions: its metadata keys in the words of Hugging Face's config.json, its
// tensor names in those of a Hugging Face checkpoint, and back. Nothing else of Quire spells a GGUF key.
//
// Families: llama (with mistral, mixtral), qwen2, qwen3 and their mixtures of experts, gemma, gemma2, gemma3, phi3,
// granite, smollm3, olmo2. Of other architectures the common words are mapped and `architectures.0` is GGUF's own word.
//
// Sources: the GGUF specification; the key and tensor tables of PyPI `gguf`; for what a family implies without saying
// so (Gemma's pattern of windows, SmolLM3's layers without rope) the models' config.json on which their GGUF files were
// made. Errors: quire::Error, one sentence that names the file and the key. Threads: [any].
#pragma once

#include "weights/config.hpp"
#include "weights/gguf.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace quire {

struct GgufVocabulary;     // text/gguf_vocabulary.hpp
struct GenerationDefaults; // model_files.hpp

// general.architecture.
std::string_view gguf_architecture(const GgufFile& file);

// Of a split file `file` is the first part; `tensors` are those of all parts, for what only they tell (tied embeddings,
// biases, factors of long rope). Also sets `gguf.architecture` and `gguf.rope_interleaved` (q and k are permuted for
// interleaved rope).
Config gguf_config(const GgufFile& file, std::span<const GgufTensor* const> tensors);

// «blk.3.attn_q.weight» → «model.layers.3.self_attn.q_proj.weight»; a name without a counterpart is given back.
std::string hugging_face_name(std::string_view gguf_name, std::string_view architecture, bool experts);
// The reverse; nothing where GGUF has no name for it.
std::optional<std::string> gguf_name(std::string_view hugging_face_name, std::string_view architecture);

GgufVocabulary gguf_vocabulary(const GgufFile& file);
// bos_token, eos_token, unk_token, pad_token, add_bos_token, add_eos_token as tokenizer_config.json would have them.
Config gguf_tokenizer_config(const GgufFile& file);
// By name; «» is the default one.
std::map<std::string, std::string, std::less<>> gguf_chat_templates(const GgufFile& file);
GenerationDefaults gguf_generation_defaults(const GgufFile& file);

// «model-00002-of-00003.gguf» is part 2 of 3 of «model»; nothing for other names.
struct GgufSplit {
  std::string stem;
  uint32_t part = 0, parts = 0;
};
std::optional<GgufSplit> gguf_split(std::string_view file_name);
std::string gguf_part_name(const GgufSplit& split, uint32_t part);

// Metadata for writing a GGUF of made-up weights of this configuration, in Hugging Face's words; throws for a family
// without a GGUF name.
using GgufScalar = std::variant<uint32_t, float, bool, std::string>;
std::vector<std::pair<std::string, GgufScalar>> gguf_metadata(const Config& config);
// GGUF's number of a quire_format.
uint32_t ggml_type_of(uint32_t format);

} // namespace quire
