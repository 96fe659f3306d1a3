// Made-up weights: the same for the same seed, of the right size, and written as a checkpoint that opens.
#include "weights/dummy.hpp"

#include "support/expect_error.hpp"
#include "support/temp_folder.hpp"
#include "weights/formats.hpp"
#include "weights/mapped_file.hpp"
#include "weights/model_files.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <set>

namespace quire {
namespace {

using test::TempFolder;

constexpr const char* config_json =
    R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
  "intermediate_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "vocab_size": 1000,
  "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 128, "tie_word_embeddings": false})";

struct Moments {
  double mean = 0, deviation = 0;
};
Moments moments(const TensorEntry& tensor) {
  const uint64_t count =
      tensor.bytes / format_info(tensor.format).block_bytes * format_info(tensor.format).block_elements;
  std::vector<float> values(count);
  dequantize(tensor.format, tensor.data, count, values.data());
  double sum = 0, square = 0;
  for (const float value : values) sum += value;
  for (const float value : values) square += std::pow(value - sum / double(count), 2);
  return {sum / double(count), std::sqrt(square / double(count))};
}

LoadOptions options(uint32_t format, uint64_t seed = 0) {
  LoadOptions result;
  result.dummy = true;
  result.dummy_format = format;
  result.dummy_seed = seed;
  return result;
}

// As a model plugin asks for them.
void ask_for_all(ModelFiles& model) {
  const std::string layer = "model.layers.0.";
  const auto ask = [&](const std::string& name, std::vector<uint64_t> shape, bool optional = false) {
    model.weight(name, shape, optional);
  };
  ask("model.embed_tokens.weight", {1000, 256});
  ask(layer + "input_layernorm.weight", {1, 256});
  ask(layer + "self_attn.q_proj.weight", {256, 256});
  ask(layer + "self_attn.q_proj.bias", {256}, true);
  ask(layer + "self_attn.k_proj.weight", {128, 256});
  ask(layer + "self_attn.v_proj.weight", {128, 256});
  ask(layer + "self_attn.o_proj.weight", {256, 256});
  ask(layer + "post_attention_layernorm.weight", {256});
  ask(layer + "mlp.gate_proj.weight", {512, 256});
  ask(layer + "mlp.up_proj.weight", {512, 256});
  ask(layer + "mlp.down_proj.weight", {256, 512});
  ask("model.norm.weight", {256});
  ask("lm_head.weight", {1000, 256}, true);
}

TEST(Dummy, WeightsHaveTheSizeOfWeights) {
  const TempFolder folder;
  const auto path = folder.write("shape.json", config_json);
  for (uint32_t format = 0; format < QUIRE_FORMAT_COUNT; ++format) {
    const auto model = ModelFiles::open(path, options(format));
    EXPECT_TRUE(model->dummy());
    EXPECT_FALSE(model->from_gguf());
    const uint64_t matrix[] = {300, 512}, vector[] = {512};
    const TensorEntry* weight = model->weight("model.layers.0.mlp.up_proj.weight", matrix, false);
    const TensorEntry* norm = model->weight("model.norm.weight", vector, false);
    EXPECT_EQ(weight->format, format);
    EXPECT_EQ(weight->bytes, 300 * row_bytes(format, 512));
    EXPECT_EQ(norm->format, format_info(format).quantised ? uint32_t(QUIRE_F32) : format);
    EXPECT_EQ(model->total_bytes(), weight->bytes + norm->bytes);
    const Moments of_weight = moments(*weight), of_norm = moments(*norm);
    // 153,600 values: the mean is within 5 standard errors; Q2_K's rounding may add a fifth of the deviation.
    EXPECT_NEAR(of_weight.mean, 0, 5 * 0.02 / std::sqrt(153600.0) + (format == QUIRE_Q2_K ? 0.002 : 0.0002))
        << format_info(format).name;
    EXPECT_NEAR(of_weight.deviation, 0.02, 0.004) << format_info(format).name;
    EXPECT_NEAR(of_norm.mean, 1, 0.006);
    EXPECT_NEAR(of_norm.deviation, 0.02, 0.004);
    EXPECT_NO_THROW(ModelFiles::check_finite(*weight, "dummy"));
  }
}

TEST(Dummy, ContentDependsOnSeedNameAndRowAlone) {
  const Config config = Config::from_json(config_json, "config.json");
  const uint64_t shape[] = {700, 512};
  DummyWeights one(config, QUIRE_Q4_0, 3, true), same(config, QUIRE_Q4_0, 3, true), other(config, QUIRE_Q4_0, 4, true);
  const TensorEntry* a = one.weight("a.weight", shape, false);
  one.weight("b.weight", shape, false);
  same.weight("b.weight", shape, false); // in another order
  const TensorEntry* again = same.weight("a.weight", shape, false);
  EXPECT_EQ(std::memcmp(a->data, again->data, a->bytes), 0);
  EXPECT_NE(std::memcmp(a->data, one.weight("b.weight", shape, false)->data, a->bytes), 0);
  EXPECT_NE(std::memcmp(a->data, other.weight("a.weight", shape, false)->data, a->bytes), 0);
  EXPECT_EQ(one.weight("a.weight", shape, false), a);
  std::vector<std::byte> rows(3 * row_bytes(QUIRE_Q4_0, 512));
  one.fill(*a, 500, 3, rows.data());
  EXPECT_EQ(std::memcmp(rows.data(), a->data + 500 * row_bytes(QUIRE_Q4_0, 512), rows.size()), 0);
}

TEST(Dummy, RowsOfALargeTableAreAllDifferent) {
  const Config config = Config::from_json(config_json, "config.json");
  DummyWeights weights(config, QUIRE_Q4_K, 0, false);
  const uint64_t shape[] = {130000, 512};
  const TensorEntry* table = weights.weight("model.embed_tokens.weight", shape, false);
  EXPECT_EQ(table->data, nullptr);
  const uint64_t bytes = row_bytes(QUIRE_Q4_K, 512);
  std::string row(bytes, '\0');
  std::set<std::string> seen;
  for (uint64_t r = 0; r < shape[0]; ++r) {
    weights.fill(*table, r, 1, reinterpret_cast<std::byte*>(row.data()));
    ASSERT_TRUE(seen.insert(row).second) << "row " << r << " was seen before";
  }
}

TEST(Dummy, OptionalWeightsFollowTheConfiguration) {
  const auto has = [](const char* more, const char* name) {
    const Config config = Config::from_json(more, "config.json");
    const uint64_t shape[] = {32};
    return DummyWeights(config, QUIRE_BF16, 0, true).weight(name, shape, true) != nullptr;
  };
  EXPECT_TRUE(has(R"({"tie_word_embeddings": false})", "lm_head.weight"));
  EXPECT_FALSE(has(R"({"tie_word_embeddings": true})", "lm_head.weight"));
  EXPECT_FALSE(has(R"({"model_type": "gemma2"})", "lm_head.weight"));
  EXPECT_FALSE(has(R"({"model_type": "llama"})", "model.layers.0.self_attn.q_proj.bias"));
  EXPECT_TRUE(has(R"({"model_type": "qwen2"})", "model.layers.0.self_attn.q_proj.bias"));
  EXPECT_FALSE(has(R"({"model_type": "qwen2"})", "model.layers.0.self_attn.o_proj.bias"));
  EXPECT_TRUE(has(R"({"attention_bias": true})", "model.layers.0.self_attn.o_proj.bias"));
  EXPECT_FALSE(has(R"({"attention_bias": true})", "model.layers.0.mlp.up_proj.bias"));
  EXPECT_TRUE(has(R"({"model_type": "qwen3"})", "model.layers.0.self_attn.q_norm.weight"));
  EXPECT_FALSE(has(R"({"model_type": "llama"})", "model.layers.0.self_attn.q_norm.weight"));
}

TEST(Dummy, RowsThatAreNoWholeBlocksTakeAnotherFormat) {
  const Config config = Config::from_json(config_json, "config.json");
  DummyWeights weights(config, QUIRE_Q4_K, 0, true);
  const uint64_t whole[] = {8, 256}, halves[] = {8, 160}, odd[] = {8, 100};
  EXPECT_EQ(weights.weight("a", whole, false)->format, QUIRE_Q4_K);
  EXPECT_EQ(weights.weight("b", halves, false)->format, QUIRE_Q8_0);
  EXPECT_EQ(weights.weight("c", odd, false)->format, QUIRE_BF16);
}

TEST(Dummy, WhatNoMemoryHoldsIsRefused) {
  const Config config = Config::from_json(config_json, "config.json");
  DummyWeights weights(config, QUIRE_F32, 0, true);
  const uint64_t big[] = {1u << 20, 1u << 24}, overflow[] = {uint64_t(1) << 40, uint64_t(1) << 40}, empty[] = {0, 256};
  EXPECT_ERROR(weights.weight("a", big, false), "MiB more for `a`", "choose a smaller");
  EXPECT_ERROR(weights.weight("b", overflow, false), "config.json: tensor `b`");
  EXPECT_ERROR(weights.weight("c", empty, false), "config.json: tensor `c`");
}

TEST(Dummy, WrittenFoldersOpenWithTheSameWeights) {
  const TempFolder source, target;
  source.write("config.json", config_json);
  source.write("tokenizer.json", "{}");
  for (const bool in_memory : {true, false}) {
    LoadOptions how = options(QUIRE_BF16);
    how.dummy_in_memory = in_memory;
    const auto made = ModelFiles::open(source.path(), how);
    ask_for_all(*made);
    uint64_t reported = 0;
    made->write_dummy(target.path() / "model", 400'000, [&](uint64_t done, uint64_t total) {
      EXPECT_LE(done, total);
      reported = done;
    });
    EXPECT_EQ(reported, made->total_bytes());
    const auto read = ModelFiles::open(target.path() / "model");
    EXPECT_GT(read->files().size(), 2u) << "more than one shard";
    EXPECT_EQ(read->total_bytes(), made->total_bytes());
    EXPECT_TRUE(read->has_tokenizer());
    EXPECT_FALSE(read->dummy());
    EXPECT_TRUE(read->made_up()) << "its weights are not a model's, and it says so";
    EXPECT_EQ(read->config().integer("num_key_value_heads"), 2);
    EXPECT_EQ(read->architecture(), "LlamaForCausalLM");
    const auto reference = ModelFiles::open(source.path(), options(QUIRE_BF16));
    ask_for_all(*reference);
    EXPECT_EQ(read->tensors().size(), 12u);
    for (const TensorEntry& tensor : read->tensors()) {
      const TensorEntry* expected = reference->weight(tensor.name, tensor.shape, false);
      ASSERT_EQ(tensor.bytes, expected->bytes) << tensor.name;
      EXPECT_EQ(std::memcmp(tensor.data, expected->data, tensor.bytes), 0) << tensor.name;
    }
  }
  // One shard now: the older index must not be left behind.
  const auto made = ModelFiles::open(source.path(), options(QUIRE_F16));
  ask_for_all(*made);
  made->write_dummy(target.path() / "model");
  EXPECT_FALSE(std::filesystem::exists(target.path() / "model" / "model.safetensors.index.json"));
  EXPECT_EQ(ModelFiles::open(target.path() / "model")->find("lm_head.weight")->format, QUIRE_F16);
}

TEST(Dummy, BlockFormatsAreWrittenAsGguf) {
  const TempFolder source, target;
  source.write("config.json", config_json);
  const auto made = ModelFiles::open(source.path(), options(QUIRE_Q4_K));
  ask_for_all(*made);
  made->write_dummy(target.path());
  const auto read = ModelFiles::open(target.path());
  EXPECT_TRUE(read->from_gguf());
  EXPECT_TRUE(read->made_up());
  EXPECT_FALSE(read->has_tokenizer());
  EXPECT_EQ(read->architecture(), "LlamaForCausalLM");
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "num_key_value_heads", "head_dim", "vocab_size"})
    EXPECT_EQ(read->config().integer(key), made->config().integer(key)) << key;
  EXPECT_EQ(read->config().boolean("tie_word_embeddings"), false);
  EXPECT_EQ(read->tensors().size(), 12u);
  for (const TensorEntry& tensor : read->tensors()) {
    const TensorEntry* expected = made->weight(tensor.name, tensor.shape, false);
    ASSERT_EQ(tensor.bytes, expected->bytes) << tensor.name;
    EXPECT_EQ(tensor.format, expected->format);
    EXPECT_EQ(std::memcmp(tensor.data, expected->data, tensor.bytes), 0) << tensor.name;
  }
  const auto strange =
      ModelFiles::open(source.write("x.json", R"({"architectures": ["StrangeForCausalLM"]})"), options(QUIRE_Q4_K));
  EXPECT_ERROR(strange->write_dummy(target.path() / "x"), "no name for the architecture `StrangeForCausalLM`");
}

TEST(Dummy, AFullOrForbiddenFolderIsAnError) {
  const TempFolder source;
  source.write("config.json", config_json);
  const auto made = ModelFiles::open(source.path(), options(QUIRE_BF16));
  ask_for_all(*made);
  const auto file = source.write("file", "x");
  EXPECT_ERROR(made->write_dummy(file), "file cannot be made");
  EXPECT_ERROR(made->write_dummy("/proc/self/nothing"), "cannot be");
}

} // namespace
} // namespace quire
