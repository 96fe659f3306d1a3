// GGUF's words in Hugging Face's: names against PyPI `gguf` (goldens/gguf_names.txt), configuration, vocabulary,
// templates.
#include "weights/gguf_names.hpp"

#include "quire/plugin.h"
#include "support/expect_error.hpp"
#include "support/gguf_writer.hpp"
#include "text/gguf_vocabulary.hpp"
#include "weights/model_files.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <sstream>

namespace quire {
namespace {

using test::GgufWriter;
using test::raw;

// The file lives in a string that lives as long.
struct Parsed {
  explicit Parsed(const GgufWriter& writer)
      : text(writer.bytes()), file(GgufFile::parse(std::as_bytes(std::span(text)), "m.gguf")) {}
  Config config() const {
    std::vector<const GgufTensor*> tensors;
    for (const GgufTensor& tensor : file->tensors()) tensors.push_back(&tensor);
    return gguf_config(*file, tensors);
  }
  std::string text;
  std::unique_ptr<GgufFile> file;
};

GgufWriter llama() {
  GgufWriter writer;
  writer.string("general.architecture", "llama").uint32("llama.block_count", 2).uint32("llama.embedding_length", 64);
  writer.uint32("llama.attention.head_count", 4).float32("llama.attention.layer_norm_rms_epsilon", 0.5f);
  return writer;
}

TEST(GgufNames, TensorsAreCalledAsPyPIGgufSays) {
  const char* root = std::getenv("QUIRE_TEST_DATA");
  ASSERT_NE(root, nullptr) << "run by `meson test`";
  std::ifstream lines(std::string(root) + "/weights/goldens/gguf_names.txt");
  std::string architecture, gguf, hugging_face;
  int count = 0;
  while (lines >> architecture >> gguf >> hugging_face) {
    EXPECT_EQ(hugging_face_name(gguf, architecture, false), hugging_face) << architecture;
    EXPECT_EQ(hugging_face_name(gguf, architecture, true), hugging_face) << architecture;
    EXPECT_EQ(gguf_name(hugging_face, architecture), gguf) << architecture;
    ++count;
  }
  EXPECT_GT(count, 200);
}

TEST(GgufNames, ExpertsAreStackedOrSingle) {
  EXPECT_EQ(hugging_face_name("blk.7.ffn_down_exps.weight", "qwen3moe", true),
            "model.layers.7.mlp.experts.down_proj.weight");
  EXPECT_EQ(gguf_name("model.layers.7.mlp.experts.down_proj.weight", "qwen3moe"), "blk.7.ffn_down_exps.weight");
  EXPECT_EQ(hugging_face_name("blk.7.ffn_gate.3.weight", "llama", true),
            "model.layers.7.mlp.experts.3.gate_proj.weight");
  EXPECT_EQ(hugging_face_name("blk.7.ffn_gate.3.weight", "llama", false), "blk.7.ffn_gate.3.weight");
  EXPECT_EQ(hugging_face_name("blk.0.ffn_gate_inp.weight", "llama", true), "model.layers.0.mlp.gate.weight");
  EXPECT_EQ(hugging_face_name("blk.0.exp_probs_b.bias", "qwen3moe", true),
            "model.layers.0.mlp.gate.e_score_correction_bias");
  EXPECT_EQ(gguf_name("model.layers.0.mlp.gate.e_score_correction_bias", "qwen3moe"), "blk.0.exp_probs_b.bias");
}

TEST(GgufNames, UnknownNamesStayAsTheyAre) {
  for (const char* name : {"rope_freqs.weight", "blk.x.attn_q.weight", "blk.1", "blk..attn_q.weight",
                           "blk.1.nothing.weight", "", "blk.99999999999999999999.", "v.blk.0.attn_q.weight"})
    EXPECT_EQ(hugging_face_name(name, "llama", true), name);
  EXPECT_EQ(gguf_name("model.layers.0.mamba.x", "llama"), std::nullopt);
  EXPECT_EQ(gguf_name("", "llama"), std::nullopt);
}

TEST(GgufNames, LlamaConfigurationHasHuggingFaceWords) {
  GgufWriter writer = llama();
  writer.uint32("llama.attention.head_count_kv", 2).uint32("llama.feed_forward_length", 96);
  writer.uint32("llama.context_length", 512)
      .uint32("llama.rope.dimension_count", 16)
      .float32("llama.rope.freq_base", 5e5f);
  writer.zeros("token_embd.weight", {64, 100});
  const Parsed parsed(writer);
  const Config config = parsed.config();
  EXPECT_EQ(*config.string("architectures.0"), "LlamaForCausalLM");
  EXPECT_EQ(*config.string("model_type"), "llama");
  EXPECT_EQ(config.integer("num_hidden_layers"), 2);
  EXPECT_EQ(config.integer("hidden_size"), 64);
  EXPECT_EQ(config.integer("num_attention_heads"), 4);
  EXPECT_EQ(config.integer("num_key_value_heads"), 2);
  EXPECT_EQ(config.integer("head_dim"), 16);
  EXPECT_EQ(config.integer("intermediate_size"), 96);
  EXPECT_EQ(config.integer("max_position_embeddings"), 512);
  EXPECT_EQ(config.integer("vocab_size"), 100) << "from the embedding's rows";
  EXPECT_EQ(config.real("rms_norm_eps"), 0.5);
  EXPECT_EQ(config.real("rope_theta"), 5e5);
  EXPECT_EQ(config.boolean("tie_word_embeddings"), true);
  EXPECT_EQ(config.boolean("gguf.rope_interleaved"), true);
  EXPECT_FALSE(config.has("partial_rotary_factor"));
  EXPECT_FALSE(config.has("rope_scaling"));
  EXPECT_EQ(config.source(), "m.gguf");
}

TEST(GgufNames, WhatTheFileLacksIsImplied) {
  const Parsed parsed(
      llama().zeros("token_embd.weight", {64, 100}).zeros("output.weight", {64, 100}).zeros("blk.0.attn_q.bias", {64}));
  const Config config = parsed.config();
  EXPECT_EQ(config.integer("num_key_value_heads"), 4);
  EXPECT_EQ(config.real("rope_theta"), 10000);
  EXPECT_EQ(config.boolean("tie_word_embeddings"), false);
  EXPECT_EQ(config.boolean("attention_bias"), true);
  EXPECT_EQ(config.boolean("mlp_bias"), false);
  EXPECT_ERROR(Parsed(GgufWriter().uint32("llama.block_count", 1)).config(), "`general.architecture` is missing");
}

TEST(GgufNames, ExpertsMakeLlamaMixtral) {
  const Parsed parsed(llama().uint32("llama.expert_count", 8).uint32("llama.expert_used_count", 2));
  const Config config = parsed.config();
  EXPECT_EQ(*config.string("architectures.0"), "MixtralForCausalLM");
  EXPECT_EQ(config.integer("num_local_experts"), 8);
  EXPECT_EQ(config.integer("num_experts"), 8);
  EXPECT_EQ(config.integer("num_experts_per_tok"), 2);
}

TEST(GgufNames, RopeScalingIsSpelledOut) {
  GgufWriter writer = llama();
  writer.string("llama.rope.scaling.type", "yarn").float32("llama.rope.scaling.factor", 4);
  writer.uint32("llama.rope.scaling.original_context_length", 2048);
  const Config yarn = Parsed(writer).config();
  EXPECT_EQ(*yarn.string("rope_scaling.rope_type"), "yarn");
  EXPECT_EQ(yarn.real("rope_scaling.factor"), 4);
  EXPECT_EQ(yarn.integer("rope_scaling.original_max_position_embeddings"), 2048);
  const Config linear = Parsed(llama().float32("llama.rope.scale_linear", 2)).config();
  EXPECT_EQ(*linear.string("rope_scaling.rope_type"), "linear");
  const float factors[] = {1.5f, 2.5f};
  const std::string bytes(reinterpret_cast<const char*>(factors), sizeof factors);
  GgufWriter phi;
  phi.string("general.architecture", "phi3").tensor("rope_factors_long.weight", {2}, 0, bytes);
  phi.tensor("rope_factors_short.weight", {2}, 0, bytes);
  const Config longrope = Parsed(phi).config();
  EXPECT_EQ(*longrope.string("rope_scaling.rope_type"), "longrope");
  EXPECT_EQ(longrope.length("rope_scaling.long_factor"), 2u);
  EXPECT_EQ(longrope.real("rope_scaling.short_factor.1"), 2.5);
}

TEST(GgufNames, GemmaAndSmolLM3HaveTheirLayersKinds) {
  GgufWriter writer;
  writer.string("general.architecture", "gemma3")
      .uint32("gemma3.block_count", 18)
      .uint32("gemma3.attention.key_length", 256);
  writer.uint32("gemma3.attention.sliding_window", 512);
  const Config gemma = Parsed(writer).config();
  EXPECT_EQ(*gemma.string("layer_types.4"), "sliding_attention");
  EXPECT_EQ(*gemma.string("layer_types.5"), "full_attention");
  EXPECT_EQ(*gemma.string("layer_types.17"), "full_attention");
  EXPECT_EQ(gemma.length("layer_types"), 18u);
  EXPECT_EQ(gemma.real("query_pre_attn_scalar"), 256);
  EXPECT_EQ(gemma.real("rope_local_base_freq"), 10000);
  EXPECT_EQ(*gemma.string("hidden_activation"), "gelu_pytorch_tanh");
  const Config smol =
      Parsed(GgufWriter().string("general.architecture", "smollm3").uint32("smollm3.block_count", 8)).config();
  EXPECT_EQ(smol.integer("no_rope_layers.2"), 1);
  EXPECT_EQ(smol.integer("no_rope_layers.3"), 0);
  EXPECT_ERROR(Parsed(GgufWriter().string("general.architecture", "smollm3").uint32("smollm3.block_count", 4000000000u))
                   .config(),
               "`smollm3.block_count` is 4000000000");
}

TEST(GgufNames, ValuesForEachLayerAreOneWhereTheyAreEqual) {
  GgufWriter writer;
  writer.string("general.architecture", "llama");
  writer.array("llama.attention.head_count", GgufType::Int32, std::vector<int32_t>{8, 8});
  writer.array("llama.attention.head_count_kv", GgufType::Int32, std::vector<int32_t>{8, 4});
  const Config config = Parsed(writer).config();
  EXPECT_EQ(config.integer("num_attention_heads"), 8);
  EXPECT_EQ(config.integer("num_key_value_heads"), std::nullopt);
  EXPECT_EQ(config.length("num_key_value_heads"), 2u);
  EXPECT_EQ(config.integer("num_key_value_heads.1"), 4);
}

TEST(GgufNames, VocabularyIsReadAndChecked) {
  const std::vector<std::string> tokens{"<s>", "</s>", "a", "b"};
  const auto vocabulary = [&](auto change) {
    GgufWriter writer = llama();
    writer.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "smollm").string("general.name", "Tiny");
    writer.array("tokenizer.ggml.tokens", GgufType::String, tokens);
    change(writer);
    const Parsed parsed(writer);
    return gguf_vocabulary(*parsed.file);
  };
  const GgufVocabulary found = vocabulary([](GgufWriter& writer) {
    writer.array("tokenizer.ggml.token_type", GgufType::Int32, std::vector<int32_t>{3, 3, 1, 1});
    writer.array("tokenizer.ggml.scores", GgufType::Float32, std::vector<float>{0, 0, -1, -2});
    writer.array("tokenizer.ggml.merges", GgufType::String, std::vector<std::string>{"a b"});
    writer.uint32("tokenizer.ggml.bos_token_id", 0).uint32("tokenizer.ggml.eos_token_id", 1);
    writer.metadata("tokenizer.ggml.padding_token_id", GgufType::Int32, raw(int32_t(-1)));
    writer.boolean("tokenizer.ggml.add_bos_token", true);
  });
  EXPECT_EQ(found.model, "gpt2");
  EXPECT_EQ(found.pre, "smollm");
  EXPECT_EQ(found.model_name, "Tiny");
  EXPECT_EQ(found.tokens, tokens);
  EXPECT_EQ(found.token_types, (std::vector<int32_t>{3, 3, 1, 1}));
  EXPECT_EQ(found.scores[3], -2);
  EXPECT_EQ(found.merges[0], "a b");
  EXPECT_EQ(found.bos_id, 0);
  EXPECT_EQ(found.eos_id, 1);
  EXPECT_EQ(found.pad_id, std::nullopt);
  EXPECT_EQ(found.add_bos, true);
  EXPECT_EQ(found.add_eos, std::nullopt);

