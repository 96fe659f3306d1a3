// json.dumps with the arguments and defaults of transformers' tojson: no HTML escapes, ensure_ascii=False.
#include "text/jinja/filters.hpp"
#include "text/jinja/format.hpp"
#include "text/utf8.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

namespace quire::jinja {
namespace {

class JsonWriter {
 public:
  explicit JsonWriter(Interpreter& in) : in_(in) {}
  bool ascii = false, sort = false;
  std::optional<std::string> indent;
  std::string item_separator = ", ", key_separator = ": ";

  void write(const Value& value) {
    const Level level(in_.runtime());
    in_.runtime().step();
    if (value.is_none())
      out += "null";
    else if (value.is_boolean())
      out += truth(value) ? "true" : "false";
    else if (Integer whole; value.as_integer(whole))
      out += integer_text(whole);
    else if (double real; value.as_real(real))
      out += real_json(real);
    else if (value.is_text())
      write_text(value.string());
    else if (value.is_dict())
      write_dict(*value.dict());
    else if (value.sequence() && value.sequence()->is_plain())
      write_list(value.sequence()->items);
    else
      fail("an object of type '" + std::string(type_name(value)) + "' can't be written as JSON");
    in_.runtime().check_size(out.size());
  }

  std::string out;

 private:
  static std::string real_json(double real) {
    if (std::isnan(real)) return "NaN";
    if (std::isinf(real)) return real < 0 ? "-Infinity" : "Infinity";
    return real_text(real);
  }

  void write_text(std::string_view text) {
    in_.runtime().copying(text.size());
    out += '"';
    for (size_t at = 0; at < text.size();) {
      const char c = text[at];
      if (c == '"' || c == '\\')
        (out += '\\') += c;
      else if (c == '\n')
        out += "\\n";
      else if (c == '\r')
        out += "\\r";
      else if (c == '\t')
        out += "\\t";
      else if (c == '\b')
        out += "\\b";
      else if (c == '\f')
        out += "\\f";
      else if (static_cast<unsigned char>(c) < 0x20)
        unit(static_cast<unsigned char>(c));
      else if (!ascii || static_cast<unsigned char>(c) < 0x80)
        out += c;
      else {
        const Utf8Step step = utf8_step(text, at);
        if (step.kind == Utf8Step::valid) {
          if (step.code >= 0x10000)
            unit(0xD800 + ((step.code - 0x10000) >> 10)), unit(0xDC00 + (step.code & 0x3FF));
          else
            unit(step.code);
          at += step.size;
          continue;
        }
        out += c; // a stray byte
      }
      ++at;
    }
    out += '"';
  }

  void unit(char32_t code) {
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out += "0123456789abcdef"[(code >> shift) & 15];
  }

  void new_line() {
    if (!indent) return;
    in_.runtime().copying(indent->size() * levels_);
    out += '\n';
    for (size_t i = 0; i < levels_; ++i) out += *indent;
  }

  template <typename Items, typename Write> void write_items(char open, char close, const Items& items, Write each) {
    out += open;
    if (items.empty()) {
      out += close;
      return;
    }
    ++levels_;
    bool first = true;
    for (const auto& item : items) {
      if (!std::exchange(first, false)) out += item_separator;
      new_line();
      each(item);
    }
    --levels_;
    new_line();
    out += close;
  }

  void write_list(const std::vector<Value>& items) {
    write_items('[', ']', items, [&](const Value& item) { write(item); });
  }

  void write_dict(const Dict& dict) {
    std::vector<const Dict::Entry*> entries;
    for (const Dict::Entry& entry : dict.entries) entries.push_back(&entry);
    if (sort)
      std::stable_sort(entries.begin(), entries.end(),
                       [&](const auto* a, const auto* b) { return less(in_.runtime(), a->first, b->first); });
    write_items('{', '}', entries, [&](const Dict::Entry* entry) {
      const Value& key = entry->first;
      if (key.is_text())
        write_text(key.string());
      else if (key.is_number() || key.is_none()) {
        out += '"';
        write(key);
        out += '"';
      } else
        fail("keys of a JSON object must be strings, numbers or none, not '" + std::string(type_name(key)) + "'");
      out += key_separator;
      write(entry->second);
    });
  }

  Interpreter& in_;
  size_t levels_ = 0;
};

} // namespace

Value tojson_filter(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("tojson", arguments);
  JsonWriter writer(in);
  writer.ascii = parameters.flag("ensure_ascii", false);
  const Value indent = parameters.value_or("indent", Value::none());
  const Value separators = parameters.value_or("separators", Value::none());
  writer.sort = parameters.flag("sort_keys", false);
  parameters.finish();
  if (indent.is_text()) {
    writer.indent = indent.string();
  } else if (!indent.is_none()) {
    const Integer width = whole_number(indent, "tojson: indent");
    if (width > 1000) fail("tojson: indent is too large");
    writer.indent = std::string(static_cast<size_t>(std::max<Integer>(width, 0)), ' ');
  }
  if (writer.indent) writer.item_separator = ",";
  if (!separators.is_none()) {
    const std::vector<Value> both = items_of(in.runtime(), separators);
    if (both.size() != 2 || !both[0].is_text() || !both[1].is_text()) fail("tojson: separators must be two strings");
    writer.item_separator = both[0].string();
    writer.key_separator = both[1].string();
  }
  writer.write(subject);
  return in.text(std::move(writer.out));
}

} // namespace quire::jinja
