// The engine without files and plugins: requests in, token events out, over a device that is ready and a KV cache of
// ids.
//
// One engine thread owns the scheduler, the KV manager, the device and every active request. submit, cancel, stats and
// the kept sequences are [any]: they check, build what a request needs, and leave a message. The loop's turn reads as
// three calls: schedule, submit, commit; two steps are in flight, so that the device never waits for the host. No lock
// is held while waiting for a device.
//
// What can go wrong while serving ends requests with a sentence, never the process: a NaN row ends its request; a
// failed step ends the requests that were on it; a lost device ends those that ran and is made anew.
#pragma once

#include "active_request.hpp"
#include "decode/parameters.hpp"
#include "device.hpp"
#include "inbox.hpp"
#include "kept_tokens.hpp"
#include "kv/kv_manager.hpp"
#include "quire/engine.hpp"
#include "schedule/scheduler.hpp"

#include <atomic>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <queue>
#include <thread>
#include <unordered_map>

namespace quire {

using BackendCounters = std::vector<std::pair<std::string, double>>;

struct CoreOptions {
  RequestLimits limits;
  SchedulerOptions scheduler;
  KvConfig kv;
  std::vector<int32_t> end_tokens;            // of the model
  std::shared_ptr<const Tokenizer> tokenizer; // null: requests with stop strings are refused
  std::function<const quire_sampler*(const std::string& id)> find_sampler; // throws Error for unknown ones
  std::function<void(Scheduler&)> before_schedule; // tests that preempt when they please; on the engine thread
  // A sentence once the weights in host memory are no longer what they were; else empty. Asked once a step.
  std::function<std::string()> weights_damaged;
  uint64_t seed = 0; // of drawn seeds; 0 = random
  uint64_t max_kept_tokens = uint64_t{1} << 26;
  uint32_t num_sampler_threads = 2;
  bool check_every_step = false; // every invariant, after every step; always on in debug builds
};

class EngineCore {
 public:
  EngineCore(CoreOptions options, std::unique_ptr<Device> device);
  ~EngineCore(); // cancels what runs, waits for the device
  // The same, and gives the device back; no call may follow.
  std::unique_ptr<Device> close();
  EngineCore(const EngineCore&) = delete;
  EngineCore& operator=(const EngineCore&) = delete;

  RequestId submit(Request request);                                         // [any]
  void cancel(RequestId request) { inbox_.post({nullptr, request, false}); } // [any]
  Stats stats() const;                                                       // [any]
  BackendCounters backend_counters();                                        // [any] waits for the engine thread
  KeptTokens& kept() { return kept_; }                                       // [any]
  const CoreOptions& options() const { return options_; }

 private:
  struct Message {
    std::unique_ptr<ActiveRequest> request;                  // a new one
    RequestId cancel = 0;                                    // or an end
    bool stop = false;                                       // or the engine's own; none of them: just wake up
    std::shared_ptr<std::promise<BackendCounters>> counters; // or a question
  };
  struct FlyingStep {
    std::unique_ptr<Step> step;
    EngineClock::time_point submitted;
    std::string error; // it was submitted, but its rows can't come
    double schedule_seconds = 0, submit_seconds = 0, commit_seconds = 0, deliver_seconds = 0; // of the engine thread
    double gap_seconds = 0; // from when the host last saw a step done, with one still running, to its submission
  };

  // core_requests.cpp: [any]
  std::unique_ptr<ActiveRequest> make_request(Request request);
  void fit_beams(Request& request, uint32_t num_prompt) const;
  uint64_t draw_seed();

  // core.cpp: the loop
  void run();
  bool turn();
  bool schedule(Step& step);
  bool submit(std::unique_ptr<Step> step, EngineClock::time_point begun);
  void commit(FlyingStep flying);
  void read_messages();
  void expire_deadlines();
  void sleep();
  void use_idle_time();
  void measure(const FlyingStep& flying, EngineClock::time_point done);
  void account(const FlyingStep& flying);
  static void fetch_ahead(const Step& step, size_t row);
  void check_integrity(const char* when);
  void publish_stats();
  std::unique_ptr<Step> take_step();

  // core_output.cpp: from rows to events
  void take_row(Step& step, size_t index);
  void post_choice(Step& step, size_t index);
  void collect_choices();
  void deliver(ChoiceRecord& choice, int32_t token, float logprob, std::span<const quire_candidate> candidates);
  void send(ActiveRequest& request, TokenEvent&& event);
  void emit(ChoiceRecord& choice, TokenEvent&& event);
  void finish_choice(ChoiceRecord& choice);
  void release_best(ActiveRequest& request);
  void keep(ActiveRequest& request, uint32_t choice, std::vector<int32_t> tokens);

  // core_beams.cpp
  void take_beam_row(Step& step, size_t index);
  void advance_beams(ActiveRequest& request);
  void send_settled(ActiveRequest& request);
  void finish_beams(ActiveRequest& request);

  // core_ends.cpp: how requests end before their time
  void end_request(ActiveRequest& request, FinishReason reason, const std::string& error = {});
  void close_request(ActiveRequest& request);
  void fail_step(const Step& step, const std::string& error);
  void device_lost(const std::string& error);
  bool revive_device();
  void forget_closed();

  CoreOptions options_;
  std::unique_ptr<Device> device_;
  KvManager kv_;
  Scheduler scheduler_;
  KeptTokens kept_;
  Inbox<Message> inbox_;
  std::atomic<RequestId> last_request_{0};
  std::atomic<uint64_t> seeds_drawn_{0};
  uint64_t seed_base_ = 0;

  // The engine thread's.
  std::vector<Message> messages_;
  std::unordered_map<RequestId, std::unique_ptr<ActiveRequest>> requests_;
  std::vector<std::unique_ptr<ActiveRequest>> closed_; // over, but a step in flight or a sampler still names them
  using Deadline = std::pair<EngineClock::time_point, RequestId>;
  std::priority_queue<Deadline, std::vector<Deadline>, std::greater<>> deadlines_;
  std::deque<FlyingStep> pipe_;
  std::vector<std::unique_ptr<Step>> spare_steps_;
  std::vector<std::unique_ptr<Choice>> choices_, spare_choices_;
  EngineClock::time_point last_done_{}, last_revival_{};
  EngineClock::time_point seen_done_{}; // when a step was last seen done; none after a pause without work
  EngineClock::time_point made_{};      // of the tokens at hand
  double mean_step_seconds_ = 0;
  uint64_t arrivals_ = 0, checked_at_step_ = 0;
  bool stopping_ = false;
  EngineClock::time_point idle_since_{}; // without any request; none while there are some
  Stats counters_;                       // totals; published by publish_stats

  mutable std::mutex stats_mutex_;
  Stats stats_;

  std::unique_ptr<ChooserPool> choosers_; // after what its threads wake
  std::thread thread_;
};

} // namespace quire
