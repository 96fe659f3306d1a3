#include "schedule/scheduler.hpp"

#include <algorithm>
#include <cassert>

namespace quire {

Scheduler::Scheduler(const SchedulerOptions& options, KvManager& kv) : options_(options), kv_(kv) {
  assert(options_.max_batched_tokens >= options_.max_sequences);
  if (options_.max_chunk == 0) options_.max_chunk = options_.max_batched_tokens;
  running_.reserve(options_.max_sequences + 1);
}

Scheduler::~Scheduler() = default;

void Scheduler::add(SequenceGroup& group) {
  group.num_dormant = static_cast<uint32_t>(group.sequences.size()) - 1;
  Sequence& first = *group.sequences.front();
  first.leads = group.num_dormant > 0;
  assert(!first.tokens.empty() && first.length() < first.max_length);
  first.kv = kv_.create(group.salt);
  first.state = SequenceState::waiting;
  enqueue(first);
}

// ---- One step
// ------------------------------------------------------------------------------------------------------------------------

bool Scheduler::schedule(Step& step) {
  assert(in_flight_ <= 1);
  step.clear(kv_.num_groups());
  tables_.begin(kv_.num_groups());
  impossible_.clear();
  admitted_.clear();
  newborn_.clear();
  deficit_ = 0;
  uint32_t budget = options_.max_batched_tokens;
  schedule_running(step, budget);
  if (deficit_ == 0) schedule_waiting(step, budget);
  tables_.end();
  for (Sequence* fork : newborn_) start_running(*fork);
  kv_.take_transfers(step.transfers);
  if (step.empty()) return false;
  stalls_ = 0;
  step.seal(tables_, options_.program, last_ticket_);
  return true;
}

// What it lacks; 0 where the token that it waits for is not there yet, or is its last.
uint32_t Scheduler::tokens_wanted(const Sequence& s) const {
  const uint32_t length = s.length();
  return length < s.max_length ? length - s.num_computed : 0;
}

void Scheduler::schedule_running(Step& step, uint32_t& budget) {
  // Sequences from here on that lack one token: each gets it, before longer ones share the rest. Counted when the first
  // longer one comes: mostly there is none.
  constexpr uint32_t uncounted = UINT32_MAX;
  uint32_t singles = uncounted;
  for (size_t i = 0; i < running_.size(); ++i) { // preemption shortens running_ behind i
    Sequence& s = *running_[i];
    if (i + 20 < running_.size()) { // the misses of a thousand sequences would add up
      __builtin_prefetch(running_[i + 20], 1);
      __builtin_prefetch(&running_[i + 20]->tokens, 1);
      kv_.prefetch(running_[i + 14]->kv);
      kv_.prefetch_table_end(running_[i + 9]->kv);
      running_[i + 9]->sampling.prefetch();
      kv_.prefetch_block(running_[i + 4]->kv);
    }
    const uint32_t wanted = tokens_wanted(s);
    if (wanted == 0) continue;
    uint32_t count = 1;
    if (wanted == 1) {
      if (singles != uncounted) --singles;
    } else {
      if (singles == uncounted) {
        singles = 0;
        for (size_t k = i + 1; k < running_.size(); ++k) singles += tokens_wanted(*running_[k]) == 1;
      }
      count = std::min({wanted, budget - std::min(budget, singles), options_.max_chunk});
      if (count == 0) {
        if (++s.starved >= options_.overtakes_allowed && !s.group->urgent) urgent_scratch_.push_back(&s);
        continue;
      }
    }
    s.starved = 0;
    if (append_or_preempt(i, count)) run_chunk(step, s, count, budget);
  }
  while (!urgent_scratch_.empty()) {
    make_urgent(*urgent_scratch_.back()->group);
    urgent_scratch_.pop_back();
  }
}

// Room for `count` tokens of running_[index], or for fewer; false where it must wait for blocks that drain.
bool Scheduler::append_or_preempt(size_t index, uint32_t& count) {
  Sequence& s = *running_[index];
  while (!kv_.append(s.kv, count)) {
    if (count > 1) {
      count /= 2;
      continue;
    }
    Sequence* victim = running_.back();
    const bool none = victim == &s || (s.group->gang && victim->group == s.group);
    if (none || draining_covers(deficit_ + 1)) {
      ++deficit_;
      return false;
    }
    preempt(*victim, options_.preemption);
  }
  return true;
}

bool Scheduler::draining_covers(uint64_t blocks) const {
  for (uint32_t g = 0; g < kv_.num_groups(); ++g)
    if (kv_.pool(g).num_free() + kv_.pool(g).num_draining() < blocks) return false;
  return true;
}

void Scheduler::run_chunk(Step& step, Sequence& s, uint32_t count, uint32_t& budget) {
  step.add_chunk(kv_, tables_, s, count);
  budget -= count;
  if (s.num_computed < s.length() || s.awaiting) return;
  step.add_row(s, options_.vocab_size);
  if (s.leads && s.group->num_dormant) fork_choices(step, s);
}

// The prompt is computed by this step: every other choice is sampled from the same row and shares all its blocks. Those
// that find no place now wait, and find the prompt in the cache or fork later.
void Scheduler::fork_choices(Step& step, Sequence& first) {
  for (auto& sibling : first.group->sequences) {
    if (sibling->state != SequenceState::dormant) continue;
    --first.group->num_dormant;
    sibling->tokens = first.tokens;
    stats_.prompt_tokens += sibling->num_prompt;
    if (running_.size() + newborn_.size() < options_.max_sequences) {
      sibling->kv = kv_.fork(first.kv, first.num_computed);
      if (sibling->kv != kNoSeq) {
        sibling->num_computed = first.num_computed;
        sibling->part_in = first.part_in;
        sibling->before_part = first.before_part;
        sibling->num_settled = first.num_settled;
        sibling->state = SequenceState::running;
        newborn_.push_back(sibling.get());
        stats_.cached_tokens += sibling->num_prompt;
        ++stats_.forks;
        step.add_row(*sibling, options_.vocab_size);
        continue;
      }
    }
    sibling->kv = kv_.create(first.group->salt);
    sibling->state = SequenceState::waiting;
    enqueue(*sibling);
  }
}

void Scheduler::schedule_waiting(Step& step, uint32_t& budget) {
  if (running_.empty()) batch_open_ = true;
  if (options_.static_batching && !batch_open_) return;
  while (!waiting_.empty() && budget > 0 && running_.size() + newborn_.size() < options_.max_sequences) {
    Sequence& s = **waiting_.begin();
    const Admission verdict = admit(s);
    if (verdict == Admission::never) {
      dequeue(s);
      s.state = SequenceState::dormant;
      impossible_.push_back(&s);
      continue;
    }
    if (verdict == Admission::later) break;
    count_overtake(s);
    start_running(s);
    const uint32_t wanted = tokens_wanted(s);
    uint32_t count = std::min({wanted, budget, options_.max_chunk});
    while (count > 0 && !kv_.append(s.kv, count)) count /= 2;
    if (count > 0) run_chunk(step, s, count, budget);
  }
  if (!running_.empty() && budget > 0) batch_open_ = false;
}

// ---- Admission
// -----------------------------------------------------------------------------------------------------------------------

Admission Scheduler::admit(Sequence& s) {
  if (s.state == SequenceState::swapped) {
    if (!kv_.swap_in(s.kv)) return Admission::later;
    --num_swapped_;
  } else if (!admit_by_fork(s)) {
    const AdmitResult result = kv_.admit(s.kv, s.tokens, s.max_length - static_cast<uint32_t>(s.tokens.size()));
    if (result.verdict != Admission::now) return result.verdict;
    s.num_computed = s.num_settled = result.cached_tokens;
  }
  if (s.num_output() == 0 && s.state == SequenceState::waiting && s.epoch == 0) {
    s.num_cached = s.num_computed;
    stats_.prompt_tokens += s.choice == 0 ? s.num_prompt : 0;
    stats_.cached_tokens += s.num_computed;
  }
  if (!s.group->admitted) admitted_.push_back(s.group);
  s.group->admitted = true;
  dequeue(s);
  return Admission::now;
}

// A choice or a beam shares with a running sibling what they have in common, whether or not the cache still has it.
bool Scheduler::admit_by_fork(Sequence& s) {
  if (s.group->sequences.size() == 1) return false;
  const Sequence* best = nullptr;
  uint32_t best_common = 0;
  for (const auto& sibling : s.group->sequences) {
    if (sibling.get() == &s || sibling->state != SequenceState::running) continue;
    // What this very step computes can't be shared yet: the copy of a partial block goes before it.
    const uint32_t computed = sibling->part_in == kv_.building() ? sibling->before_part : sibling->num_computed;
    const auto limit =
        std::min({computed, static_cast<uint32_t>(sibling->tokens.size()), static_cast<uint32_t>(s.tokens.size()) - 1});
    if (limit <= best_common) continue;
    const auto differs = std::mismatch(s.tokens.begin(), s.tokens.begin() + limit, sibling->tokens.begin()).first;
    const auto common = static_cast<uint32_t>(differs - s.tokens.begin());
    if (common > best_common) best = sibling.get(), best_common = common;
  }
  if (!best || best_common <= kv_.cached_tokens(s.kv, s.tokens)) return false;
  const uint32_t block_size = kv_.config().block_size;
  const uint64_t blocks = (s.tokens.size() + block_size - 1) / block_size - best_common / block_size;
  for (uint32_t g = 0; g < kv_.num_groups(); ++g)
    if (kv_.pool(g).num_free() < blocks) return false;
  const KvSeq forked = kv_.fork(best->kv, best_common);
  if (forked == kNoSeq) return false;
  kv_.destroy(s.kv);
  s.kv = forked;
  s.num_computed = best_common;
  s.num_settled = std::min(best_common, best->num_settled);
  ++stats_.forks;
  return true;
}

void Scheduler::count_overtake(const Sequence& admitted) {
  if (by_arrival_.empty() || admitted.group->arrival < (*by_arrival_.begin())->group->arrival) {
    overtakes_ = 0;
    return;
  }
  if (admitted.group->arrival == (*by_arrival_.begin())->group->arrival) return;
  if (++overtakes_ < options_.overtakes_allowed) return;
  overtakes_ = 0;
  make_urgent(*(*by_arrival_.begin())->group);
}

void Scheduler::make_urgent(SequenceGroup& group) {
  if (group.urgent) return;
  for (const auto& s : group.sequences) // the sets are ordered by what is about to change
    if (s->state == SequenceState::waiting || s->state == SequenceState::swapped) waiting_.erase(s.get());
  group.urgent = true;
  for (const auto& s : group.sequences)
    if (s->state == SequenceState::waiting || s->state == SequenceState::swapped) waiting_.insert(s.get());
  std::stable_sort(running_.begin(), running_.end(),
                   [](const Sequence* a, const Sequence* b) { return ranks_before(*a, *b); });
}

void Scheduler::enqueue(Sequence& s) {
  waiting_.insert(&s);
  if (by_arrival_.empty() || s.group->arrival < (*by_arrival_.begin())->group->arrival) overtakes_ = 0;
  by_arrival_.insert(&s);
}

void Scheduler::dequeue(Sequence& s) {
  waiting_.erase(&s);
  by_arrival_.erase(&s);
}

void Scheduler::start_running(Sequence& s) {
  s.state = SequenceState::running;
  s.starved = 0;
  running_.insert(std::upper_bound(running_.begin(), running_.end(), &s,
                                   [](const Sequence* a, const Sequence* b) { return ranks_before(*a, *b); }),
                  &s);
}

void Scheduler::stop_running(Sequence& s) {
  const auto at = std::lower_bound(running_.begin(), running_.end(), &s,
                                   [](const Sequence* a, const Sequence* b) { return ranks_before(*a, *b); });
  assert(at != running_.end() && *at == &s);
  running_.erase(at);
}

// ---- Preemption
// ----------------------------------------------------------------------------------------------------------------------

void Scheduler::preempt(Sequence& s, PreemptionMode mode) {
  if (!s.group->gang) return preempt_one(s, mode);
  for (const auto& beam : s.group->sequences)
    if (beam->state == SequenceState::running) preempt_one(*beam, PreemptionMode::recompute);
}

void Scheduler::preempt_one(Sequence& s, PreemptionMode mode) {
  assert(s.state == SequenceState::running);
  stop_running(s);
  bool swap = mode == PreemptionMode::swap;
  if (mode == PreemptionMode::automatic)
    swap = costs_.swap_is_cheaper(options_.block_bytes * kv_.num_live_blocks(s.kv) / kv_.num_groups(), s.num_computed);
  if (swap && kv_.swap_out(s.kv)) {
    s.state = SequenceState::swapped;
    ++num_swapped_;
    ++stats_.preemptions_swap;
  } else {
    kv_.release(s.kv);
    s.num_computed = s.num_settled = 0;
    ++s.epoch;
    s.state = SequenceState::waiting;
    ++stats_.preemptions_recompute;
  }
  enqueue(s);
}

bool Scheduler::resolve_stall() {
  assert(in_flight_ == 0);
  kv_.idle();
  if (waiting_.empty() && running_.empty()) return false;
  if (stalls_++ == 0) return true; // what drained may be enough
  for (const Sequence* s : running_)
    if (s->awaiting) return false;
  // Nobody can go on, and nothing will come back by itself: the first in rank needs what the last one holds.
  if (!running_.empty()) {
    Sequence& last = *running_.back();
    const Sequence& first = waiting_.empty() || ranks_before(*running_.front(), **waiting_.begin())
                                ? *running_.front()
                                : **waiting_.begin();
    if (last.group != first.group || (!first.group->gang && &last != &first)) {
      preempt(last, options_.preemption);
      return true;
    }
  }
  Sequence& stuck = running_.empty() ? **waiting_.begin() : *running_.front();
  impossible_.assign(1, &stuck);
  return true;
}

// ---- What the caller says
// ------------------------------------------------------------------------------------------------------------

void Scheduler::submitted(Step& step, uint64_t device_ticket) {
  step.ticket = kv_.building();
  step.device_ticket = last_ticket_ = device_ticket;
  ++in_flight_;
  kv_.submitted(step.ticket);
}

void Scheduler::withdrawn(Step& step) {
  for (const StepChunk& chunk : step.chunks) --chunk.sequence->in_flight;
  for (const StepRow& row : step.rows) --row.sequence->in_flight;
}

void Scheduler::commit(Step& step, bool failed) {
  --in_flight_;
  kv_.done(step.ticket);
  const uint32_t block_size = kv_.config().block_size;
  filled_.clear();
  for (size_t i = 0; i < step.chunks.size(); ++i) {
    const StepChunk& chunk = step.chunks[i];
    if (i + 8 < step.chunks.size()) {
      __builtin_prefetch(step.chunks[i + 8].sequence, 1);
      __builtin_prefetch(&step.chunks[i + 8].sequence->tokens, 1);
    }
    Sequence& s = *chunk.sequence;
    --s.in_flight;
    if (failed || s.state == SequenceState::finished || s.epoch != chunk.epoch) continue;
    if (s.num_settled % block_size + (chunk.num_computed - s.num_settled) >= block_size) filled_.push_back(&s);
    s.num_settled = chunk.num_computed;
  }
  // Each publication misses the cache many times over: they are announced well before.
  constexpr size_t ahead = 8;
  for (size_t i = 0; i < filled_.size() + ahead; ++i) {
    if (i < filled_.size()) {
      const Sequence& s = *filled_[i];
      kv_.announce_commit(s.kv, s.tokens, s.num_settled, static_cast<uint32_t>(std::min(i, ahead)));
    }
    if (i < ahead) continue;
    const Sequence& s = *filled_[i - ahead];
    kv_.commit(s.kv, s.tokens, s.num_settled);
  }
  const std::span<quire_sampled_row> sampled = step.sampled();
  for (size_t r = 0; r < step.rows.size(); ++r) {
    StepRow& row = step.rows[r];
    Sequence& s = *row.sequence;
    if (r + ahead < step.rows.size()) {
      const Sequence& later = *step.rows[r + ahead].sequence;
      __builtin_prefetch(later.tokens.data() + later.tokens.size(), 1);
      later.sampling.prefetch();
    }
    --s.in_flight;
    row.dropped = failed || s.state == SequenceState::finished;
    if (row.dropped || s.host_chosen) continue;
    --s.num_pending;
    if (sampled[r].token < 0) continue;
    s.tokens.push_back(sampled[r].token);
    s.sampling.count(sampled[r].token);
    s.logprob_sum += static_cast<double>(sampled[r].logprob);
  }
}

void Scheduler::append(Sequence& s, int32_t token) {
  assert(s.host_chosen && s.awaiting && s.state != SequenceState::finished);
  s.awaiting = false;
  s.tokens.push_back(token);
  s.sampling.count(token);
}

Sequence& Scheduler::fork(Sequence& parent, uint32_t choice) {
  SequenceGroup& group = *parent.group;
  Sequence* child = nullptr;
  for (auto& s : group.sequences)
    if (s->state == SequenceState::finished && s->in_flight == 0) child = s.get();
  if (!child) child = group.sequences.emplace_back(std::make_unique<Sequence>()).get();
  *child = parent;
  child->choice = choice;
  child->sampling.set_choice(choice);
  child->in_flight = 0;
  child->kv = kNoSeq;
  ++stats_.forks;
  if (parent.state == SequenceState::running && running_.size() < options_.max_sequences) {
    child->kv = kv_.fork(parent.kv, parent.num_computed);
    if (child->kv != kNoSeq) {
      start_running(*child);
      return *child;
    }
  }
  child->kv = kv_.create(group.salt);
  child->state = SequenceState::waiting;
  child->num_computed = child->num_settled = 0;
  ++child->epoch;
  enqueue(*child);
  return *child;
}

void Scheduler::finish(Sequence& s) {
  switch (s.state) {
  case SequenceState::finished:
    return;
  case SequenceState::running:
    stop_running(s);
    break;
  case SequenceState::swapped:
    --num_swapped_;
    [[fallthrough]];
  case SequenceState::waiting:
    dequeue(s);
    break;
  case SequenceState::dormant:
    break;
  }
  if (s.state == SequenceState::dormant && s.kv == kNoSeq) --s.group->num_dormant;
  s.state = SequenceState::finished;
  if (s.kv != kNoSeq) kv_.destroy(s.kv);
  s.kv = kNoSeq;
}

void Scheduler::device_lost() {
  assert(running_.empty());
  in_flight_ = 0;
  for (Sequence* s : waiting_) {
    if (s->state != SequenceState::swapped) continue;
    kv_.release(s->kv);
    s->state = SequenceState::waiting;
    s->num_computed = s->num_settled = 0;
    ++s->epoch;
  }
  num_swapped_ = 0;
  kv_.forget_all();
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.running = static_cast<uint32_t>(running_.size());
  stats.swapped = num_swapped_;
  stats.waiting = static_cast<uint32_t>(waiting_.size()) - num_swapped_;
  return stats;
}

std::string Scheduler::check() const {
  if (running_.size() > options_.max_sequences) return "more sequences run than max_sequences";
  for (size_t i = 0; i < running_.size(); ++i) {
    const Sequence& s = *running_[i];
    if (i && !ranks_before(*running_[i - 1], s)) return "running sequences are not in order of rank";
    if (s.state != SequenceState::running) return "a sequence among the running is not running";
    if (!kv_.resident(s.kv)) return "a running sequence holds no blocks";
    if (kv_.num_slots(s.kv) != s.num_computed)
      return "a running sequence has another number of slots than computed tokens";
    if (s.num_settled > s.num_computed || s.num_computed > s.length() || s.num_settled > s.tokens.size())
      return "a running sequence's lengths are out of order";
    if (s.num_pending > 2 || (s.host_chosen && s.num_pending))
      return "a sequence has the wrong number of pending tokens";
  }
  if (waiting_.size() != by_arrival_.size()) return "the waiting sets differ";
  uint32_t swapped = 0;
  for (Sequence* s : waiting_) {
    if (!by_arrival_.count(s)) return "a waiting sequence is not among those by arrival";
    if (s->state == SequenceState::swapped)
      ++swapped;
    else if (s->state != SequenceState::waiting)
      return "a sequence that waits is in another state";
    if (kv_.swapped(s->kv) != (s->state == SequenceState::swapped))
      return "a waiting sequence and the KV manager disagree on swapping";
    if (kv_.resident(s->kv)) return "a waiting sequence holds blocks";
  }
  if (swapped != num_swapped_) return "the count of swapped sequences is wrong";
  return kv_.check();
}

} // namespace quire
