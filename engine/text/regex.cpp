#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/regex.hpp"

#include <quire/error.hpp>

#include <pcre2.h>

#include <cassert>
#include <ctime>
#include <utility>

namespace quire {
namespace {

constexpr size_t max_pattern_bytes = size_t{1} << 16;
constexpr uint32_t first_match_limit = 2'000;      // what an ordinary match never reaches
constexpr uint32_t last_match_limit = 100'000'000; // the budget of time ends long before
constexpr uint32_t depth_limit = 100'000;
constexpr uint32_t heap_limit_kib = 64 * 1024;
constexpr size_t window_bytes = 4096; // starting points tried between two looks at the clock
constexpr double budget_base_seconds = 1.0;
constexpr double budget_seconds_per_byte = 4e-6; // forty times what public patterns need

double thread_seconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Oniguruma's meaning in PCRE2's syntax. Only what differs is rewritten; PCRE2 judges the rest.
class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string run() {
    while (at_ < in_.size()) {
      if (in_[at_] == '\\')
        escape(false);
      else if (in_[at_] == '[')
        char_class();
      else
        out_ += in_[at_++];
    }
    return std::move(out_);
  }

 private:
  void escape(bool in_class) {
    if (at_ + 1 >= in_.size()) {
      out_ += in_[at_++];
      return;
    }
    const char c = in_[at_ + 1];
    at_ += 2;
    switch (c) {
    case 's':
      out_ += "\\p{White_Space}";
      return; // PCRE2's \s also has U+180E
    case 'S':
      out_ += "\\P{White_Space}";
      return;
    case 'h':
      out_ += in_class ? "0-9a-fA-F" : "[0-9a-fA-F]";
      return;
    case 'w':
      out_ += in_class ? word : bracketed("[", word);
      return;
    case 'W':
      if (in_class) refuse("\\W inside a character class");
      out_ += bracketed("[^", word);
      return;
    case 'H':
      if (in_class) refuse("\\H inside a character class");
      out_ += "[^0-9a-fA-F]";
      return;
    case 'u':
      if (at_ + 4 <= in_.size() && in_.substr(at_, 4).find_first_not_of("0123456789abcdefABCDEF") == in_.npos) {
        out_ += "\\x{" + std::string(in_.substr(at_, 4)) + "}";
        at_ += 4;
        return;
      }
      [[fallthrough]];
    default:
      out_ += '\\', out_ += c;
    }
  }

  // A class within a class is a union: its members move into the outer one.
  void char_class() {
    out_ += in_[at_++];
    if (at_ < in_.size() && in_[at_] == '^') out_ += in_[at_++];
    if (at_ < in_.size() && in_[at_] == ']') out_ += "\\]", ++at_;
    for (int depth = 1; depth > 0;) {
      if (at_ >= in_.size()) return; // PCRE2 says what is missing
      const char c = in_[at_];
      if (c == '\\') {
        escape(true);
      } else if (c == '[' && in_.substr(at_).starts_with("[:")) {
        const size_t end = in_.find(":]", at_);
        if (end == in_.npos) refuse("an unfinished [: in a character class");
        out_ += in_.substr(at_, end + 2 - at_);
        at_ = end + 2;
      } else if (c == '[') {
        if (in_.substr(at_).starts_with("[^")) refuse("a negated class inside a character class");
        ++depth, ++at_;
      } else if (c == ']') {
        if (--depth == 0) out_ += c;
        ++at_;
      } else if (in_.substr(at_).starts_with("&&")) {
        refuse("an intersection of character classes");
      } else {
        out_ += c, ++at_;
      }
    }
  }

  [[noreturn]] void refuse(const char* what) const {
    throw Error(where_ + ": the regular expression uses " + what + ", which this version does not support");
  }
  static std::string bracketed(const char* open, const char* members) { return std::string(open) + members + "]"; }

  static constexpr const char* word = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
  std::string_view in_;
  const std::string& where_;
  size_t at_ = 0;
  std::string out_;
};

} // namespace

