#include "text/jinja/text_methods.hpp"

#include "text/unicode/unicode.hpp"
#include "text/utf8.hpp"

#include <algorithm>

namespace quire::jinja {
namespace {

// Calls visit(code, bytes) for each character; a stray byte has code 0.
template <typename Visit> void each_character(std::string_view text, Visit visit) {
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    const size_t size = step.kind == Utf8Step::valid ? step.size : 1;
    visit(step.kind == Utf8Step::valid ? step.code : 0, text.substr(at, size));
    at += size;
  }
}

bool space(char32_t code) { return code != 0 && unicode::is_python_space(code); }

// The size of a line's end at `at`, 0 if there is none: what str.splitlines() knows.
size_t line_end(std::string_view text, size_t at) {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte == '\r') return at + 1 < text.size() && text[at + 1] == '\n' ? 2 : 1;
  if (byte == '\n' || byte == '\v' || byte == '\f' || (byte >= 0x1C && byte <= 0x1E)) return 1;
  if (text.substr(at).starts_with("\xC2\x85")) return 2;
  if (text.substr(at).starts_with("\xE2\x80\xA8") || text.substr(at).starts_with("\xE2\x80\xA9")) return 3;
  return 0;
}

} // namespace

std::string capitalized(std::string_view text) {
  std::string out;
  bool first = true;
  each_character(text, [&](char32_t code, std::string_view bytes) {
    if (code == 0)
      out += bytes;
    else if (first)
      unicode::append_title(out, code);
    else
      unicode::append_lower(out, code);
    first = false;
  });
  return out;
}

std::string title_method(std::string_view text) {
  std::string out;
  bool in_word = false;
  each_character(text, [&](char32_t code, std::string_view bytes) {
    if (code == 0)
      out += bytes;
    else if (in_word)
      unicode::append_lower(out, code);
    else
      unicode::append_title(out, code);
    in_word = code != 0 && unicode::changes_case(code);
  });
  return out;
}

std::string title_filter(std::string_view text) {
  std::string out;
  bool begins = true;
  each_character(text, [&](char32_t code, std::string_view bytes) {
    if (code == 0)
      out += bytes;
    else if (begins)
      unicode::append_upper(out, code);
    else
      unicode::append_lower(out, code);
    begins = code == '-' || code == '(' || code == '{' || code == '[' || code == '<' || space(code);
  });
  return out;
}

std::string swapped_case(std::string_view text) {
  std::string out;
  each_character(text, [&](char32_t code, std::string_view bytes) {
    const size_t before = out.size();
    if (code != 0) unicode::append_lower(out, code);
    if (code != 0 && out.substr(before) != bytes) return;
    out.resize(before);
    if (code == 0)
      out += bytes;
    else
      unicode::append_upper(out, code);
  });
  return out;
}

std::string replaced(std::string_view text, std::string_view what, std::string_view by, int64_t most) {
  std::string out;
  if (what.empty()) { // between all characters, and at both ends
    const auto put = [&] {
      if (most == 0) return;
      --most;
      out += by;
    };
    each_character(text, [&](char32_t, std::string_view bytes) {
      put();
      out += bytes;
    });
    put();
    return out;
  }
  size_t at = 0;
  for (size_t found; most != 0 && (found = text.find(what, at)) != text.npos; --most) {
    out.append(text, at, found - at).append(by);
    at = found + what.size();
  }
  return out.append(text, at);
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = line_end(text, at);
    if (end == 0) {
      ++at;
      continue;
    }
    lines.push_back(text.substr(begin, at - begin + (keep_ends ? end : 0)));
    begin = at += end;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

namespace {

// Where runs of characters that are no white space lie.
std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> found;
  const char* begin = nullptr;
  each_character(text, [&](char32_t code, std::string_view bytes) {
    if (space(code)) {
      if (begin) found.emplace_back(begin, static_cast<size_t>(bytes.data() - begin));
      begin = nullptr;
    } else if (!begin) {
      begin = bytes.data();
    }
  });
  if (begin) found.emplace_back(begin, static_cast<size_t>(text.data() + text.size() - begin));
  return found;
}

std::string_view without_spaces(std::string_view text, bool left) {
  const auto all = words(text);
  if (all.empty()) return {};
  const char* begin = left ? all.front().data() : text.data();
  const char* end = left ? text.data() + text.size() : all.back().data() + all.back().size();
  return {begin, static_cast<size_t>(end - begin)};
}

} // namespace

std::vector<std::string_view> split(std::string_view text, std::string_view separator, int64_t most, bool from_right) {
  std::vector<std::string_view> parts;
  if (separator.empty()) {
    std::vector<std::string_view> all = words(text);
    if (most < 0 || static_cast<int64_t>(all.size()) <= most) return all;
    const auto count = static_cast<size_t>(most);
    if (from_right) { // the first part is all the rest, without white space at its end
      const char* end = count > 0 ? all[all.size() - count].data() : text.data() + text.size();
      const std::string_view rest = without_spaces(text.substr(0, static_cast<size_t>(end - text.data())), false);
      if (!rest.empty()) parts.push_back(rest);
      parts.insert(parts.end(), all.end() - static_cast<ptrdiff_t>(count), all.end());
    } else {
      parts.assign(all.begin(), all.begin() + static_cast<ptrdiff_t>(count));
      const char* begin = count > 0 ? all[count - 1].data() + all[count - 1].size() : text.data();
      const std::string_view rest = without_spaces(text.substr(static_cast<size_t>(begin - text.data())), true);
      if (!rest.empty()) parts.push_back(rest);
    }
    return parts;
  }
  if (from_right) {
    size_t end = text.size();
    for (size_t found;
         most != 0 && end >= separator.size() && (found = text.rfind(separator, end - separator.size())) != text.npos;
         --most) {
      parts.push_back(text.substr(found + separator.size(), end - found - separator.size()));
      end = found;
    }
    parts.push_back(text.substr(0, end));
    std::reverse(parts.begin(), parts.end());
    return parts;
  }
  size_t at = 0;
  for (size_t found; most != 0 && (found = text.find(separator, at)) != text.npos; --most) {
    parts.push_back(text.substr(at, found - at));
    at = found + separator.size();
  }
  parts.push_back(text.substr(at));
  return parts;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
    case '&':
      out += "&amp;";
      break;
    case '<':
      out += "&lt;";
      break;
    case '>':
      out += "&gt;";
      break;
    case '\'':
      out += "&#39;";
      break;
    case '"':
      out += "&#34;";
      break;
    default:
      out += c;
    }
  }
  return out;
}

} // namespace quire::jinja
