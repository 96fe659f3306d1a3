#include "weights/gguf_names.hpp"

#include "quire/error.hpp"
#include "quire/plugin.h"
#include "text/gguf_vocabulary.hpp"
#include "weights/model_files.hpp"
#include "weights/sentence.hpp"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstring>

namespace quire {
namespace {

// ---- Architectures
// -----------------------------------------------------------------------------------------------------

struct Family {
  const char* gguf;         // general.architecture
  const char* hugging_face; // architectures.0
  const char* with_experts; // architectures.0 where expert_count is set; null: the same
  const char* model_type;   // of config.json
  const char* activation;   // hidden_act
  bool rope_interleaved;    // q and k are permuted in the file
};

constexpr Family families[] = {
    {"llama", "LlamaForCausalLM", "MixtralForCausalLM", "llama", "silu", true},
    {"qwen2", "Qwen2ForCausalLM", nullptr, "qwen2", "silu", false},
    {"qwen2moe", "Qwen2MoeForCausalLM", nullptr, "qwen2_moe", "silu", false},
    {"qwen3", "Qwen3ForCausalLM", nullptr, "qwen3", "silu", false},
    {"qwen3moe", "Qwen3MoeForCausalLM", nullptr, "qwen3_moe", "silu", false},
    {"gemma", "GemmaForCausalLM", nullptr, "gemma", "gelu_pytorch_tanh", false},
    {"gemma2", "Gemma2ForCausalLM", nullptr, "gemma2", "gelu_pytorch_tanh", false},
    {"gemma3", "Gemma3ForCausalLM", nullptr, "gemma3_text", "gelu_pytorch_tanh", false},
    {"phi3", "Phi3ForCausalLM", nullptr, "phi3", "silu", false},
    {"granite", "GraniteForCausalLM", nullptr, "granite", "silu", true},
    {"granitemoe", "GraniteMoeForCausalLM", nullptr, "granitemoe", "silu", true},
    {"smollm3", "SmolLM3ForCausalLM", nullptr, "smollm3", "silu", true},
    {"olmo2", "Olmo2ForCausalLM", nullptr, "olmo2", "silu", false},
};

const Family* find_family(std::string_view gguf) {
  for (const Family& family : families)
    if (gguf == family.gguf) return &family;
  return nullptr;
}

bool is_gemma(std::string_view architecture) { return architecture.starts_with("gemma"); }
// Families whose `ffn_norm` stands before the feed-forward and not after attention.
bool has_four_norms(std::string_view architecture) { return architecture == "gemma2" || architecture == "gemma3"; }

// ---- Metadata
// ----------------------------------------------------------------------------------------------------------

enum class Kind { Integer, Real, Boolean };
struct Word {
  const char* gguf; // after «ARCHITECTURE.»
  const char* hugging_face;
  Kind kind;
};

constexpr Word words[] = {
    {"context_length", "max_position_embeddings", Kind::Integer},
    {"embedding_length", "hidden_size", Kind::Integer},
    {"block_count", "num_hidden_layers", Kind::Integer},
    {"feed_forward_length", "intermediate_size", Kind::Integer},
    {"vocab_size", "vocab_size", Kind::Integer},
    {"attention.head_count", "num_attention_heads", Kind::Integer},
    {"attention.head_count_kv", "num_key_value_heads", Kind::Integer},
    {"attention.key_length", "head_dim", Kind::Integer},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", Kind::Real},
    {"attention.layer_norm_epsilon", "layer_norm_eps", Kind::Real},
    {"attention.sliding_window", "sliding_window", Kind::Integer},
    {"rope.freq_base", "rope_theta", Kind::Real},
    {"rope.freq_base_swa", "rope_local_base_freq", Kind::Real},
    {"attn_logit_softcapping", "attn_logit_softcapping", Kind::Real},
    {"final_logit_softcapping", "final_logit_softcapping", Kind::Real},
    {"expert_count", "num_local_experts", Kind::Integer},
    {"expert_used_count", "num_experts_per_tok", Kind::Integer},
    {"expert_feed_forward_length", "moe_intermediate_size", Kind::Integer},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size", Kind::Integer},
    {"expert_shared_count", "n_shared_experts", Kind::Integer},
    {"expert_weights_scale", "routed_scaling_factor", Kind::Real},
    {"expert_weights_norm", "norm_topk_prob", Kind::Boolean},
    {"expert_group_count", "n_group", Kind::Integer},
    {"expert_group_used_count", "topk_group", Kind::Integer},
    {"leading_dense_block_count", "first_k_dense_replace", Kind::Integer},
    {"attention.scale", "attention_multiplier", Kind::Real}, // Granite's four
    {"embedding_scale", "embedding_multiplier", Kind::Real},
    {"residual_scale", "residual_multiplier", Kind::Real},
    {"logit_scale", "logits_scaling", Kind::Real},
    {"rope.scaling.factor", "rope_scaling.factor", Kind::Real},
    {"rope.scaling.original_context_length", "rope_scaling.original_max_position_embeddings", Kind::Integer},
    {"rope.scaling.attn_factor", "rope_scaling.attention_factor", Kind::Real},
    {"rope.scaling.yarn_beta_fast", "rope_scaling.beta_fast", Kind::Real},
    {"rope.scaling.yarn_beta_slow", "rope_scaling.beta_slow", Kind::Real},
};

// ---- Tensors
// -----------------------------------------------------------------------------------------------------------

struct TensorWord {
  const char* gguf;
  const char* hugging_face;
  const char* only = ""; // families that alone have it; empty: all
};

constexpr TensorWord outer_words[] = {
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
};

// In a block; the first entry that fits the family counts, so special cases come first.
constexpr TensorWord block_words[] = {
    {"ffn_norm", "pre_feedforward_layernorm", "gemma2 gemma3"},
    {"post_attention_norm", "post_attention_layernorm", "gemma2 gemma3 olmo2"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
    {"ffn_up", "mlp.gate_up_proj", "phi3"},
    {"attn_norm", "input_layernorm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_qkv", "self_attn.qkv_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_sinks", "self_attn.sinks"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"ffn_gate_inp", "mlp.gate"},
    {"ffn_gate_exps", "mlp.experts.gate_proj"},
    {"ffn_up_exps", "mlp.experts.up_proj"},
    {"ffn_down_exps", "mlp.experts.down_proj"},
    {"ffn_gate_inp_shexp", "mlp.shared_expert_gate"},
    {"ffn_gate_shexp", "mlp.shared_expert.gate_proj"},
    {"ffn_up_shexp", "mlp.shared_expert.up_proj"},
    {"ffn_down_shexp", "mlp.shared_expert.down_proj"},
    {"exp_probs_b", "mlp.gate.e_score_correction"},
};

bool fits(const TensorWord& word, std::string_view architecture) {
  std::string_view only = word.only;
  if (only.empty()) return true;
  while (!only.empty()) {
    const size_t end = std::min(only.find(' '), only.size());
    if (only.substr(0, end) == architecture) return true;
    only.remove_prefix(std::min(end + 1, only.size()));
  }
  return false;
}

// Splits «blk.12.rest» at `prefix` «blk.»; false if it isn't so.
bool split_layer(std::string_view name, std::string_view prefix, std::string_view& layer, std::string_view& rest) {
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  const size_t digits = name.find_first_not_of("0123456789");
  if (digits == 0 || digits == std::string_view::npos || name[digits] != '.') return false;
  layer = name.substr(0, digits);
  rest = name.substr(digits + 1);
  return true;
}

// «attn_q.weight» into «attn_q» and «.weight».
std::pair<std::string_view, std::string_view> split_suffix(std::string_view name) {
  for (const std::string_view suffix : {".weight", ".bias"})
    if (name.ends_with(suffix)) return {name.substr(0, name.size() - suffix.size()), suffix};
  return {name, {}};
}

} // namespace

std::string_view gguf_architecture(const GgufFile& file) {
  const auto architecture = file.string("general.architecture");
  if (!architecture || architecture->empty())
    throw Error(file.name() +
                ": the metadata key `general.architecture` is missing: the file is damaged; fetch it again");
  return *architecture;
}

std::string hugging_face_name(std::string_view name, std::string_view architecture, bool experts) {
  const auto [stem, suffix] = split_suffix(name);
  for (const TensorWord& word : outer_words)
    if (stem == word.gguf) return std::string(word.hugging_face).append(suffix);
  std::string_view layer, rest;
  if (!split_layer(stem, "blk.", layer, rest)) return std::string(name);
  const std::string prefix = "model.layers." + std::string(layer) + ".";
  // Old files have one tensor an expert: «ffn_gate.7».
  std::string_view expert;
  if (const size_t dot = rest.rfind('.'); experts && dot != std::string_view::npos &&
                                          rest.find_first_not_of("0123456789", dot + 1) == std::string_view::npos) {
    expert = rest.substr(dot + 1);
    rest = rest.substr(0, dot);
  }
  for (const TensorWord& word : block_words) {
    if (rest != word.gguf || !fits(word, architecture)) continue;
    std::string found = word.hugging_face;
    if (!expert.empty() && found.starts_with("mlp.")) found.insert(3, ".experts." + std::string(expert));
    if (found == "mlp.gate.e_score_correction") return prefix + found + "_bias"; // its own name ends in «.bias»
    return prefix + found + std::string(suffix);
  }
  return std::string(name);
}

std::optional<std::string> gguf_name(std::string_view name, std::string_view architecture) {
  auto [stem, suffix] = split_suffix(name);
  if (stem.ends_with(".e_score_correction_bias")) {
    stem.remove_suffix(5);
    suffix = ".bias";
  }
  for (const TensorWord& word : outer_words)
    if (stem == word.hugging_face) return std::string(word.gguf).append(suffix);
  std::string_view layer, rest;
  if (!split_layer(stem, "model.layers.", layer, rest)) return std::nullopt;
  for (const TensorWord& word : block_words) {
    if (rest != word.hugging_face || !fits(word, architecture)) continue;
    // In the families with four norms, attention's second norm isn't called ffn_norm.
    return std::string("blk.").append(layer).append(".").append(word.gguf).append(suffix);
  }
  return std::nullopt;
}

namespace {

void copy_word(const GgufFile& file, const std::string& key, const Word& word, Config& config) {
  const auto set = [&](const std::string& to, std::optional<int64_t> i, std::optional<double> r,
                       std::optional<bool> b) {
    if (word.kind == Kind::Integer && i) config.set(to, *i);
    if (word.kind == Kind::Real && r) config.set(to, *r);
    if (word.kind == Kind::Boolean && b) config.set(to, *b);
  };
  const std::string to = word.hugging_face;
  if (const GgufArray* array = file.array(key)) { // a value for each layer; equal ones are one
    bool equal = array->count > 0;
    for (uint64_t i = 1; i < array->count; ++i) equal = equal && array->integer(i) == array->integer(0);
    if (equal && array->integer(0)) return set(to, array->integer(0), array->real(0), array->boolean(0));
    config.set_length(to, array->count);
    for (uint64_t i = 0; i < array->count; ++i)
      set(to + "." + std::to_string(i), array->integer(i), array->real(i), array->boolean(i));
    return;
  }
  set(to, file.integer(key), file.real(key), file.boolean(key));
}

const GgufTensor* find_tensor(std::span<const GgufTensor* const> tensors, std::string_view name) {
  for (const GgufTensor* tensor : tensors)
    if (tensor->name == name) return tensor;
  return nullptr;
}

void add_layer_types(Config& config, int64_t layers, int64_t pattern) {
  config.set("sliding_window_pattern", pattern);
  config.set_length("layer_types", static_cast<uint64_t>(layers));
  for (int64_t i = 0; i < layers; ++i)
    config.set("layer_types." + std::to_string(i),
               std::string((i + 1) % pattern == 0 ? "full_attention" : "sliding_attention"));
}

// What the families imply without saying so in their metadata.
void add_implied(const GgufFile& file, const std::string& architecture, Config& config) {
  const int64_t layers = config.integer("num_hidden_layers").value_or(0);
  if (layers > 100000)
    throw Error(file.name() + ": " + in_quotes(architecture + ".block_count") + " is " + std::to_string(layers) +
                ", more than any model has: the file is damaged; fetch it again");
  if (has_four_norms(architecture)) {
    // 27B divides by hidden_size / heads, the others by head_dim.
    const bool largest = layers == (architecture == "gemma2" ? 46 : 62);
    const int64_t heads = config.integer("num_attention_heads").value_or(0);
    const auto hidden = config.integer("hidden_size"), head_dim = config.integer("head_dim");
    if (largest && heads > 0 && hidden)
      config.set("query_pre_attn_scalar", *hidden / heads);
    else if (head_dim)
      config.set("query_pre_attn_scalar", *head_dim);
    if (!config.has("layer_types")) add_layer_types(config, layers, architecture == "gemma2" ? 2 : 6);
  }
  if (architecture == "gemma3" && !config.has("rope_local_base_freq")) config.set("rope_local_base_freq", 10000.0);
  if (architecture == "smollm3") { // every fourth layer has no positions
    config.set_length("no_rope_layers", static_cast<uint64_t>(layers));
    for (int64_t i = 0; i < layers; ++i) config.set("no_rope_layers." + std::to_string(i), int64_t((i + 1) % 4 != 0));
  }
  if (architecture == "olmo2") config.set("norm_after", true);
}

void add_long_rope(const GgufFile& file, std::span<const GgufTensor* const> tensors, Config& config) {
  bool found = false;
  for (const auto& [tensor_name, key] : {std::pair("rope_factors_long.weight", "rope_scaling.long_factor"),
                                         std::pair("rope_factors_short.weight", "rope_scaling.short_factor")}) {
    const GgufTensor* tensor = find_tensor(tensors, tensor_name);
    if (!tensor || tensor->format != QUIRE_F32 || tensor->shape.size() != 1 || tensor->shape[0] > 4096) continue;
    const auto data = file.data(*tensor);
    config.set_length(key, tensor->shape[0]);
    for (uint64_t i = 0; i < tensor->shape[0]; ++i) {
      float factor;
      std::memcpy(&factor, data.data() + 4 * i, 4);
      config.set(std::string(key) + "." + std::to_string(i), double(factor));
    }
    found = true;
  }
  if (found) config.set("rope_scaling.rope_type", std::string("longrope"));
}

} // namespace

Config gguf_config(const GgufFile& file, std::span<const GgufTensor* const> tensors) {
  const std::string architecture(gguf_architecture(file));
  const Family* family = find_family(architecture);
  Config config(file.name());
  for (const Word& word : words) copy_word(file, architecture + "." + word.gguf, word, config);

  const bool experts = config.integer("num_local_experts").value_or(0) > 0;
  if (experts) config.set("num_experts", *config.integer("num_local_experts"));
  if (const auto gating = file.integer(architecture + ".expert_gating_func"))
    config.set("scoring_func", std::string(*gating == 2 ? "sigmoid" : "softmax"));
  const std::string word = !family                           ? architecture
                           : experts && family->with_experts ? family->with_experts
                                                             : family->hugging_face;
  config.set_length("architectures", 1);
  config.set("architectures.0", word);
  config.set("model_type", std::string(!family                           ? architecture
                                       : experts && family->with_experts ? "mixtral"
                                                                         : family->model_type));
  config.set("gguf.architecture", architecture);
  config.set("gguf.rope_interleaved", family && family->rope_interleaved);
  if (family) {
    config.set("hidden_act", std::string(family->activation));
    if (is_gemma(architecture)) config.set("hidden_activation", std::string(family->activation));
  }

  const auto heads = config.integer("num_attention_heads"), hidden = config.integer("hidden_size");
  if (heads && !config.has("num_key_value_heads")) config.set("num_key_value_heads", *heads);
  if (heads && *heads > 0 && hidden && !config.has("head_dim")) config.set("head_dim", *hidden / *heads);
  if (!config.has("rope_theta")) config.set("rope_theta", 10000.0);
  const auto rotary = file.integer(architecture + ".rope.dimension_count");
  const auto head_dim = config.integer("head_dim");
  if (rotary && head_dim && *head_dim > 0 && *rotary != *head_dim) {
    config.set("partial_rotary_factor", double(*rotary) / double(*head_dim));
    config.set("rotary_dim", *rotary);
  }
  if (const auto type = file.string(architecture + ".rope.scaling.type"); type && *type != "none") {
    config.set("rope_scaling.rope_type", std::string(*type));
    config.set("rope_scaling.type", std::string(*type));
  } else if (!type) {
    if (const auto factor = file.real(architecture + ".rope.scale_linear")) config.set("rope_scaling.factor", *factor);
    if (config.real("rope_scaling.factor").value_or(1) != 1)
      config.set("rope_scaling.rope_type", std::string("linear"));
  }
  add_long_rope(file, tensors, config);

  if (!config.has("vocab_size")) {
    const GgufArray* tokens = file.array("tokenizer.ggml.tokens");
    const GgufTensor* table = find_tensor(tensors, "token_embd.weight");
    if (table && table->shape.size() == 2)
      config.set("vocab_size", static_cast<int64_t>(table->shape[0]));
    else if (tokens)
      config.set("vocab_size", static_cast<int64_t>(tokens->count));
  }
  if (!tensors.empty()) {
    config.set("tie_word_embeddings", find_tensor(tensors, "output.weight") == nullptr);
    config.set("attention_bias", find_tensor(tensors, "blk.0.attn_q.bias") != nullptr);
    config.set("mlp_bias", find_tensor(tensors, "blk.0.ffn_up.bias") != nullptr);
  }
  if (const auto bos = file.integer("tokenizer.ggml.bos_token_id")) config.set("bos_token_id", *bos);
  if (const auto eos = file.integer("tokenizer.ggml.eos_token_id")) config.set("eos_token_id", *eos);
  if (const auto dummy = file.boolean("quire.dummy")) config.set("quire.dummy", *dummy);
  add_implied(file, architecture, config);
  return config;
}

std::optional<GgufSplit> gguf_split(std::string_view name) {
  constexpr std::string_view end = ".gguf";
  constexpr size_t tail = 15; // «-00001-of-00003»
  if (!name.ends_with(end) || name.size() <= end.size() + tail) return std::nullopt;
  name.remove_suffix(end.size());
  const std::string_view numbers = name.substr(name.size() - tail);
  GgufSplit split;
  split.stem = std::string(name.substr(0, name.size() - tail));
  const auto number = [&](size_t at, uint32_t& out) {
    const char* first = numbers.data() + at;
    const auto [stop, code] = std::from_chars(first, first + 5, out);
    return code == std::errc() && stop == first + 5;
  };
  if (numbers[0] != '-' || numbers.substr(6, 4) != "-of-" || !number(1, split.part) || !number(10, split.parts))
    return std::nullopt;
  if (split.part < 1 || split.part > split.parts) return std::nullopt;
  return split;
}

std::string gguf_part_name(const GgufSplit& split, uint32_t part) {
  char numbers[64];
  std::snprintf(numbers, sizeof numbers, "-%05u-of-%05u.gguf", part, split.parts);
  return split.stem + numbers;
}

std::vector<std::pair<std::string, GgufScalar>> gguf_metadata(const Config& config) {
  const std::string* word = config.string("architectures.0");
  const Family* family = nullptr;
  for (const Family& candidate : families)
    if (word && (*word == candidate.hugging_face || (candidate.with_experts && *word == candidate.with_experts)))
      family = &candidate;
  if (!family)
    throw Error(config.source() + ": GGUF has no name for the architecture " + in_quotes(word ? *word : "") +
                ": choose F32, F16 or BF16, which are written as safetensors");
  const std::string prefix = std::string(family->gguf) + ".";
  std::vector<std::pair<std::string, GgufScalar>> metadata = {{"general.architecture", std::string(family->gguf)},
                                                              {"general.type", std::string("model")},
                                                              {"quire.dummy", true}};
  for (const Word& entry : words) {
    const bool experts_elsewhere =
        std::string_view(entry.hugging_face) == "num_local_experts" && !config.has("num_local_experts");
    const std::string key = experts_elsewhere ? "num_experts" : entry.hugging_face;
    if (entry.kind == Kind::Integer) {
      const auto value = config.integer(key);
      if (value && *value >= 0 && *value <= int64_t(UINT32_MAX))
        metadata.emplace_back(prefix + entry.gguf, uint32_t(*value));
    } else if (entry.kind == Kind::Real) {
      if (const auto value = config.real(key)) metadata.emplace_back(prefix + entry.gguf, float(*value));
    } else if (const auto value = config.boolean(key)) {
      metadata.emplace_back(prefix + entry.gguf, *value);
    }
  }
  if (const std::string* type = config.string("rope_scaling.rope_type"); type && (*type == "linear" || *type == "yarn"))
    metadata.emplace_back(prefix + "rope.scaling.type", *type);
  return metadata;
}

uint32_t ggml_type_of(uint32_t format) {
  constexpr uint32_t types[QUIRE_FORMAT_COUNT] = {0, 1, 30, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14};
  return types[format];
}

} // namespace quire
