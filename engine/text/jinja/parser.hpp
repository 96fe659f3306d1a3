// Tokens to a Program. [load]. Throws SyntaxError for what is no template and for statements, filters and tests that
// don't exist.
#pragma once

#include "text/jinja/ast.hpp"
#include "text/jinja/lexer.hpp"

#include <initializer_list>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace quire::jinja {

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  std::shared_ptr<const Program> run();

 private:
  using Node = std::unique_ptr<Expression>;

  // Tokens.
  const Token& here() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[at_ + 1 < tokens_.size() ? at_ + 1 : at_]; }
  bool accept(std::string_view symbol_or_name);
  void expect(std::string_view symbol_or_name);
  std::string expect_name();
  void expect_block_end();
  [[noreturn]] void fail(const std::string& what) const;
  [[noreturn]] void unexpected() const;
  static std::string describe(const Token& token);

  // Statements: parser_statements.cpp.
  Block block(std::initializer_list<std::string_view>
                  ends); // leaves the end's name as the current token; empty: to the template's end
  std::unique_ptr<Statement> statement();
  std::unique_ptr<Statement> parse_if();
  std::unique_ptr<Statement> parse_for();
  std::unique_ptr<Statement> parse_set();
  std::unique_ptr<Statement> parse_macro();
  std::unique_ptr<Statement> parse_call();
  std::unique_ptr<Statement> parse_filter_block();
  std::unique_ptr<Statement> parse_with();
  std::unique_ptr<Statement> parse_scope(std::string_view end);
  std::unique_ptr<Statement> make(Statement::Kind kind) const;
  void signature(MacroDefinition& macro);
  void macro_body(MacroDefinition& macro, std::string_view end);
  Target target(bool with_namespace, bool tuple);
  Target single_target(bool with_namespace);

  // Expressions: parser.cpp.
  Node expression(bool with_conditional = true);
  Node tuple_or_expression(bool with_conditional = true, bool explicit_parentheses = false, bool stop_at_in = false);
  bool tuple_ends(bool stop_at_in) const;
  Node conditional();
  Node logical_or();
  Node logical_and();
  Node logical_not();
  Node comparison();
  Node sum();
  Node concatenation();
  Node product();
  Node power();
  Node unary(bool with_filter = true);
  Node primary();
  Node list();
  Node dict();
  Node postfix(Node node);
  Node filters(Node node);
  Node subscript(Node node);
  Node slice_or_item(Node node);
  Node filter(Node subject);
  Node test(Node subject);
  std::unique_ptr<CallArguments> call_arguments(int& height);
  Node make(Expression::Kind kind) const;
  Node make(Expression::Kind kind, Node first, Node second = nullptr) const;
  void adopt(Expression& node, Node child) const;
  Node constant(Value value) const;
  Node text_constant(std::string text) const;
  int symbol(const std::string& name);

  // Recursion of the parser itself, for sources like ((((…
  class Nest {
   public:
    explicit Nest(Parser& parser);
    ~Nest() { --parser_.depth_; }
    Nest(const Nest&) = delete;
    Nest& operator=(const Nest&) = delete;

   private:
    Parser& parser_;
  };

  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
  int loops_ = 0; // around the current statement, inside the current macro
  std::shared_ptr<Program> program_ = std::make_shared<Program>();
  std::set<std::string> named_; // by expressions, since the current macro began
};

} // namespace quire::jinja
