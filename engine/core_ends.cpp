// How requests end: in their time, cancelled, late, or with an error; and what becomes of them when the device is lost.
#include "core.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>

namespace quire {

// Every choice that has not finished gets its last event.
void EngineCore::end_request(ActiveRequest& request, FinishReason reason, const std::string& error) {
  if (request.over) return;
  if (reason == FinishReason::error) {
    ++counters_.requests_failed;
    spdlog::warn("request {} failed: {}", request.id, error);
  } else {
    ++counters_.requests_cancelled;
  }
  for (uint32_t c = 0; c < request.request.n; ++c) {
    ChoiceRecord* choice = request.beams ? nullptr : request.choices[c].get();
    if (choice && choice->finished && !request.holds_events) continue;
    TokenEvent event;
    event.request = request.id;
    event.choice = c;
    event.finish = reason;
    event.error = error;
    if (choice && choice->matcher && !request.holds_events) {
      if (!choice->matcher->push(choice->detokenizer->flush(), event.text)) choice->matcher->flush(event.text);
    }
    send(request, std::move(event));
  }
  close_request(request);
}

// Gives everything back and says goodbye. The record stays until no step names its sequences.
void EngineCore::close_request(ActiveRequest& request) {
  request.over = true;
  for (const auto& s : request.group.sequences) scheduler_.finish(*s);
  for (const auto& choice : request.choices) request.summary.output_tokens += choice->num_tokens;
  request.summary.cached_tokens = request.group.sequences.front()->num_cached;
  request.summary.total_seconds = std::chrono::duration<double>(EngineClock::now() - request.submitted).count();
  request.request.sink->finished(request.summary);
  request.request.sink.reset();
  const auto found = requests_.find(request.id);
  closed_.push_back(std::move(found->second));
  requests_.erase(found);
}

void EngineCore::forget_closed() {
  std::erase_if(closed_, [](const auto& request) { return !request->referenced(); });
}

void EngineCore::fail_step(const Step& step, const std::string& error) {
  const auto fail = [&](const Sequence& s) {
    end_request(*static_cast<ActiveRequest*>(s.group->owner), FinishReason::error, error);
  };
  for (const StepChunk& chunk : step.chunks) fail(*chunk.sequence);
  for (const StepRow& row : step.rows) fail(*row.sequence);
}

// The device's memory is gone. Requests that held some of it fail; those that wait, and those whose blocks were in host
// memory and whose tokens can be computed again, go on.
void EngineCore::device_lost(const std::string& error) {
  spdlog::error("the device was lost: {}; it is started again", error);
  ++counters_.device_restarts;
  const std::string sentence = "the device was lost (" + error + ") and is being restarted: send the request again";
  for (FlyingStep& flying : pipe_) {
    scheduler_.commit(*flying.step, true);
    fail_step(*flying.step, sentence);
    spare_steps_.push_back(std::move(flying.step));
  }
  pipe_.clear();
  while (!scheduler_.running().empty())
    end_request(*static_cast<ActiveRequest*>(scheduler_.running().back()->group->owner), FinishReason::error, sentence);
  KvTransfers dropped;
  kv_.take_transfers(dropped);
  kv_.idle();
  scheduler_.device_lost();
  forget_closed();
  last_done_ = {};
  last_revival_ = {};
  revive_device();
  publish_stats();
}

// False: the device is down, and there is nothing to do before the next attempt.
bool EngineCore::revive_device() {
  const auto now = EngineClock::now();
  if (requests_.empty() && last_revival_ != EngineClock::time_point{}) return false; // until somebody wants it
  if (last_revival_ != EngineClock::time_point{} && now < last_revival_ + std::chrono::seconds(1)) return false;
  quire_status status{};
  const bool alive = device_->restart(status);
  last_revival_ = EngineClock::now();
  if (alive) {
    spdlog::info("the device is ready again");
    counters_.tuning_left = device_->setup().backend->idle != nullptr;
    return true;
  }
  spdlog::error("the device can't be restarted: {}", status.message);
  while (!requests_.empty())
    end_request(*requests_.begin()->second, FinishReason::error,
                std::string("the device was lost and can't be restarted: ") + status.message);
  return false;
}

} // namespace quire
