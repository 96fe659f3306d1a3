// What every connection shares: the engine once it is loaded, the limits, the metrics and the stored conversations.
// Thread contract: [any]; members are either immutable or synchronise themselves.
#pragma once

#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include "conversation.hpp"
#include "metrics.hpp"
#include "protocol.hpp"
#include "quire/engine.hpp"

namespace quire::server {

struct ServiceOptions {
  ProtocolLimits limits;
  std::string api_key;        // required as `Authorization: Bearer …` when not empty
  std::string allowed_origin; // a browser page's origin that may connect besides the server's own; "*" = any
  bool loopback_only = true;  // bound to a loopback address: the Host header must name one (DNS rebinding)
  size_t max_connections = 1024;
  size_t max_write_queue_bytes = 8u << 20; // of one connection: a client that lets more pile up is cut off
  size_t max_stored_bytes = 256u << 20;    // conversations kept for previous_response_id
  std::chrono::seconds header_timeout{10};
  std::chrono::seconds idle_timeout{60};    // of a silent peer; pings keep a live one
  std::chrono::seconds message_timeout{30}; // from a message's first byte to its last
};

class Service {
 public:
  explicit Service(ServiceOptions o) : options(std::move(o)), conversations(options.max_stored_bytes) {}

  // Once, when the model is loaded.
  void ready(std::shared_ptr<Engine> engine) {
    engine_ = std::move(engine);
    ready_.store(true, std::memory_order_release);
  }
  // Ends the engine and all that it runs. For Server::stop, once no connection runs any more and while what the last
  // events are posted to still exists: responses hold the service and the engine holds them, so this is where the
  // circle is cut.
  void close() {
    ready_.store(false);
    engine_.reset();
  }
  // nullptr while loading.
  Engine* engine() const { return ready_.load(std::memory_order_acquire) ? engine_.get() : nullptr; }

  const ServiceOptions options;
  Metrics metrics;
  ConversationStore conversations;
  std::atomic<uint32_t> live_responses{0};
  std::atomic<bool> draining{false};

 private:
  std::shared_ptr<Engine> engine_;
  std::atomic<bool> ready_{false};
};

} // namespace quire::server
