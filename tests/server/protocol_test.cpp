// The wire of the Responses mode: what is taken, what is refused and in which words.
#include "server/protocol.hpp"

#include <gtest/gtest.h>

#include <set>

namespace quire::server {
namespace {

CreateRequest parse(const std::string& frame) { return parse_create(parse_frame(frame, {}), {}, "smol"); }

// The error that a frame gives.
ProtocolError refusal(const std::string& frame) {
  try {
    parse(frame);
  } catch (const ProtocolError& e) {
    return e;
  }
  ADD_FAILURE() << "accepted: " << frame;
  return {"", ""};
}

std::string create(const std::string& fields) { return R"({"type":"response.create","input":"hi",)" + fields + "}"; }

TEST(Protocol, AStringBecomesAUserMessage) {
  const CreateRequest c = parse(R"({"type":"response.create","model":"smol","input":"Hello"})");
  ASSERT_EQ(c.messages.size(), 1u);
  EXPECT_EQ(c.messages[0].at("role").as_string(), "user");
  EXPECT_EQ(c.messages[0].at("content").as_string(), "Hello");
  EXPECT_TRUE(c.store);
  EXPECT_FALSE(c.stream_id);
}

TEST(Protocol, ItemsAreFlattenedToMessages) {
  const CreateRequest c = parse(R"({"type":"response.create","input":[
    {"role":"developer","content":"Be brief."},
    {"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},
    {"type":"message","role":"assistant","id":"msg_1","status":"completed","content":[{"type":"output_text","text":"c","annotations":[]}]}]})");
  ASSERT_EQ(c.messages.size(), 3u);
  EXPECT_EQ(c.messages[0].at("role").as_string(), "system");
  EXPECT_EQ(c.messages[1].at("content").as_string(), "ab");
  EXPECT_EQ(c.messages[2].at("content").as_string(), "c");
}

TEST(Protocol, ParametersReachTheEngineRequest) {
  const CreateRequest c = parse(create(
      R"("temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.05,"seed":18446744073709551615,"max_output_tokens":7,"stop":["a","b"],"n":3,"priority":-5,
         "cache_salt":"tenant","logit_bias":{"12":-100,"7":2.5},"top_logprobs":5,"stream_id":"lane","sampler":{"name":"mirostat","tau":4})"));
  const Request& r = c.request;
  EXPECT_FLOAT_EQ(r.sampling.temperature, 0.5f);
  EXPECT_FLOAT_EQ(r.sampling.top_p, 0.9f);
  EXPECT_EQ(r.sampling.top_k, 40);
  EXPECT_EQ(r.sampling.seed, 18446744073709551615u);
  EXPECT_EQ(r.max_tokens, 7u);
  EXPECT_EQ(r.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(r.n, 3u);
  EXPECT_EQ(r.priority, -5);
  EXPECT_EQ(r.cache_salt, "tenant");
  EXPECT_EQ(r.sampling.logit_bias.size(), 2u);
  EXPECT_EQ(r.sampling.logprobs, 5);
  EXPECT_EQ(c.stream_id, "lane");
  EXPECT_EQ(r.sampling.sampler, "mirostat");
}

TEST(Protocol, ErrorsNameTheFieldAndTheLimit) {
  EXPECT_EQ(refusal(create(R"("temperature":-1)")).param, "temperature");
  EXPECT_STREQ(refusal(create(R"("n":1000000)")).what(), "`n` must be an integer between 1 and 128");
  EXPECT_STREQ(refusal(create(R"("beam_width":1000000)")).what(), "`beam_width` must be an integer between 0 and 64");
  EXPECT_EQ(refusal(create(R"("priority":99999999999999999999)")).param, "priority");
  EXPECT_EQ(refusal(create(R"("max_output_tokens":-3)")).param, "max_output_tokens");
  EXPECT_EQ(refusal(create(R"("max_output_tokens":1.5)")).param, "max_output_tokens");
  EXPECT_EQ(refusal(create(R"("temperature":1e999)")).param, "temperature");
  EXPECT_EQ(refusal(create(R"("logit_bias":{"x":1})")).param, "logit_bias");
  EXPECT_EQ(refusal(create(R"("frobnicate":1)")).code, "unknown_parameter");
  EXPECT_EQ(refusal(create(R"("tools":[{"type":"function"}])")).param, "tools");
  EXPECT_EQ(refusal(create(R"("background":true)")).param, "background");
  EXPECT_EQ(refusal(create(R"("model":"gpt-9")")).code, "model_not_found");
  EXPECT_EQ(refusal(R"({"type":"response.create"})").param, "input");
  EXPECT_EQ(refusal(R"({"type":"response.create","input":[{"role":"user"}]})").param, "input[0]");
  EXPECT_EQ(refusal(R"({"type":"response.create","input":[{"role":"user","content":[{"type":"input_image"}]}]})").code,
            "unsupported_content");
}

TEST(Protocol, AMillionStopStringsAreRefusedByName) {
  std::string stops = "[\"a\"";
  for (int i = 0; i < 1000000; ++i) stops += ",\"a\"";
  EXPECT_STREQ(refusal(create("\"stop\":" + stops + "]")).what(), "`stop` has 1000001 strings, the limit is 64");
}

TEST(Protocol, DeepNestingSurrogatesAndHalfJsonAreRefused) {
  EXPECT_EQ(refusal(std::string(100000, '[')).code, "invalid_json");
  EXPECT_EQ(refusal(R"({"type":"response.create","input":"\ud800"})").code, "invalid_json");
  EXPECT_EQ(refusal(R"({"type":"response.create",)").code, "invalid_json");
  EXPECT_EQ(refusal("[]").code, "invalid_json");
  EXPECT_EQ(refusal("").code, "invalid_json");
}

TEST(Protocol, ANulInTheInputIsKept) {
  EXPECT_EQ(parse(R"({"type":"response.create","input":"a\u0000b"})").messages[0].at("content").as_string().size(), 3u);
}

TEST(Protocol, ErrorEventsCarryTheLane) {
  const json::object e = error_event(ProtocolError("No.", "n"), "lane");
  EXPECT_EQ(e.at("type").as_string(), "error");
  EXPECT_EQ(e.at("stream_id").as_string(), "lane");
  EXPECT_EQ(e.at("error").at("message").as_string(), "No.");
  EXPECT_EQ(e.at("error").at("param").as_string(), "n");
}

TEST(Protocol, IdsAreNotRepeated) {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) ids.insert(random_id("resp"));
  EXPECT_EQ(ids.size(), 1000u);
  EXPECT_EQ(ids.begin()->size(), 5u + 32u);
}

} // namespace
} // namespace quire::server
