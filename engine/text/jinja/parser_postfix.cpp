// What comes after an expression: attributes, subscripts, calls, filters and tests.
#include "text/jinja/parser.hpp"

#include <algorithm>
#include <utility>

namespace quire::jinja {

Parser::Node Parser::postfix(Node node) {
  for (;;) {
    if (here().is(".") || here().is("[")) {
      node = subscript(std::move(node));
    } else if (here().is("(")) {
      int height = 0;
      auto arguments = call_arguments(height);
      node = make(Expression::Kind::call, std::move(node));
      node->height = std::max(node->height, height + 1);
      node->arguments = std::move(arguments);
    } else {
      return node;
    }
  }
}

Parser::Node Parser::filters(Node node) {
  for (;;) {
    if (accept("|")) {
      node = filter(std::move(node));
    } else if (accept("is")) {
      node = test(std::move(node));
    } else if (here().is("(")) {
      int height = 0;
      auto arguments = call_arguments(height);
      node = make(Expression::Kind::call, std::move(node));
      node->height = std::max(node->height, height + 1);
      node->arguments = std::move(arguments);
    } else {
      return node;
    }
  }
}

Parser::Node Parser::subscript(Node node) {
  if (accept(".")) {
    if (here().kind == Token::Kind::integer) {
      Node index = constant(Value::integer(tokens_[at_++].integer));
      return make(Expression::Kind::item, std::move(node), std::move(index));
    }
    const std::string name = expect_name();
    node = make(Expression::Kind::attribute, std::move(node));
    node->value = make_text(nullptr, name);
    (void)node->value.text()->length();
    return node;
  }
  expect("[");
  node = slice_or_item(std::move(node));
  expect("]");
  return node;
}

Parser::Node Parser::slice_or_item(Node node) {
  Node parts[3];
  int count = 0;
  bool slice = false;
  if (!here().is(":")) parts[0] = expression();
  if (here().is(",")) { // a tuple as the key
    Node key = make(Expression::Kind::tuple, std::move(parts[0]));
    while (accept(",")) {
      if (here().is("]")) break;
      adopt(*key, expression());
    }
    return make(Expression::Kind::item, std::move(node), std::move(key));
  }
  while (count < 2 && accept(":")) {
    slice = true;
    ++count;
    if (!here().is(":") && !here().is("]")) parts[count] = expression();
  }
  if (!slice) return make(Expression::Kind::item, std::move(node), std::move(parts[0]));
  Node result = make(Expression::Kind::slice, std::move(node));
  for (Node& part : parts) adopt(*result, std::move(part));
  return result;
}

std::unique_ptr<CallArguments> Parser::call_arguments(int& height) {
  auto arguments = std::make_unique<CallArguments>();
  const auto take = [&](Node node) {
    height = std::max(height, node->height);
    return node;
  };
  expect("(");
  bool first = true;
  while (!accept(")")) {
    if (!std::exchange(first, false)) {
      expect(",");
      if (accept(")")) break;
    }
    if (accept("**")) {
      if (arguments->double_star) fail("a call has ** twice");
      arguments->double_star = take(expression());
    } else if (accept("*")) {
      if (arguments->star || arguments->double_star) fail("a call has * after another or after **");
      arguments->star = take(expression());
    } else if (here().kind == Token::Kind::name && ahead().is("=")) {
      if (arguments->double_star) fail("a named argument comes after **");
      std::string name = expect_name();
      expect("=");
      arguments->keyword.emplace_back(std::move(name), take(expression()));
    } else {
      if (!arguments->keyword.empty() || arguments->star || arguments->double_star)
        fail("an argument without a name comes after one with a name or a star");
      arguments->positional.push_back(take(expression()));
    }
  }
  return arguments;
}

// After '|' (or in a filter block): name(arguments) applied to the subject.
Parser::Node Parser::filter(Node subject) {
  const int line = here().line;
  std::string name = expect_name();
  while (accept(".")) name += "." + expect_name();
  const Filter found = find_filter(name);
  if (!found) fail("there is no filter named '" + name + "'");
  int height = 0;
  auto arguments = here().is("(") ? call_arguments(height) : std::make_unique<CallArguments>();
  Node node = make(Expression::Kind::filter, std::move(subject));
  node->line = line;
  node->height = std::max(node->height, height + 1);
  node->filter = found;
  node->arguments = std::move(arguments);
  return node;
}

// After 'is'.
Parser::Node Parser::test(Node subject) {
  const bool negated = accept("not");
  const int line = here().line;
  std::string name = expect_name();
  while (accept(".")) name += "." + expect_name();
  const Test found = find_test(name);
  if (!found) fail("there is no test named '" + name + "'");
  int height = 0;
  auto arguments = std::make_unique<CallArguments>();
  const Token& token = here();
  const bool begins_argument =
      token.kind == Token::Kind::string || token.kind == Token::Kind::integer || token.kind == Token::Kind::real ||
      token.is("[") || token.is("{") ||
      (token.kind == Token::Kind::name && !token.is("else") && !token.is("or") && !token.is("and"));
  if (token.is("(")) {
    arguments = call_arguments(height);
  } else if (begins_argument) {
    if (token.is("is")) fail("tests can't be chained with 'is'");
    Node argument = postfix(primary());
    height = argument->height;
    arguments->positional.push_back(std::move(argument));
  }
  Node node = make(Expression::Kind::test, std::move(subject));
  node->line = line;
  node->height = std::max(node->height, height + 1);
  node->test = found;
  node->arguments = std::move(arguments);
  return negated ? make(Expression::Kind::logical_not, std::move(node)) : std::move(node);
}

} // namespace quire::jinja
