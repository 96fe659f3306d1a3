#include "response_stream.hpp"

#include <boost/asio/post.hpp>

#include "quire/error.hpp"
#include "text/tokenizer.hpp"

namespace quire::server {

ResponseStream::ResponseStream(std::shared_ptr<Service> service, boost::asio::any_io_executor executor,
                               std::weak_ptr<FrameWriter> writer, CreateRequest create, Prompt prompt)
    : service_(std::move(service)), executor_(std::move(executor)), writer_(std::move(writer)),
      create_(std::move(create)), prompt_(std::move(prompt)), id_(random_id("resp")),
      created_at_(std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch())
                      .count()),
      tokenizer_(service_->engine()->tokenizer()) {
  service_->live_responses.fetch_add(1);
}

ResponseStream::~ResponseStream() { service_->live_responses.fetch_sub(1); }

void ResponseStream::start() {
  Request request = create_.request;
  request.prompt = prompt_.tokens;
  request.sink = shared_from_this();
  for (uint32_t i = 0; i < request.n; ++i) {
    choices_.emplace_back(Detokenizer(tokenizer_, {}, false));
    choices_.back().item_id = random_id("msg");
  }
  try {
    request_ = service_->engine()->submit(std::move(request));
  } catch (const Error& e) {
    throw ProtocolError(e.what(), "", "invalid_request");
  }
  emit({{"type", "response.created"}, {"response", response("in_progress")}});
  emit({{"type", "response.in_progress"}, {"response", response("in_progress")}});
}

void ResponseStream::cancel() {
  if (request_ && service_->engine()) service_->engine()->cancel(request_);
}

void ResponseStream::token(TokenEvent&& event) noexcept {
  const std::lock_guard lock(mutex_);
  inbox_.push_back(std::move(event));
  wake();
}

void ResponseStream::finished(const Finished& summary) noexcept {
  const std::lock_guard lock(mutex_);
  summary_ = std::make_unique<Finished>(summary);
  wake();
}

// One wake-up is under way at most, however many tokens arrive before the connection gets to run.
void ResponseStream::wake() noexcept {
  if (posted_) return;
  posted_ = true;
  boost::asio::post(executor_, [self = shared_from_this()] { self->drain(); });
}

void ResponseStream::drain() {
  std::unique_ptr<Finished> summary;
  {
    const std::lock_guard lock(mutex_);
    drained_.swap(inbox_);
    summary = std::move(summary_);
    posted_ = false;
  }
  for (TokenEvent& event : drained_) on_token(event);
  drained_.clear();
  if (summary) on_finished(*summary);
}

TokenLogprob ResponseStream::logprob_of(const TokenEvent& event) const {
  const auto entry = [this](int32_t token, float logprob) {
    return TokenLogprob{tokenizer_->decode({&token, 1}, {.skip_special = false}),
                        std::string(tokenizer_->token_bytes(token)),
                        logprob,
                        {}};
  };
  TokenLogprob l = entry(event.token, event.logprob);
  for (const Candidate& c : event.candidates) l.top.push_back(entry(c.token, c.logprob));
  return l;
}

void ResponseStream::on_token(TokenEvent& event) {
  if (event.choice >= choices_.size()) return;
  Choice& choice = choices_[event.choice];
  const auto now = std::chrono::steady_clock::now();
  if (choice.started)
    service_->metrics.between_tokens.observe(std::chrono::duration<double>(now - choice.last_token).count());
  choice.last_token = now;
  if (!choice.started) begin(event.choice, choice);

  if (event.token >= 0 && !(event.finish == FinishReason::stop && tokenizer_->is_end(event.token))) {
    choice.tokens.push_back(event.token);
    if (create_.logprobs) choice.logprobs.push_back(logprob_of(event));
    if (create_.request.stop.empty()) choice.detokenizer.push(event.token, choice.pending);
  }
  choice.pending += event.text; // stop strings: the engine detokenizes and cuts
  if (event.finish == FinishReason::none) {
    if (!choice.pending.empty()) send_delta(event.choice, choice);
    return;
  }
  choice.finish = event.finish;
  choice.error = std::move(event.error);
  if (create_.request.stop.empty()) choice.pending += choice.detokenizer.flush();
  if (!choice.pending.empty() || choice.logprobs_sent < choice.logprobs.size()) send_delta(event.choice, choice);
  end(event.choice, choice);
}

void ResponseStream::begin(uint32_t index, Choice& choice) {
  choice.started = true;
  emit({{"type", "response.output_item.added"},
        {"output_index", index},
        {"item", message_item(choice.item_id, "in_progress", {})}});
  emit({{"type", "response.content_part.added"},
        {"item_id", choice.item_id},
        {"output_index", index},
        {"content_index", 0},
        {"part", output_text_part("", {})}});
}

