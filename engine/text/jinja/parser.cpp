#include "text/jinja/parser.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace quire::jinja {
namespace {
constexpr int max_expression_height = 200;
constexpr int max_nesting = 150;
} // namespace

Parser::Nest::Nest(Parser& parser) : parser_(parser) {
  if (++parser_.depth_ > max_nesting) {
    --parser_.depth_;
    parser_.fail("the template nests deeper than " + std::to_string(max_nesting) + " levels");
  }
}

std::string Parser::describe(const Token& token) {
  switch (token.kind) {
  case Token::Kind::data:
    return "text";
  case Token::Kind::variable_begin:
    return "'{{'";
  case Token::Kind::variable_end:
    return "'}}'";
  case Token::Kind::block_begin:
    return "'{%'";
  case Token::Kind::block_end:
    return "'%}'";
  case Token::Kind::string:
    return "a string";
  case Token::Kind::end:
    return "the template's end";
  default:
    return "'" + token.text + "'";
  }
}

void Parser::fail(const std::string& what) const { throw SyntaxError{what, here().line}; }
void Parser::unexpected() const { fail("unexpected " + describe(here())); }

bool Parser::accept(std::string_view symbol_or_name) {
  if (!here().is(symbol_or_name)) return false;
  ++at_;
  return true;
}

void Parser::expect(std::string_view symbol_or_name) {
  if (!accept(symbol_or_name))
    fail("unexpected " + describe(here()) + ", expected '" + std::string(symbol_or_name) + "'");
}

std::string Parser::expect_name() {
  if (here().kind != Token::Kind::name) fail("unexpected " + describe(here()) + ", expected a name");
  return tokens_[at_++].text;
}

void Parser::expect_block_end() {
  if (here().kind != Token::Kind::block_end) fail("unexpected " + describe(here()) + ", expected '%}'");
  ++at_;
}

int Parser::symbol(const std::string& name) {
  if (const auto found = program_->symbol_of.find(name); found != program_->symbol_of.end()) return found->second;
  // run() has made room for all: the map's keys view the names in the vector.
  program_->symbols.push_back(name);
  const auto index = static_cast<int>(program_->symbols.size()) - 1;
  program_->symbol_of.emplace(program_->symbols.back(), index);
  return index;
}

Parser::Node Parser::make(Expression::Kind kind) const {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->line = here().line;
  return node;
}

void Parser::adopt(Expression& node, Node child) const {
  if (child) {
    node.height = std::max(node.height, child->height + 1);
    if (node.height > max_expression_height)
      fail("an expression nests deeper than " + std::to_string(max_expression_height) + " levels");
  }
  node.items.push_back(std::move(child));
}

Parser::Node Parser::make(Expression::Kind kind, Node first, Node second) const {
  Node node = make(kind);
  node->line = first->line;
  adopt(*node, std::move(first));
  if (second) adopt(*node, std::move(second));
  return node;
}

Parser::Node Parser::constant(Value value) const {
  Node node = make(Expression::Kind::constant);
  node->value = std::move(value);
  return node;
}

Parser::Node Parser::text_constant(std::string text) const {
  Node node = constant(make_text(nullptr, std::move(text)));
  (void)node->value.text()->length(); // counted now: renderings share it
  return node;
}

Parser::Node Parser::expression(bool with_conditional) {
  const Nest nest(*this);
  return with_conditional ? conditional() : logical_or();
}

bool Parser::tuple_ends(bool stop_at_in) const {
  const Token& token = here();
  return token.kind == Token::Kind::variable_end || token.kind == Token::Kind::block_end || token.is(")") ||
         token.kind == Token::Kind::end || (stop_at_in && token.is("in"));
}

// a | a, b | a, — what stands in {{ }}, after `in`, after `=` and in parentheses.
Parser::Node Parser::tuple_or_expression(bool with_conditional, bool explicit_parentheses, bool stop_at_in) {
  std::vector<Node> items;
  bool is_tuple = false;
  for (;;) {
    if (!items.empty()) expect(",");
    if (tuple_ends(stop_at_in)) break;
    items.push_back(expression(with_conditional));
    if (!here().is(",")) break;
    is_tuple = true;
  }
  if (!is_tuple) {
    if (!items.empty()) return std::move(items.front());
    if (!explicit_parentheses) fail("unexpected " + describe(here()) + ", expected an expression");
  }
  Node node = make(Expression::Kind::tuple);
  for (Node& item : items) adopt(*node, std::move(item));
  return node;
}

Parser::Node Parser::conditional() {
  Node node = logical_or();
  while (accept("if")) {
    Node condition = logical_or();
    Node otherwise;
    if (accept("else")) {
      const Nest nest(*this);
      otherwise = conditional();
    }
    Node choice = make(Expression::Kind::conditional, std::move(node), std::move(condition));
    adopt(*choice, std::move(otherwise));
    node = std::move(choice);
  }
  return node;
}

