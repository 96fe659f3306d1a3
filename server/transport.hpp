// The TCP stream below a WebSocket: counts what comes, and has an end of its own.
//
// Counting: a message of ever more empty fragments makes Beast read on without a return, so only the bytes tell.
//
// After a protocol error Beast shuts its side down and reads until the peer closes or the idle time is over: a broken
// peer would hold its socket for a minute. Here it gets a moment to read the close frame, and then the socket is closed
// whatever it does.
#pragma once

#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/websocket/teardown.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace quire::server {

struct Transport : boost::beast::tcp_stream {
  static constexpr std::chrono::milliseconds farewell{1000};

  explicit Transport(boost::beast::tcp_stream&& stream) : boost::beast::tcp_stream(std::move(stream)) {}

  uint64_t received = 0; // bytes

  // What Beast calls, hiding the base's.
  template <class Buffers, class Handler> auto async_read_some(const Buffers& buffers, Handler&& handler) {
    return boost::asio::async_initiate<Handler, void(boost::system::error_code, size_t)>(
        [this](auto&& whole, const Buffers& into) {
          const auto executor = boost::asio::get_associated_executor(whole, get_executor());
          boost::beast::tcp_stream::async_read_some(
              into, boost::asio::bind_executor(executor, [this, h = std::forward<decltype(whole)>(whole)](
                                                             boost::system::error_code ec, size_t n) mutable {
                received += n;
                std::move(h)(ec, n);
              }));
        },
        handler, buffers);
  }
};

// Found by Beast through the argument's type. On the stream's executor, like all of its operations.
template <class Handler> void async_teardown(boost::beast::role_type role, Transport& transport, Handler&& handler) {
  namespace net = boost::asio;
  const auto timer = std::make_shared<net::steady_timer>(transport.get_executor(), Transport::farewell);
  const auto over = std::make_shared<bool>(false); // the timer's handler may be queued already when it is cancelled
  timer->async_wait([&transport, over](boost::system::error_code ec) {
    boost::system::error_code ignored;
    if (!ec && !*over) transport.socket().close(ignored);
  });
  const auto executor = net::get_associated_executor(handler, transport.get_executor());
  boost::beast::websocket::async_teardown(
      role, transport.socket(),
      net::bind_executor(executor,
                         [timer, over, handler = std::forward<Handler>(handler)](boost::system::error_code ec) mutable {
                           *over = true;
                           timer->cancel();
                           std::move(handler)(ec);
                         }));
}

} // namespace quire::server
