// What --model names: folders, shards, GGUF files whole and split, and every way in which they are not what they should
// be.
#include "weights/model_files.hpp"

#include "support/expect_error.hpp"
#include "support/gguf_writer.hpp"
#include "support/safetensors_writer.hpp"
#include "support/temp_folder.hpp"
#include "text/gguf_vocabulary.hpp"
#include "weights/formats.hpp"
#include "weights/gguf.hpp"
#include "weights/gguf_names.hpp"
#include "weights/mapped_file.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>
#include <sys/stat.h>

namespace quire {
namespace {

using test::GgufWriter;
using test::raw;
using test::SafetensorsWriter;
using test::TempFolder;

constexpr const char* config_json = R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 4, "eos_token_id": 7})";

std::string floats(std::initializer_list<float> values) {
  std::string bytes;
  for (const float value : values) bytes += raw(value);
  return bytes;
}

void write_checkpoint(const TempFolder& folder) {
  folder.write("config.json", config_json);
  SafetensorsWriter writer;
  writer.tensor("model.norm.weight", "F32", {4}, floats({1, 2, 3, 4}));
  writer.tensor("lm_head.weight", "BF16", {3, 4}, std::string(24, '\x3f'));
  writer.tensor("model.buffer", "I64", {1}, std::string(8, '\0'));
  folder.write("model.safetensors", writer.bytes());
}

GgufWriter small_gguf() {
  GgufWriter writer;
  writer.string("general.architecture", "llama").string("general.name", "Tiny").uint32("llama.embedding_length", 4);
  writer.uint32("llama.attention.head_count", 1);
  return writer;
}

TEST(ModelFiles, AFolderIsOpened) {
  const TempFolder folder;
  write_checkpoint(folder);
  const auto model = ModelFiles::open(folder.path());
  EXPECT_FALSE(model->from_gguf());
  EXPECT_FALSE(model->dummy());
  EXPECT_EQ(model->architecture(), "LlamaForCausalLM");
  EXPECT_EQ(model->name(), folder.path().filename().string());
  EXPECT_EQ(model->total_bytes(), 40u);
  EXPECT_EQ(model->config().integer("hidden_size"), 4);
  EXPECT_FALSE(model->has_tokenizer());
  EXPECT_EQ(model->gguf(), nullptr);
  EXPECT_EQ(model->generation_defaults().eos_token_ids, std::vector<int32_t>{7});
  const TensorEntry* norm = model->find("model.norm.weight");
  ASSERT_NE(norm, nullptr);
  EXPECT_EQ(norm->format, QUIRE_F32);
  float value;
  std::memcpy(&value, norm->data + 8, 4);
  EXPECT_EQ(value, 3.0f);
  EXPECT_EQ(model->find("absent"), nullptr);
  EXPECT_EQ(model->quire_configuration().from_gguf, 0u);
  EXPECT_FALSE(model->made_up());
  model->start_read_ahead();
  EXPECT_NO_THROW(model->check_unchanged());
  // With a slash at its end, and by the file in it.
  EXPECT_EQ(ModelFiles::open(folder.path() / "")->name(), model->name());
  EXPECT_EQ(ModelFiles::open(folder.path() / "model.safetensors")->total_bytes(), 40u);
}

TEST(ModelFiles, ShapesAreCheckedWhereWeightsAreBound) {
  const TempFolder folder;
  write_checkpoint(folder);
  const auto model = ModelFiles::open(folder.path());
  const uint64_t right[] = {3, 4}, wrong[] = {4, 4}, vector[] = {4}, row[] = {1, 4};
  EXPECT_NE(model->weight("lm_head.weight", right, false), nullptr);
  EXPECT_EQ(model->weight("model.norm.weight", vector, false), model->weight("model.norm.weight", row, false));
  EXPECT_ERROR(model->weight("lm_head.weight", wrong, false, "vocab_size"),
               "model.safetensors: tensor `lm_head.weight` is [3, 4], expected [4, 4] from config.json (vocab_size)");
  EXPECT_ERROR(model->weight("lm_head.weight", vector, false), "is [3, 4], expected [4]");
  EXPECT_EQ(model->weight("model.absent", right, true), nullptr);
  EXPECT_ERROR(model->weight("model.absent", right, false), "`model.absent` is missing");
  EXPECT_ERROR(model->weight("model.buffer", vector, true), "`model.buffer` has the dtype I64", "convert it");
}

