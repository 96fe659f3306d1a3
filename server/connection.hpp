// One TCP connection: reads one HTTP request under limits and deadlines, then answers it and closes, or upgrades to a
// WebSocket session. Thread contract: everything of a connection runs on its strand.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>

#include <memory>

#include "service.hpp"

namespace quire::server {

boost::asio::awaitable<void> serve_connection(boost::asio::ip::tcp::socket socket, std::shared_ptr<Service> service);

} // namespace quire::server