  EXPECT_ERROR(vocabulary([](GgufWriter& w) { w.uint32("tokenizer.ggml.eos_token_id", 4); }), "eos_token_id",
               "no id of its 4 tokens");
  EXPECT_ERROR(vocabulary([](GgufWriter& w) { w.string("tokenizer.ggml.eos_token_id", "1"); }), "eos_token_id");
  EXPECT_ERROR(
      vocabulary([](GgufWriter& w) { w.array("tokenizer.ggml.scores", GgufType::Float32, std::vector<float>{0}); }),
      "scores", "has 1 entries for 4 tokens");
  EXPECT_ERROR(vocabulary([](GgufWriter& w) {
                 w.array("tokenizer.ggml.token_type", GgufType::Int32, std::vector<int32_t>{1, 1, 1, 9});
               }),
               "token_type", "no type, at 3");
  EXPECT_ERROR(
      vocabulary([](GgufWriter& w) { w.array("tokenizer.ggml.merges", GgufType::Int32, std::vector<int32_t>{1}); }),
      "merges", "no array of strings");
  EXPECT_ERROR(gguf_vocabulary(*Parsed(llama()).file), "tokenizer.ggml.tokens", "missing or empty");
}

TEST(GgufNames, TemplatesAndDefaultsComeFromTheMetadata) {
  GgufWriter writer = llama();
  writer.string("tokenizer.chat_template", "default one").string("tokenizer.chat_template.tool_use", "with tools");
  writer.array("tokenizer.ggml.tokens", GgufType::String, std::vector<std::string>{"<s>", "</s>", "<eot>"});
  writer.uint32("tokenizer.ggml.bos_token_id", 0).uint32("tokenizer.ggml.eos_token_id", 1);
  writer.uint32("tokenizer.ggml.eot_token_id", 2).uint32("tokenizer.ggml.eom_token_id", 1);
  writer.float32("general.sampling.temp", 0.5f).metadata("general.sampling.top_k", GgufType::Int32, raw(int32_t(20)));
  const Parsed parsed(writer);
  const auto templates = gguf_chat_templates(*parsed.file);
  EXPECT_EQ(templates.at(""), "default one");
  EXPECT_EQ(templates.at("tool_use"), "with tools");
  const Config config = gguf_tokenizer_config(*parsed.file);
  EXPECT_EQ(*config.string("bos_token"), "<s>");
  EXPECT_EQ(*config.string("eos_token"), "</s>");
  EXPECT_EQ(config.string("pad_token"), nullptr);
  const GenerationDefaults defaults = gguf_generation_defaults(*parsed.file);
  EXPECT_EQ(defaults.eos_token_ids, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(defaults.temperature, 0.5);
  EXPECT_EQ(defaults.top_k, 20);
  EXPECT_FALSE(defaults.top_p);
}

TEST(GgufNames, SplitsAreRecognisedByName) {
  const auto split = gguf_split("some-model-00002-of-00013.gguf");
  ASSERT_TRUE(split);
  EXPECT_EQ(split->stem, "some-model");
  EXPECT_EQ(split->part, 2u);
  EXPECT_EQ(split->parts, 13u);
  EXPECT_EQ(gguf_part_name(*split, 13), "some-model-00013-of-00013.gguf");
  for (const char* name :
       {"model.gguf", "-00001-of-00002.gguf", "m-00003-of-00002.gguf", "m-00000-of-00002.gguf", "m-0000a-of-00002.gguf",
        "m-00001-to-00002.gguf", "m-00001-of-00002.bin", "m-+0001-of-00002.gguf"})
    EXPECT_FALSE(gguf_split(name)) << name;
}

} // namespace
} // namespace quire
