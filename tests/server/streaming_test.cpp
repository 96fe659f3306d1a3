// Whole answers over real sockets: one client, many, lanes, continuations, cancellation.
#include <future>

#include "fixture.hpp"

namespace quire::server::test {
namespace {

const std::string greedy = R"("temperature":0,"ignore_eos":true,"max_output_tokens":24,)";

std::string_view type_of(const boost::json::object& event) { return event.at("type").as_string(); }

TEST(Streaming, EventsComeInTheOrderOfTheResponsesApi) {
  Running server;
  Client client(server.port());
  const auto events = client.ask(greedy + R"("input":"Hello there")");
  ASSERT_GE(events.size(), 9u);
  EXPECT_EQ(type_of(events[0]), "response.created");
  EXPECT_EQ(type_of(events[1]), "response.in_progress");
  EXPECT_EQ(type_of(events[2]), "response.output_item.added");
  EXPECT_EQ(type_of(events[3]), "response.content_part.added");
  EXPECT_EQ(type_of(events[4]), "response.output_text.delta");
  const size_t n = events.size();
  EXPECT_EQ(type_of(events[n - 4]), "response.output_text.done");
  EXPECT_EQ(type_of(events[n - 3]), "response.content_part.done");
  EXPECT_EQ(type_of(events[n - 2]), "response.output_item.done");
  EXPECT_EQ(type_of(events[n - 1]), "response.incomplete"); // 24 tokens, the end ignored
  for (size_t i = 0; i < n; ++i) EXPECT_EQ(events[i].at("sequence_number").to_number<size_t>(), i);
  EXPECT_EQ(events[n - 4].at("text").as_string(), text_of(events));
  const auto& response = events[n - 1].at("response");
  EXPECT_EQ(response.at("usage").at("output_tokens").to_number<int>(), 24);
  EXPECT_EQ(response.at("incomplete_details").at("reason").as_string(), "max_output_tokens");
  EXPECT_EQ(response.at("output").at(0).at("content").at(0).at("text").as_string(), text_of(events));
}

TEST(Streaming, ThirtyTwoClientsGetEachItsOwnWholeAnswer) {
  Running server;
  std::vector<std::string> alone(32), together(32);
  {
    Client client(server.port());
    for (int i = 0; i < 32; ++i)
      alone[i] = text_of(client.ask(greedy + R"("input":"Question )" + std::to_string(i * 7919) + "\""));
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < 32; ++i)
    threads.emplace_back([&, i] {
      Client client(server.port());
      together[i] = text_of(client.ask(greedy + R"("input":"Question )" + std::to_string(i * 7919) + "\""));
    });
  for (auto& t : threads) t.join();
  EXPECT_EQ(alone, together);
  EXPECT_TRUE(eventually([&] { return server.stats().blocks_referenced == 0; }));
}

TEST(Streaming, LanesRunAtTheSameTimeAndEachInItsOwnOrder) {
  Running server;
  Client client(server.port());
  for (const char* lane : {"a", "b"})
    for (const char* n : {"1", "2"})
      client.send(std::string(R"({"type":"response.create","stream_id":")") + lane + R"(","metadata":{"n":")" + n +
                  "\"}," + greedy + R"("input":"x"})");
  std::map<std::string, std::vector<std::string>> order;
  std::map<std::string, int> open;
  bool overlapped = false;
  for (int done = 0; done < 4;) {
    const auto e = client.receive();
    const std::string lane(e.at("stream_id").as_string());
    if (type_of(e) == "response.created") {
      EXPECT_EQ(open[lane]++, 0) << "two at a time in one lane";
      order[lane].emplace_back(e.at("response").at("metadata").at("n").as_string());
      overlapped |= open["a"] && open["b"];
    }
    if (type_of(e) == "response.incomplete") --open[lane], ++done;
  }
  EXPECT_EQ(order["a"], (std::vector<std::string>{"1", "2"}));
  EXPECT_EQ(order["b"], (std::vector<std::string>{"1", "2"}));
  EXPECT_TRUE(overlapped);
}

TEST(Streaming, AKilledClientFreesItsBlocksWithinTwoSteps) {
  Running server;
  Client client(server.port());
  Client witness(server.port()); // keeps steps running
  witness.send(R"({"type":"response.create","temperature":0,"ignore_eos":true,"max_output_tokens":1900,"input":"w"})");
  client.send(
      R"({"type":"response.create","temperature":0,"ignore_eos":true,"max_output_tokens":1900,"input":"Hello there, this is a prompt of some blocks"})");
  ASSERT_TRUE(eventually([&] { return server.stats().running == 2; }));
  for (int i = 0; i < 6; ++i) client.receive();
  client.reset();
  ASSERT_TRUE(eventually([&] { return server.stats().requests_cancelled == 1; }));
  const uint64_t steps = server.stats().steps;
  ASSERT_TRUE(eventually([&] { return server.stats().running == 1; }));
  EXPECT_LE(server.stats().steps, steps + 2);
  witness.reset();
  EXPECT_TRUE(eventually([&] { return server.stats().blocks_referenced == 0; }));
}

