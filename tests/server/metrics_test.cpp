// What /metrics says while the real model serves more than its memory holds: the counters against what the clients saw.
#include <atomic>
#include <filesystem>
#include <map>

#include "fixture.hpp"

namespace quire::server::test {
namespace {

// Every figure by its name, labels included.
std::map<std::string, double> figures(uint16_t port) {
  const std::string text = raw_exchange(port, "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
  std::map<std::string, double> out;
  for (size_t begin = text.find("\r\n\r\n") + 4, end; (end = text.find('\n', begin)) != std::string::npos;
       begin = end + 1) {
    const std::string line = text.substr(begin, end - begin);
    const size_t space = line.rfind(' ');
    if (line.empty() || line[0] == '#' || space == std::string::npos) continue;
    out[line.substr(0, space)] = std::stod(line.substr(space + 1));
  }
  return out;
}

struct Totals {
  std::atomic<uint64_t> in{0}, out{0}, cached{0};
};

// Eight clients with a beginning in common; meanwhile each sample of /metrics must agree with itself.
void check_counters(Running& server, uint32_t output_tokens, bool preempts) {
  Totals totals;
  std::atomic<int> running{8};
  const std::string common(240, 'c');
  std::vector<std::thread> clients;
  const auto ask = [&](int i) {
    Client client(server.port());
    const auto events =
        client.ask(R"("temperature":0,"ignore_eos":true,"max_output_tokens":)" + std::to_string(output_tokens) +
                   R"(,"input":")" + common + " and " + std::to_string(i) + "\"");
    const auto& usage = events.back().at("response").at("usage");
    totals.in += usage.at("input_tokens").to_number<uint64_t>();
    totals.out += usage.at("output_tokens").to_number<uint64_t>();
    totals.cached += usage.at("input_tokens_details").at("cached_tokens").to_number<uint64_t>();
  };
  ask(100); // computes the beginning once
  for (int i = 0; i < 8; ++i)
    clients.emplace_back([&, i] {
      ask(i);
      --running;
    });
  double best = 0;
  while (running > 0) {
    auto f = figures(server.port());
    const double referenced = f["quire_kv_blocks{state=\"referenced\"}"];
    EXPECT_EQ(referenced + f["quire_kv_blocks{state=\"free\"}"] + f["quire_kv_blocks{state=\"cached\"}"] +
                  f["quire_kv_blocks{state=\"draining\"}"],
              f["quire_kv_blocks_total"]);
    const double slots = referenced * f["quire_kv_block_size"];
    EXPECT_LE(f["quire_kv_tokens_held"], slots);
    if (slots > 0) {
      EXPECT_NEAR(f["quire_kv_utilisation"], f["quire_kv_tokens_held"] / slots, 1e-9);
    }
    if (f["quire_requests_running"] >= 4) best = std::max(best, f["quire_kv_utilisation"]);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  for (auto& client : clients) client.join();
  EXPECT_TRUE(eventually([&] { return figures(server.port())["quire_requests_running"] == 0; }));
  auto f = figures(server.port());
  EXPECT_EQ(f["quire_prompt_tokens_total"], static_cast<double>(totals.in));
  EXPECT_EQ(f["quire_output_tokens_total"], static_cast<double>(totals.out));
  EXPECT_EQ(f["quire_cached_tokens_total"], static_cast<double>(totals.cached));
  EXPECT_GT(totals.cached, 7u * 32); // the common beginning
  if (preempts) {
    EXPECT_GT(f["quire_preemptions_total{by=\"swap\"}"] + f["quire_preemptions_total{by=\"recompute\"}"], 0);
  }
  EXPECT_GT(best, 0.8); // half a block a sequence is empty on average
  EXPECT_EQ(f["quire_kv_blocks{state=\"referenced\"}"], 0);
  EXPECT_EQ(f["quire_kv_blocks{state=\"free\"}"] + f["quire_kv_blocks{state=\"cached\"}"], f["quire_kv_blocks_total"]);
  EXPECT_EQ(f["quire_requests_total"], 9);
  EXPECT_GE(f["quire_steps_total"], f["quire_decode_steps_total"]);
}

TEST(MetricsTest, CountersAgreeWithWhatClientsSaw) {
  Running server({}, true, [](EngineOptions& o) { o.kv_memory_bytes = 320u << 10; });
  check_counters(server, 300, true);
}

TEST(MetricsTest, CountersOfTheRealModelAgreeWithWhatClientsSaw) {
  const char *full = std::getenv("QUIRE_FULL"), *path = std::getenv("QUIRE_MODEL"), *home = std::getenv("HOME");
  if (!full || std::string(full) != "1") GTEST_SKIP() << "set QUIRE_FULL=1";
  const std::string model =
      path ? path : std::string(home ? home : "") + "/.cache/quire/models/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(model)) GTEST_SKIP() << model << " is not there";
  Running server({}, true, [&](EngineOptions& o) {
    o.model = model;
    o.load_format = "auto";
    o.kv_memory_bytes = 10u << 20;
    o.max_context = 320;
  });
  check_counters(server, 60, false); // its answers end when they like
}

} // namespace
} // namespace quire::server::test
