// Pieces of error sentences: what came from a file is quoted, cut and made printable before it reaches a log.
// Threads: [any].
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace quire {

// `text` in backticks, at most 120 bytes of it; control characters, backticks and bytes above ASCII become «?».
inline std::string in_quotes(std::string_view text) {
  std::string result = "`";
  for (const char c : text.substr(0, 120)) result += c >= 0x20 && c < 0x7f && c != '`' ? c : '?';
  if (text.size() > 120) result += "...";
  return result + "`";
}

// «[1536, 576]».
inline std::string shape_text(std::span<const uint64_t> shape) {
  std::string result = "[";
  for (size_t i = 0; i < shape.size(); ++i) result += (i ? ", " : "") + std::to_string(shape[i]);
  return result + "]";
}

} // namespace quire
