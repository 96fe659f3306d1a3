// The tests of `is` (jinja2.tests).
#include "text/jinja/interpreter.hpp"
#include "text/unicode/unicode.hpp"
#include "text/utf8.hpp"

#include <cmath>
#include <string>
#include <unordered_map>

namespace quire::jinja {
namespace {

void none(const char* name, Arguments& arguments) { Parameters(name, arguments).finish(); }

Value one(const char* name, Arguments& arguments) {
  Parameters parameters(name, arguments);
  Value other = parameters.required("other");
  parameters.finish();
  return other;
}

bool remainder_is(Interpreter& in, const Value& subject, Integer divisor, Integer wanted) {
  const Value rest = arithmetic(in.runtime(), Operator::modulo, subject, Value::integer(divisor));
  return equal(&in.runtime(), rest, Value::integer(wanted));
}

bool defined(Interpreter&, const Value& s, Arguments& a) { return none("defined", a), !s.is_undefined(); }
bool undefined(Interpreter&, const Value& s, Arguments& a) { return none("undefined", a), s.is_undefined(); }
bool is_none(Interpreter&, const Value& s, Arguments& a) { return none("none", a), s.is_none(); }
bool boolean(Interpreter&, const Value& s, Arguments& a) { return none("boolean", a), s.is_boolean(); }
bool is_true(Interpreter&, const Value& s, Arguments& a) { return none("true", a), s.is_boolean() && truth(s); }
bool is_false(Interpreter&, const Value& s, Arguments& a) { return none("false", a), s.is_boolean() && !truth(s); }
bool integer(Interpreter&, const Value& s, Arguments& a) { return none("integer", a), s.is_integer(); }
bool real(Interpreter&, const Value& s, Arguments& a) { return none("float", a), s.is_real(); }
bool number(Interpreter&, const Value& s, Arguments& a) { return none("number", a), s.is_number(); }
bool string(Interpreter&, const Value& s, Arguments& a) { return none("string", a), s.is_text(); }
bool mapping(Interpreter&, const Value& s, Arguments& a) { return none("mapping", a), s.is_dict(); }
bool escaped(Interpreter&, const Value&, Arguments& a) { return none("escaped", a), false; }
bool callable(Interpreter&, const Value& s, Arguments& a) {
  return none("callable", a), s.object() && s.object()->callable();
}

// Whatever has a length and can be indexed: also texts, mappings and the undefined.
bool sequence(Interpreter&, const Value& s, Arguments& a) {
  none("sequence", a);
  if (const Sequence* items = s.sequence()) return items->is_plain() || items->kind == Sequence::Kind::range;
  return s.is_text() || s.is_dict() || s.is_undefined();
}

bool iterable(Interpreter&, const Value& s, Arguments& a) {
  return none("iterable", a), s.is_text() || s.is_dict() || s.is_undefined() || s.is_sequence();
}

bool odd(Interpreter& in, const Value& s, Arguments& a) { return none("odd", a), remainder_is(in, s, 2, 1); }
bool even(Interpreter& in, const Value& s, Arguments& a) { return none("even", a), remainder_is(in, s, 2, 0); }
bool divisible_by(Interpreter& in, const Value& s, Arguments& a) {
  const Value rest = arithmetic(in.runtime(), Operator::modulo, s, one("divisibleby", a));
  return equal(&in.runtime(), rest, Value::integer(0));
}

bool equal_to(Interpreter& in, const Value& s, Arguments& a) { return equal(&in.runtime(), s, one("equalto", a)); }
bool not_equal(Interpreter& in, const Value& s, Arguments& a) { return !equal(&in.runtime(), s, one("ne", a)); }
bool less_than(Interpreter& in, const Value& s, Arguments& a) { return less(in.runtime(), s, one("lessthan", a)); }
bool greater_than(Interpreter& in, const Value& s, Arguments& a) {
  return less(in.runtime(), one("greaterthan", a), s);
}
bool at_most(Interpreter& in, const Value& s, Arguments& a) {
  const Value other = one("le", a);
  return less(in.runtime(), s, other) || equal(&in.runtime(), s, other);
}
bool at_least(Interpreter& in, const Value& s, Arguments& a) {
  const Value other = one("ge", a);
  return less(in.runtime(), other, s) || equal(&in.runtime(), s, other);
}

bool is_in(Interpreter& in, const Value& s, Arguments& a) { return contains(in.runtime(), one("in", a), s); }

// The same object; numbers and short texts have no identity of their own here, so equal values of one type count as the
// same.
bool same_as(Interpreter&, const Value& s, Arguments& a) {
  const Value other = one("sameas", a);
  if (s.text() && other.text()) return s.string() == other.string();
  if (s.is_real() && other.is_real()) return equal(nullptr, s, other);
  return s.storage().index() == other.storage().index() && !s.is_undefined() && s.sequence() == other.sequence() &&
         s.dict() == other.dict() && s.object() == other.object() && (!s.is_number() || equal(nullptr, s, other));
}

bool all_cased(Interpreter& in, const Value& s, bool lower) {
  const std::string text = in.str(s);
  bool any = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    if (step.kind == Utf8Step::valid && unicode::changes_case(step.code)) {
      std::string mapped;
      if (lower)
        unicode::append_lower(mapped, step.code);
      else
        unicode::append_upper(mapped, step.code);
      if (mapped != std::string_view(text).substr(at, step.size)) return false;
      any = true;
    }
    at += step.size;
  }
  return any;
}
bool lower(Interpreter& in, const Value& s, Arguments& a) { return none("lower", a), all_cased(in, s, true); }
bool upper(Interpreter& in, const Value& s, Arguments& a) { return none("upper", a), all_cased(in, s, false); }

bool filter_name(Interpreter& in, const Value& s, Arguments& a) {
  return none("filter", a), find_filter(in.str(s)) != nullptr;
}
bool test_name(Interpreter& in, const Value& s, Arguments& a) {
  return none("test", a), find_test(in.str(s)) != nullptr;
}

} // namespace

Test find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, Test> table = {{"defined", defined},
                                                                   {"undefined", undefined},
                                                                   {"none", is_none},
                                                                   {"boolean", boolean},
                                                                   {"true", is_true},
                                                                   {"false", is_false},
                                                                   {"integer", integer},
                                                                   {"float", real},
                                                                   {"number", number},
                                                                   {"string", string},
                                                                   {"mapping", mapping},
                                                                   {"escaped", escaped},
                                                                   {"callable", callable},
                                                                   {"sequence", sequence},
                                                                   {"iterable", iterable},
                                                                   {"odd", odd},
                                                                   {"even", even},
                                                                   {"equalto", equal_to},
                                                                   {"eq", equal_to},
                                                                   {"==", equal_to},
                                                                   {"ne", not_equal},
                                                                   {"!=", not_equal},
                                                                   {"lessthan", less_than},
                                                                   {"lt", less_than},
                                                                   {"<", less_than},
                                                                   {"le", at_most},
                                                                   {"<=", at_most},
                                                                   {"greaterthan", greater_than},
                                                                   {"gt", greater_than},
                                                                   {">", greater_than},
                                                                   {"ge", at_least},
                                                                   {">=", at_least},
                                                                   {"in", is_in},
                                                                   {"sameas", same_as},
                                                                   {"lower", lower},
                                                                   {"upper", upper},
                                                                   {"filter", filter_name},
                                                                   {"test", test_name},
                                                                   {"divisibleby", divisible_by}};
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

} // namespace quire::jinja
