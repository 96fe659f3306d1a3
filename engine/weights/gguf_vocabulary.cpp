// The vocabulary, chat templates and defaults of generation of a GGUF file.
#include "text/gguf_vocabulary.hpp"
#include "quire/error.hpp"
#include "weights/gguf_names.hpp"
#include "weights/model_files.hpp"
#include "weights/sentence.hpp"

namespace quire {
namespace {

constexpr std::string_view template_key = "tokenizer.chat_template";

[[noreturn]] void wrong(const GgufFile& file, const std::string& key, const std::string& what) {
  throw Error(file.name() + ": the metadata key " + in_quotes(key) + " " + what +
              ": the file is damaged; fetch it again");
}

// The array at `key` with `size` elements; nullptr where there is none or it is empty.
const GgufArray* array_of(const GgufFile& file, const std::string& key, uint64_t size) {
  const GgufArray* array = file.array(key);
  if (!array && file.find(key)) wrong(file, key, "is no array");
  if (!array || array->count == 0) return nullptr;
  if (array->count != size)
    wrong(file, key, "has " + std::to_string(array->count) + " entries for " + std::to_string(size) + " tokens");
  return array;
}

std::vector<std::string> strings_of(const GgufFile& file, const std::string& key) {
  std::vector<std::string> result;
  const GgufArray* array = file.array(key);
  if (!array && file.find(key)) wrong(file, key, "is no array");
  if (!array || array->count == 0) return result;
  if (array->type != GgufType::String) wrong(file, key, "is no array of strings");
  result.assign(array->strings.begin(), array->strings.end());
  return result;
}

std::optional<int32_t> id_of(const GgufFile& file, const std::string& key, size_t num_tokens) {
  if (!file.find(key)) return std::nullopt;
  const auto id = file.integer(key);
  if (!id || *id < -1 || *id >= static_cast<int64_t>(num_tokens))
    wrong(file, key, "is no id of its " + std::to_string(num_tokens) + " tokens");
  if (*id == -1) return std::nullopt; // how some converters say «none»
  return static_cast<int32_t>(*id);
}

} // namespace

GgufVocabulary gguf_vocabulary(const GgufFile& file) {
  GgufVocabulary result;
  result.model = file.string("tokenizer.ggml.model").value_or("");
  result.pre = file.string("tokenizer.ggml.pre").value_or("");
  result.model_name = file.string("general.name").value_or("");
  result.tokens = strings_of(file, "tokenizer.ggml.tokens");
  if (result.tokens.empty()) wrong(file, "tokenizer.ggml.tokens", "is missing or empty");
  if (result.tokens.size() > size_t(INT32_MAX))
    wrong(file, "tokenizer.ggml.tokens", "has more entries than there are ids");
  const uint64_t size = result.tokens.size();
  if (const GgufArray* types = array_of(file, "tokenizer.ggml.token_type", size))
    for (uint64_t i = 0; i < size; ++i) {
      const auto type = types->integer(i);
      if (!type || *type < 0 || *type > 6)
        wrong(file, "tokenizer.ggml.token_type", "has an entry that is no type, at " + std::to_string(i));
      result.token_types.push_back(static_cast<int32_t>(*type));
    }
  if (const GgufArray* scores = array_of(file, "tokenizer.ggml.scores", size))
    for (uint64_t i = 0; i < size; ++i) {
      const auto score = scores->real(i);
      if (!score) wrong(file, "tokenizer.ggml.scores", "has an entry that is no number, at " + std::to_string(i));
      result.scores.push_back(static_cast<float>(*score));
    }
  result.merges = strings_of(file, "tokenizer.ggml.merges");
  result.bos_id = id_of(file, "tokenizer.ggml.bos_token_id", size);
  result.eos_id = id_of(file, "tokenizer.ggml.eos_token_id", size);
  result.unk_id = id_of(file, "tokenizer.ggml.unknown_token_id", size);
  result.pad_id = id_of(file, "tokenizer.ggml.padding_token_id", size);
  result.eot_id = id_of(file, "tokenizer.ggml.eot_token_id", size);
  result.eom_id = id_of(file, "tokenizer.ggml.eom_token_id", size);
  result.add_bos = file.boolean("tokenizer.ggml.add_bos_token");
  result.add_eos = file.boolean("tokenizer.ggml.add_eos_token");
  result.add_space_prefix = file.boolean("tokenizer.ggml.add_space_prefix");
  return result;
}

Config gguf_tokenizer_config(const GgufFile& file) {
  Config config(file.name());
  const GgufArray* tokens = file.array("tokenizer.ggml.tokens");
  for (const auto& [key, word] :
       {std::pair("tokenizer.ggml.bos_token_id", "bos_token"), std::pair("tokenizer.ggml.eos_token_id", "eos_token"),
        std::pair("tokenizer.ggml.unknown_token_id", "unk_token"),
        std::pair("tokenizer.ggml.padding_token_id", "pad_token")}) {
    const auto id = file.integer(key);
    const auto text = tokens && id && *id >= 0 ? tokens->string(static_cast<uint64_t>(*id)) : std::nullopt;
    if (text) config.set(word, std::string(*text));
  }
  if (const auto add = file.boolean("tokenizer.ggml.add_bos_token")) config.set("add_bos_token", *add);
  if (const auto add = file.boolean("tokenizer.ggml.add_eos_token")) config.set("add_eos_token", *add);
  return config;
}

std::map<std::string, std::string, std::less<>> gguf_chat_templates(const GgufFile& file) {
  std::map<std::string, std::string, std::less<>> templates;
  for (const auto& [key, value] : file.metadata()) {
    const auto* text = std::get_if<std::string_view>(&value.value);
    if (!text || !key.starts_with(template_key)) continue;
    if (key == template_key)
      templates.emplace("", *text);
    else if (key[template_key.size()] == '.')
      templates.emplace(key.substr(template_key.size() + 1), *text);
  }
  return templates;
}

GenerationDefaults gguf_generation_defaults(const GgufFile& file) {
  GenerationDefaults defaults;
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    const auto id = file.integer(key);
    if (!id || *id < 0 || *id > INT32_MAX) continue;
    const auto token = static_cast<int32_t>(*id);
    bool known = false;
    for (const int32_t other : defaults.eos_token_ids) known |= other == token;
    if (!known) defaults.eos_token_ids.push_back(token);
  }
  defaults.temperature = file.real("general.sampling.temp");
  defaults.top_p = file.real("general.sampling.top_p");
  defaults.min_p = file.real("general.sampling.min_p");
  defaults.repetition_penalty = file.real("general.sampling.penalty_repeat");
  defaults.top_k = file.integer("general.sampling.top_k");
  return defaults;
}

} // namespace quire
