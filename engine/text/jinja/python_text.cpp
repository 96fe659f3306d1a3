// str() and repr().
#include "text/jinja/object.hpp"
#include "text/jinja/python.hpp"
#include "text/unicode/unicode.hpp"
#include "text/utf8.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace quire::jinja {
namespace {

void append_hex(std::string& out, char kind, char32_t code, int digits) {
  out += '\\';
  out += kind;
  for (int shift = 4 * (digits - 1); shift >= 0; shift -= 4) out += "0123456789abcdef"[(code >> shift) & 15];
}

void append_text_repr(std::string_view text, std::string& out) {
  const bool has_single = text.find('\'') != text.npos, has_double = text.find('"') != text.npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  out += quote;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    if (step.kind != Utf8Step::valid) {
      out += text[at++]; // a stray byte stays what it is
      continue;
    }
    const char32_t c = step.code;
    if (c == static_cast<unsigned char>(quote) || c == '\\')
      (out += '\\') += static_cast<char>(c);
    else if (c == '\n')
      out += "\\n";
    else if (c == '\r')
      out += "\\r";
    else if (c == '\t')
      out += "\\t";
    else if (c < 0x20 || c == 0x7F)
      append_hex(out, 'x', c, 2);
    else if (c < 0x7F || unicode::is_printable(c))
      out.append(text, at, step.size);
    else if (c < 0x100)
      append_hex(out, 'x', c, 2);
    else if (c < 0x10000)
      append_hex(out, 'u', c, 4);
    else
      append_hex(out, 'U', c, 8);
    at += step.size;
  }
  out += quote;
}

void append_items(Runtime& runtime, const std::vector<Value>& items, std::string& out) {
  bool first = true;
  for (const Value& item : items) {
    if (!std::exchange(first, false)) out += ", ";
    append_repr(runtime, item, out);
  }
}

void append_sequence(Runtime& runtime, const Sequence& sequence, std::string& out) {
  switch (sequence.kind) {
  case Sequence::Kind::list:
    out += '[';
    append_items(runtime, sequence.items, out);
    out += ']';
    return;
  case Sequence::Kind::tuple:
    out += '(';
    append_items(runtime, sequence.items, out);
    out += sequence.items.size() == 1 ? ",)" : ")";
    return;
  case Sequence::Kind::range:
    out += sequence.described;
    return;
  case Sequence::Kind::generator:
    out += "<generator object>";
    return;
  case Sequence::Kind::keys:
  case Sequence::Kind::values:
  case Sequence::Kind::items:
    break;
  }
  out += sequence.kind == Sequence::Kind::keys     ? "dict_keys(["
         : sequence.kind == Sequence::Kind::values ? "dict_values(["
                                                   : "dict_items([";
  append_items(runtime, sequence.items, out);
  out += "])";
}

} // namespace

std::string integer_text(Integer value) {
  if (value == 0) return "0";
  const bool negative = value < 0;
  std::string digits;
  for (; value != 0; value /= 10) digits += static_cast<char>('0' + std::abs(static_cast<int>(value % 10)));
  if (negative) digits += '-';
  std::reverse(digits.begin(), digits.end());
  return digits;
}

// Python's repr: the shortest digits that read back, with an exponent below 1e-4 and from 1e16 on.
std::string real_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const double size = std::fabs(value);
  const bool scientific = size != 0 && (size < 1e-4 || size >= 1e16);
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value,
                                 scientific ? std::chars_format::scientific : std::chars_format::fixed);
  std::string text(buffer, end.ptr);
  if (!scientific && text.find('.') == text.npos) text += ".0";
  return text;
}

void append_str(Runtime& runtime, const Value& value, std::string& out) {
  if (value.is_text()) {
    runtime.copying(value.string().size());
    runtime.check_size(out.size() + value.string().size());
    out += value.string();
  } else if (!value.is_undefined()) {
    append_repr(runtime, value, out);
  }
}

void append_repr(Runtime& runtime, const Value& value, std::string& out) {
  const Level level(runtime);
  const size_t before = out.size();
  if (value.is_undefined())
    out += "Undefined";
  else if (value.is_none())
    out += "None";
  else if (value.is_boolean())
    out += truth(value) ? "True" : "False";
  else if (Integer number; value.as_integer(number))
    out += integer_text(number);
  else if (double real; value.as_real(real))
    out += real_text(real);
  else if (value.is_text())
    append_text_repr(value.string(), out);
  else if (const Sequence* sequence = value.sequence())
    append_sequence(runtime, *sequence, out);
  else if (const Dict* dict = value.dict()) {
    out += '{';
    bool first = true;
    for (const Dict::Entry& entry : dict->entries) {
      if (!std::exchange(first, false)) out += ", ";
      append_repr(runtime, entry.first, out);
      out += ": ";
      append_repr(runtime, entry.second, out);
    }
    out += '}';
  } else {
    out += value.object()->describe();
  }
  runtime.copying(out.size() - before);
  runtime.check_size(out.size());
}

std::string str(Runtime& runtime, const Value& value) {
  std::string out;
  append_str(runtime, value, out);
  return out;
}

} // namespace quire::jinja
