// The loop: schedule, submit, commit.
#include "core.hpp"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cassert>
#include <random>

namespace quire {
namespace {

double seconds_between(EngineClock::time_point from, EngineClock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

#ifdef NDEBUG
constexpr bool debug_build = false;
#else
constexpr bool debug_build = true;
#endif

// The backend may use idle time once no request has come for so long, a slice at a time: what a request may wait for.
constexpr std::chrono::milliseconds quiet_time{20}, idle_slice{3};

} // namespace

EngineCore::EngineCore(CoreOptions options, std::unique_ptr<Device> device)
    : options_(std::move(options)), device_(std::move(device)), kv_(options_.kv), scheduler_(options_.scheduler, kv_),
      kept_(options_.max_kept_tokens) {
  seed_base_ = options_.seed ? options_.seed : (uint64_t{std::random_device{}()} << 32 | std::random_device{}());
  options_.check_every_step |= debug_build;
  scheduler_.costs().measured_swap_rate(device_->swap_rate());
  choosers_ = std::make_unique<ChooserPool>(options_.num_sampler_threads, [this] { inbox_.post({}); });
  counters_.tuning_left = device_->setup().backend->idle != nullptr;
  publish_stats();
  thread_ = std::thread([this] { run(); });
}

EngineCore::~EngineCore() { close(); }

std::unique_ptr<Device> EngineCore::close() {
  if (thread_.joinable()) {
    Message stop;
    stop.stop = true;
    inbox_.post(std::move(stop));
    thread_.join();
    choosers_.reset();
  }
  return std::move(device_);
}

void EngineCore::run() {
  while (!stopping_) {
    read_messages();
    expire_deadlines();
    if (!stopping_ && !turn()) sleep();
  }
  std::vector<RequestId> left;
  for (const auto& [id, request] : requests_) left.push_back(id);
  for (RequestId id : left) end_request(*requests_.at(id), FinishReason::cancelled);
  for (FlyingStep& flying : pipe_) {
    quire_status status{};
    if (device_->alive()) device_->wait(*flying.step, flying.error.empty(), status);
  }
}

// One step of the loop. False: there is nothing to do until a message comes.
bool EngineCore::turn() {
  bool scheduled = false;
  if (pipe_.size() < 2 && device_->alive()) {
    const auto start = EngineClock::now();
    collect_choices();
    auto step = take_step();
    scheduled = schedule(*step) && submit(std::move(step), start);
    if (!scheduled) counters_.host_seconds += seconds_between(start, EngineClock::now());
  }
  if (!pipe_.empty() && (pipe_.size() == 2 || !scheduled)) {
    FlyingStep flying = std::move(pipe_.front());
    pipe_.pop_front();
    commit(std::move(flying));
    return true;
  }
  if (scheduled) return true;
  if (!device_->alive()) return revive_device();
  const bool again = scheduler_.resolve_stall();
  for (Sequence* s : scheduler_.impossible())
    end_request(*static_cast<ActiveRequest*>(s->group->owner), FinishReason::error,
                "the KV memory can't hold this request even alone: raise --kv-memory or lower max_tokens");
  return again;
}

bool EngineCore::schedule(Step& step) {
  if (options_.before_schedule) options_.before_schedule(scheduler_);
  const bool some = scheduler_.schedule(step);
  for (Sequence* s : scheduler_.impossible())
    end_request(*static_cast<ActiveRequest*>(s->group->owner), FinishReason::error,
                "the KV memory can't hold this request even alone: raise --kv-memory or shorten the prompt");
  if (!step.transfers.empty()) {
    quire_status status{};
    device_->transfer(step.transfers, status);
    if (status.code != QUIRE_OK) { // what the tables say is no longer what the blocks hold
      scheduler_.withdrawn(step);
      device_lost(status.message);
      return false;
    }
  }
  return some;
}

bool EngineCore::submit(std::unique_ptr<Step> step, EngineClock::time_point begun) {
  quire_status status{};
  const auto start = EngineClock::now();
  const uint64_t ticket = device_->submit(*step, status);
  const auto submitted = EngineClock::now();
  if (status.code == QUIRE_DEVICE_LOST) {
    scheduler_.withdrawn(*step);
    device_lost(status.message);
    return false;
  }
  if (ticket == 0) {
    scheduler_.withdrawn(*step);
    fail_step(*step, status.message);
    spare_steps_.push_back(std::move(step));
    return false;
  }
  scheduler_.submitted(*step, ticket);
  const auto now = EngineClock::now();
  for (SequenceGroup* group : scheduler_.admitted()) {
    auto& request = *static_cast<ActiveRequest*>(group->owner);
    request.summary.queue_seconds = seconds_between(request.submitted, now);
  }
  const double gap = seen_done_ == EngineClock::time_point{} ? 0 : seconds_between(seen_done_, submitted);
  if (pipe_.empty()) counters_.device_idle_seconds += gap;
  FlyingStep flying;
  flying.step = std::move(step);
  flying.submitted = now;
  if (status.code != QUIRE_OK) flying.error = status.message;
  flying.schedule_seconds = seconds_between(begun, start) + seconds_between(submitted, EngineClock::now());
  flying.submit_seconds = seconds_between(start, submitted);
  flying.gap_seconds = gap;
  pipe_.push_back(std::move(flying));
  return true;
}

void EngineCore::commit(FlyingStep flying) {
  Step& step = *flying.step;
  const auto start = EngineClock::now();
  quire_status status{};
  device_->wait(step, flying.error.empty(), status);
  const auto done = EngineClock::now();
  const double waited = seconds_between(start, done);
  counters_.device_wait_seconds += waited;
  ++counters_.steps;
  // A step that was done before it was waited for: the one behind it may have come too late.
  if (waited < 5e-6 && !pipe_.empty()) counters_.device_idle_seconds += pipe_.front().gap_seconds;
  seen_done_ = made_ = done;
  if (status.code == QUIRE_DEVICE_LOST) {
    pipe_.push_front(std::move(flying)); // it is on the list of what was lost
    return device_lost(status.message);
  }
  std::string error = status.code == QUIRE_OK ? flying.error : status.message;
  if (error.empty() && options_.weights_damaged) error = options_.weights_damaged();
  scheduler_.commit(step, !error.empty());
  const auto committed = EngineClock::now();
  flying.commit_seconds = seconds_between(done, committed);
  if (error.empty()) {
    for (size_t row = 0; row < step.rows.size(); ++row) {
      fetch_ahead(step, row);
      if (!step.rows[row].dropped) take_row(step, row);
    }
    measure(flying, done);
  } else {
    fail_step(step, error);
  }
  forget_closed();
  if (options_.check_every_step) check_integrity("after a step");
  flying.deliver_seconds = seconds_between(committed, EngineClock::now());
  account(flying);
  publish_stats();
  spare_steps_.push_back(std::move(flying.step));
}

// Hundreds of requests' records don't stay in the cache while a step is built: the next rows' are fetched in time.
void EngineCore::fetch_ahead(const Step& step, size_t row) {
  constexpr size_t record_ahead = 8, sink_ahead = 4;
  const auto record_of = [&](size_t ahead) -> const ChoiceRecord* {
    return row + ahead < step.rows.size() ? static_cast<const ChoiceRecord*>(step.rows[row + ahead].sequence->owner)
                                          : nullptr;
  };
  if (const ChoiceRecord* record = record_of(record_ahead)) __builtin_prefetch(record, 1);
  if (const ChoiceRecord* record = record_of(sink_ahead)) __builtin_prefetch(record->sink, 1);
}

void EngineCore::account(const FlyingStep& flying) {
  const double own = flying.schedule_seconds + flying.commit_seconds + flying.deliver_seconds;
  counters_.host_seconds += own;
  counters_.submit_seconds += flying.submit_seconds;
  if (flying.step->num_tokens() != flying.step->chunks.size()) return;
  ++counters_.decode_steps;
  counters_.decode_host_seconds += own + flying.submit_seconds;
  counters_.decode_submit_seconds += flying.submit_seconds;
  counters_.decode_schedule_seconds += flying.schedule_seconds;
  counters_.decode_commit_seconds += flying.commit_seconds;
  counters_.decode_deliver_seconds += flying.deliver_seconds;
  if (flying.step->chunks.size() < options_.scheduler.max_sequences) return;
  ++counters_.full_decode_steps;
  counters_.full_decode_host_seconds += own + flying.submit_seconds;
  counters_.full_decode_submit_seconds += flying.submit_seconds;
}

void EngineCore::read_messages() {
  if (!inbox_.drain(messages_)) return;
  const auto start = EngineClock::now();
  for (Message& message : messages_) {
    if (message.stop) {
      stopping_ = true;
    } else if (message.counters) {
      message.counters->set_value(device_->counters());
    } else if (message.request) {
      ActiveRequest& request = *message.request;
      ++counters_.requests;
      request.group.arrival = ++arrivals_;
      if (request.request.deadline_seconds > 0) deadlines_.push({request.deadline, request.id});
      idle_since_ = {};
      requests_.emplace(request.id, std::move(message.request));
      scheduler_.add(request.group);
    } else if (const auto found = requests_.find(message.cancel); found != requests_.end()) {
      end_request(*found->second, FinishReason::cancelled);
    }
  }
  counters_.host_seconds += seconds_between(start, EngineClock::now());
  publish_stats();
}

void EngineCore::expire_deadlines() {
  if (deadlines_.empty()) return;
  const auto now = EngineClock::now();
  while (!deadlines_.empty() && deadlines_.top().first <= now) {
    const auto found = requests_.find(deadlines_.top().second);
    deadlines_.pop();
    if (found != requests_.end()) end_request(*found->second, FinishReason::deadline);
  }
}

void EngineCore::sleep() {
  seen_done_ = {};
  forget_closed();
  publish_stats();
  if (!scheduler_.has_work() && checked_at_step_ != counters_.steps) { // once each time that work ran out
    checked_at_step_ = counters_.steps;
    check_integrity("while idle");
  }
  while (!deadlines_.empty() && !requests_.count(deadlines_.top().second)) deadlines_.pop();
  std::optional<EngineClock::time_point> until;
  if (!deadlines_.empty()) until = deadlines_.top().first;
  if (!device_->alive() && !requests_.empty()) {
    const auto next = last_revival_ + std::chrono::seconds(1);
    until = until ? std::min(*until, next) : next;
  }
  if (counters_.tuning_left && requests_.empty() && device_->alive()) {
    const auto now = EngineClock::now();
    if (idle_since_ == EngineClock::time_point{}) idle_since_ = now;
    if (now >= idle_since_ + quiet_time) return use_idle_time();
    until = until ? std::min(*until, idle_since_ + quiet_time) : idle_since_ + quiet_time;
  }
  inbox_.wait(until);
}

// No request is there, so that what the backend changes, such as the order of sums, is the same for all of a request.
void EngineCore::use_idle_time() {
  const auto start = EngineClock::now();
  quire_status status{};
  counters_.tuning_left = device_->idle(idle_slice, status);
  counters_.tuning_seconds += seconds_between(start, EngineClock::now());
  if (status.code == QUIRE_OK) return;
  if (status.code == QUIRE_DEVICE_LOST)
    device_lost(status.message);
  else
    spdlog::warn("while idle: {}", status.message);
  counters_.tuning_left = false; // or it might fail so again and again
}

// What the device needed for a step tells how fast it computes prompts: steps queue up, so a step begins when the one
// before has ended.
void EngineCore::measure(const FlyingStep& flying, EngineClock::time_point done) {
  const double seconds = seconds_between(std::max(flying.submitted, last_done_), done);
  last_done_ = done;
  counters_.step_seconds += seconds;
  mean_step_seconds_ = mean_step_seconds_ > 0 ? 0.9 * mean_step_seconds_ + 0.1 * seconds : seconds;
  const Step& step = *flying.step;
  if (step.num_tokens() >= 8 * step.chunks.size()) scheduler_.costs().measured_prefill(step.num_tokens(), seconds);
}

void EngineCore::check_integrity(const char* when) {
  const std::string broken = scheduler_.check();
  if (broken.empty()) return;
  spdlog::critical("integrity check {}: {}", when, broken);
  assert(!"integrity check");
}

void EngineCore::publish_stats() {
  Stats s = counters_;
  const SchedulerStats scheduler = scheduler_.stats();
  s.running = scheduler.running;
  s.waiting = scheduler.waiting;
  s.swapped = scheduler.swapped;
  s.preemptions_swap = scheduler.preemptions_swap;
  s.preemptions_recompute = scheduler.preemptions_recompute;
  s.prompt_tokens = scheduler.prompt_tokens;
  s.cached_tokens = scheduler.cached_tokens;
  const BlockPool& pool = kv_.pool(0);
  s.blocks_total = pool.num_blocks();
  s.blocks_cached = pool.num_cached();
  s.blocks_referenced = pool.num_referenced();
  s.blocks_draining = pool.num_draining();
  s.block_size = kv_.config().block_size;
  s.blocks_free = pool.num_empty();
  s.tokens_held = kv_.tokens_held(0);
  s.prefix_queries = kv_.prefix_queried_tokens();
  s.prefix_hits = kv_.prefix_hit_tokens();
  std::lock_guard lock(stats_mutex_);
  stats_ = s;
}

BackendCounters EngineCore::backend_counters() {
  const auto answer = std::make_shared<std::promise<BackendCounters>>();
  Message ask;
  ask.counters = answer;
  inbox_.post(std::move(ask));
  return answer->get_future().get();
}

Stats EngineCore::stats() const {
  std::lock_guard lock(stats_mutex_);
  return stats_;
}

std::unique_ptr<Step> EngineCore::take_step() {
  if (spare_steps_.empty()) return std::make_unique<Step>();
  auto step = std::move(spare_steps_.back());
  spare_steps_.pop_back();
  return step;
}

} // namespace quire
