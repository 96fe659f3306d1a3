// SentencePiece's spellings: U+2581 for a space, <0xNN> for a byte (Kudo and Richardson 2018, arXiv:1808.06226). [any]
// thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace quire {

inline constexpr std::string_view space_mark = "\xE2\x96\x81"; // U+2581

inline std::string replace_all(std::string_view text, std::string_view what, std::string_view by) {
  std::string out;
  out.reserve(text.size());
  size_t at = 0;
  for (size_t found; (found = text.find(what, at)) != text.npos; at = found + what.size())
    out.append(text, at, found - at).append(by);
  return out.append(text, at);
}

inline std::string byte_spelling(uint8_t byte) {
  constexpr char digits[] = "0123456789ABCDEF";
  return {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
}

inline std::optional<uint8_t> spelled_byte(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return {};
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
    if (digit < 0) return {};
    value = value * 16 + digit;
  }
  return static_cast<uint8_t>(value);
}

} // namespace quire
