// Random clients against a real `quire serve` for some minutes:
//   quire-soak QUIRE MODEL BACKEND MINUTES [--seed S] [--clients N] [-- further options of `quire serve`]
//
// They ask, continue, branch (n, beams), cut off in the middle, send nonsense, and ask the same questions again, whose
// answers must stay the same. At the end no block is referenced and none is missing, nothing runs, no request has
// failed, the memory is what it was after a third of the time (within 20 % and 100 MiB), /health answers and SIGTERM
// ends it with code 0. Prints «N passed, N failed»; exit code 1 if anything failed.
#include "fixture.hpp"

#include <atomic>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <map>
#include <mutex>
#include <random>

#include <sys/wait.h>

namespace quire::server::test {
namespace {

using Clock = std::chrono::steady_clock;

struct Soak {
  std::string quire, model, backend;
  double minutes = 1;
  uint32_t seed = 1, clients = 12;
  std::vector<std::string> more;
  uint16_t port = 0;
  pid_t child = 0;

  std::mutex mutex;
  std::map<std::string, std::string> answers; // of greedy questions, as they were first given
  std::atomic<uint64_t> asked{0}, whole{0}, cut{0}, nonsense{0}, lost{0};
  uint32_t passed = 0, failed = 0;

  void check(const std::string& name, bool condition, const std::string& detail = "") {
    const std::lock_guard lock(mutex);
    condition ? ++passed : ++failed;
    if (!condition || detail.empty())
      std::printf("%s %s %s\n", condition ? "ok    " : "FAILED", name.c_str(), detail.c_str());
  }
};

uint16_t free_port() {
  net::io_context io;
  net::ip::tcp::acceptor acceptor(io, {net::ip::address_v4::loopback(), 0});
  return acceptor.local_endpoint().port();
}

std::string get(const Soak& soak, const std::string& path) {
  try {
    return raw_exchange(soak.port, "GET " + path + " HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
  } catch (const boost::system::system_error&) {
    return {};
  }
}

// A figure of /metrics; -1 where it isn't there.
double metric(const std::string& text, const std::string& name) {
  const size_t at = text.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::stod(text.substr(at + name.size() + 2));
}

double resident_mib(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmRSS:")) return std::stod(line.substr(6)) / 1024;
  return 0;
}

void start(Soak& soak) {
  soak.port = free_port();
  std::vector<std::string> words{
      soak.quire,  "-q",         "serve",      "--model", soak.model, "--port", std::to_string(soak.port),
      "--backend", soak.backend, "--invariant"};
  words.insert(words.end(), soak.more.begin(), soak.more.end());
  soak.child = fork();
  if (soak.child != 0) return;
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  execv(argv[0], argv.data());
  std::perror(argv[0]);
  _exit(127);
}

const char* const questions[] = {"What is the capital of France?", "Name three colours.",
                                 "Write one line about the sea.",  "How many days has a week?",
                                 "Say hello in Spanish.",          "What is 2 + 2?"};
const char* const nonsense[] = {"{",
                                "[]",
                                "{}",
                                "null",
                                R"({"type":"response.create"})",
                                R"({"type":"response.create","input":5})",
                                R"({"type":"response.create","input":"x","n":1000000})",
                                R"({"type":"response.create","input":"x","beam_width":1000000})",
                                R"({"type":"response.create","input":"x","temperature":"hot"})",
                                R"({"type":"response.create","input":"x","previous_response_id":"resp_none"})",
                                R"({"type":"response.create","input":"x","unheard_of":1})",
                                R"({"type":"response.create","input":"x","max_output_tokens":-1})"};

bool ends_response(const boost::json::object& event) {
  const std::string_view type = event.at("type").as_string();
  return type == "error" || type == "response.completed" || type == "response.incomplete" || type == "response.failed";
}

std::string random_words(std::mt19937& random, uint32_t count) {
  std::string text;
  for (uint32_t i = 0; i < count; ++i) text += (i ? " w" : "w") + std::to_string(random() % 5000);
  return text;
}

// One connection: a few requests, each of a random kind, until it is cut or closed.
void visit(Soak& soak, std::mt19937& random) {
  Client client(soak.port);
  std::string past;
  for (uint32_t turn = 0; turn <= random() % 4; ++turn) {
    const uint32_t kind = random() % 10;
    if (kind == 0) { // nonsense gets an error, and the socket goes on
      client.send(nonsense[random() % std::size(nonsense)]);
      const auto event = client.receive();
      soak.check("nonsense gets an error", event.at("type").as_string() == "error", boost::json::serialize(event));
      ++soak.nonsense;
      continue;
    }
    std::string fields, question;
    if (kind <= 3) {
      question = questions[random() % std::size(questions)];
      fields = R"("temperature":0,"max_output_tokens":24,"store":false,"input":")" + question + "\"";
    } else if (kind == 4) {
      fields = R"("temperature":1,"n":3,"ignore_eos":true,"max_output_tokens":20,"input":")" +
               random_words(random, 1 + random() % 30) + "\"";
    } else if (kind == 5) {
      fields = R"("beam_width":3,"temperature":0,"max_output_tokens":12,"input":")" +
               std::string(questions[random() % std::size(questions)]) + "\"";
    } else if (kind == 6) {
      fields =
          R"("ignore_eos":true,"max_output_tokens":40,"input":")" + random_words(random, 20 + random() % 40) + "\"";
    } else if (kind == 7 && !past.empty()) {
      fields = R"("temperature":0,"max_output_tokens":16,"input":"And then?","previous_response_id":")" + past + "\"";
    } else {
      fields = R"("temperature":0.8,"max_output_tokens":30,"priority":)" + std::to_string(random() % 5) +
               R"(,"input":")" + random_words(random, 1 + random() % 25) + "\"";
    }
    client.send(R"({"type":"response.create",)" + fields + "}");
    ++soak.asked;
    if (random() % 5 == 0) { // a killed process
      bool over = false;
      for (uint32_t left = random() % 12; left > 0 && !over; --left) over = ends_response(client.receive());
      client.reset();
      ++soak.cut;
      return;
    }
    const auto events = client.receive_response();
    ++soak.whole;
    const std::string type(events.back().at("type").as_string());
    soak.check("an answer has an end", type == "response.completed" || type == "response.incomplete",
               boost::json::serialize(events.back()));
    if (type != "response.completed" && type != "response.incomplete") continue;
    past = std::string(events.back().at("response").at("id").as_string());
    if (question.empty()) continue;
    const std::string text = text_of(events);
    bool same;
    {
      const std::lock_guard lock(soak.mutex);
      same = soak.answers.emplace(question, text).first->second == text;
    }
    soak.check("the same question, the same answer", same, question + " " + text);
  }
  if (random() % 2) client.close();
}

