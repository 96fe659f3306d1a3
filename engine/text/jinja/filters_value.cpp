// Filters of single values (jinja2.filters).
#include "text/jinja/filters.hpp"
#include "text/jinja/numbers.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace quire::jinja {
namespace {

Value default_value(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("default", arguments);
  Value otherwise = parameters.value_or("default_value", in.text(""));
  const bool boolean = parameters.flag("boolean", false);
  parameters.finish();
  return subject.is_undefined() || (boolean && !truth(subject)) ? otherwise : subject;
}

Value length(Interpreter&, const Value& subject, Arguments& arguments) {
  Parameters("length", arguments).finish();
  const int64_t count = length_of(subject);
  if (count < 0) fail("object of type '" + std::string(type_name(subject)) + "' has no length");
  return Value::integer(count);
}

Value absolute(Interpreter&, const Value& subject, Arguments& arguments) {
  Parameters("abs", arguments).finish();
  if (Integer whole; subject.as_integer(whole)) return whole < 0 ? negate(subject) : Value::integer(whole);
  if (double real; subject.as_real(real)) return Value::real(std::fabs(real));
  fail("abs needs a number, not '" + std::string(type_name(subject)) + "'");
}

Value integer(Interpreter&, const Value& subject, Arguments& arguments) {
  Parameters parameters("int", arguments);
  const Value otherwise = parameters.value_or("default", Value::integer(0));
  const Integer base = parameters.integer("base", 10);
  parameters.finish();
  if (Integer whole; subject.as_integer(whole)) return Value::integer(whole);
  double real = 0;
  if (subject.is_text()) {
    const bool is_base = base == 0 || (base >= 2 && base <= 36);
    if (Integer whole; is_base && parse_integer(subject.string(), static_cast<int>(base), whole))
      return Value::integer(whole);
    if (!parse_real(subject.string(), real)) return otherwise;
  } else if (!subject.as_real(real)) {
    if (subject.is_undefined()) fail("int needs a value, not an undefined one");
    return otherwise;
  }
  if (!std::isfinite(real)) return otherwise;
  if (std::fabs(real) >= 1e38) fail("a whole number is too large");
  return Value::integer(static_cast<Integer>(real));
}

Value real(Interpreter&, const Value& subject, Arguments& arguments) {
  Parameters parameters("float", arguments);
  const Value otherwise = parameters.value_or("default", Value::real(0));
  parameters.finish();
  double number = 0;
  if (subject.as_real(number) || (subject.is_text() && parse_real(subject.string(), number)))
    return Value::real(number);
  if (subject.is_undefined()) fail("float needs a value, not an undefined one");
  return otherwise;
}

// Python's round(): half to even, of the exact decimal value.
double rounded(double value, int precision) {
  if (!std::isfinite(value)) return value;
  if (precision > 300) return value;
  if (precision < 0) {
    const double unit = std::pow(10.0, -precision);
    return std::isfinite(unit) ? std::nearbyint(value / unit) * unit : 0;
  }
  char buffer[700];
  std::snprintf(buffer, sizeof buffer, "%.*f", precision, value);
  return std::strtod(buffer, nullptr);
}

Value round(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("round", arguments);
  const Integer precision = parameters.integer("precision", 0);
  const std::string method = in.str(parameters.value_or("method", in.text("common")));
  parameters.finish();
  if (method != "common" && method != "ceil" && method != "floor") fail("round: method must be common, ceil or floor");
  if (precision < -400 || precision > 400) fail("round: precision is out of range");
  double number = 0;
  if (!subject.as_real(number)) fail("round needs a number, not '" + std::string(type_name(subject)) + "'");
  if (method == "common") {
    if (Integer whole; subject.as_integer(whole) && precision >= 0) return Value::integer(whole);
    const double result = rounded(number, static_cast<int>(precision));
    return subject.is_real() ? Value::real(result) : Value::integer(static_cast<Integer>(result));
  }
  const double unit = std::pow(10.0, static_cast<double>(precision));
  return Value::real((method == "ceil" ? std::ceil(number * unit) : std::floor(number * unit)) / unit);
}

Value attr(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("attr", arguments);
  const Value name = parameters.required("name");
  parameters.finish();
  if (!name.is_text()) fail("attr needs a name");
  // An attribute only, never an item of the same name.
  if (subject.is_dict() && !find_method(subject, name.string())) return {};
  return in.attribute(subject, name);
}

Value filesizeformat(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("filesizeformat", arguments);
  const bool binary = parameters.flag("binary", false);
  parameters.finish();
  double bytes = 0;
  if (!subject.as_real(bytes) && !(subject.is_text() && parse_real(subject.string(), bytes)))
    fail("filesizeformat needs a number");
  const double base = binary ? 1024 : 1000;
  if (bytes == 1) return in.text("1 Byte");
  if (bytes < base) return in.text(integer_text(static_cast<Integer>(std::fmax(bytes, -1e30))) + " Bytes");
  static constexpr const char* decimal_units[] = {"kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"};
  static constexpr const char* binary_units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"};
  double unit = base * base;
  int i = 0;
  while (i < 7 && bytes >= unit) unit *= base, ++i;
  char buffer[400];
  std::snprintf(buffer, sizeof buffer, "%.1f %s", base * bytes / unit, binary ? binary_units[i] : decimal_units[i]);
  return in.text(buffer);
}

} // namespace

const std::vector<FilterRow>& value_filters() {
  static const std::vector<FilterRow> rows = {{"default", default_value},
                                              {"d", default_value},
                                              {"length", length},
                                              {"count", length},
                                              {"abs", absolute},
                                              {"int", integer},
                                              {"float", real},
                                              {"round", round},
                                              {"attr", attr},
                                              {"tojson", tojson_filter},
                                              {"filesizeformat", filesizeformat}};
  return rows;
}

} // namespace quire::jinja
