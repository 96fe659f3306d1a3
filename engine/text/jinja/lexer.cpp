#include "text/jinja/lexer.hpp"

#include "text/unicode/unicode.hpp"
#include "text/utf8.hpp"

#include <algorithm>
#include <charconv>
#include <cstdlib>

namespace quire::jinja {
namespace {

// Line ends of any kind become \n, and one at the end of the template goes.
std::string normalize_lines(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

// White space at `at`: its bytes, 0 if there is none.
size_t space_at(std::string_view text, size_t at) {
  if (at >= text.size()) return 0;
  const Utf8Step step = utf8_step(text, at);
  return step.kind == Utf8Step::valid && unicode::is_python_space(step.code) ? step.size : 0;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
// Any byte of a character beyond ASCII may stand in a name; white space there is not asked about.
bool is_name_byte(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return is_digit(c) || ((byte | 32) >= 'a' && (byte | 32) <= 'z') || c == '_' || byte >= 0x80;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalize_lines(source)) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) data();
    push(Token::Kind::end);
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw SyntaxError{what, line_}; }

  bool at(std::string_view what) const { return std::string_view(text_).substr(at_).starts_with(what); }

  void advance(size_t end) {
    line_ += static_cast<int>(
        std::count(text_.begin() + static_cast<ptrdiff_t>(at_), text_.begin() + static_cast<ptrdiff_t>(end), '\n'));
    at_ = end;
  }

  void push(Token::Kind kind, std::string text = {}) { tokens_.push_back({kind, line_, std::move(text)}); }

  void skip_spaces() {
    size_t end = at_;
    while (const size_t size = space_at(text_, end)) end += size;
    advance(end);
  }

  // Text up to the next tag, and the tag.
  void data() {
    size_t begin = at_;
    while (begin < text_.size() && !(text_[begin] == '{' && begin + 1 < text_.size() &&
                                     (text_[begin + 1] == '{' || text_[begin + 1] == '%' || text_[begin + 1] == '#')))
      ++begin;
    if (begin >= text_.size()) {
      push_data(text_.size());
      return;
    }
    const char kind = text_[begin + 1];
    const char sign =
        begin + 2 < text_.size() && (text_[begin + 2] == '-' || text_[begin + 2] == '+') ? text_[begin + 2] : 0;
    push_data(data_end(at_, begin, sign, kind != '{'));
    advance(begin + (sign ? 3 : 2));
    if (kind == '#')
      comment();
    else if (kind == '{')
      tag(Token::Kind::variable_begin, Token::Kind::variable_end, "}}");
    else if (!raw())
      tag(Token::Kind::block_begin, Token::Kind::block_end, "%}");
    line_starting_ = at_ > 0 && text_[at_ - 1] == '\n';
  }

  // Where the text of [begin, tag) ends once the tag's sign, or lstrip_blocks, has taken white space off.
  size_t data_end(size_t begin, size_t tag, char sign, bool lstrips) const {
    if (sign == '-') {
      while (tag > begin) {
        size_t last = tag - 1;
        while (last > begin && tag - last < 4 && !utf8_begins(text_[last])) --last;
        if (space_at(text_, last) != tag - last) break;
        tag = last;
      }
    } else if (sign != '+' && lstrips) { // white space between the line's beginning and the tag
      const size_t newline = std::string_view(text_).substr(begin, tag - begin).rfind('\n');
      if (newline == std::string_view::npos && !line_starting_) return tag;
      const size_t line_begin = newline == std::string_view::npos ? begin : begin + newline + 1;
      size_t space = line_begin;
      while (space < tag && space_at(text_, space)) space += space_at(text_, space);
      if (space == tag) return line_begin;
    }
    return tag;
  }

  void push_data(size_t end) {
    if (end > at_) push(Token::Kind::data, text_.substr(at_, end - at_));
    advance(end);
  }

  // The closing delimiter here, if it is: taken along with what its sign and trim_blocks take after it.
  bool closes(std::string_view delimiter) {
    const bool minus = text_[at_] == '-' && std::string_view(text_).substr(at_ + 1).starts_with(delimiter);
    const bool plus =
        text_[at_] == '+' && delimiter != "}}" && std::string_view(text_).substr(at_ + 1).starts_with(delimiter);
    if (!minus && !plus && !at(delimiter)) return false;
    advance(at_ + delimiter.size() + (minus || plus ? 1 : 0));
    if (minus)
      skip_spaces();
    else if (!plus && delimiter != "}}" && at("\n"))
      advance(at_ + 1);
    return true;
  }