Regex::Regex(const std::string& pattern, std::string where) : where_(std::move(where)) {
  if (pattern.size() > max_pattern_bytes)
    throw Error(where_ + ": the regular expression has " + std::to_string(pattern.size()) + " bytes, at most " +
                std::to_string(max_pattern_bytes) + " are allowed");
  const std::string translated = Translator(pattern, where_).run();
  std::unique_ptr<pcre2_compile_context, decltype(&pcre2_compile_context_free)> context(
      pcre2_compile_context_create(nullptr), pcre2_compile_context_free);
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE error_at = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT,
                            &error, &error_at, context.get()));
  if (!code_) {
    PCRE2_UCHAR text[256];
    pcre2_get_error_message(error, text, sizeof text);
    throw Error(where_ + ": the regular expression does not compile: " + reinterpret_cast<const char*>(text));
  }
  // Without JIT (no support, or no executable memory allowed) the interpreter does the same, slower.
  (void)pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE);
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;
void Regex::Free::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

std::string Regex::quote(std::string_view literal) {
  std::string pattern;
  for (const char c : literal) {
    if (static_cast<unsigned char>(c) < 0x80 && !isalnum(static_cast<unsigned char>(c)) && c > ' ') pattern += '\\';
    pattern += c;
  }
  return pattern;
}

RegexMatcher::RegexMatcher(const Regex& regex, size_t total_bytes)
    : regex_(regex), match_data_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)),
      started_at_(thread_seconds()),
      budget_seconds_(budget_base_seconds + budget_seconds_per_byte * static_cast<double>(total_bytes)) {
  if (!match_data_ || !context_) {
    pcre2_match_data_free(match_data_);
    pcre2_match_context_free(context_);
    throw std::bad_alloc();
  }
  pcre2_set_depth_limit(context_, depth_limit);
  pcre2_set_heap_limit(context_, heap_limit_kib);
}

RegexMatcher::~RegexMatcher() {
  pcre2_match_data_free(match_data_);
  pcre2_match_context_free(context_);
}

double RegexMatcher::spent_seconds() const { return thread_seconds() - started_at_; }

void RegexMatcher::give_up(const char* what) const {
  throw Error(regex_.where_ + ": the regular expression " + what + " on this text; shorten or break up the text");
}

// One call, repeated with a higher limit while the time that a repetition may take is left.
int RegexMatcher::match(std::string_view text, size_t from, uint32_t options) {
  for (uint32_t limit = first_match_limit;; limit *= 8) {
    pcre2_set_match_limit(context_, limit);
    const double before = limit > first_match_limit ? spent_seconds() : 0;
    const int found = pcre2_match(regex_.code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                                  PCRE2_NO_UTF_CHECK | options, match_data_, context_);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
      options |= PCRE2_NO_JIT;
      continue;
    }
    if (found != PCRE2_ERROR_MATCHLIMIT) return found;
    const double now = spent_seconds();
    const double next_costs = limit > first_match_limit ? 8 * (now - before) : 0;
    if (limit > last_match_limit / 8 || now + next_costs > budget_seconds_) give_up("backtracks too much");
  }
}

bool RegexMatcher::find(std::string_view text, size_t from, size_t& begin, size_t& end) {
  for (;;) {
    // A call looks for matches that begin in one window only, so that the clock is seen between calls.
    const size_t window_end = from + window_bytes;
    pcre2_set_offset_limit(context_, window_end < text.size() ? window_end : PCRE2_UNSET);
    if (++calls_ % 64 == 0 && spent_seconds() > budget_seconds_) give_up("takes too long");
    const int found = match(text, from, 0);
    if (found >= 0) {
      const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(match_data_);
      begin = offsets[0];
      // A lookbehind with \K can make a match that begins after its end; nothing of it is used.
      end = offsets[1] < offsets[0] ? offsets[0] : offsets[1];
      if (begin < from) begin = from;
      return true;
    }
    if (found != PCRE2_ERROR_NOMATCH) {
      switch (found) {
      case PCRE2_ERROR_DEPTHLIMIT:
        give_up("nests too deeply");
      case PCRE2_ERROR_HEAPLIMIT:
      case PCRE2_ERROR_NOMEMORY:
        give_up("needs too much memory");
      case PCRE2_ERROR_RECURSELOOP:
        give_up("recurses endlessly");
      default:
        give_up(("fails with PCRE2 error " + std::to_string(found)).c_str());
      }
    }
    if (window_end >= text.size()) return false;
    if (spent_seconds() > budget_seconds_) give_up("takes too long");
    from = window_end + 1;
    while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80) ++from;
    if (from > text.size()) return false;
  }
}

} // namespace quire
