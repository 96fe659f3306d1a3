// Statements.
#include "text/jinja/parser.hpp"

#include <algorithm>
#include <utility>

namespace quire::jinja {

std::shared_ptr<const Program> Parser::run() {
  program_->symbols.reserve(tokens_.size() + 8); // names are viewed: the vector must not move
  program_->body = block({});
  const auto find = [&](const char* name) {
    const auto found = program_->symbol_of.find(name);
    return found == program_->symbol_of.end() ? -1 : found->second;
  };
  program_->loop = find("loop");
  program_->caller = find("caller");
  program_->varargs = find("varargs");
  program_->kwargs = find("kwargs");
  return program_;
}

std::unique_ptr<Statement> Parser::make(Statement::Kind kind) const {
  auto statement = std::make_unique<Statement>();
  statement->kind = kind;
  statement->line = here().line;
  return statement;
}

Block Parser::block(std::initializer_list<std::string_view> ends) {
  const Nest nest(*this);
  Block body;
  for (;;) {
    const Token& token = here();
    if (token.kind == Token::Kind::end) {
      if (ends.size() == 0) return body;
      fail("the template ends where '" + std::string(*(ends.end() - 1)) + "' is missing");
    }
    if (token.kind == Token::Kind::data) {
      auto text = make(Statement::Kind::text);
      text->text = token.text;
      body.push_back(std::move(text));
      ++at_;
    } else if (token.kind == Token::Kind::variable_begin) {
      ++at_;
      auto output = make(Statement::Kind::output);
      output->expression = tuple_or_expression();
      if (here().kind != Token::Kind::variable_end) fail("unexpected " + describe(here()) + ", expected '}}'");
      ++at_;
      body.push_back(std::move(output));
    } else if (token.kind == Token::Kind::block_begin) {
      ++at_;
      if (std::any_of(ends.begin(), ends.end(), [&](std::string_view end) { return here().is(end); })) return body;
      if (auto made = statement()) body.push_back(std::move(made));
    } else {
      unexpected();
    }
  }
}

// After '{%'.
std::unique_ptr<Statement> Parser::statement() {
  if (here().kind != Token::Kind::name) fail("unexpected " + describe(here()) + ", expected a statement's name");
  const std::string name = here().text;
  if (name == "if") return parse_if();
  if (name == "for") return parse_for();
  if (name == "set") return parse_set();
  if (name == "macro") return parse_macro();
  if (name == "call") return parse_call();
  if (name == "filter") return parse_filter_block();
  if (name == "with") return parse_with();
  if (name == "generation") return parse_scope("endgeneration");
  if (name == "block") return parse_scope("endblock");
  if (name == "print") {
    auto output = make(Statement::Kind::output);
    ++at_;
    output->expression = tuple_or_expression();
    expect_block_end();
    return output;
  }
  if (name == "break" || name == "continue") {
    if (loops_ == 0) fail("'" + name + "' is outside of a loop");
    auto statement = make(name == "break" ? Statement::Kind::break_loop : Statement::Kind::continue_loop);
    ++at_;
    expect_block_end();
    return statement;
  }
  if (name == "include" || name == "import" || name == "from" || name == "extends")
    fail("'" + name + "' is not supported: a chat template is one file");
  if (name.starts_with("end") || name == "else" || name == "elif") fail("'" + name + "' has nothing to end");
  fail("there is no statement named '" + name + "'");
}

std::unique_ptr<Statement> Parser::parse_if() {
  auto branch = make(Statement::Kind::branch);
  do {
    ++at_; // if, elif
    branch->expressions.push_back(tuple_or_expression(false));
    expect_block_end();
    branch->bodies.push_back(block({"elif", "else", "endif"}));
  } while (here().is("elif"));
  if (accept("else")) {
    expect_block_end();
    branch->bodies.push_back(block({"endif"}));
  }
  expect("endif");
  expect_block_end();
  return branch;
}

std::unique_ptr<Statement> Parser::parse_for() {
  auto loop = make(Statement::Kind::loop);
  ++at_;
  loop->target = target(false, true);
  expect("in");
  loop->expression = tuple_or_expression(false);
  if (accept("if")) loop->condition = expression();
  if (here().is("recursive")) fail("recursive loops are not supported");
  expect_block_end();
  ++loops_;
  loop->bodies.push_back(block({"else", "endfor"}));
  --loops_;
  if (accept("else")) {
    expect_block_end();
    loop->bodies.push_back(block({"endfor"}));
  }
  expect("endfor");
  expect_block_end();
  return loop;
}

Target Parser::single_target(bool with_namespace) {
  if (accept("(")) {
    Target several = target(with_namespace, true);
    expect(")");
    return several;
  }
  Target single;
  const std::string name = expect_name();
  for (const char* reserved : {"true", "false", "none", "True", "False", "None"})
    if (name == reserved) fail("can't assign to '" + name + "'");
  single.symbol = symbol(name);
  if (with_namespace && accept(".")) single.attribute = expect_name();
  return single;
}

Target Parser::target(bool with_namespace, bool tuple) {
  const Nest nest(*this);
  Target first = single_target(with_namespace);
  if (!tuple || !here().is(",")) return first;
  Target several;
  several.several.push_back(std::move(first));
  while (accept(",")) {
    if (here().kind != Token::Kind::name && !here().is("(")) break;
    if (here().is("in")) break;
    several.several.push_back(single_target(with_namespace));
  }
  return several;
}

std::unique_ptr<Statement> Parser::parse_set() {
  auto set = make(Statement::Kind::set);
  ++at_;
  set->target = target(true, true);
  if (accept("=")) {
    set->expression = tuple_or_expression();
    expect_block_end();
    return set;
  }
  set->kind = Statement::Kind::set_block;
  Node subject = make(Expression::Kind::name);
  subject->symbol = block_text_symbol;
  while (accept("|")) subject = filter(std::move(subject));
  set->expression = std::move(subject);
  expect_block_end();
  set->bodies.push_back(block({"endset"}));
  ++at_;
  expect_block_end();
  return set;
}

void Parser::signature(MacroDefinition& macro) {
  expect("(");
  bool first = true;
  while (!accept(")")) {
    if (!std::exchange(first, false)) {
      expect(",");
      if (accept(")")) break;
    }
    const std::string name = expect_name();
    macro.parameters.emplace_back(symbol(name), name);
    if (accept("="))
      macro.defaults.push_back(expression());
    else if (!macro.defaults.empty())
      fail("a parameter without a default comes after one that has one");
  }
}

// The body up to `end`, with the names that it uses.
void Parser::macro_body(MacroDefinition& macro, std::string_view end) {
  const int loops = std::exchange(loops_, 0);
  std::set<std::string> outer = std::exchange(named_, {});
  expect_block_end();
  macro.body = block({end});
  ++at_;
  expect_block_end();
  const auto is_parameter = [&](const char* name) {
    return std::any_of(macro.parameters.begin(), macro.parameters.end(),
                       [&](const auto& p) { return p.second == name; });
  };
  macro.uses_caller = named_.contains("caller") && !is_parameter("caller");
  macro.uses_varargs = named_.contains("varargs") && !is_parameter("varargs");
  macro.uses_kwargs = named_.contains("kwargs") && !is_parameter("kwargs");
  named_.merge(outer);
  loops_ = loops;
}

std::unique_ptr<Statement> Parser::parse_macro() {
  auto statement = make(Statement::Kind::macro);
  auto macro = std::make_unique<MacroDefinition>();
  macro->line = here().line;
  ++at_;
  macro->name = expect_name();
  statement->target.symbol = symbol(macro->name);
  signature(*macro);
  macro_body(*macro, "endmacro");
  statement->macro = std::move(macro);
  return statement;
}

std::unique_ptr<Statement> Parser::parse_call() {
  auto statement = make(Statement::Kind::call_block);
  auto macro = std::make_unique<MacroDefinition>();
  macro->name = "caller";
  macro->line = here().line;
  ++at_;
  if (here().is("(")) signature(*macro);
  statement->expression = expression();
  if (statement->expression->kind != Expression::Kind::call) fail("a call block needs a call");
  macro_body(*macro, "endcall");
  statement->macro = std::move(macro);
  return statement;
}

std::unique_ptr<Statement> Parser::parse_filter_block() {
  auto statement = make(Statement::Kind::filter_block);
  ++at_;
  Node subject = make(Expression::Kind::name);
  subject->symbol = block_text_symbol;
  do subject = filter(std::move(subject));
  while (accept("|"));
  statement->expression = std::move(subject);
  expect_block_end();
  statement->bodies.push_back(block({"endfilter"}));
  ++at_;
  expect_block_end();
  return statement;
}

std::unique_ptr<Statement> Parser::parse_with() {
  auto with = make(Statement::Kind::with);
  ++at_;
  while (here().kind != Token::Kind::block_end) {
    if (!with->targets.empty()) expect(",");
    with->targets.push_back(target(false, false));
    expect("=");
    with->expressions.push_back(expression());
  }
  expect_block_end();
  with->bodies.push_back(block({"endwith"}));
  ++at_;
  expect_block_end();
  return with;
}

std::unique_ptr<Statement> Parser::parse_scope(std::string_view end) {
  auto scope = make(Statement::Kind::scope);
  ++at_;
  if (end == "endblock") expect_name();
  expect_block_end();
  const int loops = std::exchange(loops_, 0);
  scope->bodies.push_back(block({end}));
  loops_ = loops;
  ++at_;
  if (end == "endblock" && here().kind == Token::Kind::name) ++at_;
  expect_block_end();
  return scope;
}

} // namespace quire::jinja
