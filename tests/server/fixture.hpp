// A real server on a free loopback port over a real engine: a two-layer Llama of seeded random weights on the reference
// backend, so that every answer is made by the whole path and takes milliseconds.
#pragma once

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/json.hpp>

#include <gtest/gtest.h>

#include <spdlog/spdlog.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "quire/engine.hpp"
#include "server/server.hpp"
#include "support/temp_folder.hpp"

namespace quire::server::test {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace websocket = boost::beast::websocket;

// A folder with the configuration of a tiny Llama.
class TinyModel {
 public:
  explicit TinyModel(int max_context = 2048) {
    folder_.write(
        "config.json",
        R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,"intermediate_size":128,
      "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"rms_norm_eps":1e-5,"rope_theta":10000.0,"vocab_size":384,
      "max_position_embeddings":)" +
            std::to_string(max_context) + R"(,"tie_word_embeddings":true,"torch_dtype":"float32"})");
  }
  std::string path() const { return folder_.path().string(); }

  static EngineOptions options(const TinyModel& model) {
    EngineOptions o;
    o.model = model.path();
    o.load_format = "dummy";
    o.backend = "reference";
    o.seed = 1;
    o.kv_memory_bytes = 32u << 20;
    o.max_sequences = 32;
    o.max_batched_tokens = 256;
    o.cache_dir = "-";
    return o;
  }

 private:
  quire::test::TempFolder folder_;
};

struct Running {
  explicit Running(ServiceOptions options = {}, bool load = true, std::function<void(EngineOptions&)> change = {}) {
    spdlog::set_level(spdlog::level::warn);
    service = std::make_shared<Service>(std::move(options));
    ServerOptions server_options;
    server_options.port = 0;
    server = std::make_unique<Server>(server_options, service);
    EngineOptions engine_options = TinyModel::options(model);
    if (change) change(engine_options);
    if (load) service->ready(std::make_shared<Engine>(engine_options));
  }
  uint16_t port() const { return server->port(); }
  Stats stats() const { return service->engine()->stats(); }

  TinyModel model;
  std::shared_ptr<Service> service;
  std::unique_ptr<Server> server;
};

// A blocking WebSocket client.
class Client {
 public:
  explicit Client(uint16_t port) : ws_(io_) {
    ws_.next_layer().connect({net::ip::address_v4::loopback(), port});
    ws_.handshake("127.0.0.1:" + std::to_string(port), "/v1/responses");
  }
  void send(const std::string& frame) { ws_.write(net::buffer(frame)); }
  boost::json::object receive() {
    beast::flat_buffer buffer;
    ws_.read(buffer);
    return boost::json::parse(boost::json::string_view(static_cast<const char*>(buffer.data().data()), buffer.size()))
        .as_object();
  }
  // All events up to and including the one that ends a response, or an error.
  std::vector<boost::json::object> receive_response() {
    std::vector<boost::json::object> events;
    while (true) {
      events.push_back(receive());
      const std::string_view type = events.back().at("type").as_string();
      if (type == "error" || type == "response.completed" || type == "response.incomplete" || type == "response.failed")
        return events;
    }
  }
  std::vector<boost::json::object> ask(const std::string& fields) {
    send(R"({"type":"response.create",)" + fields + "}");
    return receive_response();
  }
  void close() { ws_.close(websocket::close_code::normal); }
  void reset() { // no closing handshake: as a killed process
    boost::system::error_code ignored;
    ws_.next_layer().set_option(net::socket_base::linger(true, 0), ignored);
    ws_.next_layer().close(ignored);
  }
  auto& stream() { return ws_; }

 private:
  net::io_context io_;
  websocket::stream<net::ip::tcp::socket> ws_;
};

inline std::string text_of(const std::vector<boost::json::object>& events) {
  std::string text;
  for (const auto& e : events)
    if (e.at("type").as_string() == "response.output_text.delta") text += std::string_view(e.at("delta").as_string());
  return text;
}

// Sends bytes as they are and reads what comes back until the server closes.
inline std::string raw_exchange(uint16_t port, const std::string& bytes) {
  net::io_context io;
  net::ip::tcp::socket socket(io);
  socket.connect({net::ip::address_v4::loopback(), port});
  boost::system::error_code ec;
  net::write(socket, net::buffer(bytes), ec);
  std::string answer;
  char chunk[4096];
  while (true) {
    const size_t n = socket.read_some(net::buffer(chunk), ec);
    answer.append(chunk, n);
    if (ec) return answer;
  }
}

// Waits until the condition holds; false after the time.
template <class Condition> bool eventually(Condition condition, double seconds = 20) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

} // namespace quire::server::test
