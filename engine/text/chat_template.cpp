#include "text/chat_template.hpp"

#include "text/jinja/interpreter.hpp"
#include "text/jinja/parser.hpp"
#include "text/tokenizer.hpp"

#include <boost/json/array.hpp>

#include <utility>

namespace quire {

struct ChatTemplate::Parsed {
  std::string source, name;
  std::shared_ptr<const jinja::Program> program;
};

ChatTemplate::ChatTemplate(std::shared_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}

const std::string& ChatTemplate::source() const { return parsed_->source; }

ChatTemplate ChatTemplate::parse(std::string source, std::string name_for_errors) {
  try {
    auto parsed = std::make_shared<Parsed>();
    parsed->program = jinja::Parser(jinja::tokenize(source)).run();
    parsed->source = std::move(source);
    parsed->name = std::move(name_for_errors);
    return ChatTemplate(std::move(parsed));
  } catch (const jinja::SyntaxError& error) {
    throw TemplateError(name_for_errors + ": line " + std::to_string(error.line) + ": " + error.what, false);
  }
}

std::string ChatTemplate::render(const ChatInput& input) const {
  jinja::Runtime runtime(input.limits);
  jinja::Interpreter interpreter(*parsed_->program, runtime, input.limits,
                                 input.now.value_or(std::chrono::system_clock::now()));
  try {
    interpreter.define("messages", jinja::from_json(&runtime, input.messages));
    interpreter.define("tools", jinja::from_json(&runtime, input.tools));
    interpreter.define("documents", jinja::Value::none());
    interpreter.define("add_generation_prompt", jinja::Value::boolean(input.add_generation_prompt));
    interpreter.define("bos_token", jinja::make_text(&runtime, input.bos_token));
    interpreter.define("eos_token", jinja::make_text(&runtime, input.eos_token));
    for (const auto& [name, value] : input.extra)
      interpreter.define({name.data(), name.size()}, jinja::from_json(&runtime, value));
    return interpreter.run();
  } catch (const jinja::Failure& failure) {
    if (failure.raised) throw TemplateError(failure.what, true);
    throw TemplateError(parsed_->name + ": line " + std::to_string(interpreter.line()) + ": " + failure.what, false);
  }
}

boost::json::value shield_special(const boost::json::value& value, const Tokenizer& tokenizer) {
  const auto shielded = [&](std::string_view text) { return tokenizer.shield_special(text); };
  if (const auto* text = value.if_string()) return boost::json::string(shielded({text->data(), text->size()}));
  if (const auto* array = value.if_array()) {
    boost::json::array copy;
    copy.reserve(array->size());
    for (const auto& item : *array) copy.push_back(shield_special(item, tokenizer));
    return copy;
  }
  if (const auto* object = value.if_object()) {
    boost::json::object copy;
    for (const auto& [key, member] : *object)
      copy[shielded({key.data(), key.size()})] = shield_special(member, tokenizer);
    return copy;
  }
  return value;
}

} // namespace quire
