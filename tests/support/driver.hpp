// The smallest loop around the scheduler: schedule, submit, commit with two steps in flight, on the mock backend,
// checking every invariant after each call. For tests and studies of the scheduler that need no engine.
#pragma once

#include "schedule/scheduler.hpp"
#include "support/mock_backend.hpp"

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace quire::test {

struct DriverOptions {
  SchedulerOptions scheduler;
  KvConfig kv;
  MockOptions mock;
  uint32_t max_context = 4096;
  bool check = true;         // every invariant after every call
  std::vector<int32_t> ends; // tokens that finish a sequence
  uint32_t steps_in_flight = 2;
};

class Driver {
 public:
  explicit Driver(DriverOptions options);
  ~Driver();

  // A request of `choices` samples of the prompt; greedy unless a temperature is given.
  SequenceGroup& add(std::vector<int32_t> prompt, uint32_t max_tokens, uint32_t choices = 1, int32_t priority = 0,
                     float temperature = 0, uint64_t seed = 0, std::string salt = {});
  void cancel(SequenceGroup& group);
  // One turn of the loop; false where there is nothing left to do.
  bool turn();
  void run(uint64_t max_turns = 1'000'000);

  MockBackend mock;
  KvManager kv;
  Scheduler scheduler;
  std::vector<std::unique_ptr<SequenceGroup>> groups;
  uint64_t steps = 0;
  std::string fault;                            // the first broken invariant
  std::function<void(Driver&)> before_schedule; // tests interfere here
  std::function<void(Driver&, Step&)> on_step;  // a step has been scheduled
  std::vector<int32_t> output(const SequenceGroup& group, uint32_t choice = 0) const;
  bool finished(const SequenceGroup& group) const;

 private:
  void note(const std::string& what);
  void submit(Step& step);
  void commit(Step& step);
  void check();

  DriverOptions options_;
  void* instance_ = nullptr;
  uint64_t next_id_ = 0;
  std::deque<std::unique_ptr<Step>> pipe_;
  std::vector<std::unique_ptr<Step>> spare_;
};

} // namespace quire::test
