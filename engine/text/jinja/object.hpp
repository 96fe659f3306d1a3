// Values with behaviour: functions, macros, namespaces, the loop variable. One thread, one rendering.
#pragma once

#include "text/jinja/value.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quire::jinja {

class Interpreter;

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string_view, Value>> keyword; // the names live in the template or in `kept`
  std::vector<Value> kept;
};

class Object {
 public:
  virtual ~Object() = default;
  virtual std::string describe() const = 0; // what str() gives
  virtual std::optional<Value> attribute(Interpreter&, std::string_view) { return {}; }
  virtual bool callable() const { return false; }
  virtual Value call(Interpreter&, Arguments&&) { throw Failure{describe() + " is not callable", false}; }
};

// Attributes that a template may set: {% set ns.x = … %}.
class Namespace : public Object {
 public:
  std::string describe() const override { return "<Namespace>"; }
  std::optional<Value> attribute(Interpreter&, std::string_view name) override;
  void set(Runtime& runtime, std::string_view name, Value value);
  // At the end of a rendering, as namespaces may hold each other.
  void clear() { attributes_.clear(); }

 private:
  std::vector<std::pair<std::string, Value>> attributes_;
};

// A function of the environment or a method bound to its value.
class Function : public Object {
 public:
  using Body = Value (*)(Interpreter&, const Value& self, Arguments& arguments);
  Function(std::string_view name, Body body, Value self = {}) : name_(name), body_(body), self_(std::move(self)) {}
  std::string describe() const override { return "<function " + std::string(name_) + ">"; }
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Arguments&& arguments) override { return body_(interpreter, self_, arguments); }

 private:
  std::string_view name_; // static
  Body body_;
  Value self_;
};

// Takes arguments apart by place or name, as a Python signature does; finish() refuses what is left over.
class Parameters {
 public:
  Parameters(const char* function, Arguments& arguments) : function_(function), arguments_(arguments) {}
  // False: it is not given.
  bool take(std::string_view name, Value& value);
  Value required(std::string_view name);
  Value value_or(std::string_view name, Value otherwise) {
    take(name, otherwise);
    return otherwise;
  }
  bool flag(std::string_view name, bool otherwise);
  Integer integer(std::string_view name, Integer otherwise);
  void finish() const;

 private:
  const char* function_;
  Arguments& arguments_;
  size_t taken_ = 0;
};

} // namespace quire::jinja
