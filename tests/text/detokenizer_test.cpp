#include "text/detokenizer.hpp"
#include "text/shared_files.hpp"
#include "text/tokenizer.hpp"
#include "text/utf8.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <string>
#include <vector>

namespace quire {
namespace {

std::shared_ptr<const Tokenizer> small(const char* name) {
  return Tokenizer::from_huggingface(
      {.tokenizer_json = test::read_file(test::test_data() / "goldens" / ("small_" + std::string(name) + ".json"))},
      name);
}

// The rule once more, by enumeration: a maximal prefix of some valid character, or one byte, is one U+FFFD (Unicode
// chapter 3.9, table 3-7).
bool in(unsigned char byte, int low, int high) { return byte >= low && byte <= high; }
bool well_formed(const std::string& s, size_t length) { // a prefix of a row of the table
  const auto b = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  static constexpr int rows[][8] = {{0x00, 0x7F},
                                    {0xC2, 0xDF, 0x80, 0xBF},
                                    {0xE0, 0xE0, 0xA0, 0xBF, 0x80, 0xBF},
                                    {0xE1, 0xEC, 0x80, 0xBF, 0x80, 0xBF},
                                    {0xED, 0xED, 0x80, 0x9F, 0x80, 0xBF},
                                    {0xEE, 0xEF, 0x80, 0xBF, 0x80, 0xBF},
                                    {0xF0, 0xF0, 0x90, 0xBF, 0x80, 0xBF, 0x80, 0xBF},
                                    {0xF1, 0xF3, 0x80, 0xBF, 0x80, 0xBF, 0x80, 0xBF},
                                    {0xF4, 0xF4, 0x80, 0x8F, 0x80, 0xBF, 0x80, 0xBF}};
  for (const auto& row : rows) {
    bool fits = true;
    for (size_t i = 0; i < s.size() && fits; ++i)
      fits = i < 4 && in(b(i), row[2 * i], row[2 * i + 1]) && (i == 0 || row[2 * i] != 0);
    const size_t row_length = row[2] == 0 ? 1 : row[4] == 0 ? 2 : row[6] == 0 ? 3 : 4;
    if (fits && s.size() <= row_length && (length == 0 || s.size() == row_length)) return true;
  }
  return false;
}
std::string replaced(const std::string& bytes) {
  std::string out;
  for (size_t at = 0; at < bytes.size();) {
    size_t size = 1;
    while (at + size < bytes.size() && well_formed(bytes.substr(at, size + 1), 0)) ++size;
    const std::string piece = bytes.substr(at, size);
    out += well_formed(piece, 1) ? piece : std::string(utf8_replacement);
    at += size;
  }
  return out;
}

TEST(Detokenizer, NeverEmitsPartOfACharacter) {
  const auto tokenizer = Tokenizer::from_bytes(258);
  Detokenizer detokenizer(tokenizer);
  const std::string text = "a\xC3\xA9\xE6\x97\xA5\xF0\x9F\x99\x82";
  std::vector<std::string> chunks;
  for (const char byte : text) chunks.push_back(detokenizer.push(static_cast<unsigned char>(byte)));
  EXPECT_EQ(chunks, (std::vector<std::string>{"a", "", "é", "", "", "日", "", "", "", "🙂"}));
  EXPECT_EQ(detokenizer.flush(), "");
}

TEST(Detokenizer, ReplacesWhatCannotBecomeACharacter) {
  const auto tokenizer = Tokenizer::from_bytes(256);
  const auto chunks = [&](const std::string& bytes) {
    Detokenizer detokenizer(tokenizer);
    std::vector<std::string> result;
    for (const char byte : bytes) result.push_back(detokenizer.push(static_cast<unsigned char>(byte)));
    result.push_back(detokenizer.flush());
    return result;
  };
  using Chunks = std::vector<std::string>;
  EXPECT_EQ(chunks("\xC3"
                   "a"),
            (Chunks{"",
                    "\uFFFD"
                    "a",
                    ""}));
  EXPECT_EQ(chunks("\xE6\x97"), (Chunks{"", "", "\uFFFD"}));
  EXPECT_EQ(chunks("\xF0\x9F\xC3\xA9"), (Chunks{"", "", "\uFFFD", "é", ""}));
  EXPECT_EQ(chunks("\xED\xA0\x80"), (Chunks{"", "\uFFFD\uFFFD", "\uFFFD", ""})); // a surrogate
  EXPECT_EQ(chunks("\xC0\xAF\xFF"), (Chunks{"\uFFFD", "\uFFFD", "\uFFFD", ""})); // overlong; never valid
  EXPECT_EQ(chunks("\xF4\x90"), (Chunks{"", "\uFFFD\uFFFD", ""}));               // above U+10FFFF
}

TEST(Detokenizer, LeavesOutWhatIsNotText) {
  const auto tokenizer = Tokenizer::from_bytes(300);
  Detokenizer detokenizer(tokenizer);
  EXPECT_EQ(detokenizer.push(256), ""); // BOS
  EXPECT_EQ(detokenizer.push(299), ""); // no token
  EXPECT_EQ(detokenizer.push(-1), "");
  EXPECT_EQ(detokenizer.push(1 << 30), "");
  // A special token that is left out does not break a character.
  std::string text;
  for (const int32_t id : {0xC3, 257, 0xA9}) detokenizer.push(id, text);
  EXPECT_EQ(text, "é");
  Detokenizer all(tokenizer, {.skip_special = false});
  text.clear();
  for (const int32_t id : {0xC3, 257, 0xA9}) all.push(id, text);
  EXPECT_EQ(text, "\uFFFD</s>\uFFFD");
}

TEST(Detokenizer, TakesOffTheLeadingSpaceOnce) {
  const auto tokenizer = small("characters");
  const int32_t space = *tokenizer->id_of("\u2581"), a = *tokenizer->id_of("a"), bos = *tokenizer->id_of("<s>");
  const auto text = [&](const std::vector<int32_t>& ids, DecodeOptions options, bool at_start) {
    Detokenizer detokenizer(tokenizer, options, at_start);
    std::string out;
    for (const int32_t id : ids) out += detokenizer.push(id);
    return out + detokenizer.flush();
  };
  EXPECT_EQ(text({space, a, space, a}, {}, true), "a a");
  EXPECT_EQ(text({space, space, a}, {}, true), " a");
  EXPECT_EQ(text({a, space}, {}, true), "a ");
  EXPECT_EQ(text({bos, space, a}, {}, true), "a");
  EXPECT_EQ(text({bos, space, a}, {.skip_special = false}, true), "<s> a");
  EXPECT_EQ(text({space, a}, {}, false), " a"); // goes on with a text
}

RC_GTEST_PROP(Detokenizer, GivesWhatDecodeGives, ()) {
  static const std::vector<std::shared_ptr<const Tokenizer>> tokenizers = {Tokenizer::from_bytes(258), small("bytes"),
                                                                           small("characters")};
  const auto& tokenizer = *rc::gen::elementOf(tokenizers);
  const auto ids = *rc::gen::container<std::vector<int32_t>>(rc::gen::inRange(-1, tokenizer->vocab_size() + 1));
  const DecodeOptions options{.skip_special = *rc::gen::arbitrary<bool>()};
  Detokenizer detokenizer(tokenizer, options);
  std::string joined;
  for (const int32_t id : ids) {
    const std::string chunk = detokenizer.push(id);
    RC_ASSERT(utf8_valid_prefix(chunk) == chunk.size());
    RC_ASSERT(detokenizer.pending_bytes() < 4);
    joined += chunk;
  }
  joined += detokenizer.flush();
  RC_ASSERT(joined == tokenizer->decode(ids, options));
  RC_ASSERT(joined == replaced(tokenizer->decode_bytes(ids, options)));
}

RC_GTEST_PROP(Detokenizer, GivesWhatDecodeGivesForHostileBytes, ()) {
  static const auto tokenizer = Tokenizer::from_bytes(256);
  // Leads and continuations near every edge of the table.
  const auto ids = *rc::gen::container<std::vector<int32_t>>(rc::gen::element(0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0,
                                                                              0xBF, 0xC0, 0xC2, 0xDF, 0xE0, 0xE1, 0xED,
                                                                              0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF));
  Detokenizer detokenizer(tokenizer);
  std::string joined;
  for (const int32_t id : ids) joined += detokenizer.push(id);
  joined += detokenizer.flush();
  RC_ASSERT(joined == replaced(tokenizer->decode_bytes(ids)));
}

} // namespace
} // namespace quire
