// A WebSocket on /v1/responses: frames in, responses in lanes, frames out.
//
// Lanes: requests with the same stream_id are served first in, first out; different lanes run at the same time. One
// write is in flight; what waits is bounded, and a client that reads too slowly is cut off. Whatever ends the
// connection cancels its responses. Thread contract: everything runs on the connection's strand.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/websocket.hpp>

#include <deque>
#include <map>
#include <memory>
#include <string>

#include "http.hpp"
#include "response_stream.hpp"
#include "transport.hpp"

namespace quire::server {

class WebSocketSession : public FrameWriter, public std::enable_shared_from_this<WebSocketSession> {
 public:
  WebSocketSession(boost::beast::tcp_stream stream, std::shared_ptr<Service> service);
  ~WebSocketSession() override;

  // Accepts the upgrade and serves until the connection ends.
  boost::asio::awaitable<void> run(HttpRequest request);

  void send(std::string frame) override;
  void response_done(const std::shared_ptr<ResponseStream>& response) override;

 private:
  struct Lane {
    std::deque<CreateRequest> waiting;
    std::shared_ptr<ResponseStream> active;
  };

  boost::asio::awaitable<bool> read_message();
  void watch();
  void on_message(std::string_view frame);
  void enqueue(CreateRequest create);
  void start_next(const std::string& lane_name);
  void refuse_event(const ProtocolError& error, const std::optional<std::string>& stream_id);
  void write_next();
  void cancel_all();

  const std::shared_ptr<Service> service_;
  boost::beast::websocket::stream<Transport> ws_;
  boost::beast::flat_buffer buffer_;
  std::map<std::string, Lane> lanes_;                                            // by stream_id; those with work only
  std::map<std::string, std::shared_ptr<const Conversation>> own_conversations_; // of responses with store: false
  std::deque<std::string> write_queue_;                                          // the front is being written
  size_t write_queue_bytes_ = 0;
  uint32_t control_frames_ = 0; // since the last message
  boost::asio::steady_timer watch_timer_;
  uint64_t received_before_ = 0; // bytes up to the end of the last message, and of control frames since
  std::chrono::steady_clock::time_point message_since_{}; // a message was first seen to be under way; none: none is
  bool closed_ = false;
};

} // namespace quire::server
