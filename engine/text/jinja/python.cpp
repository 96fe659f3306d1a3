#include "text/jinja/python.hpp"

#include "text/jinja/object.hpp"
#include "text/unicode/unicode.hpp"
#include "text/utf8.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace quire::jinja {

void fail(const std::string& sentence) { throw Failure{sentence, false}; }

Integer whole_number(const Value& value, std::string_view what) {
  Integer number = 0;
  if (!value.as_integer(number))
    fail(std::string(what) + " must be a whole number, not '" + std::string(type_name(value)) + "'");
  return number;
}

bool truth(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (Integer number; value.as_integer(number)) return number != 0;
  if (double number; value.as_real(number)) return number != 0;
  if (value.is_text()) return !value.string().empty();
  if (const Dict* dict = value.dict()) return !dict->entries.empty();
  if (const Sequence* sequence = value.sequence())
    return sequence->kind == Sequence::Kind::generator || !sequence->items.empty();
  return true;
}

std::string_view type_name(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "NoneType";
  if (value.is_boolean()) return "bool";
  if (value.is_integer()) return "int";
  if (value.is_real()) return "float";
  if (value.is_text()) return "str";
  if (value.is_dict()) return "dict";
  if (const Sequence* sequence = value.sequence()) {
    switch (sequence->kind) {
    case Sequence::Kind::list:
      return "list";
    case Sequence::Kind::tuple:
      return "tuple";
    case Sequence::Kind::range:
      return "range";
    case Sequence::Kind::keys:
      return "dict_keys";
    case Sequence::Kind::values:
      return "dict_values";
    case Sequence::Kind::items:
      return "dict_items";
    case Sequence::Kind::generator:
      return "generator";
    }
  }
  return "object";
}

bool equal(Runtime* runtime, const Value& a, const Value& b) {
  if (runtime) runtime->step();
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (Integer x, y; a.as_integer(x) && b.as_integer(y)) return x == y;
  if (double x, y; a.as_real(x) && b.as_real(y)) return x == y;
  if (a.is_text() && b.is_text()) {
    if (runtime) runtime->copying(std::min(a.string().size(), b.string().size()));
    return a.string() == b.string();
  }
  if (const Sequence* x = a.sequence(), *y = b.sequence(); x && y) {
    if (x == y) return true;
    if (x->kind != y->kind || x->kind == Sequence::Kind::generator || x->items.size() != y->items.size()) return false;
    for (size_t i = 0; i < x->items.size(); ++i)
      if (!equal(runtime, x->items[i], y->items[i])) return false;
    return true;
  }
  if (const Dict* x = a.dict(), *y = b.dict(); x && y) {
    if (x == y) return true;
    if (x->entries.size() != y->entries.size()) return false;
    for (const Dict::Entry& entry : x->entries) {
      const Value* other = y->find(entry.first);
      if (!other || !equal(runtime, entry.second, *other)) return false;
    }
    return true;
  }
  return a.object() && a.object() == b.object();
}

bool less(Runtime& runtime, const Value& a, const Value& b) {
  runtime.step();
  if (Integer x, y; a.as_integer(x) && b.as_integer(y)) return x < y;
  if (double x, y; a.as_real(x) && b.as_real(y)) return x < y;
  if (a.is_text() && b.is_text()) {
    runtime.copying(std::min(a.string().size(), b.string().size()));
    return a.string() < b.string(); // UTF-8 has the order of its code points
  }
  if (const Sequence* x = a.sequence(), *y = b.sequence(); x && y && x->kind == y->kind && x->is_plain()) {
    const size_t shared = std::min(x->items.size(), y->items.size());
    for (size_t i = 0; i < shared; ++i)
      if (!equal(&runtime, x->items[i], y->items[i])) return less(runtime, x->items[i], y->items[i]);
    return x->items.size() < y->items.size();
  }
  fail("'<' is not supported between '" + std::string(type_name(a)) + "' and '" + std::string(type_name(b)) + "'");
}

