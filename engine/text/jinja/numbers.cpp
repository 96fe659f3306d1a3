#include "text/jinja/numbers.hpp"

#include "text/jinja/python.hpp"

#include <algorithm>
#include <charconv>
#include <string>

namespace quire::jinja {
namespace {

// Without white space around it, and without the single underscores that may stand between digits. False: one stands
// elsewhere.
bool plain(std::string_view text, std::string& out) {
  text = strip(text, nullptr, true, true);
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
      continue;
    }
    const auto digit = [&](size_t at) { return at < text.size() && isalnum(static_cast<unsigned char>(text[at])); };
    if (i == 0 || !digit(i - 1) || !digit(i + 1)) return false;
  }
  return !out.empty();
}

int digit_value(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const int letter = (static_cast<unsigned char>(c) | 32) - 'a';
  return letter >= 0 && letter < 26 ? letter + 10 : 99;
}

} // namespace

bool parse_integer(std::string_view text, int base, Integer& out) {
  std::string digits;
  if (!plain(text, digits)) return false;
  size_t at = 0;
  const bool negative = digits[0] == '-';
  if (negative || digits[0] == '+') ++at;
  if (at + 2 < digits.size() && digits[at] == '0') {
    const char letter = static_cast<char>(digits[at + 1] | 32);
    const int prefix = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
    if (prefix != 0 && (base == 0 || base == prefix)) base = prefix, at += 2;
  }
  if (base == 0) {
    base = 10;
    if (digits.size() > at + 1 && digits[at] == '0' && digits.find_first_not_of('0', at) != digits.npos) return false;
  }
  if (at >= digits.size()) return false;
  if (std::any_of(digits.begin() + static_cast<ptrdiff_t>(at), digits.end(),
                  [&](char c) { return digit_value(c) >= base; }))
    return false;
  out = 0;
  for (; at < digits.size(); ++at)
    if (__builtin_mul_overflow(out, base, &out) || __builtin_add_overflow(out, digit_value(digits[at]), &out))
      fail("a whole number is too large");
  if (negative) out = -out;
  return true;
}

bool parse_real(std::string_view text, double& out) {
  std::string number;
  if (!plain(text, number)) return false;
  for (char& c : number) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c | 32 : c);
  const bool negative = number[0] == '-';
  if (negative || number[0] == '+') number.erase(0, 1);
  if (number.empty() || number[0] == '-' || number[0] == '+') return false;
  if (number[0] == 'n' ? number != "nan" : number[0] == 'i' && number != "inf" && number != "infinity") return false;
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), out);
  if (end != number.data() + number.size()) return false;
  if (error == std::errc::result_out_of_range)
    out = std::strtod(number.c_str(), nullptr);
  else if (error != std::errc())
    return false;
  if (negative) out = -out;
  return true;
}

} // namespace quire::jinja
