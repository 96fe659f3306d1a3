// `quire chat`: a WebSocket client for the Responses mode: one prompt, or a conversation line by line. Uses nothing of
// the engine.
#include <CLI/CLI.hpp>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/json.hpp>

#include <chrono>
#include <cstdio>
#include <iostream>
#include <memory>
#include <thread>

#include "commands.hpp"
#include "quire/error.hpp"

namespace quire::cli {
namespace {

namespace net = boost::asio;
namespace websocket = boost::beast::websocket;
namespace json = boost::json;

struct ChatOptions {
  std::string url = "ws://127.0.0.1:8000/v1/responses";
  std::string prompt;
  float temperature = 0;
  uint32_t max_tokens = 256;
  uint32_t wait_seconds = 0;
};

struct Url {
  std::string host, port, path;
};

Url parse_url(const std::string& url) {
  if (!url.starts_with("ws://")) throw Error("--url " + url + ": give an address that begins with ws://");
  const std::string rest = url.substr(5);
  const size_t slash = rest.find('/');
  const std::string authority = rest.substr(0, slash);
  const size_t colon = authority.rfind(':');
  Url u;
  u.host = authority.substr(0, colon);
  u.port = colon == std::string::npos ? "80" : authority.substr(colon + 1);
  u.path = slash == std::string::npos ? "/v1/responses" : rest.substr(slash);
  return u;
}

class Client {
 public:
  Client(const Url& url, uint32_t wait_seconds) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(wait_seconds);
    while (true) {
      try {
        net::ip::tcp::resolver resolver(io_);
        ws_ = std::make_unique<websocket::stream<net::ip::tcp::socket>>(io_);
        net::connect(ws_->next_layer(), resolver.resolve(url.host, url.port));
        ws_->next_layer().set_option(net::ip::tcp::no_delay(true));
        ws_->handshake(url.host + ":" + url.port, url.path);
        return;
      } catch (const boost::system::system_error& e) {
        if (std::chrono::steady_clock::now() >= deadline)
          throw Error("can't connect to ws://" + url.host + ":" + url.port + url.path + " (" + e.code().message() +
                      "): is `quire serve` running and its model loaded?");
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    }
  }

  // Streams one answer to standard output.
  void ask(const ChatOptions& o, const std::string& prompt) {
    json::object event{{"type", "response.create"},
                       {"input", prompt},
                       {"temperature", o.temperature},
                       {"max_output_tokens", o.max_tokens}};
    if (!previous_.empty()) event["previous_response_id"] = previous_;
    const auto start = std::chrono::steady_clock::now();
    auto first = start;
    bool any = false;
    ws_->write(net::buffer(json::serialize(event)));
    while (true) {
      boost::beast::flat_buffer buffer;
      ws_->read(buffer);
      const json::value value =
          json::parse(json::string_view(static_cast<const char*>(buffer.data().data()), buffer.size()));
      const std::string_view type = value.at("type").as_string();
      if (type == "response.output_text.delta") {
        if (!any) first = std::chrono::steady_clock::now();
        any = true;
        const auto& delta = value.at("delta").as_string();
        std::fwrite(delta.data(), 1, delta.size(), stdout);
        std::fflush(stdout);
      } else if (type == "error") {
        throw Error(std::string(value.at("error").at("message").as_string()));
      } else if (type == "response.completed" || type == "response.incomplete" || type == "response.failed") {
        finish(value.at("response"), start, first);
        return;
      }
    }
  }

 private:
  using Time = std::chrono::steady_clock::time_point;

  void finish(const json::value& response, Time start, Time first) {
    std::fputc('\n', stdout);
    std::fflush(stdout);
    if (response.at("error").is_object()) throw Error(std::string(response.at("error").at("message").as_string()));
    previous_ = response.at("id").as_string();
    const json::value& usage = response.at("usage");
    const auto out = usage.at("output_tokens").to_number<int64_t>();
    const double to_first = std::chrono::duration<double>(first - start).count();
    const double rest = std::chrono::duration<double>(std::chrono::steady_clock::now() - first).count();
    std::fprintf(stderr, "[%lld tokens in, %lld cached; %lld out; first token after %.3f s; %.1f tokens/s]\n",
                 static_cast<long long>(usage.at("input_tokens").to_number<int64_t>()),
                 static_cast<long long>(usage.at("input_tokens_details").at("cached_tokens").to_number<int64_t>()),
                 static_cast<long long>(out), to_first,
                 out > 1 && rest > 0 ? static_cast<double>(out - 1) / rest : 0.0);
  }

  net::io_context io_;
  std::unique_ptr<websocket::stream<net::ip::tcp::socket>> ws_;
  std::string previous_;
};

int chat(const ChatOptions& o) {
  Client client(parse_url(o.url), o.wait_seconds);
  if (!o.prompt.empty()) {
    client.ask(o, o.prompt);
    return 0;
  }
  std::string line;
  while (std::fputs("> ", stderr), std::getline(std::cin, line))
    if (!line.empty()) client.ask(o, line);
  return 0;
}

} // namespace

Command add_chat(CLI::App& app) {
  const auto o = std::make_shared<ChatOptions>();
  app.add_option("--url", o->url, "Address of the server")->capture_default_str();
  app.add_option("-p,--prompt", o->prompt, "Ask this and end; without it, lines are read from standard input");
  app.add_option("--temperature", o->temperature, "0: greedy")->capture_default_str();
  app.add_option("-n,--max-tokens", o->max_tokens)->capture_default_str();
  app.add_option("--wait", o->wait_seconds, "Keep trying to connect for so many seconds")->capture_default_str();
  return [o] { return chat(*o); };
}

} // namespace quire::cli
