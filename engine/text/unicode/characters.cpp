#include "text/unicode/unicode.hpp"

#include "text/utf8.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>

namespace quire::unicode {
namespace {

#include "text/unicode/case.inc"
#include "text/unicode/classes.inc"
#include "text/unicode/printable.inc"

template <size_t N> bool lies_in(const uint32_t (&ranges)[N][2], char32_t code) {
  const auto* range = std::lower_bound(std::begin(ranges), std::end(ranges), code,
                                       [](const uint32_t(&r)[2], char32_t c) { return r[1] < c; });
  return range != std::end(ranges) && (*range)[0] <= code;
}

template <size_t R, size_t S>
void append_mapped(std::string& out, char32_t code, const int32_t (&ranges)[R][4], const uint32_t (&special)[S][4]) {
  const auto* row = std::lower_bound(std::begin(ranges), std::end(ranges), static_cast<int32_t>(code),
                                     [](const int32_t(&r)[4], int32_t c) { return r[1] < c; });
  if (row != std::end(ranges) && (*row)[0] <= static_cast<int32_t>(code) &&
      (static_cast<int32_t>(code) - (*row)[0]) % (*row)[2] == 0) {
    append_utf8(out, static_cast<char32_t>(static_cast<int32_t>(code) + (*row)[3]));
    return;
  }
  const auto* several = std::lower_bound(std::begin(special), std::end(special), code,
                                         [](const uint32_t(&r)[4], char32_t c) { return r[0] < c; });
  if (several != std::end(special) && (*several)[0] == code) {
    for (int i = 1; i < 4 && (*several)[i]; ++i) append_utf8(out, (*several)[i]);
    return;
  }
  append_utf8(out, code);
}

template <typename Append> std::string map_text(std::string_view text, Append append) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    if (step.kind == Utf8Step::valid)
      append(out, step.code);
    else
      out += text.substr(at, step.size);
    at += step.size;
  }
  return out;
}

} // namespace

void append_lower(std::string& out, char32_t code) { append_mapped(out, code, lower_ranges, lower_special); }
void append_upper(std::string& out, char32_t code) { append_mapped(out, code, upper_ranges, upper_special); }
void append_title(std::string& out, char32_t code) { append_mapped(out, code, title_ranges, title_special); }

std::string to_lower(std::string_view text) { return map_text(text, append_lower); }
std::string to_upper(std::string_view text) { return map_text(text, append_upper); }

bool changes_case(char32_t code) {
  std::string same, mapped;
  append_utf8(same, code);
  append_lower(mapped, code);
  if (mapped != same) return true;
  mapped.clear();
  append_title(mapped, code);
  return mapped != same;
}

bool is_mark(char32_t code) { return lies_in(mark_ranges, code); }
bool is_alpha(char32_t code) { return lies_in(alpha_ranges, code); }
bool is_decimal(char32_t code) { return lies_in(decimal_ranges, code); }
bool is_digit(char32_t code) { return is_decimal(code) || lies_in(digit_ranges, code); }
bool is_numeric(char32_t code) { return is_digit(code) || lies_in(numeric_ranges, code); }
bool is_alphanumeric(char32_t code) { return is_alpha(code) || is_numeric(code); }

bool is_printable(char32_t code) { return code < 0x7F ? code >= 0x20 : !lies_in(unprintable, code); }

bool is_white_space(char32_t code) {
  return code == ' ' || (code >= 0x09 && code <= 0x0D) || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F ||
         code == 0x3000;
}

bool is_python_space(char32_t code) { return is_white_space(code) || (code >= 0x1C && code <= 0x1F); }

} // namespace quire::unicode