  void comment() {
    while (at_ < text_.size()) {
      if (closes("#}")) return;
      advance(at_ + 1);
    }
    fail("a comment is not closed: '#}' is missing");
  }

  // After {%: the raw block, if it is one, as data.
  bool raw() {
    size_t end = at_;
    while (const size_t size = space_at(text_, end)) end += size;
    if (!std::string_view(text_).substr(end).starts_with("raw")) return false;
    end += 3;
    while (const size_t size = space_at(text_, end)) end += size;
    const std::string_view rest = std::string_view(text_).substr(end);
    if (!rest.starts_with("%}") && !rest.starts_with("-%}")) return false;
    advance(end + (rest[0] == '-' ? 3 : 2));
    if (rest[0] == '-') skip_spaces();
    const size_t begin = at_;
    for (size_t tag = begin; (tag = text_.find("{%", tag)) != text_.npos; ++tag) {
      size_t inner = tag + 2;
      if (inner < text_.size() && (text_[inner] == '-' || text_[inner] == '+')) ++inner;
      while (const size_t size = space_at(text_, inner)) inner += size;
      if (!std::string_view(text_).substr(inner).starts_with("endraw")) continue;
      inner += 6;
      while (const size_t size = space_at(text_, inner)) inner += size;
      const char sign = text_[tag + 2] == '-' || text_[tag + 2] == '+' ? text_[tag + 2] : 0;
      line_starting_ = text_[begin - 1] == '\n';
      push_data(data_end(begin, tag, sign, true));
      advance(inner);
      if (at_ < text_.size() && closes("%}")) return true;
      fail("the tag endraw is not closed");
    }
    fail("a raw block is not closed: 'endraw' is missing");
  }

  void tag(Token::Kind begin, Token::Kind end, std::string_view delimiter) {
    push(begin);
    std::string open; // brackets that wait for their partner
    for (;;) {
      skip_spaces();
      if (at_ >= text_.size()) fail("a tag is not closed: '" + std::string(delimiter) + "' is missing");
      if (open.empty()) {
        const int line = line_;
        if (closes(delimiter)) {
          tokens_.push_back({end, line, {}});
          return;
        }
      }
      const char c = text_[at_];
      if (is_digit(c))
        number();
      else if (is_name_byte(c))
        name();
      else if (c == '\'' || c == '"')
        string(c);
      else
        symbol(open);
    }
  }

  void name() {
    size_t end = at_;
    while (end < text_.size() && is_name_byte(text_[end]) &&
           !(static_cast<unsigned char>(text_[end]) >= 0x80 && space_at(text_, end)))
      ++end;
    if (end == at_) fail("an unexpected character");
    push(Token::Kind::name, text_.substr(at_, end - at_));
    advance(end);
  }

  // Digits with single underscores between them, from `end` on.
  size_t digits(size_t end) const {
    while (end < text_.size() &&
           (is_digit(text_[end]) || (text_[end] == '_' && end + 1 < text_.size() && is_digit(text_[end + 1]))))
      ++end;
    return end;
  }

  void number() {
    size_t end = digits(at_);
    bool real = false;
    const bool after_dot = at_ > 0 && text_[at_ - 1] == '.';
    if (!after_dot && end + 1 < text_.size() && text_[end] == '.' && is_digit(text_[end + 1])) {
      real = true;
      end = digits(end + 1);
    }
    if (!after_dot && end < text_.size() && (text_[end] | 32) == 'e') {
      size_t exponent = end + 1;
      if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) ++exponent;
      if (exponent < text_.size() && is_digit(text_[exponent])) {
        real = true;
        end = digits(exponent);
      }
    }
    int base = 10;
    if (!real && text_[at_] == '0' && end == at_ + 1 && end < text_.size()) {
      const char letter = static_cast<char>(text_[end] | 32);
      base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
      if (base != 10)
        for (++end; end < text_.size() && (digit_value(text_[end]) < base || text_[end] == '_');) ++end;
    }
    std::string literal = text_.substr(at_, end - at_);
    std::erase(literal, '_');
    if (literal.size() > 40 && !real) fail("the number " + literal.substr(0, 40) + "... is too large");
    Token token{real ? Token::Kind::real : Token::Kind::integer, line_, literal};
    if (real)
      token.real = std::strtod(literal.c_str(), nullptr);
    else
      for (size_t i = base == 10 ? 0 : 2; i < literal.size(); ++i)
        if (__builtin_mul_overflow(token.integer, base, &token.integer) ||
            __builtin_add_overflow(token.integer, digit_value(literal[i]), &token.integer))
          fail("the number " + literal + " is too large");
    tokens_.push_back(std::move(token));
    advance(end);
  }

