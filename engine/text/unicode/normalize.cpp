#include "text/unicode/unicode.hpp"

#include "text/utf8.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>
#include <vector>

namespace quire::unicode {
namespace {

#include "text/unicode/compatibility.inc"
#include "text/unicode/compatibility_codes.inc"
#include "text/unicode/composition.inc"
#include "text/unicode/decomposition.inc"

// Hangul syllables are arithmetic (Unicode chapter 3.12).
constexpr char32_t s_base = 0xAC00, l_base = 0x1100, v_base = 0x1161, t_base = 0x11A7;
constexpr char32_t l_count = 19, v_count = 21, t_count = 28, s_count = l_count * v_count * t_count;

constexpr char32_t raw_byte = 0x80000000; // | byte: a byte of no valid character; a starter that nothing composes with

struct CompatibilityOffsets {
  std::array<uint16_t, std::size(compatibility_index)> at;
  constexpr CompatibilityOffsets() : at() {
    uint16_t next = 0;
    for (size_t i = 0; i < at.size(); ++i) {
      at[i] = next;
      next = static_cast<uint16_t>(next + (compatibility_index[i] & 31));
    }
  }
};
constexpr CompatibilityOffsets compatibility_offsets;

const uint32_t* canonical(char32_t code) {
  const auto* end = std::end(canonical_decompositions);
  const auto* found = std::lower_bound(std::begin(canonical_decompositions), end, code,
                                       [](const uint32_t(&row)[3], char32_t c) { return row[0] < c; });
  return found != end && (*found)[0] == code ? *found : nullptr;
}

void decompose(char32_t code, bool compatibility, std::vector<char32_t>& out) {
  if (code < 0xA0 || code >= raw_byte) {
    out.push_back(code);
    return;
  }
  if (code >= s_base && code < s_base + s_count) {
    const char32_t s = code - s_base;
    out.push_back(l_base + s / (v_count * t_count));
    out.push_back(v_base + s % (v_count * t_count) / t_count);
    if (s % t_count) out.push_back(t_base + s % t_count);
    return;
  }
  if (compatibility) {
    const auto* end = std::end(compatibility_index);
    const auto* found = std::lower_bound(std::begin(compatibility_index), end, code << 5);
    if (found != end && *found >> 5 == code) {
      const size_t at = compatibility_offsets.at[found - std::begin(compatibility_index)];
      out.insert(out.end(), compatibility_codes + at, compatibility_codes + at + (*found & 31));
      return;
    }
  }
  if (const uint32_t* row = canonical(code)) {
    decompose(row[1], compatibility, out); // chains are at most four long
    if (row[2]) decompose(row[2], compatibility, out);
    return;
  }
  out.push_back(code);
}

// 0: the pair does not compose.
char32_t compose(char32_t first, char32_t second) {
  if (first >= l_base && first < l_base + l_count && second >= v_base && second < v_base + v_count)
    return s_base + ((first - l_base) * v_count + (second - v_base)) * t_count;
  if (first >= s_base && first < s_base + s_count && (first - s_base) % t_count == 0 && second > t_base &&
      second < t_base + t_count)
    return first + (second - t_base);
  const auto* end = std::end(compositions);
  const auto* found =
      std::lower_bound(std::begin(compositions), end, std::pair{first, second}, [](const uint32_t(&row)[3], auto pair) {
        return row[0] != pair.first ? row[0] < pair.first : row[1] < pair.second;
      });
  return found != end && (*found)[0] == first && (*found)[1] == second ? (*found)[2] : 0;
}

// UAX 15's composition: a character joins the last starter unless something of the same or a higher class stands
// between.
void compose_all(std::vector<char32_t>& codes) {
  size_t out = 0, starter = codes.size();
  int last_class = 0;
  for (size_t i = 0; i < codes.size(); ++i) {
    const char32_t code = codes[i];
    const int k = combining_class(code);
    if (starter < out && (out == starter + 1 || (last_class < k && last_class != 0))) {
      if (const char32_t composite = compose(codes[starter], code)) {
        codes[starter] = composite;
        continue;
      }
    }
    if (k == 0) starter = out;
    last_class = k;
    codes[out++] = code;
  }
  codes.resize(out);
}

// True if no form changes a text of such characters: below U+00A0, or the large blocks without decompositions and
// marks.
bool inert(char32_t code) {
  return code < 0xA0 || (code >= 0x3400 && code <= 0xA66E) || code >= raw_byte || (code >= 0x1F900 && code <= 0x1FAFF);
}

} // namespace

int combining_class(char32_t code) {
  if (code < 0x300 || code >= raw_byte) return 0;
  const auto* end = std::end(combining_classes);
  const auto* found = std::lower_bound(std::begin(combining_classes), end, code,
                                       [](const uint32_t(&row)[3], char32_t c) { return row[1] < c; });
  return found != end && (*found)[0] <= code ? static_cast<int>((*found)[2]) : 0;
}

std::string normalize(std::string_view text, Form form) {
  const bool composes = form == Form::nfc || form == Form::nfkc;
  const bool compatibility = form == Form::nfkc || form == Form::nfkd;
  std::vector<char32_t> codes;
  bool changes = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    const char32_t code = step.kind == Utf8Step::valid ? step.code : raw_byte | static_cast<uint8_t>(text[at]);
    at += step.kind == Utf8Step::valid ? step.size : 1;
    changes = changes || !(inert(code) || (form == Form::nfc && code < 0x300));
    decompose(code, compatibility, codes);
  }
  if (!changes) return std::string(text);

  // Canonical ordering: marks between two starters are sorted by class, stably.
  for (size_t i = 0; i < codes.size();) {
    if (combining_class(codes[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < codes.size() && combining_class(codes[end]) != 0) ++end;
    std::stable_sort(codes.begin() + static_cast<ptrdiff_t>(i), codes.begin() + static_cast<ptrdiff_t>(end),
                     [](char32_t a, char32_t b) { return combining_class(a) < combining_class(b); });
    i = end;
  }
  if (composes) compose_all(codes);
  std::string out;
  out.reserve(text.size());
  for (const char32_t code : codes) {
    if (code >= raw_byte)
      out += static_cast<char>(code & 0xFF);
    else
      append_utf8(out, code);
  }
  return out;
}

} // namespace quire::unicode
