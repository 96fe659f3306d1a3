// config.json as flat keys, and the ABI's view of it.
#include "weights/config.hpp"

#include "support/expect_error.hpp"

#include <gtest/gtest.h>

namespace quire {
namespace {

Config parse(std::string_view text) { return Config::from_json(text, "config.json"); }

TEST(Config, KeysAreJoinedByDots) {
  const Config config = parse(R"({"hidden_size": 576, "eps": 1e-5, "theta": 1000000.0, "tie": true, "none": null,
    "rope_scaling": {"factor": 8, "deep": {"x": "y"}}, "architectures": ["A", "B"], "empty": []})");
  EXPECT_EQ(config.integer("hidden_size"), 576);
  EXPECT_EQ(config.real("hidden_size"), 576.0) << "an integer is a real too";
  EXPECT_EQ(config.real("eps"), 1e-5);
  EXPECT_EQ(config.integer("eps"), std::nullopt);
  EXPECT_EQ(config.integer("theta"), 1000000) << "a real without a fraction is an integer";
  EXPECT_EQ(config.boolean("tie"), true);
  EXPECT_EQ(config.integer("tie"), std::nullopt);
  EXPECT_FALSE(config.has("none"));
  EXPECT_EQ(config.integer("rope_scaling.factor"), 8);
  EXPECT_EQ(*config.string("rope_scaling.deep.x"), "y");
  EXPECT_TRUE(config.has("rope_scaling"));
  EXPECT_FALSE(config.has("rope_scal"));
  EXPECT_EQ(config.length("architectures"), 2u);
  EXPECT_EQ(*config.string("architectures.1"), "B");
  EXPECT_EQ(config.length("empty"), 0u);
  EXPECT_EQ(config.length("hidden_size"), std::nullopt);
  EXPECT_EQ(config.string("hidden_size"), nullptr);
}

TEST(Config, NumbersBeyondAnIntegerAreReals) {
  const Config config = parse(R"({"max": 18446744073709551615, "model_max_length": 1000000000000000019884624838656})");
  EXPECT_EQ(config.integer("max"), std::nullopt);
  EXPECT_EQ(config.real("max"), 0x1p64);
  EXPECT_NEAR(*config.real("model_max_length"), 1e30, 1e15);
}

TEST(Config, BrokenTextIsRefused) {
  EXPECT_ERROR(parse("{"), "config.json is not valid JSON");
  EXPECT_ERROR(parse("[]"), "config.json must hold a JSON object");
  EXPECT_ERROR(parse(""), "not valid JSON");
  EXPECT_ERROR(parse("{\"a\":\"\xff\"}"), "not valid JSON");
  EXPECT_ERROR(parse("{} {}"), "not valid JSON");
  std::string deep;
  for (int i = 0; i < 100000; ++i) deep += "{\"a\":";
  EXPECT_ERROR(parse(deep), "not valid JSON");
  std::string nested;
  for (int i = 0; i < 20; ++i) nested += "{\"a\":";
  EXPECT_NO_THROW(parse(nested + "1" + std::string(20, '}')));
}

TEST(Config, MissingKeysAreNamed) {
  const Config config = parse(R"({"hidden_size": "big"})");
  EXPECT_ERROR(config.require_integer("num_hidden_layers"), "config.json: `num_hidden_layers` is missing");
  EXPECT_ERROR(config.require_integer("hidden_size"), "`hidden_size` is not an integer");
  EXPECT_ERROR(config.require_real("hidden_size"), "`hidden_size` is not a number");
}

TEST(Config, NewerWordsAreGivenInTheOlderOnes) {
  const Config rope =
      parse(R"({"rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", "factor": 32}, "dtype": "bfloat16"})");
  EXPECT_EQ(rope.real("rope_theta"), 5e5);
  EXPECT_EQ(*rope.string("rope_scaling.rope_type"), "llama3");
  EXPECT_EQ(rope.real("rope_scaling.factor"), 32);
  EXPECT_EQ(*rope.string("torch_dtype"), "bfloat16");
  EXPECT_FALSE(parse(R"({"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}})").has("rope_scaling"));
  EXPECT_EQ(*parse(R"({"rope_scaling": {"type": "linear", "factor": 2}})").string("rope_scaling.rope_type"), "linear");

  const Config kinds =
      parse(R"({"rope_parameters": {"full_attention": {"rope_theta": 1e6, "rope_type": "linear", "factor": 8},
    "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}}})");
  EXPECT_EQ(kinds.real("rope_theta"), 1e6);
  EXPECT_EQ(kinds.real("rope_local_base_freq"), 1e4);
  EXPECT_EQ(kinds.real("rope_scaling.factor"), 8);

  const Config wrapped =
      parse(R"({"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 7,
    "layer_types": ["a", "b"], "rope_scaling": {"factor": 8, "rope_type": "linear"}}})");
  EXPECT_EQ(wrapped.integer("hidden_size"), 7);
  EXPECT_EQ(*wrapped.string("model_type"), "gemma3") << "what the top level says stays";
  EXPECT_EQ(wrapped.length("layer_types"), 2u);
  EXPECT_EQ(*wrapped.string("layer_types.1"), "b");
  EXPECT_EQ(wrapped.real("rope_scaling.factor"), 8);
}

TEST(Config, JsonComesBackNested) {
  const char* text =
      R"({"a":[1,{"b":true},[]],"c":{"d":2.5,"e":"x"},"list":["p","q","r","s","t","u","v","w","x","y","z"]})";
  const Config config = parse(text);
  const Config again = parse(config.to_json());
  EXPECT_EQ(again.values(), config.values());
  EXPECT_EQ(again.lengths(), config.lengths());
}

TEST(Config, TheAbiSeesTheSame) {
  const Config config = parse(R"({"i": 3, "r": 2.5, "b": true, "s": "text", "a": [1, 2]})");
  const quire_config view = as_quire_config(config, true);
  EXPECT_EQ(view.struct_size, sizeof view);
  EXPECT_EQ(view.from_gguf, 1u);
  EXPECT_EQ(as_quire_config(config, false).from_gguf, 0u);
  int64_t integer = 0;
  double real = 0;
  int32_t boolean = 0;
  const char* string = nullptr;
  uint64_t length = 0;
  EXPECT_TRUE(view.integer(view.self, "i", &integer) && integer == 3);
  EXPECT_TRUE(view.real(view.self, "r", &real) && real == 2.5);
  EXPECT_TRUE(view.real(view.self, "i", &real) && real == 3);
  EXPECT_TRUE(view.boolean(view.self, "b", &boolean) && boolean == 1);
  EXPECT_TRUE(view.string(view.self, "s", &string) && std::string(string) == "text");
  EXPECT_TRUE(view.length(view.self, "a", &length) && length == 2);
  EXPECT_FALSE(view.integer(view.self, "s", &integer));
  EXPECT_FALSE(view.string(view.self, "absent", &string));
  EXPECT_FALSE(view.length(view.self, "i", &length));
}

} // namespace
} // namespace quire
