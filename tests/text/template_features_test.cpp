// Templates of our own, a feature each, against jinja2 as transformers sets it up (make_template_features.py).
#include "text/chat_template.hpp"
#include "text/chat_template_inputs.hpp"
#include "text/shared_files.hpp"

#include <boost/json/array.hpp>
#include <boost/json/parse.hpp>
#include <gtest/gtest.h>

#include <string>

namespace quire {
namespace {

TEST(TemplateFeatures, RenderWhatTheOracleRenders) {
  const auto golden = boost::json::parse(test::read_file(test::test_data() / "goldens" / "template_features.json"));
  ChatInput input;
  input.extra = golden.at("variables").as_object();
  input.messages = boost::json::array{golden.at("variables").at("msgs").at(0)};
  input.bos_token = "<s>";
  input.eos_token = "</s>";
  input.now = test::local_time(golden.at("now"));
  size_t texts = 0, errors = 0;
  for (const auto& item : golden.at("cases").as_array()) {
    const std::string source(item.at("template").as_string());
    SCOPED_TRACE(source);
    std::string text, error;
    try {
      text = ChatTemplate::parse(source, "test").render(input);
    } catch (const TemplateError& failure) {
      error = failure.raised() ? "raised" : "error";
      text = failure.what();
      // One sentence with the template's name and line; what the template raises is its own message.
      EXPECT_EQ(text.find('\n'), text.npos);
      EXPECT_TRUE(failure.raised() || text.starts_with("test: line ")) << text;
    }
    if (const auto* expected = item.as_object().if_contains("text")) {
      EXPECT_EQ(error, "") << text;
      EXPECT_EQ(text, std::string(expected->as_string()));
      ++texts;
    } else {
      EXPECT_EQ(error, std::string(item.at("error").as_string())) << text << "\noracle: " << item.at("why");
      ++errors;
    }
  }
  EXPECT_GT(texts, 100u);
  EXPECT_GT(errors, 70u);
}

} // namespace
} // namespace quire
