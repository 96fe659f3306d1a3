// Numbers and texts in a width, as Python's % operator, format() and str.format() write them.
#pragma once

#include "text/jinja/interpreter.hpp"

#include <optional>
#include <string>
#include <string_view>

namespace quire::jinja {

struct FormatSpec {
  std::string fill = " ";
  char align = 0;  // < > ^ =; 0: by the type
  char sign = '-'; // + - or space
  bool alternate = false;
  char group = 0; // , or _
  size_t width = 0;
  std::optional<int> precision;
  char type = 0;
};

constexpr size_t max_format_width = 100'000;

// Throws Failure for a type that the value does not have.
std::string format_value(Runtime& runtime, const Value& value, const FormatSpec& spec);
// "…{}…{name}…".format(…). The interpreter resolves {a.b[c]}.
std::string format_braces(Interpreter& interpreter, std::string_view format, Arguments& arguments);

} // namespace quire::jinja
