#include "text/jinja/macro.hpp"

#include <algorithm>
#include <utility>

namespace quire::jinja {

// As Jinja2's Macro: what is not given has its default, or is undefined; what is too much is an error unless the body
// asks for it.
Value Macro::call(Interpreter& in, Arguments&& arguments) {
  const MacroDefinition& macro = definition_;
  const Level level(in.runtime());
  auto scope = std::make_shared<Scope>();
  scope->outer = scope_;
  const size_t count = macro.parameters.size(), given = std::min(arguments.positional.size(), count);
  const std::shared_ptr<Scope> caller_scope = std::exchange(in.scope_, scope);
  struct Restore {
    std::shared_ptr<Scope>& place;
    const std::shared_ptr<Scope>& value;
    ~Restore() { place = value; }
  } restore{in.scope_, caller_scope};

  for (size_t i = 0; i < count; ++i) {
    const auto& [symbol, name] = macro.parameters[i];
    const auto named = std::find_if(arguments.keyword.begin(), arguments.keyword.end(),
                                    [&, wanted = std::string_view(name)](const auto& k) { return k.first == wanted; });
    if (i < given) {
      in.set_variable(symbol, std::move(arguments.positional[i]));
    } else if (named != arguments.keyword.end()) {
      in.set_variable(symbol, std::move(named->second));
      arguments.keyword.erase(named);
    } else if (const size_t without = count - macro.defaults.size(); i >= without) {
      in.set_variable(symbol, in.evaluate(*macro.defaults[i - without]));
    } else {
      in.set_variable(symbol, Value(Undefined{std::make_shared<const Text>(&in.runtime(), name), false}));
    }
  }
  const auto take_named = [&](std::string_view name) {
    const auto named = std::find_if(arguments.keyword.begin(), arguments.keyword.end(),
                                    [&](const auto& k) { return k.first == name; });
    Value value;
    if (named != arguments.keyword.end()) {
      value = std::move(named->second);
      arguments.keyword.erase(named);
    }
    return value;
  };
  if (macro.uses_caller) in.set_variable(in.program_.caller, take_named("caller"));
  if (macro.uses_kwargs) {
    std::vector<Dict::Entry> entries;
    for (auto& [name, value] : arguments.keyword) entries.emplace_back(in.text(std::string(name)), std::move(value));
    in.set_variable(in.program_.kwargs, make_dict(&in.runtime(), std::move(entries)));
  } else if (!arguments.keyword.empty()) {
    fail("the macro '" + macro.name + "' takes no argument named '" + std::string(arguments.keyword.front().first) +
         "'");
  }
  if (macro.uses_varargs) {
    std::vector<Value> rest(arguments.positional.begin() + static_cast<ptrdiff_t>(given), arguments.positional.end());
    in.set_variable(in.program_.varargs, in.tuple(std::move(rest)));
  } else if (arguments.positional.size() > count) {
    fail("the macro '" + macro.name + "' takes not more than " + std::to_string(count) + " arguments, not " +
         std::to_string(arguments.positional.size()));
  }
  return in.text(in.captured(macro.body));
}

std::optional<Value> Macro::attribute(Interpreter& in, std::string_view name) {
  if (name == "name") return in.text(definition_.name);
  if (name == "arguments") {
    std::vector<Value> names;
    for (const auto& parameter : definition_.parameters) names.push_back(in.text(parameter.second));
    return in.tuple(std::move(names));
  }
  if (name == "caller") return Value::boolean(definition_.uses_caller);
  if (name == "catch_kwargs") return Value::boolean(definition_.uses_kwargs);
  if (name == "catch_varargs") return Value::boolean(definition_.uses_varargs);
  return {};
}

Loop::Loop(Runtime& runtime, std::vector<Value> items, Passes passes)
    : charge_(&runtime, 2 * items.size() * sizeof(Value)), passes_(std::move(passes)) {
  (passes_ ? source_ : items_) = std::move(items);
}

std::string Loop::describe() const { return "<LoopContext " + std::to_string(index_) + ">"; }

bool Loop::look() {
  while (items_.size() == index_ && source_at_ < source_.size()) {
    const Value candidate = source_[source_at_++];
    if (passes_(candidate)) items_.push_back(candidate);
  }
  return index_ < items_.size();
}

bool Loop::advance(Value& item) {
  if (!look()) return false;
  item = items_[index_++];
  return true;
}

void Loop::end() {
  ended_ = true;
  passes_ = nullptr;
  source_at_ = source_.size();
  last_seen_.reset(); // it may hold this loop
}

size_t Loop::length() {
  for (; source_at_ < source_.size(); ++source_at_)
    if (passes_(source_[source_at_])) items_.push_back(source_[source_at_]);
  return items_.size();
}

Value Loop::cycle(Interpreter&, const Value& self, Arguments& arguments) {
  if (arguments.positional.empty()) fail("loop.cycle needs something to cycle through");
  const auto& loop = static_cast<const Loop&>(*self.object());
  return arguments.positional[(loop.index_ - 1) % arguments.positional.size()];
}

Value Loop::changed(Interpreter& in, const Value& self, Arguments& arguments) {
  auto& loop = static_cast<Loop&>(*self.object());
  bool same = loop.last_seen_ && loop.last_seen_->size() == arguments.positional.size();
  for (size_t i = 0; same && i < arguments.positional.size(); ++i)
    same = equal(&in.runtime(), (*loop.last_seen_)[i], arguments.positional[i]);
  if (!same && !loop.ended_) loop.last_seen_ = std::move(arguments.positional);
  return Value::boolean(!same);
}

std::optional<Value> Loop::attribute(Interpreter&, std::string_view name) {
  const auto number = [](size_t value) { return Value::integer(static_cast<Integer>(value)); };
  if (name == "index") return number(index_);
  if (name == "index0") return Value::integer(static_cast<Integer>(index_) - 1);
  if (name == "first") return Value::boolean(index_ == 1);
  if (name == "last") return Value::boolean(!look());
  if (name == "length") return number(length());
  if (name == "revindex") return Value::integer(static_cast<Integer>(length()) - static_cast<Integer>(index_) + 1);
  if (name == "revindex0") return Value::integer(static_cast<Integer>(length()) - static_cast<Integer>(index_));
  if (name == "depth") return number(1);
  if (name == "depth0") return number(0);
  if (name == "previtem") return index_ > 1 ? items_[index_ - 2] : Value();
  if (name == "nextitem") return look() ? items_[index_] : Value();
  if (name == "cycle" || name == "changed") {
    const Value self = Value(std::static_pointer_cast<Object>(shared_from_this()));
    const bool cycles = name == "cycle";
    return Value((std::static_pointer_cast<Object>(std::make_shared<Function>(
        cycles ? "loop.cycle" : "loop.changed", cycles ? &Loop::cycle : &Loop::changed, self))));
  }
  return {};
}

} // namespace quire::jinja