  static int digit_value(char c) {
    if (is_digit(c)) return c - '0';
    const int letter = (static_cast<unsigned char>(c) | 32) - 'a';
    return letter >= 0 && letter < 6 ? letter + 10 : 99;
  }

  void string(char quote) {
    std::string value;
    size_t end = at_ + 1;
    while (end < text_.size() && text_[end] != quote) {
      if (text_[end] == '\\' && end + 1 < text_.size())
        end = escape(end + 1, value);
      else
        value += text_[end++];
    }
    if (end >= text_.size()) fail("a string is not closed");
    push(Token::Kind::string, std::move(value));
    advance(end + 1);
  }

  // Python's escapes; what is none keeps its backslash. Returns where the next character is.
  size_t escape(size_t i, std::string& value) const {
    const auto hexadecimal = [&](int count) {
      uint32_t code = 0;
      const auto* first = text_.data() + i + 1;
      if (i + 1 + static_cast<size_t>(count) > text_.size() ||
          std::from_chars(first, first + count, code, 16).ptr != first + count)
        throw SyntaxError{"a string has an unfinished \\" + std::string(1, text_[i]) + " escape", line_};
      append_utf8(value, code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? 0xFFFD : code);
      return i + 1 + static_cast<size_t>(count);
    };
    switch (text_[i]) {
    case '\n':
      return i + 1;
    case '\\':
    case '\'':
    case '"':
      value += text_[i];
      return i + 1;
    case 'a':
      value += '\a';
      return i + 1;
    case 'b':
      value += '\b';
      return i + 1;
    case 'f':
      value += '\f';
      return i + 1;
    case 'n':
      value += '\n';
      return i + 1;
    case 'r':
      value += '\r';
      return i + 1;
    case 't':
      value += '\t';
      return i + 1;
    case 'v':
      value += '\v';
      return i + 1;
    case 'x':
      return hexadecimal(2);
    case 'u':
      return hexadecimal(4);
    case 'U':
      return hexadecimal(8);
    case 'N':
      throw SyntaxError{"a string has a \\N escape, which this version does not support", line_};
    default:
      break;
    }
    if (text_[i] >= '0' && text_[i] <= '7') {
      uint32_t code = 0;
      size_t end = i;
      while (end < text_.size() && end < i + 3 && text_[end] >= '0' && text_[end] <= '7')
        code = code * 8 + static_cast<uint32_t>(text_[end++] - '0');
      append_utf8(value, code);
      return end;
    }
    value += '\\';
    return i;
  }

  void symbol(std::string& open) {
    static constexpr std::string_view symbols[] = {"==", "!=", "<=", ">=", "//", "**", "+", "-", "*",
                                                   "/",  "%",  "~",  "<",  ">",  "=",  ".", ":", "|",
                                                   ",",  ";",  "(",  ")",  "[",  "]",  "{", "}"};
    for (const std::string_view s : symbols) {
      if (!at(s)) continue;
      if (s == "(" || s == "[" || s == "{") open += s == "(" ? ')' : s == "[" ? ']' : '}';
      if (s == ")" || s == "]" || s == "}") {
        if (open.empty()) fail("an unexpected '" + std::string(s) + "'");
        if (open.back() != s[0]) fail("an unexpected '" + std::string(s) + "', expected '" + open.back() + "'");
        open.pop_back();
      }
      push(Token::Kind::symbol, std::string(s));
      advance(at_ + s.size());
      return;
    }
    fail("an unexpected character '" + std::string(1, text_[at_]) + "'");
  }

  std::string text_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true; // the data that comes begins a line
  std::vector<Token> tokens_;
};

} // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

} // namespace quire::jinja
