// Fuzzes chat templates: any bytes up to the first NUL are the template, what follows is the JSON of further variables.
// There is a text or a TemplateError, within small limits.
//
// sources: engine/text/chat_template.cpp engine/text/jinja/arithmetic.cpp engine/text/jinja/evaluate.cpp
// engine/text/jinja/filters.cpp engine/text/jinja/filters_sequence.cpp engine/text/jinja/filters_text.cpp
// engine/text/jinja/filters_value.cpp engine/text/jinja/format.cpp engine/text/jinja/globals.cpp
// engine/text/jinja/interpreter.cpp engine/text/jinja/lexer.cpp engine/text/jinja/macro.cpp
// engine/text/jinja/methods.cpp engine/text/jinja/methods_text.cpp engine/text/jinja/numbers.cpp
// engine/text/jinja/object.cpp engine/text/jinja/parser.cpp engine/text/jinja/parser_postfix.cpp
// engine/text/jinja/parser_statements.cpp engine/text/jinja/python.cpp engine/text/jinja/python_text.cpp
// engine/text/jinja/tests.cpp engine/text/jinja/text_methods.cpp engine/text/jinja/tojson.cpp
// engine/text/jinja/value.cpp engine/text/added_tokens.cpp engine/text/bpe.cpp engine/text/byte_level.cpp
// engine/text/detokenizer.cpp engine/text/normalizer.cpp engine/text/pretokenizer.cpp engine/text/regex.cpp
// engine/text/tokenizer.cpp engine/text/unicode/characters.cpp engine/text/unicode/normalize.cpp
// libraries: boost_json pcre2-8
#include "text/chat_template.hpp"

#include <boost/json/parse.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  const size_t end = std::min(input.find('\0'), size);
  quire::ChatInput chat;
  chat.messages =
      boost::json::parse(R"([{"role": "user", "content": "caf\u00e9 <b>"}, {"role": "assistant", "content": "x\ny"}])");
  chat.extra =
      boost::json::parse(
          R"({"s": "Hello World", "xs": [3, 1, 2], "d": {"a": 1, "b": [null, true, 2.5]}, "n": 18446744073709551615})")
          .as_object();
  boost::json::error_code error;
  if (end < size)
    if (const auto more = boost::json::parse(boost::json::string_view(input).substr(end + 1), error);
        !error && more.is_object())
      chat.extra = more.as_object();
  chat.bos_token = "<s>";
  chat.now = std::chrono::system_clock::time_point();
  chat.limits = {.max_steps = 100'000, .max_output_bytes = 1 << 20, .max_memory_bytes = 16 << 20, .max_depth = 800};
  try {
    const std::string text = quire::ChatTemplate::parse(input.substr(0, end), "fuzz").render(chat);
    if (text.size() > chat.limits.max_output_bytes) abort();
  } catch (const quire::TemplateError&) {
  }
  return 0;
}
