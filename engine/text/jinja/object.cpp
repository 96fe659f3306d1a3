#include "text/jinja/object.hpp"

#include "text/jinja/interpreter.hpp"
#include "text/jinja/python.hpp"

#include <algorithm>
#include <utility>

namespace quire::jinja {

std::optional<Value> Namespace::attribute(Interpreter&, std::string_view name) {
  for (const auto& [key, value] : attributes_)
    if (key == name) return value;
  return {};
}

void Namespace::set(Runtime& runtime, std::string_view name, Value value) {
  if (name.starts_with('_')) fail("a namespace has no attributes that begin with '_'");
  runtime.step(1 + static_cast<int64_t>(attributes_.size()));
  for (auto& [key, there] : attributes_) {
    if (key != name) continue;
    there = std::move(value);
    return;
  }
  runtime.take(sizeof(Value) + name.size() + 32); // kept to the end of the rendering
  attributes_.emplace_back(name, std::move(value));
}

bool Parameters::take(std::string_view name, Value& value) {
  const size_t place = taken_++;
  const auto named = std::find_if(arguments_.keyword.begin(), arguments_.keyword.end(),
                                  [&](const auto& k) { return k.first == name; });
  if (place < arguments_.positional.size()) {
    if (named != arguments_.keyword.end()) fail(std::string(function_) + " gets " + std::string(name) + " twice");
    value = std::move(arguments_.positional[place]);
    return true;
  }
  if (named == arguments_.keyword.end()) return false;
  value = std::move(named->second);
  arguments_.keyword.erase(named);
  return true;
}

Value Parameters::required(std::string_view name) {
  Value value;
  if (!take(name, value)) fail(std::string(function_) + " needs the argument " + std::string(name));
  return value;
}

bool Parameters::flag(std::string_view name, bool otherwise) {
  Value value;
  return take(name, value) ? truth(value) : otherwise;
}

Integer Parameters::integer(std::string_view name, Integer otherwise) {
  Value value;
  return take(name, value) ? whole_number(value, std::string(function_) + ": " + std::string(name)) : otherwise;
}

void Parameters::finish() const {
  if (arguments_.positional.size() > taken_)
    fail(std::string(function_) + " takes at most " + std::to_string(taken_) + " arguments, not " +
         std::to_string(arguments_.positional.size()));
  if (!arguments_.keyword.empty())
    fail(std::string(function_) + " takes no argument named '" + std::string(arguments_.keyword.front().first) + "'");
}

} // namespace quire::jinja
