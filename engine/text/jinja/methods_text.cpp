// Methods of texts (Python's str).
#include "text/jinja/format.hpp"
#include "text/jinja/methods.hpp"
#include "text/jinja/text_methods.hpp"
#include "text/unicode/unicode.hpp"
#include "text/utf8.hpp"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

namespace quire::jinja {
namespace {

// A call of a method: its text, paid for, and its arguments.
class Call {
 public:
  Call(const char* name, Interpreter& interpreter, const Value& self, Arguments& arguments)
      : text(self.string()), parameters(name, arguments), in_(interpreter), name_(name) {
    in_.runtime().copying(text.size());
  }
  std::string_view texts(std::string_view name) { return held(name, parameters.required(name)); }
  // None or absent is null.
  const Value* text_or_none(std::string_view name) {
    Value value = parameters.value_or(name, Value::none());
    if (value.is_none()) return nullptr;
    held(name, std::move(value));
    return &kept_.back();
  }
  Value make(std::string result) {
    in_.runtime().copying(result.size());
    return in_.text(std::move(result));
  }
  Value make(std::string_view result) { return make(std::string(result)); }
  Value texts(const std::vector<std::string_view>& parts) {
    std::vector<Value> values;
    values.reserve(parts.size());
    in_.runtime().step(static_cast<int64_t>(parts.size()));
    for (const std::string_view part : parts) values.push_back(in_.text(std::string(part)));
    return in_.list(std::move(values));
  }

  std::string_view text;
  Parameters parameters;

