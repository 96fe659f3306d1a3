// Who runs in the next step, with which tokens, on which blocks.
//
// One token budget a step and no phases: every running sequence that isn't caught up takes part, in order of rank
// (urgent, priority, arrival, choice); those that lack one token take it, those that lack more share what the others
// leave of the budget; then waiting ones are admitted, first in rank first and never past one that doesn't fit, while
// the KV manager's watermark allows. When a running sequence can't get a block, the last in rank is preempted, by swap
// or recompute, whichever is cheaper by measured rates. Its blocks drain until the steps in flight are done, so the
// needy one may miss a step; nothing is admitted meanwhile.
// A gang (beams) is always computed again, each beam sharing by fork what it has in common with those back before it.
// A waiting sequence that later ones have overtaken
// `overtakes_allowed` times becomes urgent: it goes before every priority and stays there.
//
// How steps are driven, with at most one in flight when schedule() is called:
//   schedule(step) → transfers, submit, sample by the caller → submitted(step, ticket) … wait → commit(step) → the
//   caller looks at each row.
//
// Invariants (check()):
//  1. running_ is sorted by rank and holds exactly the sequences in state running, at most max_sequences.
//  2. A waiting or swapped sequence is in waiting_ and by_arrival_; a dormant or finished one in none; only waiting
//  ones hold no blocks.
//  3. Lengths are as in sequence.hpp; a running sequence has a slot for each computed token.
// Owned by the engine thread; nothing throws but bad_alloc. Nothing is allocated in a step where nobody comes or goes.
#pragma once

#include "kv/kv_manager.hpp"
#include "schedule/costs.hpp"
#include "schedule/sequence.hpp"
#include "schedule/step.hpp"

#include <cstdint>
#include <set>
#include <string>
#include <vector>

namespace quire {

enum class PreemptionMode { automatic, swap, recompute };

struct SchedulerOptions {
  uint32_t max_sequences = 64;       // running at a time
  uint32_t max_batched_tokens = 512; // the budget of a step; at least max_sequences
  uint32_t max_chunk = 0;            // tokens of one sequence in one step; 0 = the budget
  uint32_t vocab_size = 0;
  uint32_t program = 1;
  uint64_t block_bytes = 0; // of one block in all KV groups, for the cost of swapping
  PreemptionMode preemption = PreemptionMode::automatic;
  bool static_batching = false; // for comparison: a batch is admitted only when the one before has ended
  uint32_t overtakes_allowed = 256;
};

struct SchedulerStats {
  uint32_t running = 0, waiting = 0, swapped = 0;
  uint64_t preemptions_swap = 0, preemptions_recompute = 0;
  uint64_t prompt_tokens = 0; // of admitted sequences, choices counted once each
  uint64_t cached_tokens = 0; // of those, not computed: found in the cache or shared by a fork
  uint64_t forks = 0;
};

class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, KvManager& kv);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // A new request: its first sequence waits, the others sleep until they can be forked from it. The group outlives the
  // scheduler's interest: until every sequence is finished and in no step in flight.
  void add(SequenceGroup& group);

  // Fills `step`; false where nobody can take part. Either way step.transfers are to be issued. Sequences that the KV
  // memory can't hold even alone are left in impossible(), for the caller to finish.
  bool schedule(Step& step);
  const std::vector<Sequence*>& impossible() const { return impossible_; }
  // Nothing is in flight, schedule() found nothing and its transfers were issued. True: something was freed or
  // preempted, schedule again. False: there is nothing to do until a request or a host's choice comes.
  bool resolve_stall();
  // Groups that schedule() admitted for the first time.
  const std::vector<SequenceGroup*>& admitted() const { return admitted_; }
  // The step was submitted, under this ticket of the backend's. One that failed to be: withdrawn(), and the caller
  // finishes its sequences.
  void submitted(Step& step, uint64_t device_ticket);
  void withdrawn(Step& step);
  // The step was waited for, and step.sampled() holds what came. Device-chosen tokens are appended; rows of finished
  // sequences are dropped. A negative token is left to the caller (step.rows, step.sampled), which finishes the
  // sequence. failed: nothing was computed; the caller finishes every sequence of the step.
  void commit(Step& step, bool failed = false);
  // A token chosen by the host for a sequence that awaits one.
  void append(Sequence& sequence, int32_t token);
  // A new sequence of the same group, with the same tokens, sharing the parent's blocks; its state is the parent's. The
  // parent is caught up.
  Sequence& fork(Sequence& parent, uint32_t choice);
  // Gives its blocks back, in whatever state it is; they drain.
  void finish(Sequence& sequence);
  // Preempts a running sequence (tests, and policies from outside); a gang goes as a whole.
  void preempt(Sequence& sequence, PreemptionMode mode);
  // The device lost its memory: every sequence that holds blocks must have been finished, but swapped ones are computed
  // again. Nothing in flight.
  void device_lost();

  bool has_work() const { return !running_.empty() || !waiting_.empty(); }
  SchedulerStats stats() const;
  PreemptionCosts& costs() { return costs_; }
  const std::vector<Sequence*>& running() const { return running_; }
  std::string check() const;

 private:
  struct ByRank {
    bool operator()(const Sequence* a, const Sequence* b) const { return ranks_before(*a, *b); }
  };
  struct ByArrival {
    bool operator()(const Sequence* a, const Sequence* b) const {
      return a->group->arrival != b->group->arrival ? a->group->arrival < b->group->arrival : a->choice < b->choice;
    }
  };

  uint32_t tokens_wanted(const Sequence& sequence) const;
  void run_chunk(Step& step, Sequence& sequence, uint32_t count, uint32_t& budget);
  void fork_choices(Step& step, Sequence& first);
  void schedule_running(Step& step, uint32_t& budget);
  void schedule_waiting(Step& step, uint32_t& budget);
  bool append_or_preempt(size_t index, uint32_t& count);
  Admission admit(Sequence& sequence);
  bool admit_by_fork(Sequence& sequence);
  void count_overtake(const Sequence& admitted);
  void make_urgent(SequenceGroup& group);
  void enqueue(Sequence& sequence);
  void dequeue(Sequence& sequence);
  void start_running(Sequence& sequence);
  void stop_running(Sequence& sequence);
  void preempt_one(Sequence& sequence, PreemptionMode mode);
  bool draining_covers(uint64_t blocks) const;

  SchedulerOptions options_;
  KvManager& kv_;
  PreemptionCosts costs_;
  std::vector<Sequence*> running_; // by rank
  std::set<Sequence*, ByRank> waiting_;
  std::set<Sequence*, ByArrival> by_arrival_;
  std::vector<Sequence*> impossible_;
  std::vector<SequenceGroup*> admitted_;
  uint32_t overtakes_ = 0; // of the oldest waiting sequence, since it has been the oldest
  uint32_t num_swapped_ = 0, in_flight_ = 0, stalls_ = 0;
  bool batch_open_ = true;                          // static batching: the batch may still grow
  uint64_t deficit_ = 0;                            // blocks a group that running sequences failed to get in this step
  std::vector<Sequence*> newborn_, urgent_scratch_; // forks of this step; scratch
  std::vector<Sequence*> filled_;                   // scratch of commit
  StepTables tables_;                               // of the step that was filled last
  uint64_t last_ticket_ = 0;                        // of the backend
  SchedulerStats stats_;
};

} // namespace quire
