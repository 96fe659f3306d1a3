// Gemma 3's text models: a norm before and after each block, heads normed, local layers with a window and plain rope
// among global ones.
//
// Safetensors store each norm's weight less one; GGUF has added it. Source: Gemma 3's technical report and its
// configuration.
#include <quire/plugin.hpp>

#include <cmath>
#include <string>

namespace {

using quire::Builder;
using quire::ModelConfig;
using quire::Value;

class Gemma3 : public quire::Model {
 public:
  Value build(const ModelConfig& config, Builder& b) override {
    const uint32_t dim = config.size("hidden_size"), hidden = config.size("intermediate_size");
    const uint32_t vocab = config.size("vocab_size"), layers = config.size("num_hidden_layers");
    const uint32_t heads = config.size("num_attention_heads"), kv_heads = config.size("num_key_value_heads", heads);
    const uint32_t head_dim = config.size("head_dim", 256), q_dim = heads * head_dim, kv_dim = kv_heads * head_dim;
    const uint32_t window = config.size("sliding_window", 4096);
    const auto attention_scale = static_cast<float>(1 / std::sqrt(config.real("query_pre_attn_scalar", 256)));
    const std::string activation = config.text("hidden_activation", "gelu_pytorch_tanh");
    if (activation != "gelu_pytorch_tanh")
      throw quire::Failure(QUIRE_UNSUPPORTED, "`hidden_activation` is " + activation + ", expected gelu_pytorch_tanh");
    if (config.flag("use_bidirectional_attention", false))
      throw quire::Failure(QUIRE_UNSUPPORTED,
                           "`use_bidirectional_attention` is true, but generation needs causal attention");

    const double global_theta = config.real("rope_theta", config.real("rope_scaling.full_attention.rope_theta", 1e6));
    const double local_theta =
        config.real("rope_local_base_freq", config.real("rope_scaling.sliding_attention.rope_theta", 1e4));
    const quire::Rotation global_rotation = b.rotation(QUIRE_ROPE_HALF, global_theta, head_dim);
    const quire::Rotation local_rotation = b.plain_rotation(QUIRE_ROPE_HALF, local_theta, head_dim);

    const double epsilon = config.real("rms_norm_eps", 1e-6);
    const quire::NormOptions offset = {.weight_offset = config.from_gguf() ? 0.0f : 1.0f};
    const auto norm = [&](Value x, const std::string& name) {
      return b.norm(x, b.vector(name + ".weight", x.dim), epsilon, offset);
    };
    const auto add_norm = [&](Value x, Value y, const std::string& name) {
      return b.add_norm(x, y, b.vector(name + ".weight", dim), epsilon, offset);
    };
    const auto rows = [&](const std::string& name, uint32_t n) {
      return b.matrix(name + ".weight", n, dim, QUIRE_SHARD_ROWS);
    };
    const auto columns = [&](const std::string& name, uint32_t k) {
      return b.matrix(name + ".weight", dim, k, QUIRE_SHARD_COLUMNS);
    };

    const quire::Weight table = b.matrix("model.embed_tokens.weight", vocab, dim, QUIRE_SHARD_VOCABULARY);
    Value x = b.embed(table, std::sqrt(static_cast<float>(dim))); // [T, dim]
    Value y;                                                      // [T, dim], to be added to x

    for (uint32_t l = 0; l < layers; ++l) {
      b.layer(l);
      const std::string layer = "model.layers." + std::to_string(l) + ".", attention = layer + "self_attn.",
                        mlp = layer + "mlp.";
      const bool local = is_local(config, l);
      const quire::Rotation& rotation = local ? local_rotation : global_rotation;

      auto [h, s] = y ? add_norm(x, y, layer + "input_layernorm") : std::pair(norm(x, layer + "input_layernorm"), x);
      const Value qkv = b.linear(h, {rows(attention + "q_proj", q_dim), rows(attention + "k_proj", kv_dim),
                                     rows(attention + "v_proj", kv_dim)});
      const Value q = norm(b.view(qkv, 0, heads, head_dim), attention + "q_norm");
      const Value k = norm(b.view(qkv, q_dim, kv_heads, head_dim), attention + "k_norm");
      const Value v = b.view(qkv, q_dim + kv_dim, kv_heads, head_dim);

      const quire::KvLayer kv = b.kv_layer(kv_heads, head_dim, head_dim, local ? window : 0);
      b.kv_store(kv, b.rope(k, rotation), v);
      const Value attended = b.attend(kv, b.rope(q, rotation), {.scale = attention_scale}); // [T, heads, head_dim]
      const Value o =
          norm(b.linear(attended, {columns(attention + "o_proj", q_dim)}), layer + "post_attention_layernorm");

      auto [g, t] = add_norm(s, o, layer + "pre_feedforward_layernorm");
      const Value gate_up = b.linear(g, {rows(mlp + "gate_proj", hidden), rows(mlp + "up_proj", hidden)});
      const Value gate = b.view(gate_up, 0, 1, hidden), up = b.view(gate_up, hidden, 1, hidden);
      const Value down = b.linear(b.glu(gate, up, QUIRE_ACT_GELU_TANH), {columns(mlp + "down_proj", hidden)});
      y = norm(down, layer + "post_feedforward_layernorm");
      x = t;
    }

    const Value h = b.sum_norm(x, y, b.vector("model.norm.weight", dim), epsilon, offset);
    const bool tied = config.flag("tie_word_embeddings", true);
    const quire::Weight head = tied ? table : b.matrix("lm_head.weight", vocab, dim, QUIRE_SHARD_VOCABULARY);
    return b.linear(b.gather_rows(h), {head},
                    {.softcap = static_cast<float>(config.real("final_logit_softcapping", 0))}); // [R, vocab]
  }

 private:
  static bool is_local(const ModelConfig& config, uint32_t l) {
    if (config.length("layer_types") != 0)
      return config.text("layer_types." + std::to_string(l), "") == "sliding_attention";
    return (l + 1) % config.size("sliding_window_pattern", 6) != 0;
  }
};

} // namespace

QUIRE_MODEL_PLUGIN(Gemma3, "gemma3", QUIRE_VERSION, "Gemma3ForCausalLM");