void ResponseStream::send_delta(uint32_t index, Choice& choice) {
  const std::vector<TokenLogprob> fresh(choice.logprobs.begin() + static_cast<std::ptrdiff_t>(choice.logprobs_sent),
                                        choice.logprobs.end());
  choice.logprobs_sent = choice.logprobs.size();
  emit({{"type", "response.output_text.delta"},
        {"item_id", choice.item_id},
        {"output_index", index},
        {"content_index", 0},
        {"delta", choice.pending},
        {"logprobs", logprobs_json(fresh, false)}});
  choice.text += choice.pending;
  choice.pending.clear();
}

void ResponseStream::end(uint32_t index, Choice& choice) {
  emit({{"type", "response.output_text.done"},
        {"item_id", choice.item_id},
        {"output_index", index},
        {"content_index", 0},
        {"text", choice.text},
        {"logprobs", logprobs_json(choice.logprobs, false)}});
  emit({{"type", "response.content_part.done"},
        {"item_id", choice.item_id},
        {"output_index", index},
        {"content_index", 0},
        {"part", output_text_part(choice.text, choice.logprobs)}});
  emit({{"type", "response.output_item.done"}, {"output_index", index}, {"item", item(choice)}});
}

void ResponseStream::on_finished(const Finished& summary) {
  usage_ = {summary.prompt_tokens, summary.cached_tokens, summary.output_tokens};
  create_.request.sampling.seed = summary.seed;
  const Choice* failed = nullptr;
  const Choice* cut = nullptr;
  for (const Choice& choice : choices_) {
    if (choice.finish == FinishReason::error || choice.finish == FinishReason::none) failed = &choice;
    if (choice.finish == FinishReason::length || choice.finish == FinishReason::deadline ||
        choice.finish == FinishReason::cancelled)
      cut = &choice;
  }
  Metrics& metrics = service_->metrics;
  metrics.request.observe(summary.total_seconds);
  metrics.queue.observe(summary.queue_seconds);
  if (summary.output_tokens) metrics.first_token.observe(summary.first_token_seconds);

  if (!failed && !choices_.empty()) { // choice 0 is the one that is continued
    const Choice& choice = choices_.front();
    auto past = std::make_shared<Conversation>();
    past->messages = std::move(prompt_.messages);
    past->messages.push_back({{"role", "assistant"}, {"content", choice.text}});
    past->text = std::move(prompt_.text) + tokenizer_->shield_special(choice.text);
    past->tokens = std::move(prompt_.tokens);
    past->tokens.insert(past->tokens.end(), choice.tokens.begin(), choice.tokens.end());
    if (tokenizer_->decode_bytes(choice.tokens) != choice.text)
      past->text.clear(); // a stop string cut the text within a token: encode anew
    conversation_ = std::move(past);
    if (create_.store) service_->conversations.put(id_, conversation_);
  }

  const char* type = failed ? "response.failed" : cut ? "response.incomplete" : "response.completed";
  json::object body = response(failed ? "failed" : cut ? "incomplete" : "completed");
  if (failed)
    body["error"] = {{"code", "server_error"},
                     {"message", failed->error.empty() ? "The request ended without an answer" : failed->error}};
  else if (cut)
    body["incomplete_details"] = {{"reason", cut->finish == FinishReason::length     ? "max_output_tokens"
                                             : cut->finish == FinishReason::deadline ? "deadline"
                                                                                     : "cancelled"}};
  emit({{"type", type}, {"response", std::move(body)}});
  if (const auto writer = writer_.lock()) writer->response_done(shared_from_this());
}

void ResponseStream::emit(json::object event) {
  const auto writer = writer_.lock();
  if (!writer) return;
  event["sequence_number"] = sequence_number_++;
  if (create_.stream_id) event["stream_id"] = *create_.stream_id;
  writer->send(json::serialize(event));
}

json::object ResponseStream::item(const Choice& choice) const {
  const bool whole = choice.finish == FinishReason::stop;
  return message_item(choice.item_id, whole ? "completed" : "incomplete",
                      {output_text_part(choice.text, choice.logprobs)});
}

json::array ResponseStream::output() const {
  json::array items;
  for (const Choice& choice : choices_)
    if (choice.started) items.push_back(item(choice));
  return items;
}

json::object ResponseStream::response(std::string_view status) {
  ResponseView view;
  const std::string& model = service_->engine()->model().name;
  view.id = id_;
  view.model = model;
  view.status = status;
  view.created_at = created_at_;
  view.request = &create_;
  if (status != "in_progress") {
    view.output = output();
    view.usage = usage_;
  }
  json::object o = response_json(std::move(view));
  if (create_.request.sampling.seed) o["seed"] = *create_.request.sampling.seed;
  return o;
}

} // namespace quire::server
