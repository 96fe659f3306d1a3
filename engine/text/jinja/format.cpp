#include "text/jinja/format.hpp"

#include "text/utf8.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <utility>

namespace quire::jinja {
namespace {

size_t width_of(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), utf8_begins));
}

// digits: no sign; `sign` and `prefix` go before them, zeros of '=' between.
std::string padded(std::string sign, std::string body, const FormatSpec& spec, char default_align) {
  const char align = spec.align ? spec.align : default_align;
  const size_t width = width_of(sign) + width_of(body);
  if (width >= spec.width) return sign + body;
  const size_t missing = spec.width - width;
  const auto fill = [&](size_t count) {
    std::string out;
    for (; count > 0; --count) out += spec.fill;
    return out;
  };
  if (align == '<') return sign + body + fill(missing);
  if (align == '^') return fill(missing / 2) + sign + body + fill(missing - missing / 2);
  if (align == '=') return sign + fill(missing) + body;
  return fill(missing) + sign + body;
}

std::string grouped(const std::string& digits, char group) {
  const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  std::string out;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && i < whole && (whole - i) % 3 == 0) out += group;
    out += digits[i];
  }
  return out;
}

std::string in_base(Integer value, int base, bool upper) { // value >= 0
  if (value == 0) return "0";
  const char* figures = upper ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string digits;
  for (; value != 0; value /= base) digits += figures[static_cast<int>(value % base)];
  std::reverse(digits.begin(), digits.end());
  return digits;
}

std::string sign_text(bool negative, char sign) { return negative ? "-" : sign == '-' ? "" : std::string(1, sign); }

std::string format_integer(Integer value, const FormatSpec& spec) {
  std::string prefix, body;
  const bool negative = value < 0;
  const Integer size = negative ? -value : value;
  const char type = spec.type ? spec.type : 'd';
  if (type == 'd' || type == 'i' || type == 'u' || type == 'n')
    body = integer_text(size);
  else if (type == 'x' || type == 'X')
    body = in_base(size, 16, type == 'X'), prefix = type == 'X' ? "0X" : "0x";
  else if (type == 'o')
    body = in_base(size, 8, false), prefix = "0o";
  else if (type == 'b')
    body = in_base(size, 2, false), prefix = "0b";
  if (spec.precision && body.size() < static_cast<size_t>(*spec.precision))
    body.insert(0, static_cast<size_t>(*spec.precision) - body.size(), '0');
  if (spec.group) body = grouped(body, spec.group);
  return padded(sign_text(negative, spec.sign) + (spec.alternate ? prefix : ""), body, spec, '>');
}

std::string format_real(double value, const FormatSpec& spec) {
  const bool negative = std::signbit(value) && !std::isnan(value);
  const double size = std::fabs(value);
  const char type = spec.type;
  std::string body;
  if (!std::isfinite(value)) {
    body = std::isnan(value) ? "nan" : "inf";
    if (type == 'F' || type == 'E' || type == 'G')
      for (char& c : body) c = static_cast<char>(c - 32);
  } else if (!type && !spec.precision) {
    body = real_text(size);
  } else {
    const char conversion = type == '%' ? 'f' : type ? type : 'g';
    const std::string pattern = std::string(spec.alternate ? "%#.*" : "%.*") + conversion;
    std::array<char, 1024> buffer;
    const int written = std::snprintf(buffer.data(), buffer.size(), pattern.c_str(), spec.precision.value_or(6),
                                      type == '%' ? size * 100 : size);
    if (written < 0 || static_cast<size_t>(written) >= buffer.size()) fail("a number's precision is too large");
    body.assign(buffer.data(), static_cast<size_t>(written));
    if (type == '%') body += '%';
    if (!type && body.find_first_of(".en") == body.npos) body += ".0";
  }
  if (spec.group) body = grouped(body, spec.group);
  return padded(sign_text(negative, spec.sign), body, spec, '>');
}

std::string truncated(std::string text, const FormatSpec& spec) {
  if (!spec.precision) return text;
  size_t at = 0;
  for (int count = 0; count < *spec.precision && at < text.size(); ++count) {
    const Utf8Step step = utf8_step(text, at);
    at += step.kind == Utf8Step::valid ? step.size : 1;
  }
  text.resize(at);
  return text;
}

size_t number_at(std::string_view text, size_t& at, const char* what) {
  size_t number = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    number = number * 10 + static_cast<size_t>(text[at++] - '0');
    if (number > max_format_width)
      fail(std::string("a format's ") + what + " is larger than " + std::to_string(max_format_width));
  }
  return number;
}