bool contains(Runtime& runtime, const Value& container, const Value& item) {
  if (container.is_text()) {
    if (!item.is_text()) fail("'in <string>' needs a string on its left, not '" + std::string(type_name(item)) + "'");
    runtime.copying(container.string().size());
    return container.string().find(item.string()) != std::string_view::npos;
  }
  if (const Dict* dict = container.dict()) {
    if (!item.is_text()) runtime.step(static_cast<int64_t>(dict->entries.size()));
    return dict->find(item) != nullptr;
  }
  for (const Value& each : items_of(runtime, container))
    if (equal(&runtime, each, item)) return true;
  return false;
}

std::vector<Value> items_of(Runtime& runtime, const Value& value) {
  std::vector<Value> items;
  if (value.is_undefined()) return items;
  if (const Sequence* sequence = value.sequence()) {
    if (sequence->kind == Sequence::Kind::generator && std::exchange(sequence->used, true)) return items;
    runtime.step(static_cast<int64_t>(sequence->items.size()));
    return sequence->items;
  }
  if (const Dict* dict = value.dict()) {
    runtime.step(static_cast<int64_t>(dict->entries.size()));
    for (const Dict::Entry& entry : dict->entries) items.push_back(entry.first);
    return items;
  }
  if (const Text* text = value.text()) {
    runtime.step(static_cast<int64_t>(text->bytes.size()));
    for (const std::string_view c : characters(*text)) items.push_back(make_text(&runtime, std::string(c)));
    return items;
  }
  fail("'" + std::string(type_name(value)) + "' object is not iterable");
}

int64_t length_of(const Value& value) {
  if (value.is_undefined()) return 0;
  if (const Text* text = value.text()) return static_cast<int64_t>(text->length());
  if (const Dict* dict = value.dict()) return static_cast<int64_t>(dict->entries.size());
  if (const Sequence* sequence = value.sequence(); sequence && sequence->kind != Sequence::Kind::generator)
    return static_cast<int64_t>(sequence->items.size());
  return -1;
}

std::vector<std::string_view> characters(const Text& text) {
  std::vector<std::string_view> result;
  const std::string_view bytes = text.bytes;
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Step step = utf8_step(bytes, at);
    const size_t size = step.kind == Utf8Step::valid ? step.size : 1;
    result.push_back(bytes.substr(at, size));
    at += size;
  }
  return result;
}

std::string_view character_at(const Text& text, size_t index) {
  const std::string_view bytes = text.bytes;
  if (text.single_bytes()) return index < bytes.size() ? bytes.substr(index, 1) : std::string_view();
  for (size_t at = 0; at < bytes.size();) {
    const Utf8Step step = utf8_step(bytes, at);
    const size_t size = step.kind == Utf8Step::valid ? step.size : 1;
    if (index-- == 0) return bytes.substr(at, size);
    at += size;
  }
  return {};
}

std::string_view strip(std::string_view text, const Value* set, bool left, bool right) {
  const auto strips = [&](std::string_view c) {
    if (set) return set->string().find(c) != std::string_view::npos;
    const Utf8Step step = utf8_step(c, 0);
    return step.kind == Utf8Step::valid && step.size == c.size() && unicode::is_python_space(step.code);
  };
  while (left && !text.empty()) {
    const Utf8Step step = utf8_step(text, 0);
    const size_t size = step.kind == Utf8Step::valid ? step.size : 1;
    if (!strips(text.substr(0, size))) break;
    text.remove_prefix(size);
  }
  while (right && !text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && text.size() - begin < 4 && !utf8_begins(text[begin])) --begin;
    const Utf8Step step = utf8_step(text, begin);
    if (step.kind != Utf8Step::valid || begin + step.size != text.size()) begin = text.size() - 1;
    if (!strips(text.substr(begin))) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

} // namespace quire::jinja
