#include "bench/simulator.hpp"

#include <deque>
#include <memory>
#include <unordered_map>

#include "quire/error.hpp"

namespace quire::bench {

namespace {

constexpr std::uint32_t kVocabulary = 50272;

class Server {
 public:
  Server(const ServeOptions& options, const std::vector<Request>& requests)
      : options_(options), requests_(requests), kv_(options.kv), scheduler_(options.scheduler, kv_),
        plan_(std::make_shared<const SamplingPlan>(SamplingParameters{}, std::span<const std::int32_t>{}, 1,
                                                   kVocabulary)) {}

  ServeResult run() {
    while (now_s_ < options_.horizon_s && turn()) {
    }
    const SchedulerStats stats = scheduler_.stats();
    result_.preemptions_swap = stats.preemptions_swap;
    result_.preemptions_recompute = stats.preemptions_recompute;
    result_.seconds = now_s_ - options_.warm_up_s;
    const auto mean = [](double& sum, double count) { sum = count > 0 ? sum / count : 0; };
    mean(result_.batch, static_cast<double>(result_.steps));
    mean(result_.latency_per_token_s, static_cast<double>(result_.finished));
    for (double* sum : {&result_.shares.tokens, &result_.shares.reserved, &result_.shares.internal,
                        &result_.shares.external, &result_.utilisation, &result_.occupancy})
      mean(*sum, static_cast<double>(result_.waiting_steps));
    return result_;
  }

 private:
  struct Flight {
    std::unique_ptr<Step> step;
    double end_s;
  };

  // One turn of the engine's loop; false where nothing is left.
  bool turn() {
    if (flights_.size() < 2) {
      arrive();
      std::unique_ptr<Step> step = take_step();
      const bool scheduled = scheduler_.schedule(*step);
      for (Sequence* s : scheduler_.impossible())
        throw Error("a request of " + std::to_string(s->max_length) +
                    " tokens does not fit into the simulated KV memory");
      if (scheduled) {
        const double start_s = std::max(device_free_s_, now_s_);
        count(*step, start_s);
        device_free_s_ = start_s + duration(*step);
        scheduler_.submitted(*step, ++device_ticket_);
        flights_.push_back({std::move(step), device_free_s_});
        return true;
      }
      spare_.push_back(std::move(step));
      if (flights_.empty()) {
        if (scheduler_.resolve_stall()) return true;
        if (next_ == requests_.size()) return false;
        now_s_ = std::max(now_s_, requests_[next_].arrival_s);
        return true;
      }
    }
    commit();
    return true;
  }

  void arrive() {
    for (; next_ < requests_.size() && requests_[next_].arrival_s <= now_s_; ++next_) {
      const Request& request = requests_[next_];
      auto group = std::make_unique<SequenceGroup>();
      group->id = group->arrival = next_;
      auto s = std::make_unique<Sequence>();
      s->group = group.get();
      s->tokens.reserve(request.prompt + request.output);
      for (std::uint32_t p = 0; p < request.prompt; ++p) // the same where shared, else the request's own
        s->tokens.push_back(static_cast<std::int32_t>(p < request.shared ? p : (next_ + 1) * 4096 + p));
      s->num_prompt = request.prompt;
      s->max_length = request.prompt + request.output;
      s->sampling = SamplingState(plan_, 0, s->tokens);
      group->sequences.push_back(std::move(s));
      scheduler_.add(*group);
      groups_.emplace(next_, std::move(group));
    }
  }

  double duration(const Step& step) const {
    const quire_step& view = step.view();
    double context = 0;
    for (std::uint32_t s = 0; s < view.num_sequences; ++s) context += view.seq_len[s];
    const StepCosts& c = options_.costs;
    return c.base_s + c.per_sequence_s * view.num_sequences +
           c.per_prefill_token_s * (view.num_tokens - view.num_sequences) + c.per_context_token_s * context +
           c.per_swapped_block_s * static_cast<double>(step.transfers.swap_out.size() + step.transfers.swap_in.size());
  }

  void count(const Step& step, double start_s) {
    if (start_s < options_.warm_up_s) return;
    ++result_.steps;
    result_.batch += step.view().num_sequences;
    const SchedulerStats stats = scheduler_.stats();
    if (stats.waiting + stats.swapped == 0) return;
    ++result_.waiting_steps;
    const BlockPool& pool = kv_.pool(0);
    const double size = options_.kv.block_size, total = pool.num_blocks() * size;
    const auto tokens = static_cast<double>(kv_.tokens_held(0));
    result_.utilisation += tokens / (pool.num_referenced() * size);
    result_.occupancy += static_cast<double>(pool.num_referenced()) / pool.num_blocks();
    double reserved = 0, internal = 0;
    if (options_.kv.policy == PolicyKind::paged) {
      internal = pool.num_referenced() * size - tokens;
    } else {
      for (const Sequence* s : scheduler_.running()) {
        reserved += s->max_length - kv_.num_slots(s->kv);
        internal += kv_.grant(s->kv, 0).num_reserved - s->max_length;
      }
    }
    result_.shares.tokens += tokens / total;
    result_.shares.reserved += reserved / total;
    result_.shares.internal += internal / total;
    result_.shares.external += (total - tokens - reserved - internal) / total;
  }

  void commit() {
    Flight flight = std::move(flights_.front());
    flights_.pop_front();
    now_s_ = flight.end_s;
    Step& step = *flight.step;
    for (quire_sampled_row& row : step.sampled()) row.token = static_cast<std::int32_t>(made_up_++ & 0x7fffffff);
    scheduler_.commit(step);
    for (StepRow& row : step.rows) {
      Sequence& s = *row.sequence;
      if (row.dropped || s.tokens.size() < s.max_length) continue;
      scheduler_.finish(s);
      if (now_s_ >= options_.warm_up_s) {
        ++result_.finished;
        result_.output_tokens += s.num_output();
        result_.latency_per_token_s += (now_s_ - requests_[s.group->id].arrival_s) / s.num_output();
      }
      leaving_.push_back(s.group->id);
    }
    std::erase_if(leaving_, [&](std::uint64_t id) { // steps in flight may still name them
      const auto group = groups_.find(id);
      if (group->second->sequences[0]->in_flight) return false;
      groups_.erase(group);
      return true;
    });
    spare_.push_back(std::move(flight.step));
  }

  std::unique_ptr<Step> take_step() {
    if (spare_.empty()) return std::make_unique<Step>();
    std::unique_ptr<Step> step = std::move(spare_.back());
    spare_.pop_back();
    return step;
  }

  ServeOptions options_;
  const std::vector<Request>& requests_;
  KvManager kv_;
  Scheduler scheduler_;
  std::shared_ptr<const SamplingPlan> plan_;
  std::unordered_map<std::uint64_t, std::unique_ptr<SequenceGroup>> groups_;
  std::vector<std::uint64_t> leaving_;
  std::deque<Flight> flights_;
  std::vector<std::unique_ptr<Step>> spare_;
  std::size_t next_ = 0;
  double now_s_ = 0, device_free_s_ = 0;
  std::uint64_t device_ticket_ = 0, made_up_ = 0;
  ServeResult result_;
};

} // namespace

ServeResult serve(const ServeOptions& options, const std::vector<Request>& requests) {
  return Server(options, requests).run();
}

} // namespace quire::bench
