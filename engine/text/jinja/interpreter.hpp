// Runs a Program once. One thread. Throws Failure; line() says where.
#pragma once

#include "text/jinja/ast.hpp"

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quire::jinja {

// Variables of one block; a reading goes outwards. Shared with the macros that are defined in it.
struct Scope {
  std::vector<std::pair<int, Value>> variables; // by symbol
  std::shared_ptr<Scope> outer;
  Value* find(int symbol) {
    for (auto& [name, value] : variables)
      if (name == symbol) return &value;
    return nullptr;
  }
};

class Interpreter {
 public:
  Interpreter(const Program& program, Runtime& runtime, const TemplateLimits& limits,
              std::chrono::system_clock::time_point now);
  ~Interpreter(); // unties namespaces, macros and scopes that hold each other
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  // A variable of the whole template; names that the template never uses are dropped.
  void define(std::string_view name, Value value);
  std::string run();
  int line() const { return line_; }

  // For filters, tests and functions.
  Runtime& runtime() { return runtime_; }
  Value text(std::string bytes) { return make_text(&runtime_, std::move(bytes)); }
  Value list(std::vector<Value> items) { return make_sequence(&runtime_, std::move(items)); }
  Value tuple(std::vector<Value> items) { return make_sequence(&runtime_, std::move(items), Sequence::Kind::tuple); }
  Value generator(std::vector<Value> items) {
    return make_sequence(&runtime_, std::move(items), Sequence::Kind::generator);
  }
  std::string str(const Value& value) { return jinja::str(runtime_, value); }
  Value attribute(const Value& object, const Value& name); // object.name
  Value item(const Value& object, const Value& key);       // object[key]
  Value call(const Value& callable, Arguments&& arguments);
  Value make_namespace();
  std::chrono::system_clock::time_point now() const { return now_; }

 private:
  friend class Macro;
  enum class Flow { on, break_loop, continue_loop };

  // Statements: interpreter.cpp.
  Flow execute(const Block& block);
  Flow execute(const Statement& statement);
  Flow execute_loop(const Statement& loop);
  void assign(const Target& target, Value value);
  void set_variable(int symbol, Value value);
  std::string captured(const Block& body); // in a scope of its own
  void write(std::string_view text);
  void write(const Value& value);

  // Expressions: evaluate.cpp.
  Value evaluate(const Expression& e);
  Value evaluate_name(int symbol);
  Value evaluate_call(const Expression& e);
  Value evaluate_compare(const Expression& e);
  Value evaluate_slice(const Expression& e);
  bool compare(Comparison comparison, const Value& a, const Value& b);
  Arguments evaluate_arguments(const CallArguments& arguments);
  [[noreturn]] void fail_undefined(const Value& value) const;

  const Program& program_;
  Runtime& runtime_;
  TemplateLimits limits_;
  std::chrono::system_clock::time_point now_;
  std::shared_ptr<Scope> scope_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  std::vector<std::shared_ptr<Scope>> captured_scopes_; // that macros hold
  std::string output_;
  Value block_text_; // of set_block and filter_block, for their filters
  int line_ = 1;
};

// A method of a text, sequence or dict by name; null if there is none. Throws Failure for those that the sandbox
// forbids.
Function::Body find_method(const Value& object, std::string_view name);
// A function that every template has; null if there is none of that name.
Function::Body find_global(std::string_view name);

} // namespace quire::jinja
