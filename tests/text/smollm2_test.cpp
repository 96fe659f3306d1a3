// SmolLM2's vocabulary against Hugging Face `tokenizers` (make_smollm2_ids.py).
#include "text/generated_texts.hpp"
#include "text/shared_files.hpp"
#include "text/tokenizer.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/value_to.hpp>
#include <gtest/gtest.h>

#include <charconv>
#include <filesystem>
#include <string>
#include <vector>

namespace quire {
namespace {

uint64_t hexadecimal(const boost::json::value& value) {
  const auto& text = value.as_string();
  uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number, 16);
  return number;
}

class SmolLm2 : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(test::model_file())) GTEST_SKIP() << test::model_file() << " is absent";
    tokenizer = Tokenizer::from_gguf(test::read_vocabulary(test::model_file()), "SmolLM2");
  }
  std::shared_ptr<const Tokenizer> tokenizer;
};

TEST_F(SmolLm2, GivesTheOraclesIdsForTenThousandTextsAndTheSameBytesBack) {
  const auto golden = boost::json::parse(test::read_file(test::test_data() / "goldens" / "smollm2_ids.json"));
  const auto count = golden.at("count").to_number<uint64_t>(), group = golden.at("group").to_number<uint64_t>();
  ASSERT_EQ(count, 10'000u);
  test::TextGenerator generator;
  uint64_t texts_hash = test::fnv1a_start, ids_hash = test::fnv1a_start, tokens = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const std::string text = generator.text(i);
    for (const char byte : text) texts_hash = test::fnv1a(texts_hash, static_cast<uint8_t>(byte));
    const auto ids = tokenizer->encode(text, {.add_special = false});
    tokens += ids.size();
    ids_hash = test::fnv1a(ids_hash, ids.size());
    for (const int32_t id : ids) ids_hash = test::fnv1a(ids_hash, static_cast<uint64_t>(id));
    ASSERT_EQ(tokenizer->decode_bytes(ids, {.skip_special = false}), text) << "text " << i;
    ASSERT_EQ(tokenizer->decode(ids, {.skip_special = false}), text) << "text " << i;
    if ((i + 1) % group == 0) {
      EXPECT_EQ(ids_hash, hexadecimal(golden.at("ids_fnv1a").at(i / group))) << "texts up to " << i;
      ids_hash = test::fnv1a_start;
    }
    if ((i + 1) % 1000 == 0) {
      ASSERT_EQ(texts_hash, hexadecimal(golden.at("texts_fnv1a").at(i / 1000))) << "the generators differ";
      texts_hash = test::fnv1a_start;
    }
  }
  EXPECT_EQ(tokens, golden.at("tokens").to_number<uint64_t>());
}

TEST_F(SmolLm2, GivesTheOraclesIdsForTheExamples) {
  const auto golden = boost::json::parse(test::read_file(test::test_data() / "goldens" / "smollm2_ids.json"));
  for (const auto& example : golden.at("examples").as_array()) {
    const std::string text(example.at("text").as_string());
    EXPECT_EQ(tokenizer->encode(text), boost::json::value_to<std::vector<int32_t>>(example.at("ids"))) << text;
  }
}

TEST_F(SmolLm2, LeavesOutBytesWithoutAToken) {
  // As the oracle does: this vocabulary has no token for U+0004.
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("a\x04"
                                                "b")),
            "ab");
}

TEST_F(SmolLm2, KnowsItsSpecialTokens) {
  EXPECT_EQ(tokenizer->vocab_size(), 49152);
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  EXPECT_FALSE(tokenizer->adds_bos());
  EXPECT_EQ(std::vector<int32_t>(tokenizer->end_ids().begin(), tokenizer->end_ids().end()), (std::vector{0, 2}));
  EXPECT_EQ(tokenizer->encode("<|im_start|>user\nHi<|im_end|>", {.parse_special = true}),
            (std::vector{1, 4093, 198, 26843, 2}));
  const auto plain = tokenizer->encode("<|im_start|>user\nHi<|im_end|>");
  for (const int32_t id : plain) EXPECT_FALSE(tokenizer->is_special(id));
  EXPECT_EQ(tokenizer->decode(plain), "<|im_start|>user\nHi<|im_end|>");
}

} // namespace
} // namespace quire
