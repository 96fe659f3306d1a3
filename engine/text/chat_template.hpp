// Messages to prompt text: the Jinja subset that public chat templates use, with the environment that transformers
// gives them (trim_blocks, lstrip_blocks, loop controls, {% generation %}, tojson, raise_exception, strftime_now; the
// immutable sandbox: no method that changes a value). A ChatTemplate is immutable; render() is [any] thread, at the
// same time.
//
// Errors: TemplateError, one sentence with the template's name and line. Steps, output, memory and recursion are
// bounded by TemplateLimits: an endless or exploding template ends in such an error.
#pragma once

#include <quire/error.hpp>

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace quire {

class Tokenizer;

class TemplateError : public Error {
 public:
  TemplateError(const std::string& sentence, bool raised) : Error(sentence), raised_(raised) {}
  // True if the template itself refused the conversation (raise_exception): the client's doing, and what() is the
  // template's own message.
  bool raised() const { return raised_; }

 private:
  bool raised_;
};

struct TemplateLimits {
  int64_t max_steps = 20'000'000; // expressions evaluated and elements visited, and 64 bytes copied, count one each
  size_t max_output_bytes = 32u << 20;  // of the rendered text
  size_t max_memory_bytes = 256u << 20; // of all values alive at one time
  int max_depth = 800;                  // nesting of evaluation: expressions, blocks and macro calls together
};

struct ChatInput {
  boost::json::value messages;        // array of objects, handed to the template as they are
  boost::json::value tools = nullptr; // array of objects, or null: none
  boost::json::object extra;          // further variables by name (enable_thinking, documents, date_string …)
  bool add_generation_prompt = true;
  std::string bos_token;
  std::string eos_token;
  std::optional<std::chrono::system_clock::time_point>
      now; // what strftime_now() shows, in local time; absent: the clock
  TemplateLimits limits;
};

class ChatTemplate {
 public:
  // [load] Throws for syntax errors and for names of filters, tests and statements that don't exist.
  static ChatTemplate parse(std::string source, std::string name_for_errors);
  std::string render(const ChatInput& input) const;
  const std::string& source() const;

  struct Parsed; // private to engine/text
 private:
  explicit ChatTemplate(std::shared_ptr<const Parsed> parsed);
  std::shared_ptr<const Parsed> parsed_;
};

// The same value with Tokenizer::shield_special() applied to every string and key in it, so that what a client writes
// can't become a special token: render it, then encode with parse_special and shielded.
boost::json::value shield_special(const boost::json::value& value, const Tokenizer& tokenizer);

} // namespace quire
