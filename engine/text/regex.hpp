// A pre-tokenizer's regular expression on PCRE2 (UTF and UCP, JIT where the machine has it), bounded so that no pattern
// and no text can hang the caller. Compiled once, immutable, [any] thread; a Matcher belongs to one call.
//
// Patterns come in the dialect of public tokenizer files (Oniguruma's Ruby syntax): \s, \w and \h, line anchors and
// class unions get that meaning. Character properties are those of PCRE2's Unicode version (14 in 10.42).
//
// Bounds: every call of the matcher has a match limit (backtracking steps), a depth limit and a heap limit; all calls
// on one text together have a budget of processor time that grows with the text. Beyond them: quire::Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

struct pcre2_real_code_8;
struct pcre2_real_match_data_8;
struct pcre2_real_match_context_8;

namespace quire {

class Regex {
 public:
  // `where` names the pattern in errors: "tokenizer.json: pre_tokenizer".
  Regex(const std::string& pattern, std::string where);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  // A pattern that matches exactly this text.
  static std::string quote(std::string_view literal);

 private:
  friend class RegexMatcher;
  struct Free {
    void operator()(pcre2_real_code_8* code) const;
  };
  std::unique_ptr<pcre2_real_code_8, Free> code_;
  std::string where_;
};

// Finds matches one after the other, in one text after the other; the budget counts all of them.
class RegexMatcher {
 public:
  // total_bytes: the size of all texts to come, for the budget.
  RegexMatcher(const Regex& regex, size_t total_bytes);
  ~RegexMatcher();
  RegexMatcher(const RegexMatcher&) = delete;
  RegexMatcher& operator=(const RegexMatcher&) = delete;

  // The first match at or after `from`, in valid UTF-8. False: there is none. May be empty (begin == end).
  bool find(std::string_view text, size_t from, size_t& begin, size_t& end);

 private:
  int match(std::string_view text, size_t from, uint32_t options);
  [[noreturn]] void give_up(const char* what) const;
  double spent_seconds() const;

  const Regex& regex_;
  pcre2_real_match_data_8* match_data_;
  pcre2_real_match_context_8* context_;
  double started_at_; // seconds of this thread's processor time
  double budget_seconds_;
  int calls_ = 0;
};

} // namespace quire