Parser::Node Parser::logical_or() {
  Node node = logical_and();
  while (accept("or")) node = make(Expression::Kind::logical_or, std::move(node), logical_and());
  return node;
}

Parser::Node Parser::logical_and() {
  Node node = logical_not();
  while (accept("and")) node = make(Expression::Kind::logical_and, std::move(node), logical_not());
  return node;
}

Parser::Node Parser::logical_not() {
  if (!accept("not")) return comparison();
  const Nest nest(*this);
  return make(Expression::Kind::logical_not, logical_not());
}

Parser::Node Parser::comparison() {
  Node first = sum();
  Node node;
  for (;;) {
    static constexpr std::pair<std::string_view, Comparison> symbols[] = {
        {"==", Comparison::equal},      {"!=", Comparison::not_equal}, {"<", Comparison::less},
        {"<=", Comparison::less_equal}, {">", Comparison::greater},    {">=", Comparison::greater_equal}};
    const auto found = std::find_if(std::begin(symbols), std::end(symbols), [&](const auto& s) {
      return here().kind == Token::Kind::symbol && here().text == s.first;
    });
    Comparison comparison;
    if (found != std::end(symbols))
      comparison = found->second, ++at_;
    else if (accept("in"))
      comparison = Comparison::in;
    else if (here().is("not") && ahead().is("in"))
      comparison = Comparison::not_in, at_ += 2;
    else
      break;
    if (!node) node = make(Expression::Kind::compare, std::move(first));
    node->comparisons.push_back(comparison);
    adopt(*node, sum());
  }
  return node ? std::move(node) : std::move(first);
}

Parser::Node Parser::sum() {
  Node node = concatenation();
  while (here().is("+") || here().is("-")) {
    const Operator op = tokens_[at_++].text == "+" ? Operator::add : Operator::subtract;
    node = make(Expression::Kind::arithmetic, std::move(node), concatenation());
    node->op = op;
  }
  return node;
}

Parser::Node Parser::concatenation() {
  Node first = product();
  if (!here().is("~")) return first;
  Node node = make(Expression::Kind::concatenate, std::move(first));
  while (accept("~")) adopt(*node, product());
  return node;
}

Parser::Node Parser::product() {
  Node node = power();
  while (here().is("*") || here().is("/") || here().is("//") || here().is("%")) {
    const std::string& text = tokens_[at_++].text;
    const Operator op = text == "*"    ? Operator::multiply
                        : text == "/"  ? Operator::divide
                        : text == "//" ? Operator::floor_divide
                                       : Operator::modulo;
    node = make(Expression::Kind::arithmetic, std::move(node), power());
    node->op = op;
  }
  return node;
}

Parser::Node Parser::power() {
  Node node = unary();
  while (accept("**")) {
    node = make(Expression::Kind::arithmetic, std::move(node), unary());
    node->op = Operator::power;
  }
  return node;
}

Parser::Node Parser::unary(bool with_filter) {
  Node node;
  if (here().is("-") || here().is("+")) {
    const Nest nest(*this);
    const auto kind = tokens_[at_++].text == "-" ? Expression::Kind::negate : Expression::Kind::positive;
    node = make(kind, unary(false));
  } else {
    node = primary();
  }
  node = postfix(std::move(node));
  return with_filter ? filters(std::move(node)) : std::move(node);
}

Parser::Node Parser::primary() {
  const Token& token = here();
  switch (token.kind) {
  case Token::Kind::name: {
    ++at_;
    if (token.text == "true" || token.text == "True") return constant(Value::boolean(true));
    if (token.text == "false" || token.text == "False") return constant(Value::boolean(false));
    if (token.text == "none" || token.text == "None") return constant(Value::none());
    Node node = make(Expression::Kind::name);
    node->line = token.line;
    node->symbol = symbol(token.text);
    named_.insert(token.text);
    return node;
  }
  case Token::Kind::string: {
    std::string text;
    while (here().kind == Token::Kind::string) text += tokens_[at_++].text;
    return text_constant(std::move(text));
  }
  case Token::Kind::integer:
    ++at_;
    return constant(Value::integer(token.integer));
  case Token::Kind::real:
    ++at_;
    return constant(Value::real(token.real));
  default:
    break;
  }
  if (accept("(")) {
    Node node = tuple_or_expression(true, true);
    expect(")");
    return node;
  }
  if (accept("[")) return list();
  if (accept("{")) return dict();
  unexpected();
}

Parser::Node Parser::list() {
  Node node = make(Expression::Kind::list);
  while (!accept("]")) {
    if (!node->items.empty()) {
      expect(",");
      if (accept("]")) break;
    }
    adopt(*node, expression());
  }
  return node;
}

Parser::Node Parser::dict() {
  Node node = make(Expression::Kind::dict);
  while (!accept("}")) {
    if (!node->items.empty()) {
      expect(",");
      if (accept("}")) break;
    }
    adopt(*node, expression());
    expect(":");
    adopt(*node, expression());
  }
  return node;
}

} // namespace quire::jinja
