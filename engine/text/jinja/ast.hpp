// A parsed template. Immutable; shared by all renderings.
#pragma once

#include "text/jinja/object.hpp"
#include "text/jinja/python.hpp"
#include "text/jinja/value.hpp"

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace quire::jinja {

using Filter = Value (*)(Interpreter&, const Value& subject, Arguments& arguments);
using Test = bool (*)(Interpreter&, const Value& subject, Arguments& arguments);

struct Expression;
using ExpressionPtr = std::unique_ptr<const Expression>;

struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> keyword;
  ExpressionPtr star, double_star; // *a, **b; may be null
};

enum class Comparison { equal, not_equal, less, less_equal, greater, greater_equal, in, not_in };

struct Expression {
  enum class Kind {
    constant,    // value
    name,        // symbol
    list,        // items
    tuple,       // items
    dict,        // items: key, value, key, value …
    attribute,   // items[0].value
    item,        // items[0][items[1]]
    slice,       // items[0][items[1] : items[2] : items[3]]; absent parts are null
    call,        // items[0](arguments)
    filter,      // items[0] | filter(arguments)
    test,        // items[0] is test(arguments)
    arithmetic,  // items[0] op items[1]
    concatenate, // items joined as texts (~)
    compare,     // items[0] comparisons[0] items[1] comparisons[1] …
    negate,
    positive,
    logical_not,
    logical_and,
    logical_or,
    conditional // items[0] if items[1] else items[2]; items[2] may be null
  };
  Kind kind;
  int line;
  int height = 0; // levels of expressions below, bounded by the parser
  Value value;    // of a constant; the text of an attribute's name
  int symbol = -1;
  std::vector<ExpressionPtr> items;
  std::unique_ptr<const CallArguments> arguments;
  Filter filter = nullptr;
  Test test = nullptr;
  Operator op = Operator::add;
  std::vector<Comparison> comparisons;
};

// What is assigned to: a name, an attribute of a namespace, or several in turn.
struct Target {
  int symbol = -1;
  std::string attribute; // of the namespace `symbol`; empty: the name itself
  std::vector<Target> several;
};

struct Statement;
using Block = std::vector<std::unique_ptr<const Statement>>;

// A macro, or the body of a call block.
struct MacroDefinition {
  std::string name;
  int line = 0;
  std::vector<std::pair<int, std::string>> parameters; // symbol and name
  std::vector<ExpressionPtr> defaults;                 // of the last parameters
  Block body;
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
};

struct Statement {
  enum class Kind {
    text,         // text
    output,       // expression
    branch,       // if: conditions and bodies; one body more than conditions is the else
    loop,         // for target in expression if condition: bodies[0], else bodies[1]
    set,          // target = expression
    set_block,    // target = bodies[0] through the filters of expression, whose innermost subject is the block's text
    filter_block, // bodies[0] through the filters of expression
    macro,        // target.symbol = macro
    call_block,   // expression is a call that gets macro as `caller`
    with,         // targets = expressions, in bodies[0]
    scope,        // bodies[0] in a scope of its own
    break_loop,
    continue_loop
  };
  Kind kind;
  int line;
  std::string text;
  ExpressionPtr expression, condition;
  Target target;
  std::vector<ExpressionPtr> expressions;
  std::vector<Target> targets;
  std::vector<Block> bodies;
  std::unique_ptr<const MacroDefinition> macro;
};

struct Program {
  Block body;
  std::vector<std::string> symbols; // names of variables; an expression's `symbol` is an index
  std::unordered_map<std::string_view, int> symbol_of;
  // Symbols that the interpreter itself sets; -1: the template never names them.
  int loop = -1, caller = -1, varargs = -1, kwargs = -1;
};

// What a block's text is in set_block and filter_block.
constexpr int block_text_symbol = -2;

// Null if there is none of that name.
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);

} // namespace quire::jinja
