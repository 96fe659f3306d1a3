// One response on its way: the engine's token events in, the wire's events out.
//
// The engine thread appends events to an inbox and posts one wake-up to the connection's executor; everything else runs
// there. If the connection is gone, events are dropped (it has cancelled the request).
#pragma once

#include <boost/asio/any_io_executor.hpp>

#include <chrono>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "conversation.hpp"
#include "protocol.hpp"
#include "service.hpp"
#include "text/detokenizer.hpp"

namespace quire::server {

class ResponseStream;

// The connection, as a response sees it. On the connection's executor only.
struct FrameWriter {
  virtual ~FrameWriter() = default;
  virtual void send(std::string frame) = 0;
  virtual void response_done(const std::shared_ptr<ResponseStream>& response) = 0;
};

class ResponseStream : public EventSink, public std::enable_shared_from_this<ResponseStream> {
 public:
  ResponseStream(std::shared_ptr<Service> service, boost::asio::any_io_executor executor,
                 std::weak_ptr<FrameWriter> writer, CreateRequest create, Prompt prompt);
  ~ResponseStream() override;

  // Submits and sends `response.created` and `response.in_progress`. Throws ProtocolError where the engine refuses the
  // request.
  void start();
  void cancel();

  const CreateRequest& create() const { return create_; }
  const std::string& id() const { return id_; }
  // After the end: what a later response may continue; null if there is nothing to.
  std::shared_ptr<const Conversation> conversation() const { return conversation_; }

  void token(TokenEvent&& event) noexcept override;         // engine thread
  void finished(const Finished& summary) noexcept override; // engine thread

 private:
  struct Choice {
    explicit Choice(Detokenizer d) : detokenizer(std::move(d)) {}
    Detokenizer detokenizer;
    std::string item_id, text, pending;
    std::vector<int32_t> tokens;
    std::vector<TokenLogprob> logprobs;
    size_t logprobs_sent = 0;
    bool started = false;
    FinishReason finish = FinishReason::none;
    std::string error;
    std::chrono::steady_clock::time_point last_token;
  };

  void wake() noexcept;
  void drain();
  void on_token(TokenEvent& event);
  void on_finished(const Finished& summary);
  void begin(uint32_t index, Choice& choice);
  void send_delta(uint32_t index, Choice& choice);
  void end(uint32_t index, Choice& choice);
  TokenLogprob logprob_of(const TokenEvent& event) const;
  void emit(json::object event);
  json::object response(std::string_view status);
  json::array output() const;
  json::object item(const Choice& choice) const;

  const std::shared_ptr<Service> service_;
  const boost::asio::any_io_executor executor_;
  const std::weak_ptr<FrameWriter> writer_;
  CreateRequest create_;
  Prompt prompt_;
  const std::string id_;
  const int64_t created_at_;
  const std::shared_ptr<const Tokenizer> tokenizer_;
  RequestId request_ = 0;
  uint64_t sequence_number_ = 0;
  std::vector<Choice> choices_;
  Usage usage_;
  std::shared_ptr<const Conversation> conversation_;

  std::vector<TokenEvent>
      drained_; // empty between drains; the two take turns, so that the engine thread needn't allocate

  std::mutex mutex_; // guards the inbox
  std::vector<TokenEvent> inbox_;
  std::unique_ptr<Finished> summary_;
  bool posted_ = false;
};

} // namespace quire::server
