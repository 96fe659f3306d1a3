// What Python does with values: truth, str(), repr(), ==, <, arithmetic, iteration. Sources: the Python 3 language
// reference, chapters 3.3 and 6; Jinja2 3.1's Undefined. A null Runtime counts no steps.
#pragma once

#include "text/jinja/value.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace quire::jinja {

bool truth(const Value& value);
std::string_view type_name(const Value& value); // "str", "int", "list" …

std::string integer_text(Integer value);
std::string real_text(double value); // repr(): the shortest that reads back
void append_str(Runtime& runtime, const Value& value, std::string& out);
void append_repr(Runtime& runtime, const Value& value, std::string& out);
std::string str(Runtime& runtime, const Value& value);

bool equal(Runtime* runtime, const Value& a, const Value& b);
// a < b; throws Failure where Python has no order.
bool less(Runtime& runtime, const Value& a, const Value& b);
bool contains(Runtime& runtime, const Value& container, const Value& item);

enum class Operator { add, subtract, multiply, divide, floor_divide, modulo, power };
Value arithmetic(Runtime& runtime, Operator op, const Value& a, const Value& b);
Value negate(const Value& value);
Value positive(const Value& value);

// The items that a for loop sees; consumes a generator. Throws Failure for what can't be iterated.
std::vector<Value> items_of(Runtime& runtime, const Value& value);
// len(); -1: it has none.
int64_t length_of(const Value& value);

// Text by characters; stray bytes count as one each. Out of range is empty.
std::string_view character_at(const Text& text, size_t index);
std::vector<std::string_view> characters(const Text& text);
std::string_view strip(std::string_view text, const Value* characters, bool left, bool right);

// a % b with a text on the left; "…".format(…).
std::string format_percent(Runtime& runtime, std::string_view format, const Value& arguments);

// Throws Failure «a sentence».
[[noreturn]] void fail(const std::string& sentence);
// The whole number in a value that is used as an index or count.
Integer whole_number(const Value& value, std::string_view what);

} // namespace quire::jinja
