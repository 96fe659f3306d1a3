// The Unicode tables against Python's (make_unicode.py), over every character.
#include "text/generated_texts.hpp"
#include "text/shared_files.hpp"
#include "text/unicode/unicode.hpp"
#include "text/utf8.hpp"

#include <boost/json/parse.hpp>
#include <gtest/gtest.h>

#include <charconv>
#include <string>

namespace quire {
namespace {

class UnicodeTables : public testing::Test {
 protected:
  const boost::json::value golden = boost::json::parse(test::read_file(test::test_data() / "goldens" / "unicode.json"));

  static uint64_t hexadecimal(const boost::json::value& value) {
    const auto& text = value.as_string();
    uint64_t number = 0;
    std::from_chars(text.data(), text.data() + text.size(), number, 16);
    return number;
  }

  template <typename Visit> void each_character(Visit visit) const {
    const auto last = golden.at("last").to_number<uint32_t>();
    for (char32_t code = 0; code <= last; ++code)
      if (code < 0xD800 || code > 0xDFFF) visit(code);
  }

  static void add_codes(uint64_t& hash, const std::string& text) {
    for (size_t at = 0; at < text.size();) {
      const Utf8Step step = utf8_step(text, at);
      hash = test::fnv1a(hash, step.code);
      at += step.size;
    }
  }

  // Hash of (character, result) wherever the result differs from the character.
  template <typename Function> uint64_t changed(Function function) const {
    uint64_t hash = test::fnv1a_start;
    each_character([&](char32_t code) {
      std::string character;
      append_utf8(character, code);
      const std::string result = function(character, code);
      if (result == character) return;
      hash = test::fnv1a(hash, code);
      add_codes(hash, result);
    });
    return hash;
  }

  uint64_t holds(bool (*predicate)(char32_t)) const {
    uint64_t hash = test::fnv1a_start;
    each_character([&](char32_t code) {
      if (predicate(code)) hash = test::fnv1a(hash, code);
    });
    return hash;
  }
};

constexpr std::pair<const char*, unicode::Form> forms[] = {{"NFC", unicode::Form::nfc},
                                                           {"NFD", unicode::Form::nfd},
                                                           {"NFKC", unicode::Form::nfkc},
                                                           {"NFKD", unicode::Form::nfkd}};

TEST_F(UnicodeTables, NormalizeEveryCharacterAsPythonDoes) {
  for (const auto& [name, form] : forms)
    EXPECT_EQ(changed([&, f = form](const std::string& text, char32_t) { return unicode::normalize(text, f); }),
              hexadecimal(golden.at("forms").at(name)))
        << name;
}

TEST_F(UnicodeTables, NormalizeSequencesAsPythonDoes) {
  const auto& parts = golden.at("parts").as_array();
  for (const auto& [name, form] : forms) {
    uint64_t state = 1, hash = test::fnv1a_start;
    const auto next = [&] { return (state = state * 6364136223846793005u + 1442695040888963407u) >> 33; };
    for (int i = 0; i < 20000; ++i) {
      std::string text;
      for (uint64_t count = 1 + next() % 6; count > 0; --count)
        append_utf8(text, parts[next() % parts.size()].to_number<uint32_t>());
      add_codes(hash, unicode::normalize(text, form));
    }
    EXPECT_EQ(hash, hexadecimal(golden.at("sequences").at(name))) << name;
  }
}

TEST_F(UnicodeTables, MapCaseAsPythonDoes) {
  const auto mapped = [&](void (*append)(std::string&, char32_t)) {
    return changed([&](const std::string&, char32_t code) {
      std::string out;
      append(out, code);
      return out;
    });
  };
  EXPECT_EQ(mapped(unicode::append_lower), hexadecimal(golden.at("lower")));
  EXPECT_EQ(mapped(unicode::append_upper), hexadecimal(golden.at("upper")));
  EXPECT_EQ(mapped(unicode::append_title), hexadecimal(golden.at("title")));
}

TEST_F(UnicodeTables, ClassifyAsPythonDoes) {
  EXPECT_EQ(holds(unicode::is_python_space), hexadecimal(golden.at("space")));
  EXPECT_EQ(holds(unicode::is_printable), hexadecimal(golden.at("printable")));
  EXPECT_EQ(holds(unicode::is_alpha), hexadecimal(golden.at("alpha")));
  EXPECT_EQ(holds(unicode::is_decimal), hexadecimal(golden.at("decimal")));
  EXPECT_EQ(holds(unicode::is_digit), hexadecimal(golden.at("digit")));
  EXPECT_EQ(holds(unicode::is_numeric), hexadecimal(golden.at("numeric")));
  EXPECT_EQ(holds(unicode::is_mark), hexadecimal(golden.at("mark")));
}

TEST_F(UnicodeTables, BytesOfNoCharacterPass) {
  for (const auto& [name, form] : forms)
    EXPECT_EQ(unicode::normalize("\xFF"
                                 "e\xCC\x81\xC3",
                                 form),
              std::string(form == unicode::Form::nfc || form == unicode::Form::nfkc ? "\xFF\xC3\xA9\xC3"
                                                                                    : "\xFF"
                                                                                      "e\xCC\x81\xC3"))
        << name;
  EXPECT_EQ(unicode::to_upper("\xE6\x97"
                              "a"),
            "\xE6\x97"
            "A");
}

} // namespace
} // namespace quire
