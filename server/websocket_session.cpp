#include "websocket_session.hpp"

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "quire/error.hpp"

namespace quire::server {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace websocket = boost::beast::websocket;

namespace {

constexpr uint32_t max_control_frames = 1000; // pings and pongs between two messages
constexpr uint64_t frame_overhead_bytes =
    4096; // and as much again as a message may have, for the heads of its fragments
constexpr size_t read_chunk_bytes = 64u << 10;
constexpr size_t max_own_conversations = 64;

auto to(boost::system::error_code& ec) { return net::redirect_error(net::use_awaitable, ec); }

} // namespace

WebSocketSession::WebSocketSession(beast::tcp_stream stream, std::shared_ptr<Service> service)
    : service_(std::move(service)), ws_(Transport(std::move(stream))), watch_timer_(ws_.get_executor()) {
  service_->metrics.connections.fetch_add(1);
  service_->metrics.connections_total.fetch_add(1);
}

WebSocketSession::~WebSocketSession() { service_->metrics.connections.fetch_sub(1); }

net::awaitable<void> WebSocketSession::run(HttpRequest request) {
  boost::system::error_code ec;
  beast::get_lowest_layer(ws_).expires_never(); // the WebSocket's own deadlines take over
  websocket::stream_base::timeout deadlines{service_->options.header_timeout, service_->options.idle_timeout, true};
  ws_.set_option(deadlines);
  ws_.read_message_max(service_->options.limits.max_frame_bytes);
  ws_.auto_fragment(false);
  ws_.text(true);
  ws_.control_callback([this](websocket::frame_type, beast::string_view payload) {
    received_before_ += 6 + payload.size(); // a masked control frame
    if (++control_frames_ > max_control_frames) beast::get_lowest_layer(ws_).close();
  });
  const auto keep_alive = shared_from_this();
  co_await ws_.async_accept(request, to(ec));
  if (!ec) {
    received_before_ = ws_.next_layer().received;
    watch();
    while (co_await read_message()) {
      if (ws_.got_text())
        on_message({static_cast<const char*>(buffer_.data().data()), buffer_.size()});
      else
        refuse_event(ProtocolError("Send JSON in text frames: this was a binary one", "", "invalid_frame"),
                     std::nullopt);
      buffer_.consume(buffer_.size());
    }
  }
  closed_ = true;
  watch_timer_.cancel();
  cancel_all();
}

// Beast's read returns neither for empty fragments nor while a frame is incomplete: whoever takes too long for a
// message, or too many bytes, is cut off from here.
void WebSocketSession::watch() {
  const auto patience = service_->options.message_timeout;
  watch_timer_.expires_after(std::min<std::chrono::milliseconds>(patience / 4, std::chrono::milliseconds(250)));
  watch_timer_.async_wait([weak = weak_from_this(), patience](boost::system::error_code ec) {
    const auto self = weak.lock();
    if (ec || !self || self->closed_) return;
    const auto now = std::chrono::steady_clock::now();
    const uint64_t received = self->ws_.next_layer().received;
    const uint64_t bytes = received > self->received_before_ ? received - self->received_before_ : 0;
    if (bytes == 0)
      self->message_since_ = {};
    else if (self->message_since_ == std::chrono::steady_clock::time_point{})
      self->message_since_ = now;
    const bool slow = bytes > 0 && now - self->message_since_ > patience;
    if (slow || bytes > 2 * self->service_->options.limits.max_frame_bytes + frame_overhead_bytes)
      return beast::get_lowest_layer(self->ws_).close(); // no handshake with a peer that never ends
    self->watch();
  });
}

// One whole message into buffer_; false at the end of the connection.
net::awaitable<bool> WebSocketSession::read_message() {
  boost::system::error_code ec;
  do {
    co_await ws_.async_read_some(buffer_, read_chunk_bytes, to(ec));
    if (ec) co_return false;
  } while (!ws_.is_message_done());
  control_frames_ = 0;
  received_before_ = ws_.next_layer().received;
  message_since_ = {};
  co_return true;
}

void WebSocketSession::on_message(std::string_view frame) {
  std::optional<std::string> stream_id;
  try {
    const json::object event = parse_frame(frame, service_->options.limits);
    if (const json::value* id = event.if_contains("stream_id");
        id && id->is_string() && id->as_string().size() <= service_->options.limits.max_id_bytes)
      stream_id = std::string(id->as_string());
    const json::value* type = event.if_contains("type");
    if (!type || !type->is_string())
      throw ProtocolError("The event has no `type`: send `response.create`", "type", "missing_required_parameter");
    if (type->as_string() != "response.create")
      throw ProtocolError("Unknown event type `" + std::string(type->as_string()).substr(0, 64) +
                              "`: send `response.create`",
                          "type", "unknown_event");
    if (!service_->engine())
      throw ProtocolError("The model is still loading: try again when /health says ok", "", "loading", 503);
    if (service_->draining) throw ProtocolError("The server is shutting down", "", "shutting_down", 503);
    enqueue(parse_create(event, service_->options.limits, service_->engine()->model().name));
  } catch (const ProtocolError& e) {
    refuse_event(e, stream_id);
  }
}

void WebSocketSession::enqueue(CreateRequest create) {
  const ProtocolLimits& limits = service_->options.limits;
  const std::string name = create.stream_id.value_or("");
  const auto it = lanes_.find(name);
  if (it == lanes_.end() && lanes_.size() >= limits.max_lanes)
    throw ProtocolError("This connection has " + std::to_string(lanes_.size()) + " lanes at work, which is the limit",
                        "stream_id", "too_many_lanes", 429);
  Lane& lane = lanes_[name];
  if (lane.waiting.size() >= limits.max_queued)
    throw ProtocolError("This lane has " + std::to_string(lane.waiting.size()) +
                            " requests waiting, which is the limit",
                        "stream_id", "too_many_requests", 429);
  lane.waiting.push_back(std::move(create));
  if (!lane.active) start_next(name);
}

void WebSocketSession::start_next(const std::string& lane_name) {
  Lane& lane = lanes_[lane_name];
  while (!lane.active && !lane.waiting.empty() && !closed_) {
    CreateRequest create = std::move(lane.waiting.front());
    lane.waiting.pop_front();
    const std::optional<std::string> stream_id = create.stream_id;
    try {
      std::shared_ptr<const Conversation> past;
      if (!create.previous_response_id.empty()) {
        const auto own = own_conversations_.find(create.previous_response_id);
        past =
            own != own_conversations_.end() ? own->second : service_->conversations.find(create.previous_response_id);
        if (!past)
          throw ProtocolError("There is no response `" + create.previous_response_id +
                                  "` to continue: it was not stored, or was forgotten",
                              "previous_response_id", "previous_response_not_found", 404);
      }
      Engine& engine = *service_->engine();
      Prompt prompt = make_prompt(past.get(), create.instructions, create.messages, *engine.tokenizer(),
                                  engine.chat_template().get());
      lane.active = std::make_shared<ResponseStream>(service_, ws_.get_executor(), weak_from_this(), std::move(create),
                                                     std::move(prompt));
      lane.active->start();
    } catch (const ProtocolError& e) {
      lane.active.reset();
      refuse_event(e, stream_id);
    } catch (const Error& e) {
      lane.active.reset();
      refuse_event(ProtocolError(e.what(), "input", "invalid_prompt"), stream_id);
    }
  }
  if (!lane.active && lane.waiting.empty()) lanes_.erase(lane_name);
}

void WebSocketSession::response_done(const std::shared_ptr<ResponseStream>& response) {
  if (!response->create().store && response->conversation()) {
    if (own_conversations_.size() >= max_own_conversations) own_conversations_.erase(own_conversations_.begin());
    own_conversations_[response->id()] = response->conversation();
  }
  const std::string name = response->create().stream_id.value_or("");
  const auto it = lanes_.find(name);
  if (it == lanes_.end() || it->second.active != response) return;
  it->second.active.reset();
  start_next(name);
}

void WebSocketSession::refuse_event(const ProtocolError& error, const std::optional<std::string>& stream_id) {
  service_->metrics.rejected_requests.fetch_add(1);
  send(json::serialize(error_event(error, stream_id)));
}

void WebSocketSession::send(std::string frame) {
  if (closed_) return;
  write_queue_bytes_ += frame.size();
  write_queue_.push_back(std::move(frame));
  if (write_queue_bytes_ > service_->options.max_write_queue_bytes) {
    service_->metrics.slow_clients.fetch_add(1);
    closed_ = true;
    beast::get_lowest_layer(ws_).close(); // the read ends too, and run() cancels the responses
    return;
  }
  if (write_queue_.size() == 1) write_next();
}

void WebSocketSession::write_next() {
  ws_.async_write(net::buffer(write_queue_.front()), [self = shared_from_this()](boost::system::error_code ec, size_t) {
    self->write_queue_bytes_ -= self->write_queue_.front().size();
    self->write_queue_.pop_front();
    if (ec || self->closed_) {
      self->closed_ = true;
      beast::get_lowest_layer(self->ws_).close();
      return;
    }
    if (!self->write_queue_.empty()) self->write_next();
  });
}

void WebSocketSession::cancel_all() {
  for (auto& [name, lane] : lanes_) {
    lane.waiting.clear();
    if (lane.active) lane.active->cancel();
  }
  lanes_.clear();
}

} // namespace quire::server
