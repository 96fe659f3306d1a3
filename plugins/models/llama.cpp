// The Llama family: Llama 1 to 3, SmolLM2, Mistral, Qwen2, Qwen3 and Granite, which differ in their configurations.
//
// Weights go by Hugging Face's names. Rope turns halves, but for GGUF files that permute q and k for interleaved rope.
#include <quire/plugin.hpp>

#include <string>

namespace {

using quire::Builder;
using quire::ModelConfig;
using quire::Part;
using quire::Value;
using quire::Weight;

class Llama : public quire::Model {
 public:
  Value build(const ModelConfig& config, Builder& b) override {
    const uint32_t dim = config.size("hidden_size"), hidden = config.size("intermediate_size");
    const uint32_t vocab = config.size("vocab_size"), layers = config.size("num_hidden_layers");
    const uint32_t heads = config.size("num_attention_heads"), kv_heads = config.size("num_key_value_heads", heads);
    const uint32_t head_dim = config.size("head_dim", dim / heads);
    const uint32_t q_dim = heads * head_dim, kv_dim = kv_heads * head_dim;
    const double epsilon = config.real("rms_norm_eps", 1e-6);
    const std::string architecture = config.text("architectures.0", "LlamaForCausalLM");
    const bool qwen2 = architecture == "Qwen2ForCausalLM", qwen3 = architecture == "Qwen3ForCausalLM";
    const bool granite = architecture == "GraniteForCausalLM";
    const std::string activation = config.text("hidden_act", "silu");
    if (activation != "silu")
      throw quire::Failure(QUIRE_UNSUPPORTED, "`hidden_act` is " + activation + ", expected silu");
    // Qwen2 has biases on q, k and v alone; so has whatever GGUF says it of, where o's may be there too.
    const bool attention_bias = config.flag("attention_bias", false) || qwen2;
    const bool output_bias = attention_bias && !qwen2 && !config.from_gguf(), mlp_bias = config.flag("mlp_bias", false);

    const bool interleaved = config.flag("gguf.rope_interleaved", false);
    const quire_rope_kind rope = interleaved ? QUIRE_ROPE_INTERLEAVED : QUIRE_ROPE_HALF;
    const auto part_of_head = static_cast<uint32_t>(head_dim * config.real("partial_rotary_factor", 1));
    const uint32_t rotary_dim = config.size("rotary_dim", part_of_head);
    const quire::Rotation rotation = b.rotation(rope, config.real("rope_theta", 10000), rotary_dim);
    // Granite's four multipliers; of attention, 0 means 1 / sqrt(head_dim).
    const auto embedding_scale = static_cast<float>(config.real("embedding_multiplier", 1));
    const auto attention_scale = static_cast<float>(config.real("attention_multiplier", granite ? 1 : 0));
    const auto residual_scale = static_cast<float>(config.real("residual_multiplier", 1));
    const auto logits_scale = static_cast<float>(1 / config.real("logits_scaling", 1));

    // x W^T (+ bias), where the configuration, the family or the file has one
    const auto part = [&](const std::string& name, uint32_t n, uint32_t k, bool biased, quire_shard shard) {
      const quire_shard bias_shard = shard == QUIRE_SHARD_ROWS ? QUIRE_SHARD_ROWS : QUIRE_REPLICATE;
      const Weight weight = b.matrix(name + ".weight", n, k, shard);
      return Part(weight,
                  biased ? b.vector(name + ".bias", n, bias_shard) : b.optional_vector(name + ".bias", n, bias_shard));
    };
    const auto head_norm = [&](Value x, const std::string& name) { // Qwen3
      const Weight weight = qwen3 ? b.vector(name, head_dim) : b.optional_vector(name, head_dim);
      return weight ? b.norm(x, weight, epsilon) : x;
    };

    const Weight table = b.matrix("model.embed_tokens.weight", vocab, dim, QUIRE_SHARD_VOCABULARY);
    Value x = b.embed(table, embedding_scale); // [T, dim]
    Value y;                                   // [T, dim], to be added to x

    for (uint32_t l = 0; l < layers; ++l) {
      b.layer(l);
      const std::string layer = "model.layers." + std::to_string(l) + ".";
      const std::string attention = layer + "self_attn.", mlp = layer + "mlp.";

      const Weight input_norm = b.vector(layer + "input_layernorm.weight", dim);
      auto [h, s] = y ? b.add_norm(x, y, input_norm, epsilon) : std::pair(b.norm(x, input_norm, epsilon), x);
      const Value qkv = b.linear(h, {part(attention + "q_proj", q_dim, dim, attention_bias, QUIRE_SHARD_ROWS),
                                     part(attention + "k_proj", kv_dim, dim, attention_bias, QUIRE_SHARD_ROWS),
                                     part(attention + "v_proj", kv_dim, dim, attention_bias, QUIRE_SHARD_ROWS)});
      const Value q = head_norm(b.view(qkv, 0, heads, head_dim), attention + "q_norm.weight");
      const Value k = head_norm(b.view(qkv, q_dim, kv_heads, head_dim), attention + "k_norm.weight");
      const Value v = b.view(qkv, q_dim + kv_dim, kv_heads, head_dim);

      const quire::KvLayer kv = b.kv_layer(kv_heads, head_dim, head_dim, window(config, l, qwen2 || qwen3));
      b.kv_store(kv, b.rope(k, rotation), v);
      const Value attended = b.attend(kv, b.rope(q, rotation), {.scale = attention_scale}); // [T, heads, head_dim]
      y = b.linear(attended, {part(attention + "o_proj", dim, q_dim, output_bias, QUIRE_SHARD_COLUMNS)},
                   {.scale = residual_scale});

      auto [g, t] = b.add_norm(s, y, b.vector(layer + "post_attention_layernorm.weight", dim), epsilon);
      const Value gate_up = b.linear(g, {part(mlp + "gate_proj", hidden, dim, mlp_bias, QUIRE_SHARD_ROWS),
                                         part(mlp + "up_proj", hidden, dim, mlp_bias, QUIRE_SHARD_ROWS)});
      const Value gate = b.view(gate_up, 0, 1, hidden), up = b.view(gate_up, hidden, 1, hidden);
      y = b.linear(b.glu(gate, up, QUIRE_ACT_SILU),
                   {part(mlp + "down_proj", dim, hidden, mlp_bias, QUIRE_SHARD_COLUMNS)}, {.scale = residual_scale});
      x = t;
    }

    const Value h = b.sum_norm(x, y, b.vector("model.norm.weight", dim), epsilon);
    const bool tied = config.flag("tie_word_embeddings", false);
    const Weight head = tied ? table : b.matrix("lm_head.weight", vocab, dim, QUIRE_SHARD_VOCABULARY);
    return b.linear(b.gather_rows(h), {head}, {.scale = logits_scale}); // [R, vocab]
  }

 private:
  // Positions that layer l sees; 0 = all. Qwen has a window only where it says that it is used.
  static uint32_t window(const ModelConfig& config, uint32_t l, bool qwen) {
    const uint32_t window = config.size("sliding_window", 0);
    if (window == 0 || !config.flag("use_sliding_window", !qwen)) return 0;
    if (config.length("layer_types") != 0)
      return config.text("layer_types." + std::to_string(l), "") == "sliding_attention" ? window : 0;
    return l >= config.find_integer("max_window_layers").value_or(0) ? window : 0;
  }
};

} // namespace

QUIRE_MODEL_PLUGIN(Llama, "llama", QUIRE_VERSION, "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM",
                   "Qwen3ForCausalLM", "GraniteForCausalLM");
