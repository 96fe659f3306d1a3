// Public vocabularies with the ids that their authors' tokenizers give (../shared/data/vocabs: .inp and .out beside
// each .gguf).
#include "text/shared_files.hpp"
#include "text/tokenizer.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>
#include <string>
#include <vector>

namespace quire {
namespace {

std::vector<std::string> inputs(const std::filesystem::path& path) {
  static const std::string separator = "\n__ggml_vocab_test__\n";
  const std::string all = test::read_file(path);
  std::vector<std::string> texts;
  size_t at = 0;
  for (size_t end; (end = all.find(separator, at)) != all.npos; at = end + separator.size())
    texts.push_back(all.substr(at, end - at));
  return texts; // the last one is followed by a separator, too
}

std::vector<std::vector<int32_t>> outputs(const std::filesystem::path& path) {
  std::vector<std::vector<int32_t>> ids;
  std::istringstream lines(test::read_file(path));
  for (std::string line; std::getline(lines, line);) {
    std::istringstream numbers(line);
    ids.emplace_back();
    for (int32_t id; numbers >> id;) ids.back().push_back(id);
  }
  return ids;
}

class PublicVocabulary : public testing::TestWithParam<const char*> {};

TEST_P(PublicVocabulary, GivesTheExpectedIds) {
  const auto file = test::shared_data() / "vocabs" / ("ggml-vocab-" + std::string(GetParam()) + ".gguf");
  if (!std::filesystem::exists(file)) GTEST_SKIP() << file << " is absent";
  const auto tokenizer = Tokenizer::from_gguf(test::read_vocabulary(file), file.filename().string());
  const auto texts = inputs(file.string() + ".inp");
  const auto expected = outputs(file.string() + ".out");
  ASSERT_EQ(texts.size(), expected.size());
  ASSERT_GT(texts.size(), 40u);
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto ids = tokenizer->encode(texts[i], {.add_special = false});
    EXPECT_EQ(ids, expected[i]) << "text " << i << ": " << texts[i];
    EXPECT_EQ(tokenizer->decode(ids), texts[i]);
  }
}

INSTANTIATE_TEST_SUITE_P(Shared, PublicVocabulary,
                         testing::Values("gpt-2", "starcoder", "deepseek-llm", "llama-spm", "phi-3"),
                         [](const auto& test_info) {
                           std::string name = test_info.param;
                           for (char& c : name)
                             if (c == '-') c = '_';
                           return name;
                         });

} // namespace
} // namespace quire
