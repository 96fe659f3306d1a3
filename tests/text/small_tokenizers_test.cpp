// tokenizer.json files of our own, in many variants, against Hugging Face `tokenizers` (make_small_tokenizers.py).
#include "text/generated_texts.hpp"
#include "text/shared_files.hpp"
#include "text/tokenizer.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <gtest/gtest.h>

#include <charconv>
#include <string>
#include <vector>

namespace quire {
namespace {

boost::json::value golden(const char* name) {
  return boost::json::parse(test::read_file(test::test_data() / "goldens" / name));
}

uint64_t hexadecimal(const boost::json::value& value) {
  const auto& text = value.as_string();
  uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number, 16);
  return number;
}

template <typename Items> void add_to(uint64_t& hash, const Items& items) {
  hash = test::fnv1a(hash, items.size());
  for (const auto item : items)
    hash = test::fnv1a(hash, static_cast<uint64_t>(sizeof item == 1 ? static_cast<uint8_t>(item) : item));
}

TEST(SmallTokenizers, GiveTheOraclesIdsInEveryVariant) {
  const auto all = golden("small_tokenizers.json");
  const boost::json::object bases = {{"bytes", golden("small_bytes.json")},
                                     {"characters", golden("small_characters.json")}};
  std::vector<std::string> texts;
  for (const auto& text : all.at("special").as_array()) texts.emplace_back(text.as_string());
  test::TextGenerator generator;
  const auto count = all.at("count").to_number<size_t>(), group = all.at("group").to_number<size_t>();
  for (uint64_t i = 0; texts.size() < count; ++i) texts.push_back(generator.text(i));
  ASSERT_GE(all.at("variants").as_array().size(), 20u);

  for (const auto& variant : all.at("variants").as_array()) {
    auto json = bases.at(variant.at("base").as_string()).as_object();
    for (const auto& [key, value] : variant.at("patch").as_object()) {
      if (key == "model")
        for (const auto& [model_key, model_value] : value.as_object())
          json["model"].as_object()[model_key] = model_value;
      else
        json[key] = value;
    }
    HuggingFaceTokenizerFiles files;
    files.tokenizer_json = boost::json::serialize(json);
    const std::string name(variant.at("name").as_string());
    const auto tokenizer = Tokenizer::from_huggingface(files, name);
    uint64_t ids_hash = test::fnv1a_start, plain_hash = test::fnv1a_start, decoded_hash = test::fnv1a_start;
    for (size_t i = 0; i < count; ++i) {
      const auto ids = tokenizer->encode(texts[i], {.add_special = true, .parse_special = true});
      add_to(ids_hash, ids);
      add_to(plain_hash, tokenizer->encode(texts[i], {.add_special = false, .parse_special = false}));
      add_to(decoded_hash, tokenizer->decode(ids, {.skip_special = true}));
      if ((i + 1) % group != 0) continue;
      const size_t at = i / group;
      EXPECT_EQ(ids_hash, hexadecimal(variant.at("ids_fnv1a").at(at))) << name << ", texts up to " << i;
      EXPECT_EQ(plain_hash, hexadecimal(variant.at("plain_fnv1a").at(at))) << name << ", plain, texts up to " << i;
      const auto& decoded = variant.at("decoded_fnv1a").as_array();
      if (!decoded.empty()) {
        EXPECT_EQ(decoded_hash, hexadecimal(decoded.at(at))) << name << ", decoded, texts up to " << i;
      }
      ids_hash = plain_hash = decoded_hash = test::fnv1a_start;
    }
  }
}

} // namespace
} // namespace quire