// [[fill]align][sign][#][0][width][,][.precision][type]
FormatSpec parse_spec(std::string_view text) {
  FormatSpec spec;
  size_t at = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (!text.empty()) {
    const Utf8Step first = utf8_step(text, 0);
    if (first.size < text.size() && is_align(text[first.size])) {
      spec.fill = text.substr(0, first.size);
      spec.align = text[first.size];
      at = first.size + 1u;
    } else if (is_align(text[0])) {
      spec.align = text[at++];
    }
  }
  if (at < text.size() && (text[at] == '+' || text[at] == '-' || text[at] == ' ')) spec.sign = text[at++];
  if (at < text.size() && text[at] == '#') spec.alternate = true, ++at;
  if (at < text.size() && text[at] == '0') {
    if (!spec.align) spec.align = '=', spec.fill = "0";
    ++at;
  }
  spec.width = number_at(text, at, "width");
  if (at < text.size() && (text[at] == ',' || text[at] == '_')) spec.group = text[at++];
  if (at < text.size() && text[at] == '.') spec.precision = static_cast<int>(number_at(text, ++at, "precision"));
  if (at < text.size()) spec.type = text[at++];
  if (at < text.size()) fail("'" + std::string(text) + "' is no format");
  return spec;
}

} // namespace

std::string format_value(Runtime& runtime, const Value& value, const FormatSpec& spec) {
  runtime.copying(spec.width);
  const std::string_view type(&spec.type, spec.type ? 1 : 0);
  const auto one_of = [&](std::string_view types) { return spec.type && types.find(spec.type) != types.npos; };
  if (one_of("c")) {
    if (Integer code; value.as_integer(code) && code >= 0 && code <= 0x10FFFF) {
      std::string character;
      append_utf8(character, static_cast<char32_t>(code));
      return padded("", character, spec, '<');
    }
  } else if (one_of("eEfFgG%") || (!spec.type && value.is_real())) {
    if (double number; value.as_real(number)) return format_real(number, spec);
  } else if (one_of("diuxXobn") || (!spec.type && value.is_integer())) {
    if (Integer number; value.as_integer(number)) return format_integer(number, spec);
  } else if (!spec.type || spec.type == 's') {
    return padded("", truncated(str(runtime, value), spec), spec, '<');
  }
  fail("'" + std::string(type_name(value)) + "' has no format '" + std::string(type) + "'");
}

std::string format_percent(Runtime& runtime, std::string_view format, const Value& arguments) {
  const Sequence* tuple = arguments.sequence();
  if (tuple && tuple->kind != Sequence::Kind::tuple) tuple = nullptr;
  size_t next = 0;
  bool by_name = false;
  const auto take = [&]() -> Value {
    if (!tuple) {
      if (next++ > 0) fail("not enough arguments for a format string");
      return arguments;
    }
    if (next >= tuple->items.size()) fail("not enough arguments for a format string");
    return tuple->items[next++];
  };
  std::string out;
  for (size_t at = 0; at < format.size();) {
    if (format[at] != '%') {
      out += format[at++];
      continue;
    }
    FormatSpec spec;
    Value named;
    bool is_named = false;
    ++at;
    if (at < format.size() && format[at] == '(') {
      const size_t end = format.find(')', at);
      if (end == format.npos || !arguments.is_dict()) fail("a format string needs a mapping");
      const Value* found = arguments.dict()->find(format.substr(at + 1, end - at - 1));
      if (!found)
        fail("a format string names '" + std::string(format.substr(at + 1, end - at - 1)) + "', which is not given");
      named = *found;
      is_named = by_name = true;
      at = end + 1;
    }
    spec.align = '>';
    for (; at < format.size() && std::string_view("#0- +").find(format[at]) != std::string_view::npos; ++at) {
      if (format[at] == '#')
        spec.alternate = true;
      else if (format[at] == '0' && spec.align != '<')
        spec.align = '=', spec.fill = "0";
      else if (format[at] == '-')
        spec.align = '<', spec.fill = " ";
      else if (format[at] == '+' || spec.sign != '+')
        spec.sign = format[at];
    }
    const auto number = [&](const char* what) -> size_t {
      if (at < format.size() && format[at] == '*') {
        ++at;
        const Integer given = whole_number(take(), what);
        if (given < 0 || given > static_cast<Integer>(max_format_width))
          fail(std::string("a format's ") + what + " is out of range");
        return static_cast<size_t>(given);
      }
      return number_at(format, at, what);
    };
    spec.width = number("width");
    if (at < format.size() && format[at] == '.') ++at, spec.precision = static_cast<int>(number("precision"));
    while (at < format.size() && (format[at] == 'l' || format[at] == 'h' || format[at] == 'L')) ++at;
    if (at >= format.size()) fail("a format string ends in the middle of a format");
    spec.type = format[at++];
    if (spec.type == '%') {
      out += '%';
      continue;
    }
    Value value = is_named ? named : take();
    if (spec.type == 's' || spec.type == 'r' || spec.type == 'a') {
      std::string text;
      if (spec.type == 's')
        append_str(runtime, value, text);
      else
        append_repr(runtime, value, text);
      spec.type = 's';
      if (spec.align == '=') spec.align = '>', spec.fill = " ";
      value = make_text(&runtime, std::move(text));
    } else if (value.is_real() && std::string_view("diu").find(spec.type) != std::string_view::npos) {
      double real = 0;
      value.as_real(real);
      if (!(std::fabs(real) < 1e18)) fail("a number is too large for a format");
      value = Value::integer(static_cast<Integer>(real));
    } else if (value.is_text() && !(spec.type == 'c')) {
      fail(std::string("%") + spec.type + " needs a number, not 'str'");
    } else if (value.is_text()) {
      spec.type = 's';
    }
    out += format_value(runtime, value, spec);
    runtime.check_size(out.size());
  }
  if (tuple && next < tuple->items.size()) fail("not all arguments of a format string are used");
  if (!tuple && next == 0 && !by_name && !arguments.is_dict() && !(arguments.is_sequence()))
    fail("not all arguments of a format string are used");
  return out;
}