void garbage(Soak& soak, std::mt19937& random) {
  std::string bytes(random() % 400, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  raw_exchange(soak.port, bytes + "\r\n\r\n");
  ++soak.nonsense;
}

void client_loop(Soak& soak, uint32_t index, Clock::time_point end) {
  std::mt19937 random(soak.seed * 1000 + index);
  while (Clock::now() < end) {
    try {
      random() % 12 == 0 ? garbage(soak, random) : visit(soak, random);
    } catch (const boost::system::system_error&) {
      ++soak.lost; // the server may be gone: that shows at the end
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
  }
}

void run(Soak& soak) {
  start(soak);
  bool ready = false;
  for (int i = 0; i < 3000 && !ready && waitpid(soak.child, nullptr, WNOHANG) == 0; ++i) {
    ready = get(soak, "/health").find(" 200 ") != std::string::npos;
    if (!ready) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  soak.check("the server starts", ready);
  if (!ready) return;
  const auto begin = Clock::now();
  const auto length = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(soak.minutes * 60));
  std::vector<std::thread> threads;
  for (uint32_t i = 0; i < soak.clients; ++i)
    threads.emplace_back([&soak, i, end = begin + length] { client_loop(soak, i, end); });
  double early = 0, peak = 0;
  while (Clock::now() < begin + length) {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    const double now = resident_mib(soak.child);
    peak = std::max(peak, now);
    if (Clock::now() < begin + length / 3) early = std::max(early, now);
  }
  for (std::thread& thread : threads) thread.join();

  std::string metrics;
  const auto settled = [&] {
    metrics = get(soak, "/metrics");
    return metric(metrics, "quire_requests_running") == 0 && metric(metrics, "quire_requests_waiting") == 0 &&
           metric(metrics, "quire_requests_swapped") == 0 &&
           metric(metrics, "quire_kv_blocks{state=\"referenced\"}") == 0 &&
           metric(metrics, "quire_kv_blocks{state=\"draining\"}") == 0 && metric(metrics, "quire_connections") == 0;
  };
  soak.check("nothing runs, no block is referenced, no connection is left", eventually(settled, 30));
  const double blocks =
      metric(metrics, "quire_kv_blocks{state=\"free\"}") + metric(metrics, "quire_kv_blocks{state=\"cached\"}");
  soak.check("no block is missing", blocks == metric(metrics, "quire_kv_blocks_total"));
  soak.check("no request has failed", metric(metrics, "quire_requests_failed_total") == 0);
  const double late = resident_mib(soak.child);
  soak.check("the memory is stable", late <= early * 1.2 + 100);
  soak.check("/health answers", get(soak, "/health").find(" 200 ") != std::string::npos);
  std::printf(
      "%llu asked, %llu whole answers, %llu cut off, %llu pieces of nonsense, %llu connections lost; %.0f preemptions; "
      "%.0f MiB after a third, %.0f at most, %.0f at the end\n",
      static_cast<unsigned long long>(soak.asked), static_cast<unsigned long long>(soak.whole),
      static_cast<unsigned long long>(soak.cut), static_cast<unsigned long long>(soak.nonsense),
      static_cast<unsigned long long>(soak.lost),
      metric(metrics, "quire_preemptions_total{by=\"swap\"}") +
          metric(metrics, "quire_preemptions_total{by=\"recompute\"}"),
      early, peak, late);
}

void stop(Soak& soak) {
  kill(soak.child, SIGTERM);
  int status = 0;
  waitpid(soak.child, &status, 0);
  soak.check("SIGTERM ends the server with code 0", WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

} // namespace
} // namespace quire::server::test

int main(int argc, char** argv) {
  using namespace quire::server::test;
  Soak soak;
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.size() < 4) {
    std::fprintf(stderr, "usage: quire-soak QUIRE MODEL BACKEND MINUTES [--seed S] [--clients N] [-- serve options]\n");
    return 2;
  }
  soak.quire = words[0], soak.model = words[1], soak.backend = words[2], soak.minutes = std::stod(words[3]);
  size_t i = 4;
  for (; i + 1 < words.size() && words[i] != "--"; i += 2) {
    const auto number = static_cast<uint32_t>(std::stoul(words[i + 1]));
    if (words[i] == "--seed") soak.seed = number;
    if (words[i] == "--clients") soak.clients = number;
  }
  if (i < words.size()) soak.more.assign(words.begin() + static_cast<std::ptrdiff_t>(i) + 1, words.end());
  run(soak);
  stop(soak);
  std::printf("%u passed, %u failed\n", soak.passed, soak.failed);
  return soak.failed ? 1 : 0;
}
