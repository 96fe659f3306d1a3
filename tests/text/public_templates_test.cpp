// Public chat templates (../shared/data/templates) against jinja2 as transformers sets it up
// (make_public_templates.py).
#include "text/chat_template.hpp"
#include "text/chat_template_inputs.hpp"
#include "text/shared_files.hpp"

#include <boost/json/parse.hpp>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

namespace quire {
namespace {

std::string rendered(const ChatTemplate& chat_template, const ChatInput& input, std::string& text) {
  try {
    text = chat_template.render(input);
    return test::digest(text);
  } catch (const TemplateError& error) {
    text = error.what();
    return error.raised() ? "raised" : "error";
  }
}

TEST(PublicTemplates, RenderWhatTheOracleRenders) {
  const auto folder = test::shared_data() / "templates";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is absent";
  const auto inputs = boost::json::parse(test::read_file(test::test_data() / "goldens" / "conversations.json"));
  const auto golden = boost::json::parse(test::read_file(test::test_data() / "goldens" / "public_templates.json"));
  size_t compared = 0, texts = 0;
  for (const auto& [name, expected] : golden.at("templates").as_object()) {
    const std::string source = test::read_file(folder / std::string(name));
    ASSERT_EQ(test::digest(source), expected.at("source").as_string()) << name << " is another version";
    const ChatTemplate chat_template = ChatTemplate::parse(source, std::string(name));
    for (const auto& conversation : inputs.at("conversations").as_array()) {
      const auto& row = expected.at("rendered").at(conversation.at("name").as_string()).as_array();
      size_t at = 0;
      for (const auto& extra : inputs.at("extras").as_array()) {
        for (const bool prompt : {true, false}) {
          ChatInput input;
          input.messages = conversation.at("messages");
          input.tools = conversation.at("tools");
          input.extra = extra.as_object();
          input.add_generation_prompt = prompt;
          input.bos_token = inputs.at("bos_token").as_string();
          input.eos_token = inputs.at("eos_token").as_string();
          input.now = test::local_time(inputs.at("now"));
          std::string text;
          const std::string digest = rendered(chat_template, input, text);
          ASSERT_LT(at, row.size());
          EXPECT_EQ(digest, row[at].as_string())
              << name << ", " << conversation.at("name") << ", " << extra << ", " << prompt << "\n"
              << text;
          texts += digest.find(':') != digest.npos;
          ++at;
          ++compared;
        }
      }
      EXPECT_EQ(at, row.size());
    }
  }
  EXPECT_GT(compared, 3000u);
  EXPECT_GT(texts, 2000u);
}

} // namespace
} // namespace quire
