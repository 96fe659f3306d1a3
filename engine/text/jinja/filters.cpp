#include "text/jinja/filters.hpp"

#include "text/unicode/unicode.hpp"

#include <unordered_map>
#include <utility>

namespace quire::jinja {

Filter find_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> table = [] {
    std::unordered_map<std::string_view, Filter> all;
    for (const auto* rows : {&text_filters(), &sequence_filters(), &value_filters()})
      all.insert(rows->begin(), rows->end());
    return all;
  }();
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

AttributeGetter::AttributeGetter(Interpreter& in, const Value& path) : in_(in) {
  if (path.is_undefined() || path.is_none()) return;
  if (!path.is_text()) {
    parts_.push_back(path);
    return;
  }
  std::string_view rest = path.string();
  for (;;) {
    const size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    const bool number = !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == part.npos;
    parts_.push_back(number ? Value::integer(std::stoi(std::string(part))) : in.text(std::string(part)));
    if (dot == rest.npos) return;
    rest.remove_prefix(dot + 1);
  }
}

Value AttributeGetter::operator()(const Value& item) const {
  Value value = item;
  for (const Value& part : parts_) value = in_.item(value, part);
  return value;
}

Value ignoring_case(Interpreter& in, const Value& value) {
  if (!value.is_text()) return value;
  in.runtime().copying(value.string().size());
  return in.text(unicode::to_lower(value.string()));
}

} // namespace quire::jinja
