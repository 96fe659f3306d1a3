// UTF-8 by the WHATWG decoder's rules (Encoding Standard, section 8.1.1; the same as Unicode's "substitution of maximal
// subparts", chapter 3.9). [any] thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace quire {

struct Utf8Step {
  enum Kind : uint8_t {
    valid,     // `code` is the character, `size` its bytes
    invalid,   // `size` bytes (1 to 3) are a maximal prefix of no valid sequence: one U+FFFD
    truncated, // the text ends inside a sequence that could still become valid; `size` bytes are left
  };
  char32_t code;
  uint8_t size;
  Kind kind;
};

// The character or error at `at` < text.size().
inline Utf8Step utf8_step(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(at);
  if (lead < 0x80) return {lead, 1, Utf8Step::valid};
  if (lead < 0xC2 || lead > 0xF4) return {0, 1, Utf8Step::invalid};
  const int size = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  // The first continuation byte's range excludes overlong forms, surrogates and everything above U+10FFFF.
  uint8_t low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  char32_t code = lead & (0x7F >> size);
  for (int i = 1; i < size; ++i) {
    if (at + i >= text.size()) return {0, static_cast<uint8_t>(i), Utf8Step::truncated};
    const uint8_t next = byte(at + i);
    if (next < low || next > high) return {0, static_cast<uint8_t>(i), Utf8Step::invalid};
    low = 0x80, high = 0xBF;
    code = (code << 6) | (next & 0x3F);
  }
  return {code, static_cast<uint8_t>(size), Utf8Step::valid};
}

inline void append_utf8(std::string& out, char32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | (code >> 6));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | (code >> 12));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (code >> 18));
    out += static_cast<char>(0x80 | ((code >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((code >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

inline constexpr std::string_view utf8_replacement = "\xEF\xBF\xBD"; // U+FFFD

// Where the first byte lies that belongs to no valid character; text.size() if there is none.
inline size_t utf8_valid_prefix(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    if (static_cast<uint8_t>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Step step = utf8_step(text, at);
    if (step.kind != Utf8Step::valid) break;
    at += step.size;
  }
  return at;
}

// A byte where a character begins, or a stray one: any byte but a continuation. Enough to walk over valid text.
inline bool utf8_begins(char byte) { return (static_cast<uint8_t>(byte) & 0xC0) != 0x80; }

} // namespace quire
