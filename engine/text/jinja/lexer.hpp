// A template's text to tokens, as Jinja2's lexer does with trim_blocks, lstrip_blocks and without
// keep_trailing_newline. [load].
#pragma once

#include "text/jinja/value.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace quire::jinja {

// A syntax error: the sentence without the template's name.
struct SyntaxError {
  std::string what;
  int line;
};

struct Token {
  enum class Kind {
    data, // text between tags; `text`
    variable_begin,
    variable_end,
    block_begin,
    block_end,
    name,
    string, // `text`: decoded
    integer,
    real,
    symbol, // an operator or bracket; `text`
    end
  };
  Kind kind;
  int line;
  std::string text;
  Integer integer = 0;
  double real = 0;

  bool is(std::string_view symbol_or_name) const {
    return (kind == Kind::symbol || kind == Kind::name) && text == symbol_or_name;
  }
};

// Ends with a token of kind end. Throws SyntaxError.
std::vector<Token> tokenize(std::string_view source);

} // namespace quire::jinja
