#include "connection.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>

#include "http.hpp"
#include "websocket_session.hpp"

namespace quire::server {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

namespace {

constexpr uint32_t max_header_bytes = 16u << 10;

} // namespace

net::awaitable<void> serve_connection(net::ip::tcp::socket socket, std::shared_ptr<Service> service) {
  boost::system::error_code ec;
  socket.set_option(net::ip::tcp::no_delay(true), ec); // a token is a small frame that must not wait
  beast::tcp_stream stream(std::move(socket));
  beast::flat_buffer buffer;
  http::request_parser<http::empty_body> parser;
  parser.header_limit(max_header_bytes);
  parser.body_limit(boost::none);                        // bodies are refused by refuse(), never read
  stream.expires_after(service->options.header_timeout); // of the whole header, however slowly it drips in
  co_await http::async_read_header(stream, buffer, parser, net::redirect_error(net::use_awaitable, ec));
  if (ec == http::error::end_of_stream || ec == beast::error::timeout || ec == net::error::connection_reset ||
      ec == net::error::operation_aborted)
    co_return;

  HttpResponse response;
  if (ec) {
    const bool large = ec == http::error::header_limit || ec == http::error::buffer_overflow;
    response =
        text_response(large ? http::status::request_header_fields_too_large : http::status::bad_request,
                      large ? "The request's header is larger than 16 KiB\n" : "This is no valid HTTP request\n");
  } else {
    const HttpRequest& request = parser.get();
    const bool upgrade = beast::websocket::is_upgrade(request) &&
                         request.target().substr(0, request.target().find('?')) == "/v1/responses";
    if (auto refusal = refuse(request, *service)) {
      response = std::move(*refusal);
    } else if (upgrade && buffer.size() > 0) {
      response = text_response(http::status::bad_request, "Wait for the upgrade's answer before sending frames\n");
    } else if (upgrade && !service->engine()) {
      response = text_response(http::status::service_unavailable, "The model is still loading\n");
      response.set(http::field::retry_after, "1");
    } else if (upgrade) {
      const auto session = std::make_shared<WebSocketSession>(std::move(stream), service);
      co_await session->run(parser.release());
      co_return;
    } else {
      const bool head = request.method() == http::verb::head;
      response = answer(request, *service);
      if (head) response.body().clear();
    }
  }
  stream.expires_after(service->options.header_timeout);
  co_await http::async_write(stream, response, net::redirect_error(net::use_awaitable, ec));
  stream.socket().shutdown(net::ip::tcp::socket::shutdown_send, ec);
}

} // namespace quire::server