 private:
  std::string_view held(std::string_view name, Value value) {
    if (!value.is_text())
      fail(std::string(name_) + ": " + std::string(name) + " must be a string, not '" + std::string(type_name(value)) +
           "'");
    kept_.reserve(4); // at most: what is returned views into it
    kept_.push_back(std::move(value));
    return kept_.back().string();
  }
  Interpreter& in_;
  const char* name_;
  std::vector<Value> kept_;
};

template <bool left, bool right> Value strip_method(Interpreter& in, const Value& self, Arguments& arguments) {
  Call call(left && right ? "strip" : left ? "lstrip" : "rstrip", in, self, arguments);
  const Value* set = call.text_or_none("chars");
  call.parameters.finish();
  return call.make(strip(call.text, set, left, right));
}

template <bool from_right> Value split_method(Interpreter& in, const Value& self, Arguments& arguments) {
  Call call(from_right ? "rsplit" : "split", in, self, arguments);
  const Value* separator = call.text_or_none("sep");
  const Integer most = call.parameters.integer("maxsplit", -1);
  call.parameters.finish();
  if (separator && separator->string().empty()) fail("split: the separator is empty");
  return call.texts(split(call.text, separator ? separator->string() : std::string_view(),
                          static_cast<int64_t>(std::clamp<Integer>(most, -1, INT64_MAX)), from_right));
}

Value splitlines(Interpreter& in, const Value& self, Arguments& arguments) {
  Call call("splitlines", in, self, arguments);
  const bool keep = call.parameters.flag("keepends", false);
  call.parameters.finish();
  return call.texts(split_lines(call.text, keep));
}

template <bool from_right> Value partition(Interpreter& in, const Value& self, Arguments& arguments) {
  Call call(from_right ? "rpartition" : "partition", in, self, arguments);
  const std::string_view separator = call.texts("sep");
  call.parameters.finish();
  if (separator.empty()) fail("partition: the separator is empty");
  const size_t at = from_right ? call.text.rfind(separator) : call.text.find(separator);
  if (at == call.text.npos) {
    if (from_right) return in.tuple({in.text(""), in.text(""), self});
    return in.tuple({self, in.text(""), in.text("")});
  }
  return in.tuple({in.text(std::string(call.text.substr(0, at))), in.text(std::string(separator)),
                   in.text(std::string(call.text.substr(at + separator.size())))});
}

// The bytes of [start, end) in characters, Python's way.
std::string_view bounded(const Value& self, Parameters& parameters, size_t& offset) {
  const Text& text = *self.text();
  const auto size = static_cast<Integer>(text.length());
  const auto bound = [&](std::string_view name, Integer otherwise) {
    const Value given = parameters.value_or(name, Value::none());
    Integer at = given.is_none() ? otherwise : whole_number(given, name);
    if (at < 0) at = std::max<Integer>(at + size, 0);
    return at;
  };
  const Integer start = bound("start", 0), end = std::min(bound("end", size), size);
  offset = 0;
  if (start == 0 && end == size) return text.bytes;
  if (start > size || start > end) {
    offset = std::string_view::npos; // no such place
    return {};
  }
  const auto byte_at = [&](Integer character) {
    size_t at = 0;
    for (; character > 0; --character) {
      const Utf8Step step = utf8_step(text.bytes, at);
      at += step.kind == Utf8Step::valid ? step.size : 1;
    }
    return at;
  };
  offset = byte_at(start);
  return std::string_view(text.bytes).substr(offset, byte_at(end) - offset);
}

template <bool at_end> Value begins_method(Interpreter& in, const Value& self, Arguments& arguments) {
  Call call(at_end ? "endswith" : "startswith", in, self, arguments);
  const Value wanted = call.parameters.required("prefix");
  size_t offset = 0;
  const std::string_view text = bounded(self, call.parameters, offset);
  call.parameters.finish();
  const auto matches = [&](const Value& one) {
    if (!one.is_text()) fail(std::string(at_end ? "endswith" : "startswith") + " needs a string or a tuple of strings");
    return offset != text.npos && (at_end ? text.ends_with(one.string()) : text.starts_with(one.string()));
  };
  if (const Sequence* tuple = wanted.sequence(); tuple && tuple->kind == Sequence::Kind::tuple) {
    in.runtime().step(static_cast<int64_t>(tuple->items.size()));
    return Value::boolean(std::any_of(tuple->items.begin(), tuple->items.end(), matches));
  }
  return Value::boolean(matches(wanted));
}

enum class Find { first, last, first_or_fail, last_or_fail };

template <Find mode> Value find(Interpreter& in, const Value& self, Arguments& arguments) {
  Call call(mode == Find::first           ? "find"
            : mode == Find::last          ? "rfind"
            : mode == Find::first_or_fail ? "index"
                                          : "rindex",
            in, self, arguments);
  const std::string_view wanted = call.texts("sub");
  size_t offset = 0;
  const std::string_view text = bounded(self, call.parameters, offset);
  call.parameters.finish();
  const bool last = mode == Find::last || mode == Find::last_or_fail;
  const size_t found = offset == text.npos ? text.npos : last ? text.rfind(wanted) : text.find(wanted);
  if (found == text.npos) {
    if (mode == Find::first_or_fail || mode == Find::last_or_fail) fail("index: the substring is not found");
    return Value::integer(-1);
  }
  return Value::integer(static_cast<Integer>(Text(nullptr, self.text()->bytes.substr(0, offset + found)).length()));
}

Value count(Interpreter& in, const Value& self, Arguments& arguments) {
  Call call("count", in, self, arguments);
  const std::string_view wanted = call.texts("sub");
  size_t offset = 0;
  const std::string_view text = bounded(self, call.parameters, offset);
  call.parameters.finish();
  if (offset == text.npos) return Value::integer(0);
  if (wanted.empty()) return Value::integer(static_cast<Integer>(Text(nullptr, std::string(text)).length()) + 1);
  Integer total = 0;
  for (size_t at = 0; (at = text.find(wanted, at)) != text.npos; at += wanted.size()) ++total;
  return Value::integer(total);
}

Value replace(Interpreter& in, const Value& self, Arguments& arguments) {
  const Filter filter = find_filter("replace"); // the same bounds and the same work
  for (size_t i = 0; i < std::min<size_t>(2, arguments.positional.size()); ++i)
    if (!arguments.positional[i].is_text())
      fail("replace needs strings, not '" + std::string(type_name(arguments.positional[i])) + "'");
  return filter(in, self, arguments);
}

Value join(Interpreter& in, const Value& self, Arguments& arguments) {
  Call call("join", in, self, arguments);
  const Value items = call.parameters.required("iterable");
  call.parameters.finish();
  std::string out;
  bool first = true;
  for (const Value& item : items_of(in.runtime(), items)) {
    if (!item.is_text()) fail("join needs strings, not '" + std::string(type_name(item)) + "'");
    if (!std::exchange(first, false)) out += call.text;
    out += item.string();
    in.runtime().copying(call.text.size() + item.string().size());
    in.runtime().check_size(out.size());
  }
  return in.text(std::move(out));
}

Value format(Interpreter& in, const Value& self, Arguments& arguments) {
  return in.text(format_braces(in, self.string(), arguments));
}

using Map = std::string (*)(std::string_view);
template <Map map> Value mapped(Interpreter& in, const Value& self, Arguments& arguments) {
  Call call("a case method", in, self, arguments);
  call.parameters.finish();
  return call.make(map(call.text));
}

template <bool suffix> Value remove(Interpreter& in, const Value& self, Arguments& arguments) {
  Call call(suffix ? "removesuffix" : "removeprefix", in, self, arguments);
  const std::string_view part = call.texts("part");
  call.parameters.finish();
  std::string_view text = call.text;
  if (!suffix && text.starts_with(part)) text.remove_prefix(part.size());
  if (suffix && text.ends_with(part)) text.remove_suffix(part.size());
  return call.make(text);
}

enum class Justify { left, right, center, zeros };

template <Justify mode> Value justify(Interpreter& in, const Value& self, Arguments& arguments) {
  Call call("a width method", in, self, arguments);
  const Integer width = whole_number(call.parameters.required("width"), "width");
  const std::string fill = mode == Justify::zeros ? "0" : in.str(call.parameters.value_or("fillchar", in.text(" ")));
  call.parameters.finish();
  if (Text(nullptr, fill).length() != 1) fail("the fill character must be one character");
  const Integer missing = width - static_cast<Integer>(self.text()->length());
  if (missing <= 0) return self;
  if (missing > static_cast<Integer>(max_format_width)) fail("the width is too large");
  const Integer left = mode == Justify::left     ? 0
                       : mode == Justify::center ? missing / 2 + (missing & width & 1)
                                                 : missing;
  std::string out;
  std::string_view rest = call.text;
  if (mode == Justify::zeros && !rest.empty() && (rest[0] == '-' || rest[0] == '+')) {
    out += rest[0];
    rest.remove_prefix(1);
  }
  for (Integer i = 0; i < left; ++i) out += fill;
  out += rest;
  for (Integer i = left; i < missing; ++i) out += fill;
  return call.make(std::move(out));
}

// True if the text is not empty and every character is of the kind.
template <bool (*is)(char32_t)> Value every(Interpreter& in, const Value& self, Arguments& arguments) {
  Call call("a character test", in, self, arguments);
  call.parameters.finish();
  bool all = !call.text.empty();
  for (size_t at = 0; at < call.text.size() && all;) {
    const Utf8Step step = utf8_step(call.text, at);
    all = step.kind == Utf8Step::valid && is(step.code);
    at += step.size;
  }
  return Value::boolean(all);
}

Value islower(Interpreter& in, const Value& self, Arguments& arguments) {
  return Value::boolean(find_test("lower")(in, self, arguments));
}
Value isupper(Interpreter& in, const Value& self, Arguments& arguments) {
  return Value::boolean(find_test("upper")(in, self, arguments));
}

} // namespace

Function::Body find_text_method(std::string_view name) {
  static const std::unordered_map<std::string_view, Function::Body> table = {
      {"strip", strip_method<true, true>},
      {"lstrip", strip_method<true, false>},
      {"rstrip", strip_method<false, true>},
      {"split", split_method<false>},
      {"rsplit", split_method<true>},
      {"splitlines", splitlines},
      {"partition", partition<false>},
      {"rpartition", partition<true>},
      {"startswith", begins_method<false>},
      {"endswith", begins_method<true>},
      {"find", find<Find::first>},
      {"rfind", find<Find::last>},
      {"index", find<Find::first_or_fail>},
      {"rindex", find<Find::last_or_fail>},
      {"count", count},
      {"replace", replace},
      {"join", join},
      {"format", format},
      {"upper", mapped<unicode::to_upper>},
      {"lower", mapped<unicode::to_lower>},
      {"title", mapped<title_method>},
      {"capitalize", mapped<capitalized>},
      {"swapcase", mapped<swapped_case>},
      {"removeprefix", remove<false>},
      {"removesuffix", remove<true>},
      {"ljust", justify<Justify::left>},
      {"rjust", justify<Justify::right>},
      {"center", justify<Justify::center>},
      {"zfill", justify<Justify::zeros>},
      {"isspace", every<unicode::is_python_space>},
      {"isdigit", every<unicode::is_digit>},
      {"isdecimal", every<unicode::is_decimal>},
      {"isnumeric", every<unicode::is_numeric>},
      {"isalpha", every<unicode::is_alpha>},
      {"isalnum", every<unicode::is_alphanumeric>},
      {"islower", islower},
      {"isupper", isupper}};
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

} // namespace quire::jinja
