#include "server.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <atomic>
#include <thread>
#include <vector>

#include <spdlog/spdlog.h>

#include "connection.hpp"
#include "quire/error.hpp"

namespace quire::server {

namespace net = boost::asio;
using tcp = net::ip::tcp;

struct Server::Impl {
  explicit Impl(std::shared_ptr<Service> s) : service(std::move(s)) {}

  net::awaitable<void> accept_loop() {
    while (true) {
      boost::system::error_code ec;
      tcp::socket socket =
          co_await acceptor.async_accept(net::make_strand(io), net::redirect_error(net::use_awaitable, ec));
      if (ec == net::error::operation_aborted || !acceptor.is_open()) co_return;
      if (ec) { // out of descriptors, say: wait for some to come back
        spdlog::warn("can't accept a connection: {}", ec.message());
        net::steady_timer pause(io, std::chrono::milliseconds(100));
        co_await pause.async_wait(net::redirect_error(net::use_awaitable, ec));
        continue;
      }
      if (live.load() >= service->options.max_connections) continue; // the socket closes
      live.fetch_add(1);
      const auto strand = socket.get_executor();
      net::co_spawn(strand, serve_connection(std::move(socket), service), [this](std::exception_ptr error) {
        live.fetch_sub(1);
        if (!error) return;
        try {
          std::rethrow_exception(error);
        } catch (const std::exception& e) {
          spdlog::error("a connection ended by an unexpected error: {}", e.what());
        }
      });
    }
  }

  std::shared_ptr<Service> service;
  net::io_context io;
  tcp::acceptor acceptor{io};
  std::atomic<size_t> live{0};
  std::vector<std::thread> threads;
  uint16_t port = 0;
};

Server::Server(const ServerOptions& options, std::shared_ptr<Service> service)
    : impl_(std::make_unique<Impl>(std::move(service))) {
  boost::system::error_code ec;
  tcp::resolver resolver(impl_->io);
  const auto found = resolver.resolve(options.host, std::to_string(options.port), tcp::resolver::passive, ec);
  if (ec || found.empty()) throw Error("--host " + options.host + ": no such address (" + ec.message() + ")");
  const tcp::endpoint endpoint = found.begin()->endpoint();
  tcp::acceptor& acceptor = impl_->acceptor;
  acceptor.open(endpoint.protocol(), ec);
  if (!ec) acceptor.set_option(net::socket_base::reuse_address(true), ec);
  if (!ec) acceptor.bind(endpoint, ec);
  if (!ec) acceptor.listen(net::socket_base::max_listen_connections, ec);
  if (ec)
    throw Error("can't listen on " + options.host + ":" + std::to_string(options.port) + " (" + ec.message() +
                "): choose another --port or stop what holds it");
  impl_->port = acceptor.local_endpoint().port();
  net::co_spawn(impl_->io, impl_->accept_loop(), net::detached);
  for (uint32_t i = 0; i < std::max(1u, options.num_threads); ++i)
    impl_->threads.emplace_back([this] { impl_->io.run(); });
}

Server::~Server() { stop(std::chrono::seconds(0)); }

uint16_t Server::port() const { return impl_->port; }

void Server::stop(std::chrono::seconds grace) {
  if (impl_->threads.empty()) return;
  impl_->service->draining = true;
  net::post(impl_->io, [this] {
    boost::system::error_code ignored;
    impl_->acceptor.close(ignored);
  });
  const auto deadline = std::chrono::steady_clock::now() + grace;
  while (impl_->service->live_responses.load() > 0 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  // Frames of the last responses are on their way: give the writes a moment.
  if (grace.count() > 0) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  impl_->io.stop();
  for (std::thread& thread : impl_->threads) thread.join();
  impl_->threads.clear();
  impl_->service->close();
}

bool is_loopback(const std::string& host) {
  if (host == "localhost") return true;
  boost::system::error_code ec;
  const auto address = net::ip::make_address(host, ec);
  return !ec && address.is_loopback();
}

} // namespace quire::server