namespace {

class BraceFormatter {
 public:
  BraceFormatter(Interpreter& in, Arguments& arguments) : in_(in), arguments_(arguments) {}

  std::string run(std::string_view format, int levels) {
    if (levels > 2) fail("a format string nests too deeply");
    std::string out;
    for (size_t at = 0; at < format.size();) {
      const char c = format[at++];
      if (c != '{' && c != '}') {
        out += c;
      } else if (at < format.size() && format[at] == c) {
        out += c;
        ++at;
      } else if (c == '}') {
        fail("a single '}' stands in a format string");
      } else {
        size_t end = at;
        for (int depth = 1; end < format.size(); ++end) {
          if (format[end] == '{') ++depth;
          if (format[end] == '}' && --depth == 0) break;
        }
        if (end >= format.size()) fail("a '{' is not closed in a format string");
        out += field(format.substr(at, end - at), levels);
        in_.runtime().check_size(out.size());
        at = end + 1;
      }
    }
    return out;
  }

 private:
  std::string field(std::string_view field, int levels) {
    in_.runtime().step();
    const size_t name_end = std::min(field.find_first_of("!:"), field.size());
    Value value = resolve(field.substr(0, name_end));
    std::string_view rest = field.substr(name_end);
    if (rest.starts_with('!')) {
      if (rest.size() < 2 || (rest[1] != 'r' && rest[1] != 's')) fail("a format string has an unknown conversion");
      std::string text;
      if (rest[1] == 'r')
        append_repr(in_.runtime(), value, text);
      else
        append_str(in_.runtime(), value, text);
      value = in_.text(std::move(text));
      rest.remove_prefix(2);
    }
    if (rest.empty()) return in_.str(value);
    if (!rest.starts_with(':')) fail("a format string has text after a conversion");
    return format_value(in_.runtime(), value, parse_spec(run(rest.substr(1), levels + 1)));
  }

  Value resolve(std::string_view path) {
    const size_t head_end = std::min(path.find_first_of(".["), path.size());
    const std::string_view head = path.substr(0, head_end);
    Value value;
    if (head.find_first_not_of("0123456789") == head.npos) {
      size_t at = 0;
      const size_t index = head.empty() ? automatic_++ : number_at(head, at, "index");
      if (index >= arguments_.positional.size()) fail("a format string asks for more arguments than there are");
      value = arguments_.positional[index];
    } else {
      const auto found = std::find_if(arguments_.keyword.begin(), arguments_.keyword.end(),
                                      [&](const auto& k) { return k.first == head; });
      if (found == arguments_.keyword.end())
        fail("a format string names '" + std::string(head) + "', which is not given");
      value = found->second;
    }
    for (size_t at = head_end; at < path.size();) {
      if (path[at] == '.') {
        const size_t end = std::min(path.find_first_of(".[", at + 1), path.size());
        value = in_.attribute(value, in_.text(std::string(path.substr(at + 1, end - at - 1))));
        at = end;
      } else {
        const size_t end = path.find(']', at);
        if (end == path.npos) fail("a '[' is not closed in a format string");
        const std::string_view key = path.substr(at + 1, end - at - 1);
        size_t digits = 0;
        const bool number = !key.empty() && key.find_first_not_of("0123456789") == key.npos;
        value = in_.item(value, number ? Value::integer(static_cast<Integer>(number_at(key, digits, "index")))
                                       : in_.text(std::string(key)));
        at = end + 1;
      }
    }
    return value;
  }

  Interpreter& in_;
  Arguments& arguments_;
  size_t automatic_ = 0;
};

} // namespace

std::string format_braces(Interpreter& interpreter, std::string_view format, Arguments& arguments) {
  return BraceFormatter(interpreter, arguments).run(format, 1);
}

} // namespace quire::jinja
