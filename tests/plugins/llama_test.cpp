// What the Llama family's plugin makes of configurations: the real model's, and made-up ones of each member.
#include "plugin_host.hpp"
#include "program/builder.hpp"
#include "program/print.hpp"
#include "quire/plan.hpp"
#include "weights/model_files.hpp"

#include "build_paths.hpp"
#include "program/made_up.hpp"
#include "support/temp_folder.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>

namespace quire {
namespace {

using test::MadeUpConfig;
using test::MadeUpWeights;

std::optional<std::filesystem::path> real_model() {
  std::vector<std::filesystem::path> places;
  if (const char* given = std::getenv("QUIRE_MODEL")) places.emplace_back(given);
  const std::filesystem::path name = std::filesystem::path("quire") / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  if (const char* cache = std::getenv("XDG_CACHE_HOME")) places.push_back(cache / name);
  if (const char* home = std::getenv("HOME")) places.push_back(std::filesystem::path(home) / ".cache" / name);
  for (const auto& place : places)
    if (std::filesystem::exists(place)) return place;
  return std::nullopt;
}

class LlamaFamily : public testing::Test {
 protected:
  const Plugin plugin = load_plugin(test::plugin_file("llama"));

  static MadeUpConfig config(const std::string& architecture) {
    return {{{"architectures.0", architecture},
             {"hidden_size", int64_t{64}},
             {"intermediate_size", int64_t{96}},
             {"vocab_size", int64_t{50}},
             {"num_hidden_layers", int64_t{3}},
             {"num_attention_heads", int64_t{4}},
             {"num_key_value_heads", int64_t{2}},
             {"max_position_embeddings", int64_t{128}},
             {"rms_norm_eps", 1e-5},
             {"rope_theta", 10000.0}},
            {},
            false};
  }
  Program build(MadeUpConfig& given, MadeUpWeights& weights) const {
    return build_program(plugin.model, plugin.id, test::made_up_source(given, weights));
  }
  // The sentence of the error, or "".
  std::string error_of(MadeUpConfig given, MadeUpWeights weights = {}) const {
    try {
      build(given, weights);
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
};

uint32_t count(const Program& program, uint32_t kind) {
  return static_cast<uint32_t>(
      std::count_if(program.ops.begin(), program.ops.end(), [&](const quire_op& op) { return op.kind == kind; }));
}

bool asked_for(const MadeUpWeights& weights, const std::string& name) {
  return std::find(weights.asked.begin(), weights.asked.end(), name) != weights.asked.end();
}

TEST_F(LlamaFamily, TheRealModelGivesItsOpsAndBindsAllItsWeights) {
  const auto path = real_model();
  if (!path)
    GTEST_SKIP() << "no SmolLM2-135M-Instruct.Q4_1.gguf: set QUIRE_MODEL, or run quickstart.sh, which fetches it";
  const std::shared_ptr<ModelFiles> files = ModelFiles::open(*path);
  const Program program = build_program(plugin.model, plugin.id, program_source(files));
  EXPECT_EQ(program.ops.size(), 1u + 30 * 11 + 3);
  EXPECT_EQ(count(program, QUIRE_OP_LINEAR), 30u * 4 + 1);
  EXPECT_EQ(count(program, QUIRE_OP_NORM), 30u * 2 + 1);
  EXPECT_EQ(program.weights.size(), files->tensors().size() + 1); // and the rope frequencies
  EXPECT_EQ(program.vocab_size, 49152u);
  EXPECT_EQ(program.max_context, 8192u);
  ASSERT_EQ(program.kv_layers.size(), 30u);
  EXPECT_EQ(program.kv_layers[29].kv_heads, 3u);
  EXPECT_EQ(program.kv_layers[29].k_dim, 64u);
  ASSERT_EQ(program.kv_groups.size(), 1u);
  EXPECT_EQ(program.kv_groups[0].window, 0u);
  uint64_t bytes = 0;
  for (const quire_weight& weight : program.weights) bytes += weight.planes[0].bytes;
  EXPECT_EQ(bytes, files->total_bytes() + 32 * sizeof(float));
  for (const quire_op& op : program.ops)
    if (op.kind == QUIRE_OP_ROPE) {
      EXPECT_EQ(op.u.rope.kind, static_cast<uint32_t>(QUIRE_ROPE_INTERLEAVED));
    }
  // The output matrix is the embedding's.
  EXPECT_EQ(program.ops.back().u.linear.weights[0], program.ops.front().u.embed.table);
  // Its activations at 512 tokens and 16 rows: no plan can do with less.
  quire_limits limits{};
  limits.max_tokens = 512, limits.max_rows = limits.max_sequences = 16;
  const BufferPlan plan = plan_buffers(program.view(), limits);
  EXPECT_EQ(plan.peak_bytes, plan.bound_bytes);
  EXPECT_EQ(plan.peak_bytes, 512u * 4 * (576 + 3072 + 1536)); // the residual, gate and up, and their product
  const std::string listing = print_program(program.view());
  EXPECT_NE(
      listing.find("     0 embed         embed1 [T, 576] = model.embed_tokens.weight [49152, 576] Q8_0 28.69 MiB\n"),
      std::string::npos)
      << listing.substr(0, 2000);
}

TEST_F(LlamaFamily, LlamaHasItsOwnOutputMatrixUnlessTied) {
  MadeUpConfig given = config("LlamaForCausalLM");
  MadeUpWeights weights;
  const Program own = build(given, weights);
  EXPECT_TRUE(asked_for(weights, "lm_head.weight"));
  EXPECT_NE(own.ops.back().u.linear.weights[0], own.ops.front().u.embed.table);
  given.entries["tie_word_embeddings"] = true;
  MadeUpWeights other;
  const Program tied = build(given, other);
  EXPECT_FALSE(asked_for(other, "lm_head.weight"));
  EXPECT_EQ(tied.ops.back().u.linear.weights[0], tied.ops.front().u.embed.table);
}

TEST_F(LlamaFamily, BiasesAreThereWhereTheConfigurationTheFamilyOrTheFileHasThem) {
  const auto biases = [&](MadeUpConfig given, bool in_file) {
    MadeUpWeights weights;
    weights.has_optional = in_file;
    weights.absent = {"_norm.weight"}; // the heads' norms, which are optional too
    const Program program = build(given, weights);
    const quire_linear &qkv = program.ops[2].u.linear, &o = program.ops[7].u.linear, &down = program.ops[11].u.linear;
    return std::array{qkv.biases[0] != 0 && qkv.biases[1] != 0 && qkv.biases[2] != 0, o.biases[0] != 0,
                      down.biases[0] != 0};
  };
  using Found = std::array<bool, 3>; // qkv, o, down
  EXPECT_EQ(biases(config("LlamaForCausalLM"), false), (Found{false, false, false}));
  EXPECT_EQ(biases(config("LlamaForCausalLM"), true), (Found{true, true, true}));
  EXPECT_EQ(biases(config("Qwen2ForCausalLM"), false), (Found{true, false, false}));
  MadeUpConfig attention = config("LlamaForCausalLM");
  attention.entries["attention_bias"] = true;
  EXPECT_EQ(biases(attention, false), (Found{true, true, false}));
  MadeUpConfig mlp = config("LlamaForCausalLM");
  mlp.entries["mlp_bias"] = true;
  EXPECT_EQ(biases(mlp, false), (Found{false, false, true}));
}

TEST_F(LlamaFamily, Qwen3NormsEachHeadOfQAndK) {
  MadeUpConfig given = config("Qwen3ForCausalLM");
  given.entries["head_dim"] = int64_t{32}; // not hidden_size / heads
  MadeUpWeights weights;
  const Program program = build(given, weights);
  EXPECT_EQ(count(program, QUIRE_OP_NORM), 3u * 4 + 1);
  EXPECT_TRUE(asked_for(weights, "model.layers.2.self_attn.k_norm.weight"));
  const quire_value& normed = program.value(program.ops[3].out[0]);
  EXPECT_EQ(normed.heads, 4u);
  EXPECT_EQ(normed.dim, 32u);
  EXPECT_EQ(error_of(given, {.absent = {"q_norm"}}),
            "model plugin llama: model.safetensors: tensor `model.layers.0.self_attn.q_norm.weight` is missing");
}

TEST_F(LlamaFamily, WindowsFollowTheConfiguration) {
  const auto windows = [&](const MadeUpConfig& from) {
    MadeUpConfig given = from;
    MadeUpWeights weights;
    const Program program = build(given, weights);
    std::vector<uint32_t> found;
    for (const quire_kv_layer& layer : program.kv_layers) found.push_back(program.kv_groups[layer.group].window);
    return found;
  };
  using Windows = std::vector<uint32_t>;
  MadeUpConfig mistral = config("MistralForCausalLM");
  EXPECT_EQ(windows(mistral), (Windows{0, 0, 0}));
  mistral.entries["sliding_window"] = int64_t{16};
  EXPECT_EQ(windows(mistral), (Windows{16, 16, 16}));
  MadeUpConfig qwen = config("Qwen2ForCausalLM");
  qwen.entries["sliding_window"] = int64_t{16};
  EXPECT_EQ(windows(qwen), (Windows{0, 0, 0}));
  qwen.entries["use_sliding_window"] = true;
  qwen.entries["max_window_layers"] = int64_t{2};
  EXPECT_EQ(windows(qwen), (Windows{0, 0, 16}));
  qwen.lengths["layer_types"] = 3;
  qwen.entries["layer_types.0"] = std::string("sliding_attention");
  qwen.entries["layer_types.1"] = std::string("full_attention");
  qwen.entries["layer_types.2"] = std::string("full_attention");
  EXPECT_EQ(windows(qwen), (Windows{16, 0, 0}));
}

TEST_F(LlamaFamily, GraniteScalesWhatOthersDoNot) {
  MadeUpConfig given = config("GraniteForCausalLM");
  given.entries["embedding_multiplier"] = 12.0;
  given.entries["attention_multiplier"] = 0.015625;
  given.entries["residual_multiplier"] = 0.22;
  given.entries["logits_scaling"] = int64_t{8};
  MadeUpWeights weights;
  const Program program = build(given, weights);
  EXPECT_FLOAT_EQ(program.ops[0].u.embed.scale, 12);
  EXPECT_FLOAT_EQ(program.ops[6].u.attend.scale, 0.015625);
  EXPECT_FLOAT_EQ(program.ops[7].u.linear.scale, 0.22f);
  EXPECT_FLOAT_EQ(program.ops.back().u.linear.scale, 0.125);
  MadeUpConfig llama = config("LlamaForCausalLM");
  MadeUpWeights others;
  EXPECT_FLOAT_EQ(build(llama, others).ops[6].u.attend.scale, 0.25); // 1 / sqrt(16)
}

TEST_F(LlamaFamily, GgufOfAPermutedFamilyTurnsPairs) {
  MadeUpConfig given = config("LlamaForCausalLM");
  MadeUpWeights weights;
  EXPECT_EQ(build(given, weights).ops[3].u.rope.kind, static_cast<uint32_t>(QUIRE_ROPE_HALF));
  given.from_gguf = true;
  given.entries["gguf.rope_interleaved"] = true;
  MadeUpWeights again;
  EXPECT_EQ(build(given, again).ops[3].u.rope.kind, static_cast<uint32_t>(QUIRE_ROPE_INTERLEAVED));
}

TEST_F(LlamaFamily, NamesWhatIsMissingOrNotSupported) {
  MadeUpConfig given = config("LlamaForCausalLM");
  EXPECT_EQ(error_of(given, {.absent = {"2.mlp.up_proj"}}),
            "model plugin llama: model.safetensors: tensor `model.layers.2.mlp.up_proj.weight` is missing");
  given.entries["hidden_act"] = std::string("relu2");
  EXPECT_EQ(error_of(given), "model plugin llama: `hidden_act` is relu2, expected silu");
  given = config("LlamaForCausalLM");
  given.entries.erase("intermediate_size");
  EXPECT_EQ(error_of(given),
            "model plugin llama: the model's configuration has no `intermediate_size`, or it is not an integer");
  given = config("LlamaForCausalLM");
  given.entries["num_attention_heads"] = int64_t{-4};
  EXPECT_EQ(error_of(given),
            "model plugin llama: the model's configuration says `num_attention_heads` is -4, expected 1 to 2147483647");
  given = config("LlamaForCausalLM");
  given.entries["num_attention_heads"] = int64_t{3};
  given.entries["head_dim"] = int64_t{16};
  EXPECT_EQ(error_of(given),
            "model plugin llama: op 6 (attend, layer 0): `rope8` has 3 heads, expected a multiple of the cache's 2");
}

TEST_F(LlamaFamily, AWrongShapeNamesTheFileTheTensorAndTheConfigurationsKey) {
  const test::TempFolder folder;
  std::ofstream(folder.path() / "config.json")
      << R"({"architectures": ["LlamaForCausalLM"], "hidden_size": 6, "intermediate_size": 8,
    "vocab_size": 5, "num_hidden_layers": 1, "num_attention_heads": 3, "max_position_embeddings": 16})";
  const std::string header = R"({"model.embed_tokens.weight":{"dtype":"F32","shape":[5,7],"data_offsets":[0,140]}}  )";
  const uint64_t length = header.size();
  std::ofstream file(folder.path() / "model.safetensors", std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof(length))
      .write(header.data(), static_cast<std::streamsize>(length));
  file << std::string(140, '\0');
  file.close();
  const std::shared_ptr<ModelFiles> files = ModelFiles::open(folder.path());
  try {
    build_program(plugin.model, plugin.id, program_source(files));
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "model plugin llama: model.safetensors: tensor `model.embed_tokens.weight` is [5, 7], "
                               "expected [5, 6] from config.json (hidden_size)");
  }
}

} // namespace
} // namespace quire
