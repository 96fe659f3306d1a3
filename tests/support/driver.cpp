#include "support/driver.hpp"

#include <algorithm>

namespace quire::test {
namespace {

SchedulerOptions completed(SchedulerOptions options, const DriverOptions& all) {
  options.vocab_size = all.mock.vocab_size;
  if (options.block_bytes == 0) options.block_bytes = all.mock.block_bytes;
  return options;
}

KvConfig completed(KvConfig config, const DriverOptions& all) {
  config.max_step_tokens = all.scheduler.max_batched_tokens;
  for (size_t g = 0; g < config.groups.size(); ++g) config.groups[g].window = all.mock.windows[g];
  return config;
}

} // namespace

Driver::Driver(DriverOptions options)
    : mock(options.mock), kv(completed(options.kv, options)), scheduler(completed(options.scheduler, options), kv),
      options_(std::move(options)) {
  quire_status status{};
  instance_ = mock.table()->create(mock.table()->self, nullptr, &status);
  quire_limits limits{};
  limits.struct_size = sizeof limits;
  limits.max_tokens = options_.scheduler.max_batched_tokens;
  limits.max_sequences = limits.max_rows = options_.scheduler.max_sequences;
  limits.max_context = options_.max_context;
  limits.block_size = options_.kv.block_size;
  mock.table()->compile(instance_, &mock.program(), &limits, &status);
  quire_kv_config config{};
  config.struct_size = sizeof config;
  config.program = 1;
  for (size_t g = 0; g < options_.kv.groups.size(); ++g) {
    config.num_blocks[g] = options_.kv.groups[g].num_blocks;
    config.host_blocks[g] = options_.kv.groups[g].host_blocks;
  }
  mock.table()->kv_create(instance_, &config, &status);
}

Driver::~Driver() { mock.table()->destroy(instance_); }

SequenceGroup& Driver::add(std::vector<int32_t> prompt, uint32_t max_tokens, uint32_t choices, int32_t priority,
                           float temperature, uint64_t seed, std::string salt) {
  SamplingParameters parameters;
  parameters.temperature = temperature;
  const auto plan = std::make_shared<const SamplingPlan>(parameters, options_.ends, seed, options_.mock.vocab_size);
  auto group = std::make_unique<SequenceGroup>();
  group->id = group->arrival = ++next_id_;
  group->priority = priority;
  group->salt = std::move(salt);
  for (uint32_t c = 0; c < choices; ++c) {
    auto s = std::make_unique<Sequence>();
    s->group = group.get();
    s->choice = c;
    s->num_prompt = static_cast<uint32_t>(prompt.size());
    s->max_length = std::min(options_.max_context, s->num_prompt + max_tokens);
    s->sampling = SamplingState(plan, c, prompt);
    if (c == 0) s->tokens = prompt;
    group->sequences.push_back(std::move(s));
  }
  groups.push_back(std::move(group));
  scheduler.add(*groups.back());
  return *groups.back();
}

void Driver::cancel(SequenceGroup& group) {
  for (auto& s : group.sequences) scheduler.finish(*s);
}

void Driver::note(const std::string& what) {
  if (fault.empty() && !what.empty()) fault = what + " (turn " + std::to_string(steps) + ")";
}

void Driver::check() {
  if (!options_.check) return;
  note(scheduler.check());
  note(mock.counters.fault);
}

void Driver::submit(Step& step) {
  quire_status status{};
  const quire_backend& b = *mock.table();
  const KvTransfers& t = step.transfers;
  if (!t.swap_out.empty()) b.swap_out(instance_, t.swap_out.data(), static_cast<uint32_t>(t.swap_out.size()), &status);
  if (!t.swap_in.empty()) b.swap_in(instance_, t.swap_in.data(), static_cast<uint32_t>(t.swap_in.size()), &status);
  if (!t.copies.empty()) b.copy_blocks(instance_, t.copies.data(), static_cast<uint32_t>(t.copies.size()), &status);
  if (step.empty()) return;
  const uint64_t ticket = b.submit(instance_, &step.view(), &status);
  if (!step.rows.empty()) b.sample(instance_, ticket, &step.sampling(), &status);
  if (status.code != QUIRE_OK) note(status.message);
  scheduler.submitted(step, ticket);
}

void Driver::commit(Step& step) {
  quire_status status{};
  mock.table()->wait(instance_, step.device_ticket, step.sampled().data(), static_cast<uint32_t>(step.rows.size()),
                     &status);
  if (status.code != QUIRE_OK) note(status.message);
  scheduler.commit(step);
  for (StepRow& row : step.rows) {
    Sequence& s = *row.sequence;
    if (row.dropped) continue;
    if (s.tokens.size() >= s.max_length || s.sampling.plan().stops(s.tokens.back())) scheduler.finish(s);
  }
}

bool Driver::turn() {
  bool scheduled = false;
  if (pipe_.size() < options_.steps_in_flight) {
    if (before_schedule) before_schedule(*this);
    std::unique_ptr<Step> step = spare_.empty() ? std::make_unique<Step>() : std::move(spare_.back());
    if (!spare_.empty()) spare_.pop_back();
    scheduled = scheduler.schedule(*step);
    for (Sequence* s : scheduler.impossible()) scheduler.finish(*s);
    check();
    submit(*step);
    if (scheduled) {
      ++steps;
      if (on_step) on_step(*this, *step);
      pipe_.push_back(std::move(step));
    } else {
      spare_.push_back(std::move(step));
    }
  }
  if (pipe_.size() == options_.steps_in_flight || (!scheduled && !pipe_.empty())) {
    std::unique_ptr<Step> step = std::move(pipe_.front());
    pipe_.pop_front();
    commit(*step);
    check();
    spare_.push_back(std::move(step));
    return true;
  }
  if (!scheduled && pipe_.empty()) {
    if (!scheduler.resolve_stall()) return false;
    for (Sequence* s : scheduler.impossible()) scheduler.finish(*s);
    check();
  }
  return true;
}

void Driver::run(uint64_t max_turns) {
  for (uint64_t i = 0; i < max_turns; ++i)
    if (!turn()) return;
  note("the loop did not come to an end");
}

std::vector<int32_t> Driver::output(const SequenceGroup& group, uint32_t choice) const {
  const Sequence& s = *group.sequences[choice];
  return {s.tokens.begin() + s.num_prompt, s.tokens.end()};
}

bool Driver::finished(const SequenceGroup& group) const {
  return std::all_of(group.sequences.begin(), group.sequences.end(),
                     [](const auto& s) { return s->state == SequenceState::finished; });
}

} // namespace quire::test