TEST(Streaming, APromptLongerThanTheContextIsRefusedWithBothNumbers) {
  Running server;
  Client client(server.port());
  const auto events = client.ask(R"("input":")" + std::string(5000, 'a') + "\"");
  ASSERT_EQ(type_of(events.back()), "error");
  const std::string message(events.back().at("error").at("message").as_string());
  EXPECT_NE(message.find("5001"), std::string::npos) << message;
  EXPECT_NE(message.find("2048"), std::string::npos) << message;
}

TEST(Streaming, AContinuationFindsThePastInTheCache) {
  Running server;
  Client one(server.port()), two(server.port());
  const auto first = one.ask(greedy + R"("input":")" + std::string(200, 'q') + "\"");
  const std::string id(first.back().at("response").at("id").as_string());
  const auto next = two.ask(greedy + R"("input":"go on","previous_response_id":")" + id + "\""); // from another socket
  ASSERT_NE(type_of(next.back()), "error") << next.back().at("error").at("message");
  const auto& usage = next.back().at("response").at("usage");
  EXPECT_GE(usage.at("input_tokens_details").at("cached_tokens").to_number<int>(), (200 + 23) / 16 * 16 - 16);
}

TEST(Streaming, AnUnstoredResponseIsContinuedOnItsOwnSocketOnly) {
  Running server;
  Client one(server.port()), two(server.port());
  const auto first = one.ask(greedy + R"("store":false,"input":"abc")");
  const std::string id(first.back().at("response").at("id").as_string());
  EXPECT_EQ(two.ask(R"("input":"x","previous_response_id":")" + id + "\"").back().at("error").at("code").as_string(),
            "previous_response_not_found");
  EXPECT_NE(type_of(one.ask(greedy + R"("input":"x","previous_response_id":")" + id + "\"").back()), "error");
}

TEST(Streaming, ChoicesAreOutputItems) {
  Running server;
  Client client(server.port());
  const auto events =
      client.ask(R"("temperature":1,"seed":7,"n":3,"ignore_eos":true,"max_output_tokens":16,"input":"abc")");
  const auto& output = events.back().at("response").at("output").as_array();
  ASSERT_EQ(output.size(), 3u);
  std::map<int64_t, std::string> streamed;
  for (const auto& e : events)
    if (type_of(e) == "response.output_text.delta")
      streamed[e.at("output_index").as_int64()] += std::string_view(e.at("delta").as_string());
  for (int i = 0; i < 3; ++i) EXPECT_EQ(output[i].at("content").at(0).at("text").as_string(), streamed[i]);
  EXPECT_NE(streamed[0], streamed[1]);
  EXPECT_EQ(events.back().at("response").at("usage").at("output_tokens").to_number<int>(), 48);
}

TEST(Streaming, LogprobsComeWithTheDeltas) {
  Running server;
  Client client(server.port());
  const auto events = client.ask(greedy + R"("top_logprobs":3,"input":"abc")");
  size_t tokens = 0;
  for (const auto& e : events)
    if (type_of(e) == "response.output_text.delta")
      for (const auto& l : e.at("logprobs").as_array()) {
        ++tokens;
        EXPECT_EQ(l.at("top_logprobs").as_array().size(), 3u);
        EXPECT_NEAR(l.at("logprob").to_number<double>(), l.at("top_logprobs").at(0).at("logprob").to_number<double>(),
                    1e-6); // greedy
      }
  EXPECT_EQ(tokens, 24u);
}

TEST(Streaming, DrainingLetsAnswersFinish) {
  Running server;
  Client client(server.port());
  client.send(R"({"type":"response.create","temperature":0,"ignore_eos":true,"max_output_tokens":200,"input":"abc"})");
  client.receive();
  auto stopped = std::async(std::launch::async, [&] { server.server->stop(std::chrono::seconds(30)); });
  const auto events = client.receive_response();
  EXPECT_EQ(type_of(events.back()), "response.incomplete");
  stopped.get();
}

TEST(Streaming, WhileLoadingHealthIs503AndTheSocketIsRefused) {
  Running server({}, false);
  EXPECT_NE(raw_exchange(server.port(), "GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").find(" 503 "),
            std::string::npos);
  EXPECT_THROW(Client{server.port()}, boost::system::system_error);
}

} // namespace
} // namespace quire::server::test