TEST(ModelFiles, ShardsAreFoundByTheIndex) {
  const TempFolder folder;
  folder.write("config.json", config_json);
  folder.write(
      "one.safetensors",
      SafetensorsWriter().tensor("a", "F32", {1}, floats({1})).tensor("stray", "F32", {1}, floats({9})).bytes());
  folder.write("two.safetensors", SafetensorsWriter().tensor("b", "F32", {1}, floats({2})).bytes());
  const auto index = [&](const std::string& map) {
    folder.write("model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  };
  index(R"("a":"one.safetensors","b":"two.safetensors")");
  const auto model = ModelFiles::open(folder.path());
  EXPECT_EQ(model->files().size(), 2u);
  EXPECT_NE(model->find("a"), nullptr);
  EXPECT_NE(model->find("b"), nullptr);
  EXPECT_EQ(model->find("stray"), nullptr) << "the index does not name it";
  index(R"("a":"one.safetensors","b":"three.safetensors")");
  EXPECT_ERROR(ModelFiles::open(folder.path()), "three.safetensors is missing");
  index(R"("a":"two.safetensors","b":"two.safetensors")");
  EXPECT_ERROR(ModelFiles::open(folder.path()), "`a` is not in its shard `two.safetensors`");
  index(R"("a":"../one.safetensors")");
  EXPECT_ERROR(ModelFiles::open(folder.path()), "no plain name");
  index("");
  EXPECT_ERROR(ModelFiles::open(folder.path()), "`weight_map` is empty");
}

TEST(ModelFiles, ShardsWithoutAnIndexAreTakenTogether) {
  const TempFolder folder;
  folder.write("config.json", config_json);
  folder.write("model-00001-of-00002.safetensors", SafetensorsWriter().tensor("a", "F32", {1}, floats({1})).bytes());
  folder.write("model-00002-of-00002.safetensors", SafetensorsWriter().tensor("b", "F32", {1}, floats({1})).bytes());
  EXPECT_EQ(ModelFiles::open(folder.path())->tensors().size(), 2u);
  folder.write("model-00003-of-00002.safetensors", SafetensorsWriter().tensor("b", "F32", {1}, floats({1})).bytes());
  EXPECT_ERROR(ModelFiles::open(folder.path()), "`b` is in the model twice");
}

TEST(ModelFiles, PickleFilesAreRefused) {
  const TempFolder folder;
  folder.write("config.json", config_json);
  const auto bin = folder.write("pytorch_model.bin", "PK\3\4");
  EXPECT_ERROR(ModelFiles::open(folder.path()), "pytorch_model.bin", "pickle", "convert the model to safetensors");
  EXPECT_ERROR(ModelFiles::open(bin), "pickle");
  EXPECT_ERROR(ModelFiles::open(folder.write("weights", "\x80\x02}q")), "pickle");
  EXPECT_ERROR(ModelFiles::open(folder.write("weights.pt", "anything")), "pickle");
}

TEST(ModelFiles, WhatIsNoModelIsNamed) {
  const TempFolder folder;
  EXPECT_ERROR(ModelFiles::open(folder.path() / "absent"), "absent does not exist");
  EXPECT_ERROR(ModelFiles::open(folder.path()), "holds no model");
  EXPECT_ERROR(ModelFiles::open(folder.write("notes.txt", "hello")), "notes.txt", "no GGUF file");
  EXPECT_ERROR(ModelFiles::open(folder.write("empty.gguf", "")), "no GGUF file");
  EXPECT_ERROR(ModelFiles::open(folder.write("other.json", config_json)), "configuration without weights");
  ASSERT_EQ(mkfifo((folder.path() / "pipe").c_str(), 0600), 0);
  EXPECT_ERROR(ModelFiles::open(folder.path() / "pipe"), "pipe is not a regular file");
  const TempFolder bare;
  bare.write("model.safetensors", SafetensorsWriter().tensor("a", "F32", {1}, floats({1})).bytes());
  EXPECT_ERROR(ModelFiles::open(bare.path()), "config.json is missing");
  bare.write("config.json", "{}");
  EXPECT_ERROR(ModelFiles::open(bare.path()), "`architectures` is missing");
}

TEST(ModelFiles, AGgufFileIsOpened) {
  const TempFolder folder;
  GgufWriter writer = small_gguf();
  writer.tensor("blk.0.attn_q.weight", {4, 4}, 0, std::string(64, '\0')).zeros("rope_freqs.weight", {2});
  writer.tensor("blk.0.ffn_up.weight", {256, 1}, 16, std::string(66, '\0'));
  const auto path = folder.write("tiny.gguf", writer.bytes());
  for (const auto& given : {path, folder.path()}) {
    const auto model = ModelFiles::open(given);
    EXPECT_TRUE(model->from_gguf());
    EXPECT_EQ(model->name(), "Tiny");
    EXPECT_EQ(model->architecture(), "LlamaForCausalLM");
    EXPECT_EQ(model->quire_configuration().from_gguf, 1u);
    ASSERT_NE(model->find("model.layers.0.self_attn.q_proj.weight"), nullptr);
    EXPECT_EQ(model->find("model.layers.0.self_attn.q_proj.weight")->stored_name, "blk.0.attn_q.weight");
    EXPECT_NE(model->find("rope_freqs.weight"), nullptr);
    EXPECT_ERROR(model->find("model.layers.0.mlp.up_proj.weight"), "`blk.0.ffn_up.weight` is of type IQ2_XXS",
                 "convert it");
    EXPECT_FALSE(model->has_tokenizer());
  }
  folder.write("second.gguf", writer.bytes());
  EXPECT_ERROR(ModelFiles::open(folder.path()), "second.gguf, tiny.gguf", "give --model one of these");
  EXPECT_ERROR(ModelFiles::open(folder.write("vocab.gguf", small_gguf().bytes())), "a vocabulary and no weights");
}

TEST(ModelFiles, ASplitGgufIsOneModel) {
  const TempFolder folder;
  const auto part = [&](uint32_t no, uint32_t count, const char* tensor) {
    GgufWriter writer = no == 0 ? small_gguf() : GgufWriter();
    writer.metadata("split.no", GgufType::Uint16, raw(uint16_t(no)))
        .metadata("split.count", GgufType::Uint16, raw(uint16_t(count)));
    return writer.zeros(tensor, {4}).bytes();
  };
  const auto first = folder.write("m-00001-of-00002.gguf", part(0, 2, "output_norm.weight"));
  EXPECT_ERROR(ModelFiles::open(first), "m-00002-of-00002.gguf is missing");
  const auto second = folder.write("m-00002-of-00002.gguf", part(1, 2, "blk.0.attn_norm.weight"));
  for (const auto& given : {first, second, folder.path()}) {
    const auto model = ModelFiles::open(given);
    EXPECT_EQ(model->name(), "Tiny");
    EXPECT_EQ(model->tensors().size(), 2u);
    EXPECT_EQ(model->find("model.layers.0.input_layernorm.weight")->file, 1u);
  }
  folder.write("m-00002-of-00002.gguf", part(0, 2, "x.weight"));
  EXPECT_ERROR(ModelFiles::open(first), "m-00002-of-00002.gguf is part 1 of 2 by its metadata");
  folder.write("m-00002-of-00002.gguf", part(1, 2, "output_norm.weight"));
  EXPECT_ERROR(ModelFiles::open(first), "`output_norm.weight` is in the model twice");
  EXPECT_ERROR(ModelFiles::open(folder.write("renamed.gguf", part(0, 3, "x.weight"))), "part 1 of 3", "names back");
}

TEST(ModelFiles, TensorsComeInTheOrderOfTheFile) {
  const TempFolder folder;
  folder.write("config.json", config_json);
  const std::string header =
      R"({"z":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[8,12]},)"
      R"("m":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})";
  folder.write("model.safetensors", test::safetensors(header, std::string(12, '\0')));
  const auto model = ModelFiles::open(folder.path());
  std::string order;
  for (const TensorEntry& tensor : model->tensors()) order += tensor.name;
  EXPECT_EQ(order, "zma");
}

TEST(ModelFiles, MisalignedTensorsAreRealigned) {
  const TempFolder folder;
  folder.write("config.json", config_json);
  std::string header =
      R"({"byte":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  folder.write("model.safetensors", test::safetensors(header, "!" + floats({1.5f, -2.5f})));
  const auto model = ModelFiles::open(folder.path());
  const uint64_t shape[] = {2};
  const TensorEntry* x = model->weight("x", shape, false);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(x->data) % 4, 0u);
  EXPECT_EQ(reinterpret_cast<const float*>(x->data)[1], -2.5f);
  EXPECT_EQ(model->weight("x", shape, false), x);
}

TEST(ModelFiles, SingleExpertsAreStacked) {
  const TempFolder folder;
  folder.write("config.json", config_json);
  SafetensorsWriter writer;
  for (int e = 0; e < 3; ++e) {
    const auto value = static_cast<float>(e);
    writer.tensor("model.layers.0.block_sparse_moe.experts." + std::to_string(e) + ".w3.weight", "F32", {1, 2},
                  floats({value, value + 10}));
    writer.tensor("model.layers.1.mlp.experts." + std::to_string(e) + ".down_proj.weight", "F32", {2, 1},
                  floats({value, value + 20}));
  }
  writer.tensor("model.layers.0.block_sparse_moe.gate.weight", "F32", {3, 2}, std::string(24, '\0'));
  folder.write("model.safetensors", writer.bytes());
  const auto model = ModelFiles::open(folder.path());
  const uint64_t up[] = {3, 1, 2}, down[] = {3, 2, 1}, more[] = {4, 1, 2};
  const TensorEntry* stacked = model->weight("model.layers.0.mlp.experts.up_proj.weight", up, false);
  EXPECT_EQ(stacked->shape, (std::vector<uint64_t>{3, 1, 2}));
  EXPECT_EQ(reinterpret_cast<const float*>(stacked->data)[5], 12.0f);
  EXPECT_EQ(reinterpret_cast<const float*>(
                model->weight("model.layers.1.mlp.experts.down_proj.weight", down, false)->data)[3],
            21.0f);
  EXPECT_NE(model->find("model.layers.0.mlp.gate.weight"), nullptr);
  EXPECT_EQ(model->weight("model.layers.2.mlp.experts.up_proj.weight", up, true), nullptr);
  const auto again = ModelFiles::open(folder.path());
  EXPECT_ERROR(again->weight("model.layers.0.mlp.experts.up_proj.weight", more, false), "expert 3", "is missing");
}

TEST(ModelFiles, WrappedAndBareNamesAreTheSame) {
  const TempFolder folder;
  folder.write("config.json", config_json);
  const auto names = [&](std::initializer_list<const char*> stored) {
    SafetensorsWriter writer;
    for (const char* name : stored) writer.tensor(name, "F32", {1}, floats({1}));
    folder.write("model.safetensors", writer.bytes());
    std::string found;
    const auto model = ModelFiles::open(folder.path());
    for (const TensorEntry& tensor : model->tensors()) found += tensor.name + " ";
    return found;
  };
  EXPECT_EQ(names({"language_model.model.norm.weight", "language_model.lm_head.weight"}),
            "model.norm.weight lm_head.weight ");
  EXPECT_EQ(names({"model.language_model.norm.weight", "lm_head.weight"}), "model.norm.weight lm_head.weight ");
  EXPECT_EQ(names({"embed_tokens.weight", "norm.weight"}), "model.embed_tokens.weight model.norm.weight ");
  EXPECT_EQ(names({"norm.weight"}), "norm.weight ");
}

TEST(ModelFiles, TemplatesAndDefaultsComeFromTheirFiles) {
  const TempFolder folder;
  write_checkpoint(folder);
  folder.write("tokenizer.json", "{}");
  folder.write("generation_config.json",
               R"({"eos_token_id": [5, 6, 5], "temperature": 0.6, "top_k": 20, "top_p": 0.9, "do_sample": true})");
  folder.write("tokenizer_config.json", R"({"bos_token": {"content": "<s>", "special": true}, "eos_token": "</s>",
    "chat_template": [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]})");
  auto model = ModelFiles::open(folder.path());
  EXPECT_EQ(*model->tokenizer_json(), std::filesystem::absolute(folder.path()) / "tokenizer.json");
  EXPECT_TRUE(model->has_tokenizer());
  EXPECT_EQ(*model->tokenizer_config().string("bos_token"), "<s>");
  EXPECT_EQ(*model->tokenizer_config().string("eos_token"), "</s>");
  EXPECT_EQ(*model->chat_template(), "D");
  EXPECT_EQ(*model->chat_template("tool_use"), "T");
  EXPECT_EQ(model->chat_template("rag"), nullptr);
  const GenerationDefaults& defaults = model->generation_defaults();
  EXPECT_EQ(defaults.eos_token_ids, (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(defaults.temperature, 0.6);
  EXPECT_EQ(defaults.top_k, 20);
  EXPECT_EQ(defaults.do_sample, true);
  folder.write("chat_template.jinja", "J");
  folder.write("additional_chat_templates/rag.jinja", "R");
  model = ModelFiles::open(folder.path());
  EXPECT_EQ(*model->chat_template(), "J");
  EXPECT_EQ(*model->chat_template("rag"), "R");
  folder.write("tokenizer_config.json", R"({"chat_template": "S"})");
  std::filesystem::remove(folder.path() / "chat_template.jinja");
  EXPECT_EQ(*ModelFiles::open(folder.path())->chat_template(), "S");
  folder.write("generation_config.json", "{");
  EXPECT_ERROR(ModelFiles::open(folder.path()), "generation_config.json is not valid JSON");
}

TEST(ModelFiles, DamageInTheDataIsFound) {
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  std::vector<float> values(512, 0.5f);
  for (uint32_t format = 0; format < QUIRE_FORMAT_COUNT; ++format) {
    std::vector<std::byte> data(row_bytes(format, values.size()));
    quantize(format, values.data(), values.size(), data.data());
    TensorEntry tensor;
    tensor.stored_name = "x";
    tensor.format = format;
    tensor.shape = {2, 256};
    tensor.data = data.data();
    tensor.bytes = data.size();
    EXPECT_NO_THROW(ModelFiles::check_finite(tensor, "f")) << format_info(format).name;
    // A NaN among the first elements of the second row; block formats get it where their last scale is.
    for (const float bad : {nan, inf}) {
      std::vector<std::byte> damaged = data;
      const uint16_t half = float_to_half(bad), bfloat = float_to_bfloat16(bad);
      std::byte* second = damaged.data() + data.size() / 2;
      const uint32_t block = format_info(format).block_bytes;
      if (format == QUIRE_F32)
        std::memcpy(second, &bad, 4);
      else if (format == QUIRE_BF16)
        std::memcpy(second, &bfloat, 2);
      else if (format == QUIRE_Q4_1 || format == QUIRE_Q5_1 || format == QUIRE_Q4_K || format == QUIRE_Q5_K)
        std::memcpy(second + 2, &half, 2);
      else if (format == QUIRE_Q2_K || format == QUIRE_Q3_K || format == QUIRE_Q6_K)
        std::memcpy(second + block - 2, &half, 2);
      else
        std::memcpy(second, &half, 2);
      tensor.data = damaged.data();
      EXPECT_ERROR(ModelFiles::check_finite(tensor, "f"), "f: tensor `x` holds a NaN or an infinity in row 1");
    }
  }
}

TEST(ModelFiles, LoadFormatsAreParsed) {
  EXPECT_FALSE(parse_load_format("auto").dummy);
  EXPECT_EQ(parse_load_format("dummy").dummy_format, QUIRE_BF16);
  EXPECT_EQ(parse_load_format("dummy:q4_k").dummy_format, QUIRE_Q4_K);
  EXPECT_ERROR(parse_load_format("dummy:q9"), "--load-format `dummy:q9` is unknown", "Q4_K");
  EXPECT_ERROR(parse_load_format("dumm"), "auto, dummy or dummy:FORMAT");
}

// The real model, where this machine has it.
TEST(ModelFiles, SmolLM2IsOpened) {
  const char* given = std::getenv("QUIRE_MODEL");
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const std::filesystem::path path =
      given ? given
            : (cache && *cache ? std::filesystem::path(cache) : std::filesystem::path(home ? home : "") / ".cache") /
                  "quire/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path))
    GTEST_SKIP() << path << " is absent: run ./quickstart.sh once, or set QUIRE_MODEL";
  const auto model = ModelFiles::open(path);
  if (model->config().integer("hidden_size") != 576) GTEST_SKIP() << "QUIRE_MODEL is another model";
  EXPECT_EQ(model->architecture(), "LlamaForCausalLM");
  EXPECT_EQ(model->tensors().size(), 272u);
  EXPECT_EQ(model->total_bytes(), 96576768u);
  EXPECT_EQ(model->config().integer("num_hidden_layers"), 30);
  EXPECT_EQ(model->config().integer("num_key_value_heads"), 3);
  EXPECT_EQ(model->config().integer("head_dim"), 64);
  EXPECT_EQ(model->config().integer("vocab_size"), 49152);
  EXPECT_EQ(model->config().real("rope_theta"), 100000);
  EXPECT_NEAR(*model->config().real("rms_norm_eps"), 1e-5, 1e-12);
  EXPECT_EQ(model->config().boolean("tie_word_embeddings"), true);
  EXPECT_EQ(model->find("lm_head.weight"), nullptr);
  EXPECT_EQ(model->find("model.embed_tokens.weight")->format, QUIRE_Q8_0);
  EXPECT_EQ(model->find("model.layers.29.mlp.down_proj.weight")->shape, (std::vector<uint64_t>{576, 1536}));
  EXPECT_EQ(model->generation_defaults().eos_token_ids, std::vector<int32_t>{2});
  EXPECT_EQ(*model->tokenizer_config().string("eos_token"), "<|im_end|>");
  EXPECT_NE(model->chat_template()->find("<|im_start|>"), std::string::npos);
  const GgufVocabulary vocabulary = gguf_vocabulary(*model->gguf());
  EXPECT_EQ(vocabulary.tokens.size(), 49152u);
  EXPECT_EQ(vocabulary.merges.size(), 48900u);
  for (const TensorEntry& tensor : model->tensors()) EXPECT_NO_THROW(ModelFiles::check_finite(tensor, "SmolLM2"));
  // Weights of a trained model are small and not all zero: the layout is read as it was written.
  const TensorEntry* q = model->find("model.layers.3.self_attn.q_proj.weight");
  std::vector<float> values(576 * 576);
  dequantize(q->format, q->data, values.size(), values.data());
  double square = 0;
  for (const float value : values) square += double(value) * value;
  const double rms = std::sqrt(square / static_cast<double>(values.size()));
  EXPECT_GT(rms, 0.01);
  EXPECT_LT(rms, 1.0);
  EXPECT_NO_THROW(model->check_unchanged());
}

} // namespace
} // namespace quire
