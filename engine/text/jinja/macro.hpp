// Macros and the loop variable. Private to the interpreter.
#pragma once

#include "text/jinja/interpreter.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace quire::jinja {

class Macro : public Object {
 public:
  Macro(const MacroDefinition& definition, std::shared_ptr<Scope> scope)
      : definition_(definition), scope_(std::move(scope)) {}
  std::string describe() const override { return "<Macro '" + definition_.name + "'>"; }
  std::optional<Value> attribute(Interpreter& interpreter, std::string_view name) override;
  bool callable() const override { return true; }
  Value call(Interpreter& interpreter, Arguments&& arguments) override;

 private:
  const MacroDefinition& definition_;
  std::shared_ptr<Scope> scope_; // where it was defined
};

// The items of a for loop as they come, through its condition, and what `loop` says about them.
class Loop : public Object, public std::enable_shared_from_this<Loop> {
 public:
  using Passes =
      std::function<bool(const Value&)>; // the loop's condition: asked once an item, in order, as late as possible
  Loop(Runtime& runtime, std::vector<Value> items, Passes passes);
  std::string describe() const override;
  std::optional<Value> attribute(Interpreter& interpreter, std::string_view name) override;

  // Goes on to the next item that passes; false at the end.
  bool advance(Value& item);
  // A template may keep the object after its loop: then nothing is asked or kept any more.
  void end();

 private:
  static Value cycle(Interpreter&, const Value& self, Arguments& arguments);
  static Value changed(Interpreter&, const Value& self, Arguments& arguments);
  bool look(); // whether there is a next item
  size_t length();

  Charge charge_;
  std::vector<Value> source_; // what the condition has not been asked about, from source_at_ on
  size_t source_at_ = 0;
  Passes passes_;
  std::vector<Value> items_; // those that passed
  size_t index_ = 0;         // of the current one, from 1
  bool ended_ = false;
  std::optional<std::vector<Value>> last_seen_; // by loop.changed
};

} // namespace quire::jinja
