// What the filters share. The tables of names are in filters.cpp; each group of filters fills its part.
#pragma once

#include "text/jinja/interpreter.hpp"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quire::jinja {

using FilterRow = std::pair<std::string_view, Filter>;
extern const std::vector<FilterRow>& text_filters();     // filters_text.cpp
extern const std::vector<FilterRow>& sequence_filters(); // filters_sequence.cpp
extern const std::vector<FilterRow>& value_filters();    // filters_value.cpp

// json.dumps with the arguments that transformers gives it: tojson_filter.cpp.
Value tojson_filter(Interpreter& in, const Value& subject, Arguments& arguments);

// str() of a filter's subject: undefined is empty.
inline std::string soft_text(Interpreter& in, const Value& value) { return in.str(value); }

// What attribute='a.b.0' reaches in an item; an absent `path` is the item itself.
class AttributeGetter {
 public:
  // path: a text or a whole number; undefined or none: absent.
  AttributeGetter(Interpreter& in, const Value& path);
  Value operator()(const Value& item) const;

 private:
  Interpreter& in_;
  std::vector<Value> parts_;
};

// A text in lower case, everything else as it is: what sorting and grouping compare unless they mind the case.
Value ignoring_case(Interpreter& in, const Value& value);

} // namespace quire::jinja
