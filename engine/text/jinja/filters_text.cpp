// Filters that make text (jinja2.filters; str() of the subject comes first, as there).
#include "text/jinja/filters.hpp"
#include "text/jinja/format.hpp"
#include "text/jinja/text_methods.hpp"
#include "text/unicode/unicode.hpp"
#include "text/utf8.hpp"

#include <algorithm>
#include <string>

namespace quire::jinja {
namespace {

// The subject as text, paid for.
std::string subject_text(Interpreter& in, const Value& subject) {
  std::string text = soft_text(in, subject);
  in.runtime().copying(text.size());
  return text;
}

Value upper(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("upper", arguments).finish();
  return in.text(unicode::to_upper(subject_text(in, subject)));
}

Value lower(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("lower", arguments).finish();
  return in.text(unicode::to_lower(subject_text(in, subject)));
}

Value title(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("title", arguments).finish();
  return in.text(title_filter(subject_text(in, subject)));
}

Value capitalize(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("capitalize", arguments).finish();
  return in.text(capitalized(subject_text(in, subject)));
}

Value string(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("string", arguments).finish();
  return subject.is_text() ? subject : in.text(soft_text(in, subject));
}

Value trim(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("trim", arguments);
  const Value set = parameters.value_or("chars", Value::none());
  parameters.finish();
  if (!set.is_none() && !set.is_text()) fail("trim: chars must be a string");
  const std::string text = subject_text(in, subject);
  return in.text(std::string(strip(text, set.is_text() ? &set : nullptr, true, true)));
}

Value replace(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("replace", arguments);
  const std::string what = in.str(parameters.required("old")), by = in.str(parameters.required("new"));
  const Value count = parameters.value_or("count", Value::none());
  parameters.finish();
  const std::string text = subject_text(in, subject);
  const Integer most = count.is_none() ? -1 : whole_number(count, "replace: count");
  // What it will be at most, before it is made.
  const size_t places = what.empty() ? text.size() + 1 : text.size() / what.size();
  if (by.size() > what.size())
    in.runtime().check_size(text.size() + std::min<size_t>(places, SIZE_MAX / 2 / by.size()) * by.size());
  std::string out = replaced(text, what, by, static_cast<int64_t>(std::clamp<Integer>(most, -1, INT64_MAX)));
  in.runtime().copying(out.size());
  return in.text(std::move(out));
}

Value indent(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("indent", arguments);
  const Value width = parameters.value_or("width", Value::integer(4));
  const bool first = parameters.flag("first", false), blank = parameters.flag("blank", false);
  parameters.finish();
  std::string indention;
  if (width.is_text()) {
    indention = width.string();
  } else {
    const Integer count = whole_number(width, "indent: width");
    if (count > static_cast<Integer>(max_format_width)) fail("indent: width is too large");
    if (count > 0) indention.assign(static_cast<size_t>(count), ' ');
  }
  const std::string text = subject_text(in, subject) + "\n";
  const auto lines = split_lines(text, false);
  in.runtime().copying(text.size() + lines.size() * indention.size());
  in.runtime().check_size(text.size() + lines.size() * indention.size());
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i == 0 ? first : blank || !lines[i].empty()) out += indention;
    out += lines[i];
  }
  return in.text(std::move(out));
}

Value center(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("center", arguments);
  const Integer width = parameters.integer("width", 80);
  parameters.finish();
  const Value text = in.text(subject_text(in, subject));
  const Integer missing = width - length_of(text);
  if (missing <= 0) return text;
  if (missing > static_cast<Integer>(max_format_width)) fail("center: width is too large");
  // Python puts the odd space to the left if the width is odd.
  const Integer left = missing / 2 + (missing & width & 1);
  return in.text(std::string(static_cast<size_t>(left), ' ') + std::string(text.string()) +
                 std::string(static_cast<size_t>(missing - left), ' '));
}

Value truncate(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("truncate", arguments);
  const Integer length = parameters.integer("length", 255);
  const bool kill_words = parameters.flag("killwords", false);
  const Value end = parameters.value_or("end", in.text("..."));
  const Value leeway = parameters.value_or("leeway", Value::none());
  parameters.finish();
  const Value text = in.text(subject_text(in, subject)), mark = in.text(in.str(end));
  const Integer slack = leeway.is_none() ? 5 : whole_number(leeway, "truncate: leeway");
  const Integer kept = length - length_of(mark);
  if (kept < 0 || slack < 0) fail("truncate: length is too small");
  if (length_of(text) <= length + slack) return text;
  std::string out;
  const auto all = characters(*text.text());
  for (Integer i = 0; i < kept; ++i) out += all[static_cast<size_t>(i)];
  if (!kill_words)
    if (const size_t space = out.rfind(' '); space != out.npos) out.resize(space);
  return in.text(out + std::string(mark.string()));
}

