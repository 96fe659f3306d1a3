// The listener: accepts connections on its own threads until it is stopped.
//
// Server serves /health (503 while loading) from its construction on; the engine is handed over later by
// Service::ready. stop() drains: no new connections and responses, those under way may finish within the grace period,
// then everything is closed. [any] thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "service.hpp"

namespace quire::server {

struct ServerOptions {
  std::string host = "127.0.0.1";
  uint16_t port = 8000; // 0 = any free one
  uint32_t num_threads = 2;
};

class Server {
 public:
  // Binds and starts to accept; throws quire::Error if the address can't be had.
  Server(const ServerOptions& options, std::shared_ptr<Service> service);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  uint16_t port() const;
  // Returns when nothing runs any more; the service's engine is gone then.
  void stop(std::chrono::seconds grace);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Whether a host is a loopback address or name, so that Service can check Host headers.
bool is_loopback(const std::string& host);

} // namespace quire::server
