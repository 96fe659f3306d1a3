// Operators on numbers, texts and lists (Python 3 language reference, chapter 6.7).
#include "text/jinja/python.hpp"

#include <cmath>
#include <utility>

namespace quire::jinja {
namespace {

[[noreturn]] void overflow() { fail("a whole number is too large"); }

[[noreturn]] void unsupported(Operator op, const Value& a, const Value& b) {
  static constexpr const char* symbols[] = {"+", "-", "*", "/", "//", "%", "**"};
  fail("unsupported operand types for " + std::string(symbols[static_cast<int>(op)]) + ": '" +
       std::string(type_name(a)) + "' and '" + std::string(type_name(b)) + "'");
}

// Towards minus infinity, and the remainder with the divisor's sign.
std::pair<Integer, Integer> floor_divide(Integer a, Integer b) {
  if (b == 0) fail("division by zero");
  if (b == -1) {
    Integer negated;
    if (__builtin_sub_overflow(static_cast<Integer>(0), a, &negated)) overflow();
    return {negated, 0};
  }
  Integer quotient = a / b, remainder = a % b;
  if (remainder != 0 && (remainder < 0) != (b < 0)) --quotient, remainder += b;
  return {quotient, remainder};
}

std::pair<double, double> floor_divide(double a, double b) {
  if (b == 0) fail("division by zero");
  double remainder = std::fmod(a, b);
  if (remainder != 0 && (remainder < 0) != (b < 0)) remainder += b;
  return {std::floor((a - remainder) / b + 0.5), remainder};
}

Value power(Integer base, Integer exponent) {
  if (exponent < 0) {
    if (base == 0) fail("division by zero");
    return Value::real(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  Integer result = 1;
  if (base == 0 || base == 1) return Value::integer(exponent == 0 ? 1 : base);
  if (base == -1) return Value::integer(exponent % 2 ? -1 : 1);
  for (; exponent > 0; --exponent)
    if (__builtin_mul_overflow(result, base, &result)) overflow(); // at most 127 times
  return Value::integer(result);
}

Value of_integers(Operator op, Integer a, Integer b) {
  Integer result = 0;
  switch (op) {
  case Operator::add:
    if (__builtin_add_overflow(a, b, &result)) overflow();
    return Value::integer(result);
  case Operator::subtract:
    if (__builtin_sub_overflow(a, b, &result)) overflow();
    return Value::integer(result);
  case Operator::multiply:
    if (__builtin_mul_overflow(a, b, &result)) overflow();
    return Value::integer(result);
  case Operator::divide:
    if (b == 0) fail("division by zero");
    return Value::real(static_cast<double>(a) / static_cast<double>(b));
  case Operator::floor_divide:
    return Value::integer(floor_divide(a, b).first);
  case Operator::modulo:
    return Value::integer(floor_divide(a, b).second);
  case Operator::power:
    return power(a, b);
  }
  return {};
}

Value of_reals(Operator op, double a, double b) {
  switch (op) {
  case Operator::add:
    return Value::real(a + b);
  case Operator::subtract:
    return Value::real(a - b);
  case Operator::multiply:
    return Value::real(a * b);
  case Operator::divide:
    if (b == 0) fail("division by zero");
    return Value::real(a / b);
  case Operator::floor_divide:
    return Value::real(floor_divide(a, b).first);
  case Operator::modulo:
    return Value::real(floor_divide(a, b).second);
  case Operator::power:
    if (a < 0 && b != std::floor(b)) fail("a negative number has no such power");
    if (a == 0 && b < 0) fail("division by zero");
    return Value::real(std::pow(a, b));
  }
  return {};
}

Value repeat(Runtime& runtime, const Value& value, Integer times) {
  if (times < 0) times = 0;
  if (const Text* text = value.text()) {
    const Integer bytes =
        times *
        static_cast<Integer>(text->bytes.size()); // 2^127 is out of reach: times is a number that fits or fails below
    if (text->bytes.empty()) return value;
    if (times > INT32_MAX || bytes > INT32_MAX) fail("a repeated text is too long");
    runtime.check_size(static_cast<size_t>(bytes));
    runtime.copying(static_cast<size_t>(bytes));
    std::string out;
    out.reserve(static_cast<size_t>(bytes));
    for (; times > 0; --times) out += text->bytes;
    return make_text(&runtime, std::move(out));
  }
  const Sequence& sequence = *value.sequence();
  const size_t size = sequence.items.size();
  if (size == 0) return value;
  if (times > INT32_MAX || times * static_cast<Integer>(size) > INT32_MAX) fail("a repeated list is too long");
  const size_t count = static_cast<size_t>(times) * size;
  runtime.check_size(count * sizeof(Value));
  runtime.step(static_cast<int64_t>(count));
  std::vector<Value> items;
  items.reserve(count);
  for (; times > 0; --times) items.insert(items.end(), sequence.items.begin(), sequence.items.end());
  return make_sequence(&runtime, std::move(items), sequence.kind);
}

bool repeats(const Value& value) { return value.is_text() || (value.is_sequence() && value.sequence()->is_plain()); }

} // namespace

Value arithmetic(Runtime& runtime, Operator op, const Value& a, const Value& b) {
  Integer whole_a = 0, whole_b = 0;
  const bool is_whole_a = a.as_integer(whole_a), is_whole_b = b.as_integer(whole_b);
  if (is_whole_a && is_whole_b) return of_integers(op, whole_a, whole_b);
  if (double real_a, real_b; a.as_real(real_a) && b.as_real(real_b)) return of_reals(op, real_a, real_b);
  if (op == Operator::add) {
    if (a.is_text() && b.is_text()) {
      runtime.copying(a.string().size() + b.string().size());
      runtime.check_size(a.string().size() + b.string().size());
      std::string joined(a.string());
      return make_text(&runtime, std::move(joined += b.string()));
    }
    if (a.is_text()) fail("can only concatenate a string (not '" + std::string(type_name(b)) + "') to a string");
    const Sequence *x = a.sequence(), *y = b.sequence();
    if (x && y && x->kind == y->kind && x->is_plain()) {
      runtime.step(static_cast<int64_t>(x->items.size() + y->items.size()));
      std::vector<Value> items = x->items;
      items.insert(items.end(), y->items.begin(), y->items.end());
      return make_sequence(&runtime, std::move(items), x->kind);
    }
  }
  if (op == Operator::multiply && repeats(a) && is_whole_b) return repeat(runtime, a, whole_b);
  if (op == Operator::multiply && repeats(b) && is_whole_a) return repeat(runtime, b, whole_a);
  if (op == Operator::modulo && a.is_text()) return make_text(&runtime, format_percent(runtime, a.string(), b));
  unsupported(op, a, b);
}

Value negate(const Value& value) {
  if (Integer whole; value.as_integer(whole)) return of_integers(Operator::subtract, 0, whole);
  if (double real; value.as_real(real)) return Value::real(-real);
  fail("bad operand type for unary -: '" + std::string(type_name(value)) + "'");
}

Value positive(const Value& value) {
  if (Integer whole; value.as_integer(whole)) return Value::integer(whole);
  if (value.is_real()) return value;
  fail("bad operand type for unary +: '" + std::string(type_name(value)) + "'");
}

} // namespace quire::jinja