Value wordcount(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("wordcount", arguments).finish();
  const std::string text = subject_text(in, subject);
  Integer count = 0;
  bool in_word = false;
  for (const char c : text) { // \w+, beyond ASCII every character
    const auto byte = static_cast<unsigned char>(c);
    const bool word =
        byte >= 0x80 || (byte >= '0' && byte <= '9') || ((byte | 32) >= 'a' && (byte | 32) <= 'z') || byte == '_';
    count += word && !in_word;
    in_word = word;
  }
  return Value::integer(count);
}

Value escape(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("escape", arguments).finish();
  return in.text(escape_html(subject_text(in, subject)));
}

Value striptags(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("striptags", arguments).finish();
  std::string text = subject_text(in, subject), out;
  for (const auto& [open, close] : {std::pair<std::string_view, std::string_view>{"<!--", "-->"}, {"<", ">"}}) {
    out.clear();
    size_t at = 0;
    for (size_t begin; (begin = text.find(open, at)) != text.npos;) {
      const size_t end = text.find(close, begin);
      if (end == text.npos) break;
      out.append(text, at, begin - at);
      at = end + close.size();
    }
    text = out.append(text, at);
  }
  std::string joined;
  for (const std::string_view word : split(text, "", -1, false)) (joined += joined.empty() ? "" : " ") += word;
  return in.text(std::move(joined));
}

void append_quoted(std::string& out, std::string_view text, bool query) {
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (byte >= '0' && byte <= '9') || ((byte | 32) >= 'a' && (byte | 32) <= 'z') || c == '_' ||
                       c == '.' || c == '-' || c == '~' || (c == '/' && !query);
    if (plain)
      out += c;
    else if (query && c == ' ')
      out += '+';
    else
      (((out += '%') += "0123456789ABCDEF"[byte >> 4])) += "0123456789ABCDEF"[byte & 15];
  }
}

Value urlencode(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("urlencode", arguments).finish();
  std::string out;
  if (subject.is_text() || !(subject.is_dict() || subject.is_sequence())) {
    append_quoted(out, subject_text(in, subject), false);
    return in.text(std::move(out));
  }
  std::vector<Dict::Entry> entries;
  if (subject.is_dict()) {
    entries = subject.dict()->entries;
  } else {
    for (const Value& pair : items_of(in.runtime(), subject)) {
      const auto both = items_of(in.runtime(), pair);
      if (both.size() != 2) fail("urlencode: an item is no pair");
      entries.emplace_back(both[0], both[1]);
    }
  }
  for (const auto& [key, value] : entries) {
    if (!out.empty()) out += '&';
    append_quoted(out, in.str(key), true);
    out += '=';
    append_quoted(out, in.str(value), true);
    in.runtime().copying(out.size());
  }
  return in.text(std::move(out));
}

Value format(Interpreter& in, const Value& subject, Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.keyword.empty())
    fail("format: takes arguments either by place or by name");
  Value values;
  if (arguments.keyword.empty()) {
    values = in.tuple(std::move(arguments.positional));
  } else {
    std::vector<Dict::Entry> entries;
    for (auto& [name, value] : arguments.keyword) entries.emplace_back(in.text(std::string(name)), std::move(value));
    values = make_dict(&in.runtime(), std::move(entries));
  }
  return in.text(format_percent(in.runtime(), subject_text(in, subject), values));
}

Value join(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("join", arguments);
  const Value between = parameters.value_or("d", in.text(""));
  const Value path = parameters.value_or("attribute", Value::none());
  parameters.finish();
  const AttributeGetter getter(in, path);
  const std::string delimiter = in.str(between);
  std::string out;
  bool first = true;
  for (const Value& item : items_of(in.runtime(), subject)) {
    if (!std::exchange(first, false)) {
      in.runtime().copying(delimiter.size());
      out += delimiter;
    }
    append_str(in.runtime(), getter(item), out);
    in.runtime().check_size(out.size());
  }
  return in.text(std::move(out));
}

} // namespace

const std::vector<FilterRow>& text_filters() {
  static const std::vector<FilterRow> rows = {
      {"upper", upper},   {"lower", lower},        {"title", title},         {"capitalize", capitalize},
      {"string", string}, {"safe", string},        {"trim", trim},           {"replace", replace},
      {"indent", indent}, {"center", center},      {"truncate", truncate},   {"escape", escape},
      {"e", escape},      {"forceescape", escape}, {"striptags", striptags}, {"urlencode", urlencode},
      {"format", format}, {"join", join},          {"wordcount", wordcount}};
  return rows;
}

} // namespace quire::jinja
