#include "text/jinja/interpreter.hpp"

#include "text/jinja/macro.hpp"

#include <algorithm>
#include <utility>

namespace quire::jinja {

Interpreter::Interpreter(const Program& program, Runtime& runtime, const TemplateLimits& limits,
                         std::chrono::system_clock::time_point now)
    : program_(program), runtime_(runtime), limits_(limits), now_(now), scope_(std::make_shared<Scope>()) {
  captured_scopes_.push_back(scope_);
}

Interpreter::~Interpreter() {
  for (const auto& ns : namespaces_) ns->clear();
  for (const auto& scope : captured_scopes_) scope->variables.clear();
}

void Interpreter::define(std::string_view name, Value value) {
  if (const auto found = program_.symbol_of.find(name); found != program_.symbol_of.end())
    set_variable(found->second, std::move(value));
}

std::string Interpreter::run() {
  // What the template sets at its top hides the variables that it is given, and macros see both.
  auto top = std::make_shared<Scope>();
  top->outer = scope_;
  scope_ = top;
  captured_scopes_.push_back(top);
  execute(program_.body);
  return std::move(output_);
}

void Interpreter::set_variable(int symbol, Value value) {
  if (Value* there = scope_->find(symbol))
    *there = std::move(value);
  else
    scope_->variables.emplace_back(symbol, std::move(value));
}

Value Interpreter::make_namespace() {
  runtime_.take(sizeof(Namespace) + 64); // kept to the end of the rendering
  namespaces_.push_back(std::make_shared<Namespace>());
  return Value(std::static_pointer_cast<Object>(namespaces_.back()));
}

void Interpreter::write(std::string_view text) {
  runtime_.copying(text.size());
  runtime_.check_output(output_.size() + text.size());
  output_ += text;
}

void Interpreter::write(const Value& value) {
  if (value.is_text())
    write(value.string());
  else if (!value.is_undefined())
    write(str(value));
}

std::string Interpreter::captured(const Block& body) {
  std::string outer = std::exchange(output_, {});
  struct Restore {
    Interpreter& in;
    std::string& output;
    std::shared_ptr<Scope> scope;
    ~Restore() {
      in.output_ = std::move(output);
      in.scope_ = std::move(scope);
    }
  } restore{*this, outer, scope_};
  auto inner = std::make_shared<Scope>();
  inner->outer = scope_;
  scope_ = std::move(inner);
  execute(body);
  return std::move(output_);
}

Interpreter::Flow Interpreter::execute(const Block& block) {
  const Level level(runtime_);
  for (const auto& statement : block)
    if (const Flow flow = execute(*statement); flow != Flow::on) return flow;
  return Flow::on;
}

Interpreter::Flow Interpreter::execute(const Statement& s) {
  runtime_.step();
  line_ = s.line;
  switch (s.kind) {
  case Statement::Kind::text:
    write(s.text);
    return Flow::on;
  case Statement::Kind::output:
    write(evaluate(*s.expression));
    return Flow::on;
  case Statement::Kind::branch:
    for (size_t i = 0; i < s.expressions.size(); ++i)
      if (truth(evaluate(*s.expressions[i]))) return execute(s.bodies[i]);
    return s.bodies.size() > s.expressions.size() ? execute(s.bodies.back()) : Flow::on;
  case Statement::Kind::loop:
    return execute_loop(s);
  case Statement::Kind::set:
    assign(s.target, evaluate(*s.expression));
    return Flow::on;
  case Statement::Kind::set_block:
  case Statement::Kind::filter_block: {
    const Value outer = std::exchange(block_text_, text(captured(s.bodies[0])));
    Value result = evaluate(*s.expression);
    block_text_ = outer;
    if (s.kind == Statement::Kind::filter_block)
      write(result);
    else
      assign(s.target, std::move(result));
    return Flow::on;
  }
  case Statement::Kind::macro: {
    captured_scopes_.push_back(scope_);
    runtime_.take(sizeof(Macro) + sizeof(Scope));
    set_variable(s.target.symbol, Value(std::static_pointer_cast<Object>(std::make_shared<Macro>(*s.macro, scope_))));
    return Flow::on;
  }
  case Statement::Kind::call_block: {
    captured_scopes_.push_back(scope_);
    runtime_.take(sizeof(Macro) + sizeof(Scope));
    const Expression& called = *s.expression;
    const Value callable = evaluate(*called.items[0]);
    Arguments arguments = evaluate_arguments(*called.arguments);
    arguments.keyword.emplace_back("caller",
                                   Value(std::static_pointer_cast<Object>(std::make_shared<Macro>(*s.macro, scope_))));
    line_ = s.line;
    write(call(callable, std::move(arguments)));
    return Flow::on;
  }
  case Statement::Kind::with: {
    auto inner = std::make_shared<Scope>();
    inner->outer = scope_;
    std::vector<Value> values;
    for (const auto& expression : s.expressions) values.push_back(evaluate(*expression));
    const std::shared_ptr<Scope> outer = std::exchange(scope_, std::move(inner));
    for (size_t i = 0; i < values.size(); ++i) assign(s.targets[i], std::move(values[i]));
    const Flow flow = execute(s.bodies[0]);
    scope_ = outer;
    return flow;
  }
  case Statement::Kind::scope: {
    auto inner = std::make_shared<Scope>();
    inner->outer = scope_;
    const std::shared_ptr<Scope> outer = std::exchange(scope_, std::move(inner));
    const Flow flow = execute(s.bodies[0]);
    scope_ = outer;
    return flow;
  }
  case Statement::Kind::break_loop:
    return Flow::break_loop;
  case Statement::Kind::continue_loop:
    return Flow::continue_loop;
  }
  return Flow::on;
}

Interpreter::Flow Interpreter::execute_loop(const Statement& s) {
  const std::shared_ptr<Scope> outer = scope_;
  Loop::Passes passes;
  if (s.condition) {
    // The condition has the item in a scope of its own: it is asked ahead of the body.
    passes = [this, &s, outer](const Value& item) {
      const std::shared_ptr<Scope> before = std::exchange(scope_, std::make_shared<Scope>());
      scope_->outer = outer;
      assign(s.target, item);
      const bool passed = truth(evaluate(*s.condition));
      scope_ = before;
      return passed;
    };
  }
  std::vector<Value> items = items_of(runtime_, evaluate(*s.expression));
  const auto loop = std::make_shared<Loop>(runtime_, std::move(items), std::move(passes));
  struct End {
    Loop& loop;
    ~End() { loop.end(); }
  } end{*loop};
  bool any = false;
  for (Value item; loop->advance(item); any = true) {
    runtime_.step();
    if (scope_ == outer || scope_.use_count() > 1) scope_ = std::make_shared<Scope>(); // a macro may hold the last one
    scope_->variables.clear();
    scope_->outer = outer;
    if (program_.loop >= 0) set_variable(program_.loop, Value(std::static_pointer_cast<Object>(loop)));
    assign(s.target, std::move(item));
    const Flow flow = execute(s.bodies[0]);
    if (flow == Flow::break_loop) break;
  }
  scope_ = outer;
  if (!any && s.bodies.size() > 1) return execute(s.bodies[1]);
  return Flow::on;
}

void Interpreter::assign(const Target& target, Value value) {
  if (!target.several.empty()) {
    const std::vector<Value> values = items_of(runtime_, value);
    if (values.size() != target.several.size())
      fail("cannot unpack " + std::to_string(values.size()) + " values into " + std::to_string(target.several.size()));
    for (size_t i = 0; i < values.size(); ++i) assign(target.several[i], values[i]);
  } else if (target.attribute.empty()) {
    set_variable(target.symbol, std::move(value));
  } else {
    auto* ns = dynamic_cast<Namespace*>(evaluate_name(target.symbol).object());
    if (!ns) fail("cannot assign an attribute to something that is no namespace");
    ns->set(runtime_, target.attribute, std::move(value));
  }
}

} // namespace quire::jinja
