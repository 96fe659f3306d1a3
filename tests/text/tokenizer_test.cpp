// What holds for every tokenizer: bytes come back, hostile texts and files end in a sentence, special tokens are only
// parsed where asked for.
#include "text/generated_texts.hpp"
#include "text/shared_files.hpp"
#include "text/tokenizer.hpp"

#include <quire/error.hpp>

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace quire {
namespace {

std::string small_json(const char* name) {
  return test::read_file(test::test_data() / "goldens" / ("small_" + std::string(name) + ".json"));
}
std::shared_ptr<const Tokenizer> load(const std::string& json) {
  return Tokenizer::from_huggingface({.tokenizer_json = json}, "tokenizer.json");
}

// The small byte-level file, changed.
std::shared_ptr<const Tokenizer> changed(const char* name, const std::function<void(boost::json::object&)>& change) {
  auto json = boost::json::parse(small_json(name)).as_object();
  change(json);
  return load(boost::json::serialize(json));
}

std::string error_of(const std::function<void()>& action) {
  try {
    action();
    return "none";
  } catch (const Error& error) {
    return error.what();
  }
}

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

std::string repeated(std::string_view text, size_t times) {
  std::string out;
  for (; times > 0; --times) out += text;
  return out;
}

RC_GTEST_PROP(Tokenizer, AnyBytesComeBack, ()) {
  static const std::vector<std::shared_ptr<const Tokenizer>> tokenizers = {
      load(small_json("bytes")), load(small_json("characters")), Tokenizer::from_bytes(258)};
  const auto& tokenizer = *rc::gen::elementOf(tokenizers);
  const auto bytes = *rc::gen::container<std::string>(rc::gen::arbitrary<char>());
  const EncodeOptions options{.add_special = *rc::gen::arbitrary<bool>(), .parse_special = *rc::gen::arbitrary<bool>()};
  const auto ids = tokenizer->encode(bytes, options);
  RC_ASSERT(tokenizer->decode_bytes(ids) == bytes || options.parse_special);
  for (const int32_t id : ids) RC_ASSERT(id >= 0 && id < tokenizer->vocab_size());
}

RC_GTEST_PROP(Tokenizer, PlainTextNeverMakesSpecialTokens, ()) {
  static const std::vector<std::shared_ptr<const Tokenizer>> tokenizers = {load(small_json("bytes")),
                                                                           load(small_json("characters"))};
  const auto& tokenizer = *rc::gen::elementOf(tokenizers);
  const auto parts = *rc::gen::container<std::vector<std::string>>(rc::gen::element<std::string>(
      "<|end|>", "<|start|>", "<s>", "</s>", "<unk>", "<|end", "|>", "<", "s>", " ", "a", "\xFF", "<0x41>", "é"));
  std::string text;
  for (const std::string& part : parts) text += part;
  for (const int32_t id : tokenizer->encode(text, {.add_special = false})) RC_ASSERT(!tokenizer->is_special(id));
  // Shielded text stays text even where special tokens are parsed, and is the same text.
  const auto shielded = tokenizer->encode(tokenizer->shield_special(text),
                                          {.add_special = false, .parse_special = true, .shielded = true});
  for (const int32_t id : shielded) RC_ASSERT(!tokenizer->is_special(id));
  std::string without = text;
  std::erase(without, Tokenizer::shield_byte);
  RC_ASSERT(tokenizer->decode_bytes(shielded) == without);
}

TEST(Tokenizer, LongWordsCostNoMoreThanTheyAreLong) {
  for (const char* name : {"bytes", "characters"}) {
    const auto tokenizer = load(small_json(name));
    for (const std::string unit : {"a", " ", "ab", "0", "\n", "é", "the", "\xFF", "\xE6\x97", "a ", " \t", "日", "'",
                                   "\u2581", "<|", "<|end|>"}) {
      const auto cost = [&](size_t bytes) {
        if (unit == "\u2581" && name == std::string_view("characters")) return 0.0; // is a space there
        const std::string text = repeated(unit, bytes / unit.size());
        double best = 1e9;
        for (int attempt = 0; attempt < 2; ++attempt) {
          const double before = thread_seconds();
          const auto ids = tokenizer->encode(text, {.add_special = false});
          best = std::min(best, thread_seconds() - before);
          EXPECT_EQ(tokenizer->decode_bytes(ids, {.skip_special = false}), text) << name << unit;
        }
        return best;
      };
      const size_t most = std::getenv("QUIRE_FULL") ? size_t{1} << 21 : size_t{1} << 18;
      const double once = cost(most / 16), sixteen = cost(most);
      EXPECT_LT(sixteen, 16 * 6 * once + 0.05) << name << " \"" << unit << "\": " << once << " s, " << sixteen << " s";
    }
  }
}

TEST(Tokenizer, PatternsThatBlowUpEndInASentence) {
  std::vector<const char*> patterns = {"(a+)+$", "(?:\\s++x|a)+y", "(.*)*(.*)*(.*)*x"};
  if (std::getenv("QUIRE_FULL"))
    patterns.insert(patterns.end(), {"(a|aa)+$", "(a*)*b", "(a?){60}a{60}", "((a{0,20}){0,20}){0,20}b", "(?=(a+)+b)",
                                     "\\s+x|.", "(?:a++b|a)"});
  for (const char* pattern : patterns) {
    const auto tokenizer = changed("bytes", [&](boost::json::object& json) {
      json["pre_tokenizer"] = {{"type", "Sequence"},
                               {"pretokenizers",
                                {{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}},
                                 {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
    });
    const double before = thread_seconds();
    const std::string error =
        error_of([&] { (void)tokenizer->encode(repeated("a", 5000) + "c" + repeated("a ", 5000)); });
    EXPECT_LT(thread_seconds() - before, 20) << pattern;
    if (error != "none") {
      EXPECT_TRUE(error.starts_with("tokenizer.json: pre_tokenizer")) << error;
      EXPECT_NE(error.find("the regular expression "), error.npos) << error;
    }
    EXPECT_EQ(tokenizer->decode_bytes(tokenizer->encode("aab")), "aab") << pattern; // short texts are no trouble
  }
  const auto hopeless = changed("bytes", [&](boost::json::object& json) {
    json["pre_tokenizer"].as_object() = {
        {"type", "Split"}, {"pattern", {{"Regex", "(a+)+$"}}}, {"behavior", "Isolated"}};
  });
  EXPECT_NE(error_of([&] { (void)hopeless->encode(repeated("a", 60) + "c"); }), "none");
}

TEST(Tokenizer, TextsBeyondTheLimitAreRefused) {
  const auto tokenizer = Tokenizer::from_bytes(256);
  const std::string_view beyond("x", Tokenizer::max_text_bytes + 1); // never read
  EXPECT_EQ(error_of([&] { (void)tokenizer->encode(beyond); }),
            "a text of 1073741825 bytes is too long to tokenize; at most 1073741824 are taken");
}

TEST(Tokenizer, EncodesTheSameOnManyThreads) {
  const auto tokenizer = load(small_json("bytes"));
  test::TextGenerator generator;
  std::vector<std::string> texts;
  for (int i = 0; i < 50; ++i) texts.push_back(generator.text(static_cast<uint64_t>(i)));
  std::vector<std::vector<int32_t>> expected;
  for (const std::string& text : texts) expected.push_back(tokenizer->encode(text));
  std::atomic<int> different = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int n = 0; n < 4; ++n)
        for (size_t i = 0; i < texts.size(); ++i) different += tokenizer->encode(texts[i]) != expected[i];
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(different, 0);
}

TEST(Tokenizer, ByteTokenizerCountsFromZero) {
  EXPECT_EQ(error_of([] { (void)Tokenizer::from_bytes(255); }),
            "a byte tokenizer needs a vocabulary of 256 ids or more, the model has 255");
  const auto plain = Tokenizer::from_bytes(256), full = Tokenizer::from_bytes(1000);
  EXPECT_EQ(plain->encode("\x01z"), (std::vector<int32_t>{1, 'z'}));
  EXPECT_EQ(full->encode("z"), (std::vector<int32_t>{256, 'z'}));
  EXPECT_EQ(full->vocab_size(), 1000);
  EXPECT_EQ(full->bos(), 256);
  EXPECT_TRUE(full->is_end(257));
  EXPECT_EQ(full->decode(std::vector<int32_t>{256, 'z', 257, 999}), "z");
  EXPECT_FALSE(plain->bos());
}

TEST(Tokenizer, TokensKnowTheirBytesAndSpelling) {
  const auto bytes = load(small_json("bytes")), characters = load(small_json("characters"));
  const int32_t the = *bytes->id_of("\u0120the");
  EXPECT_EQ(bytes->token_bytes(the), " the");
  EXPECT_EQ(bytes->token_text(the), "\u0120the");
  EXPECT_EQ(bytes->token_bytes(-1), "");
  EXPECT_EQ(bytes->token_bytes(1 << 20), "");
  EXPECT_EQ(characters->token_bytes(*characters->id_of("<0x0A>")), "\n");
  EXPECT_EQ(characters->token_bytes(*characters->id_of("\u2581")), " ");
  EXPECT_TRUE(characters->is_special(*characters->id_of("</s>")));
  EXPECT_FALSE(characters->is_special(the));
  EXPECT_FALSE(characters->id_of("no such token"));
}

TEST(Tokenizer, SpecialTokensComeFromTheFilesThatNameThem) {
  HuggingFaceTokenizerFiles files{.tokenizer_json = small_json("characters")};
  EXPECT_FALSE(Tokenizer::from_huggingface(files, "t")->bos());
  files.tokenizer_config_json =
      R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "tokenizer_class": "LlamaTokenizerFast", "add_bos_token": true})";
  files.generation_config_json = R"({"eos_token_id": [2, 5, 999999, -4]})";
  const auto tokenizer = Tokenizer::from_huggingface(files, "t");
  EXPECT_EQ(tokenizer->bos(), 1);
  EXPECT_EQ(tokenizer->eos(), 2);
  EXPECT_EQ(tokenizer->unk(), 0);
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_FALSE(tokenizer->adds_eos());
  EXPECT_EQ(tokenizer->encode("").front(), 1);
  EXPECT_EQ(std::vector<int32_t>(tokenizer->end_ids().begin(), tokenizer->end_ids().end()),
            (std::vector<int32_t>{2, 5}));
  EXPECT_TRUE(tokenizer->strips_leading_space());
}

TEST(TokenizerFile, WhatIsWrongIsNamed) {
  const auto error_with = [](const std::function<void(boost::json::object&)>& change) {
    return error_of([&] { (void)changed("bytes", change); });
  };
  const auto model = [](boost::json::object& json) -> boost::json::object& { return json["model"].as_object(); };
  EXPECT_TRUE(error_of([] { (void)load("{"); }).starts_with("tokenizer.json is not valid JSON"));
  EXPECT_EQ(error_of([] { (void)load("[]"); }), "tokenizer.json is not an object");
  EXPECT_EQ(error_of([] { (void)load("{}"); }), "tokenizer.json: model is missing; it must be an object");
  EXPECT_EQ(error_with([&](auto& j) { model(j)["type"] = "Unigram"; }),
            "tokenizer.json: model.type is \"Unigram\"; this version supports BPE only");
  EXPECT_EQ(error_with([&](auto& j) { model(j)["end_of_word_suffix"] = "</w>"; }),
            "tokenizer.json: model.end_of_word_suffix is set, which this version does not support");
  EXPECT_EQ(error_with([&](auto& j) { model(j)["dropout"] = 0.1; }),
            "tokenizer.json: model.dropout is set, which would make tokens random; remove it");
  EXPECT_EQ(error_with([&](auto& j) { model(j)["vocab"] = boost::json::array(); }),
            "tokenizer.json: model.vocab is not an object of tokens and their ids");
  EXPECT_EQ(error_with([&](auto& j) { model(j)["vocab"].as_object()["!"] = 1 << 30; }),
            "tokenizer.json: an id of model.vocab is 1073741824; a token id lies between 0 and 16777215");
  EXPECT_EQ(error_with([&](auto& j) { model(j)["vocab"].as_object()["!"] = -1; }),
            "tokenizer.json: an id of model.vocab is -1; a token id lies between 0 and 16777215");
  EXPECT_EQ(error_with([&](auto& j) { model(j)["vocab"].as_object()["!"] = 3; }),
            "tokenizer.json: model.vocab gives id 3 to \"\"\" and to \"!\"");
  EXPECT_EQ(error_with([&](auto& j) { model(j)["merges"].as_array()[0] = "x"; }),
            "tokenizer.json: model.merges[0] is not two tokens with a space between them");
  EXPECT_EQ(error_with([&](auto& j) { model(j)["merges"].as_array()[0] = "no such"; }),
            "tokenizer.json: model.merges[0] names \"no\", which is not in model.vocab");
  EXPECT_EQ(error_with([&](auto& j) { model(j)["merges"].as_array()[0] = boost::json::array{"a"}; }),
            "tokenizer.json: model.merges[0] is not two tokens");
  EXPECT_EQ(error_with([&](auto& j) { model(j)["merges"] = 5; }), "tokenizer.json: model.merges is not an array");
  EXPECT_EQ(error_with([&](auto& j) { model(j)["unk_token"] = "nope"; }),
            "tokenizer.json: model.unk_token is not in the vocabulary");
  EXPECT_EQ(error_with([&](auto& j) {
              j["normalizer"] = {{"type", "Precompiled"}};
            }),
            "tokenizer.json: normalizer has type \"Precompiled\", which this version does not support");
  EXPECT_EQ(error_with([&](auto& j) {
              j["pre_tokenizer"] = {{"type", "UnicodeScripts"}};
            }),
            "tokenizer.json: pre_tokenizer has type \"UnicodeScripts\", which this version does not support");
  EXPECT_EQ(error_with([&](auto& j) {
              j["decoder"] = {{"type", "WordPiece"}};
            }),
            "tokenizer.json: decoder has type \"WordPiece\", which this version does not support");
  EXPECT_EQ(error_with([&](auto& j) { j["added_tokens"].as_array()[0].as_object()["id"] = 7; }),
            "tokenizer.json: added_tokens[0].id differs from the id that model.vocab gives to the same token");
  EXPECT_EQ(
      error_with([&](auto& j) { j["added_tokens"].as_array()[0].as_object()["content"] = std::string(600, 'x'); }),
      "tokenizer.json: added_tokens[0].content has 600 bytes; at most 512 are allowed");
  EXPECT_EQ(error_with([&](auto& j) {
              j["post_processor"] = {{"type", "RobertaProcessing"}, {"cls", {"x", 99999}}, {"sep", {"x", 0}}};
            }),
            "tokenizer.json: post_processor.cls[1] is the id of no token");
  const auto split = [](const char* regex) {
    return boost::json::value{{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}};
  };
  EXPECT_TRUE(error_with([&](auto& j) {
                j["pre_tokenizer"] = split("(a");
              }).starts_with("tokenizer.json: pre_tokenizer.pattern: the regular expression does not compile: "));
  EXPECT_EQ(error_with([&](auto& j) { j["pre_tokenizer"] = split("[a&&b]"); }),
            "tokenizer.json: pre_tokenizer.pattern: the regular expression uses an intersection of character classes, "
            "which this version does not support");
  EXPECT_EQ(error_with([&](auto& j) { j["pre_tokenizer"] = split("[a[^b]]"); }),
            "tokenizer.json: pre_tokenizer.pattern: the regular expression uses a negated class inside a character "
            "class, which this version does not support");
  EXPECT_EQ(error_of([] { (void)Tokenizer::from_folder("/nonexistent"); }),
            "/nonexistent/tokenizer.json is missing or empty; a model folder needs it");
}

GgufVocabulary tiny_vocabulary() {
  GgufVocabulary v;
  v.model = "llama";
  v.tokens = {"<unk>", "<s>", "</s>", "a", "b", "ab", "\u2581", "\u2581a", "<0x0A>"};
  v.token_types = {2, 3, 3, 1, 1, 1, 1, 1, 6};
  v.scores = {0, 0, 0, -3, -4, -1, -5, -2, 0};
  v.bos_id = 1;
  v.eos_id = 2;
  v.unk_id = 0;
  return v;
}

TEST(GgufVocabularies, AreCheckedBeforeTheyAreUsed) {
  const auto error_with = [](const std::function<void(GgufVocabulary&)>& change) {
    GgufVocabulary v = tiny_vocabulary();
    change(v);
    return error_of([&] { (void)Tokenizer::from_gguf(v, "m.gguf"); });
  };
  EXPECT_EQ(error_with([](auto&) {}), "none");
  EXPECT_EQ(error_with([](auto& v) { v.model = "bert"; }),
            "m.gguf: tokenizer.ggml.model \"bert\" is not supported; byte-level BPE (\"gpt2\") and SentencePiece-style "
            "BPE (\"llama\") are");
  EXPECT_EQ(error_with([](auto& v) { v.tokens.clear(); }),
            "m.gguf: tokenizer.ggml.tokens is empty or missing, so the file has no vocabulary");
  EXPECT_EQ(error_with([](auto& v) { v.scores.pop_back(); }),
            "m.gguf: tokenizer.ggml.scores has 8 entries, tokenizer.ggml.tokens has 9");
  EXPECT_EQ(error_with([](auto& v) { v.scores.clear(); }),
            "m.gguf: tokenizer.ggml.scores is missing; a \"llama\" vocabulary needs it");
  EXPECT_EQ(error_with([](auto& v) { v.scores[3] = NAN; }),
            "m.gguf: tokenizer.ggml.scores has an entry that is not a number");
  EXPECT_EQ(error_with([](auto& v) { v.eos_id = 9; }),
            "m.gguf: tokenizer.ggml.eos_token_id is 9, but the vocabulary has 9 tokens");
  EXPECT_EQ(error_with([](auto& v) { v.bos_id.reset(), v.add_bos = true; }),
            "m.gguf: tokenizer.ggml.add_bos_token is true, but tokenizer.ggml.bos_token_id is missing");
  EXPECT_EQ(error_with([](auto& v) { v.model = "gpt2"; }),
            "m.gguf: tokenizer.ggml.merges is missing; a \"gpt2\" vocabulary needs it");
  EXPECT_EQ(error_with([](auto& v) { v.model = "gpt2", v.merges = {"ab"}; }),
            "m.gguf: tokenizer.ggml.merges[0] is not two symbols with a space between them");
  EXPECT_TRUE(
      error_with([](auto& v) { v.model = "gpt2", v.merges = {"a b"}, v.pre = "unheard-of"; })
          .starts_with(
              "m.gguf: tokenizer.ggml.pre \"unheard-of\" is not a pre-tokenizer that this version knows; known are "));
}

TEST(GgufVocabularies, MergeByScore) {
  const auto tokenizer = Tokenizer::from_gguf(tiny_vocabulary(), "m.gguf");
  // "▁ab": "ab" has the better score than "▁a".
  EXPECT_EQ(tokenizer->encode("ab", {.add_special = false}), (std::vector<int32_t>{6, 5}));
  EXPECT_EQ(tokenizer->encode("a\nc"), (std::vector<int32_t>{1, 7, 8, 0}));
  EXPECT_EQ(tokenizer->decode(std::vector<int32_t>{1, 7, 8, 5}), "a\nab");
  // A merge may not make a control token.
  GgufVocabulary v = tiny_vocabulary();
  v.tokens.insert(v.tokens.end(), {"<", "s", ">", "<s"});
  v.token_types.insert(v.token_types.end(), {1, 1, 1, 1});
  v.scores.insert(v.scores.end(), {-6, -6, -6, -1});
  const auto tricked = Tokenizer::from_gguf(v, "m.gguf");
  EXPECT_EQ(tricked->encode("<s>", {.add_special = false}), (std::vector<int32_t>{6, 12, 11}));
}

TEST(GgufVocabularies, EveryNamedPreTokenizerLoads) {
  GgufVocabulary v = tiny_vocabulary();
  v.model = "gpt2";
  v.merges = {"a b"};
  for (const char* name :
       {"",         "default",      "gpt-2",          "smollm",      "starcoder",  "llama-bpe", "qwen2",
        "qwen35",   "gpt-4o",       "tekken",         "bailingmoe",  "seed-coder", "bloom",     "viking",
        "superbpe", "deepseek-llm", "deepseek-coder", "deepseek-v3", "falcon",     "dbrx",      "mpt"}) {
    v.pre = name;
    const auto tokenizer = Tokenizer::from_gguf(v, "m.gguf");
    EXPECT_EQ(tokenizer->decode(tokenizer->encode("ab ab\nab")), "ababab") << name; // there are tokens for a and b only
  }
}

} // namespace
} // namespace quire
