#include "support/mock_backend.hpp"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <limits>
#include <memory>
#include <thread>

namespace quire::test {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t unwritten = 0xBADBADBADBADBADBull; // what a block holds before its first write

// splitmix64's finaliser (Steele, Lea, Flood 2014).
uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9ull;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

uint64_t content(uint64_t before, int32_t token, uint32_t position, uint32_t group) {
  return mix(before + 0x9E3779B97F4A7C15ull * (static_cast<uint32_t>(token) + 1) + (uint64_t{position} << 40) + group);
}

uint64_t fold(uint64_t state, uint64_t value) { return (state ^ value) * 0x100000001B3ull + (state >> 29); }

float unit(uint64_t hash) { return (static_cast<float>(hash >> 40) + 0.5f) * 0x1p-24f; }

void logits_from(uint64_t state, std::span<float> logits) {
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = 8.0f * unit(mix(state + i * 0xD1B54A32D192ED03ull));
}

void fail(quire_status* status, int32_t code, const char* format, ...) {
  status->code = code;
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(status->message, sizeof status->message, format, arguments);
  va_end(arguments);
}

uint32_t argmax(std::span<const float> values) {
  return static_cast<uint32_t>(std::max_element(values.begin(), values.end()) - values.begin());
}

} // namespace

struct MockBackend::Instance {
  MockBackend* mock = nullptr;
  quire_limits limits{};
  uint32_t block_size = 16;
  std::vector<std::vector<uint64_t>> device, host; // [group][block * block_size + slot]

  struct SequenceTask {
    uint32_t first_token, num_tokens, seq_len, table_start, table_size;
  };
  struct RowTask {
    uint32_t token = 0; // index into the step
    quire_sampling_row sampling{};
    std::vector<quire_token_count> counts;
    std::vector<quire_logit_bias> bias;
    std::vector<uint32_t> mask;
  };
  enum class Kind { step, copy, swap_out, swap_in };
  struct Task {
    Kind kind = Kind::step;
    uint64_t ticket = 0;
    bool sampled = false;
    std::vector<SequenceTask> sequences;
    std::vector<int32_t> tokens;
    std::vector<uint32_t> token_rows;
    std::vector<std::vector<uint32_t>> tables;
    std::vector<RowTask> rows;
    std::vector<quire_block_copy> copies;
    Clock::time_point ready;
  };
  std::deque<std::unique_ptr<Task>> queue;
  std::vector<std::unique_ptr<Task>> spare;
  uint64_t last_ticket = 0, last_waited = 0;
  Clock::time_point busy_until{};
  std::vector<int32_t> last_tokens, tokens_now; // sampled by the last executed ticket and the one running
  std::vector<float> logits, adjusted;
  bool lost = false;

  std::unique_ptr<Task> take() {
    if (spare.empty()) return std::make_unique<Task>();
    auto task = std::move(spare.back());
    spare.pop_back();
    return task;
  }

  uint64_t& slot(std::vector<std::vector<uint64_t>>& pool, uint32_t group, uint32_t block, uint32_t offset) {
    return pool[group][size_t{block} * block_size + offset];
  }

  void note(const char* what) {
    if (mock->counters.fault.empty()) mock->counters.fault = what;
  }

  void run(Task& task, quire_sampled_row* rows);
  void forward(Task& task, std::vector<uint64_t>& states);
  int32_t sample(const RowTask& row, uint64_t state, uint32_t index, quire_sampled_row& out);
};

// Writes every token's content, then folds the state of each row that is asked for.
void MockBackend::Instance::forward(Task& task, std::vector<uint64_t>& states) {
  const uint32_t groups = static_cast<uint32_t>(task.tables.size());
  size_t next_row = 0;
  for (const SequenceTask& s : task.sequences) {
    const uint32_t first_position = s.seq_len - s.num_tokens;
    for (uint32_t i = 0; i < s.num_tokens; ++i) {
      const uint32_t t = s.first_token + i, position = first_position + i;
      if (!task.token_rows.empty() && task.token_rows[t]) {
        const uint32_t row = task.token_rows[t] - 1;
        if (row >= last_tokens.size())
          note("token_rows names a row that the step before does not have");
        else
          task.tokens[t] = last_tokens[row];
        ++mock->counters.device_fed_tokens;
      }
      for (uint32_t g = 0; g < groups; ++g) {
        const std::vector<uint32_t>& table = task.tables[g];
        uint64_t before = 0;
        if (position > 0) {
          const uint32_t block = table[s.table_start + (position - 1) / block_size];
          if (block < device[g].size() / block_size)
            before = slot(device, g, block, (position - 1) % block_size);
          else
            note("a table has no block where the token before is read");
        }
        const uint32_t block = table[s.table_start + position / block_size];
        if (block < device[g].size() / block_size)
          slot(device, g, block, position % block_size) = content(before, task.tokens[t], position, g);
        else
          note("a table has no block where a token is written");
      }
      for (; next_row < task.rows.size() && task.rows[next_row].token == t; ++next_row) {
        uint64_t state = 0;
        for (uint32_t g = 0; g < groups; ++g) {
          const uint32_t window = mock->groups_[g].window;
          uint32_t from = window && position + 1 > window ? position + 1 - window : 0;
          if (!mock->options.verify_context) from = position;
          for (uint32_t p = from; p <= position; ++p) {
            const uint32_t block = task.tables[g][s.table_start + p / block_size];
            if (block >= device[g].size() / block_size) {
              note("a table has no block where the context is read");
              break;
            }
            state = fold(state, slot(device, g, block, p % block_size));
          }
        }
        states.push_back(state);
        tokens_now.push_back(task.tokens[t] == mock->options.poison_token ? -1 : 0);
      }
    }
  }
}

int32_t MockBackend::Instance::sample(const RowTask& row, uint64_t state, uint32_t, quire_sampled_row& out) {
  const quire_sampling_row& s = row.sampling;
  const uint32_t vocab = mock->options.vocab_size;
  logits.resize(vocab);
  logits_from(state, logits);
  if (s.logits) std::copy(logits.begin(), logits.end(), s.logits);
  adjusted = logits;
  const auto adjust = [&](int32_t token, uint32_t in_prompt, uint32_t in_output) {
    float& l = adjusted[static_cast<size_t>(token)];
    if (s.repetition_penalty != 0 && s.repetition_penalty != 1 && in_prompt + in_output > 0)
      l = l > 0 ? l / s.repetition_penalty : l * s.repetition_penalty;
    l -= s.frequency_penalty * static_cast<float>(in_output) + (in_output ? s.presence_penalty : 0.0f);
  };
  int32_t pending = -1;
  if (s.pending_row) pending = s.pending_row <= last_tokens.size() ? last_tokens[s.pending_row - 1] : -1;
  for (const quire_token_count& c : row.counts) {
    adjust(c.token, c.in_prompt, c.in_output + (c.token == pending ? 1 : 0));
    if (c.token == pending) pending = -1;
  }
  if (pending >= 0) adjust(pending, 0, 1);
  for (const quire_logit_bias& b : row.bias) adjusted[static_cast<size_t>(b.token)] += b.bias;
  if (!row.mask.empty())
    for (uint32_t i = 0; i < vocab; ++i)
      if (!(row.mask[i / 32] >> (i % 32) & 1)) adjusted[i] = -std::numeric_limits<float>::infinity();
  if (s.temperature > 0)
    for (uint32_t i = 0; i < vocab; ++i) {
      const uint64_t key = mix(mix(s.seed + s.choice * 0x9E37ull) + (uint64_t{s.position} << 32) + i);
      adjusted[i] = adjusted[i] / s.temperature - std::log(-std::log(unit(key)));
    }
  const uint32_t token = argmax(adjusted);
  if (adjusted[token] == -std::numeric_limits<float>::infinity()) return -1;

  double sum = 0;
  const float top = logits[argmax(logits)];
  for (float l : logits) sum += std::exp(static_cast<double>(l) - top);
  const double log_sum = top + std::log(sum);
  out.logprob = static_cast<float>(logits[token] - log_sum);
  const uint32_t wanted = std::min({s.num_candidates, out.num_candidates, vocab});
  if (wanted > 0 && out.candidates) {
    std::vector<int32_t> ids(vocab);
    for (uint32_t i = 0; i < vocab; ++i) ids[i] = static_cast<int32_t>(i);
    std::partial_sort(ids.begin(), ids.begin() + wanted, ids.end(), [&](int32_t a, int32_t b) {
      const float la = logits[static_cast<size_t>(a)], lb = logits[static_cast<size_t>(b)];
      return la > lb || (la == lb && a < b);
    });
    for (uint32_t i = 0; i < wanted; ++i)
      out.candidates[i] = {ids[i], static_cast<float>(logits[static_cast<size_t>(ids[i])] - log_sum)};
  }
  out.num_candidates = wanted;
  return static_cast<int32_t>(token);
}

void MockBackend::Instance::run(Task& task, quire_sampled_row* out) {
  switch (task.kind) {
  case Kind::copy:
    for (const quire_block_copy& c : task.copies)
      for (uint32_t i = 0; i < block_size; ++i) slot(device, c.group, c.to, i) = slot(device, c.group, c.from, i);
    return;
  case Kind::swap_out:
    for (const quire_block_copy& c : task.copies)
      for (uint32_t i = 0; i < block_size; ++i) slot(host, c.group, c.to, i) = slot(device, c.group, c.from, i);
    return;
  case Kind::swap_in:
    for (const quire_block_copy& c : task.copies)
      for (uint32_t i = 0; i < block_size; ++i) slot(device, c.group, c.to, i) = slot(host, c.group, c.from, i);
    return;
  case Kind::step:
    break;
  }
  tokens_now.clear();
  if (mock->options.ids_only) {
    for (uint32_t r = 0; r < task.rows.size(); ++r) {
      const uint32_t position = task.rows[r].sampling.position;
      tokens_now.push_back(static_cast<int32_t>(mix(position * 1315423911ull + r) % mock->options.vocab_size));
      if (out) out[r].token = tokens_now.back(), out[r].logprob = 0, out[r].num_candidates = 0;
    }
  } else {
    std::vector<uint64_t> states;
    forward(task, states);
    if (states.size() != task.rows.size()) note("rows are not ascending indices of the step's tokens");
    for (uint32_t r = 0; r < states.size(); ++r) {
      quire_sampled_row scratch{};
      quire_sampled_row& row = out ? out[r] : scratch;
      row.token = -1;
      if (tokens_now[r] == 0 && task.sampled) row.token = sample(task.rows[r], states[r], r, row);
      tokens_now[r] = row.token;
    }
  }
  std::swap(last_tokens, tokens_now);
}

struct MockBackend::Verbs {
  using Kind = Instance::Kind;
  using Task = Instance::Task;
  static Instance& of(void* instance) { return *static_cast<Instance*>(instance); }

  static bool faulty(Instance& i, uint64_t at, uint64_t count, quire_status* status) {
    if (i.lost) return fail(status, QUIRE_DEVICE_LOST, "mock: the device is lost"), true;
    if (at == 0 || at != count) return false;
    fail(status, i.mock->options.fail_code, "mock: injected fault");
    if (i.mock->options.fail_code == QUIRE_DEVICE_LOST) i.lost = true;
    return true;
  }

  static uint32_t device_count(void*, quire_status* status) { return status->code = QUIRE_OK, 1; }

  static void device_info(void*, uint32_t, quire_device_info* out, quire_status* status) {
    *out = {};
    std::snprintf(out->name, sizeof out->name, "mock");
    std::snprintf(out->driver, sizeof out->driver, "mock 1");
    out->usable = 1;
    out->memory_bytes = out->free_bytes = uint64_t{1} << 34;
    status->code = QUIRE_OK;
  }

  static void* create(void* self, const quire_create_options*, quire_status* status) {
    auto* mock = static_cast<MockBackend*>(self);
    status->code = QUIRE_OK;
    ++mock->counters.creates;
    if (mock->counters.creates > 1 && mock->options.fail_creates > 0) {
      --mock->options.fail_creates;
      return fail(status, QUIRE_FAILED, "mock: injected failure to create"), nullptr;
    }
    auto instance = std::make_unique<Instance>();
    instance->mock = mock;
    return instance.release();
  }

  static void destroy(void* instance) {
    auto* i = static_cast<Instance*>(instance);
    ++i->mock->counters.destroys;
    delete i;
  }

  static void memory(void* instance, quire_memory_info* out, quire_status* status) {
    *out = {};
    out->total_bytes = out->free_bytes = uint64_t{1} << 34;
    for (const auto& group : of(instance).device)
      out->kv_bytes += group.size() / of(instance).block_size * of(instance).mock->options.block_bytes;
    status->code = QUIRE_OK;
  }

  static uint32_t compile(void* instance, const quire_program*, const quire_limits* limits, quire_status* status) {
    of(instance).limits = *limits;
    of(instance).block_size = limits->block_size;
    status->code = QUIRE_OK;
    return 1;
  }

  static uint64_t kv_block_bytes(void* instance, uint32_t, uint32_t, quire_status* status) {
    status->code = QUIRE_OK;
    return of(instance).mock->options.block_bytes * of(instance).block_size / 16;
  }

  static void kv_create(void* instance, const quire_kv_config* config, quire_status* status) {
    Instance& i = of(instance);
    const size_t groups = i.mock->groups_.size();
    i.device.assign(groups, {});
    i.host.assign(groups, {});
    if (!i.mock->options.ids_only)
      for (size_t g = 0; g < groups; ++g) {
        i.device[g].assign(size_t{config->num_blocks[g]} * i.block_size, unwritten);
        i.host[g].assign(size_t{config->host_blocks[g]} * i.block_size, unwritten);
      }
    status->code = QUIRE_OK;
  }

  static uint64_t submit(void* instance, const quire_step* step, quire_status* status) {
    Instance& i = of(instance);
    MockBackend& mock = *i.mock;
    status->code = QUIRE_OK;
    if (faulty(i, mock.options.fail_submit_at, mock.counters.submits + 1, status)) return ++mock.counters.submits, 0;
    ++mock.counters.submits;
    if (mock.on_submit) mock.on_submit(*step);
    const uint32_t unwaited = static_cast<uint32_t>(i.last_ticket - i.last_waited) + 1;
    mock.counters.most_unwaited = std::max(mock.counters.most_unwaited, unwaited);
    if (unwaited > 2) i.note("more than two tickets are unwaited");
    if (step->num_tokens == 0 || step->num_sequences == 0) i.note("an empty step was submitted");
    if (step->num_tokens > i.limits.max_tokens || step->num_sequences > i.limits.max_sequences ||
        step->num_rows > i.limits.max_rows)
      i.note("a step is larger than the limits it was compiled for");
    mock.counters.tokens += step->num_tokens;
    mock.counters.sequences += step->num_sequences;
    mock.counters.rows += step->num_rows;

    auto task = i.take();
    task->kind = Kind::step;
    task->ticket = ++i.last_ticket;
    task->sampled = false;
    task->sequences.clear();
    uint64_t context = 0;
    for (uint32_t s = 0; s < step->num_sequences; ++s) {
      const uint32_t first = step->query_start[s], count = step->query_start[s + 1] - first;
      const uint32_t start = step->table_start[s], size = step->table_start[s + 1] - start;
      if (count == 0 || count > step->seq_len[s]) i.note("a sequence has no tokens, or more than its length");
      if (size * i.block_size < step->seq_len[s]) i.note("a block table is shorter than its sequence");
      if (step->seq_len[s] > i.limits.max_context) i.note("a sequence is longer than the limits allow");
      context += step->seq_len[s];
      if (!mock.options.ids_only) task->sequences.push_back({first, count, step->seq_len[s], start, size});
    }
    task->rows.resize(step->num_rows);
    for (uint32_t r = 0; r < step->num_rows; ++r) task->rows[r].token = step->rows[r];
    if (!mock.options.ids_only) {
      task->tokens.assign(step->tokens, step->tokens + step->num_tokens);
      task->token_rows.clear();
      if (step->token_rows) task->token_rows.assign(step->token_rows, step->token_rows + step->num_tokens);
      const bool fed = std::any_of(task->token_rows.begin(), task->token_rows.end(), [](uint32_t r) { return r != 0; });
      if (fed && step->token_ticket + 1 != task->ticket) i.note("token_ticket is not the ticket submitted just before");
      task->tables.resize(i.device.size());
      for (size_t g = 0; g < task->tables.size(); ++g)
        task->tables[g].assign(step->tables[g], step->tables[g] + step->table_start[step->num_sequences]);
    }
    const auto cost =
        mock.options.step_time + mock.options.token_time * step->num_tokens + mock.options.context_token_time * context;
    if (cost.count()) i.busy_until = std::max(i.busy_until, Clock::now()) + cost;
    task->ready = i.busy_until;
    i.queue.push_back(std::move(task));
    return i.last_ticket;
  }

  static void sample(void* instance, uint64_t ticket, const quire_sampling* sampling, quire_status* status) {
    Instance& i = of(instance);
    status->code = QUIRE_OK;
    if (faulty(i, i.mock->options.fail_sample_at, ++i.mock->counters.samples, status)) return;
    if (ticket != i.last_ticket || i.queue.empty())
      return fail(status, QUIRE_INVALID, "mock: no such ticket to sample");
    Instance::Task& task = *i.queue.back();
    if (sampling->num_rows != task.rows.size()) i.note("sample has another number of rows than its step");
    task.sampled = true;
    for (uint32_t r = 0; r < sampling->num_rows && r < task.rows.size(); ++r) {
      const quire_sampling_row& row = sampling->rows[r];
      if ((row.top_p != 0 && row.top_p != 1) || row.top_k || row.min_p != 0 ||
          (row.typical_p != 0 && row.typical_p != 1))
        return fail(status, QUIRE_UNSUPPORTED, "mock: top-k, top-p, min-p and typical sampling are not modelled");
      task.rows[r].sampling = row;
      if (i.mock->options.ids_only) continue;
      task.rows[r].counts.assign(row.counts, row.counts + row.num_counts);
      task.rows[r].bias.assign(row.bias, row.bias + row.num_bias);
      task.rows[r].mask.clear();
      if (row.mask) task.rows[r].mask.assign(row.mask, row.mask + (i.mock->options.vocab_size + 31) / 32);
    }
  }

  static void wait(void* instance, uint64_t ticket, quire_sampled_row* rows, uint32_t num_rows, quire_status* status) {
    Instance& i = of(instance);
    status->code = QUIRE_OK;
    if (faulty(i, i.mock->options.fail_wait_at, ++i.mock->counters.waits, status)) {
      for (bool found = false; !found && !i.queue.empty(); i.queue.pop_front()) {
        Task& task = *i.queue.front();
        found = task.kind == Kind::step;
        if (found)
          i.last_tokens.assign(task.rows.size(), 0); // what it would have sampled is anything
        else
          i.run(task, nullptr);
      }
      i.last_waited = ticket;
      return;
    }
    if (ticket != i.last_waited + 1) i.note("tickets are not waited for in their order, each once");
    i.last_waited = ticket;
    while (!i.queue.empty()) {
      auto task = std::move(i.queue.front());
      i.queue.pop_front();
      const bool last = task->kind == Kind::step && task->ticket == ticket;
      if (last && task->ready.time_since_epoch().count()) std::this_thread::sleep_until(task->ready);
      if (last && task->sampled && num_rows != task->rows.size())
        i.note("wait has another number of rows than its step");
      i.run(*task, last && num_rows ? rows : nullptr);
      i.spare.push_back(std::move(task));
      if (last) break;
    }
  }

  static void queue_copies(Instance& i, Kind kind, const quire_block_copy* copies, uint32_t count) {
    for (uint32_t c = 0; c < count && !i.mock->options.ids_only; ++c) {
      const auto& from = kind == Kind::swap_in ? i.host : i.device;
      const auto& to = kind == Kind::swap_out ? i.host : i.device;
      if (copies[c].group >= from.size() || copies[c].from >= from[copies[c].group].size() / i.block_size ||
          copies[c].to >= to[copies[c].group].size() / i.block_size)
        return i.note("a copy names a block that does not exist");
    }
    auto task = i.take();
    task->kind = kind;
    task->ticket = 0;
    task->copies.assign(copies, copies + count);
    if (kind != Kind::copy && i.mock->options.swap_block_time.count())
      i.busy_until = std::max(i.busy_until, Clock::now()) + i.mock->options.swap_block_time * count;
    if (!i.mock->options.ids_only) i.queue.push_back(std::move(task));
  }

  static uint32_t idle(void* instance, uint32_t microseconds, quire_status* status) {
    Instance& i = of(instance);
    const MockOptions& o = i.mock->options;
    status->code = QUIRE_OK;
    if (faulty(i, o.fail_idle_at, ++i.mock->counters.idles, status)) return 0;
    if (i.last_ticket != i.last_waited) i.note("idle was called with a ticket unwaited");
    if (microseconds == 0) i.note("idle was given no time");
    if (i.mock->counters.idles > o.idle_slices) return 0;
    std::this_thread::sleep_for(o.idle_time);
    return i.mock->counters.idles < o.idle_slices ? 1 : 0;
  }

  static void copy_blocks(void* instance, const quire_block_copy* copies, uint32_t count, quire_status* status) {
    Instance& i = of(instance);
    status->code = QUIRE_OK;
    if (faulty(i, i.mock->options.fail_copy_at, ++i.mock->counters.copy_calls, status)) return;
    i.mock->counters.copies += count;
    for (uint32_t a = 0; a < count; ++a)
      for (uint32_t b = 0; b < count; ++b)
        if (copies[a].group == copies[b].group &&
            (copies[a].from == copies[b].to || (a != b && copies[a].to == copies[b].to)))
          i.note("a block is both read and written, or written twice, by one copy");
    queue_copies(i, Kind::copy, copies, count);
  }

  static void swap_out(void* instance, const quire_block_copy* copies, uint32_t count, quire_status* status) {
    Instance& i = of(instance);
    status->code = QUIRE_OK;
    if (faulty(i, i.mock->options.fail_swap_at, i.mock->counters.swapped_out + 1, status)) return;
    i.mock->counters.swapped_out += count;
    queue_copies(i, Kind::swap_out, copies, count);
  }

  static void swap_in(void* instance, const quire_block_copy* copies, uint32_t count, quire_status* status) {
    Instance& i = of(instance);
    status->code = QUIRE_OK;
    if (faulty(i, 0, 1, status)) return;
    i.mock->counters.swapped_in += count;
    queue_copies(i, Kind::swap_in, copies, count);
  }
};

MockBackend::MockBackend(MockOptions o) : options(std::move(o)) {
  for (uint32_t window : options.windows) groups_.push_back({window});
  program_.struct_size = sizeof program_;
  program_.name = "mock";
  program_.kv_groups = groups_.data();
  program_.num_kv_groups = static_cast<uint32_t>(groups_.size());
  program_.kv_group_size = sizeof(quire_kv_group);
  program_.vocab_size = options.vocab_size;
  program_.max_context = options.max_context;

  table_.struct_size = sizeof table_;
  table_.self = this;
  table_.device_count = Verbs::device_count;
  table_.device_info = Verbs::device_info;
  table_.create = Verbs::create;
  table_.destroy = Verbs::destroy;
  table_.memory = Verbs::memory;
  table_.compile = Verbs::compile;
  table_.kv_block_bytes = Verbs::kv_block_bytes;
  table_.kv_create = Verbs::kv_create;
  table_.submit = Verbs::submit;
  table_.sample = Verbs::sample;
  table_.wait = Verbs::wait;
  table_.copy_blocks = Verbs::copy_blocks;
  table_.swap_out = Verbs::swap_out;
  table_.swap_in = Verbs::swap_in;
  if (options.idle_slices != 0) table_.idle = Verbs::idle;
}

MockBackend::~MockBackend() = default;

uint64_t MockBackend::state_of(std::span<const int32_t> tokens) const {
  uint64_t state = 0;
  const auto length = static_cast<uint32_t>(tokens.size());
  for (uint32_t g = 0; g < groups_.size(); ++g) {
    uint32_t from = groups_[g].window && length > groups_[g].window ? length - groups_[g].window : 0;
    if (!options.verify_context) from = length - 1;
    uint64_t before = 0;
    for (uint32_t p = 0; p < length; ++p) {
      before = content(before, tokens[p], p, g);
      if (p >= from) state = fold(state, before);
    }
  }
  return state;
}

std::vector<float> MockBackend::logits_of(std::span<const int32_t> tokens) const {
  std::vector<float> logits(options.vocab_size);
  logits_from(state_of(tokens), logits);
  return logits;
}

int32_t MockBackend::next_token(std::span<const int32_t> tokens) const {
  return static_cast<int32_t>(argmax(logits_of(tokens)));
}

std::vector<int32_t> MockBackend::continuation(std::span<const int32_t> prompt, size_t count,
                                               std::span<const int32_t> ends) const {
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  for (size_t i = 0; i < count; ++i) {
    tokens.push_back(next_token(tokens));
    if (std::find(ends.begin(), ends.end(), tokens.back()) != ends.end()) break;
  }
  return {tokens.begin() + static_cast<std::ptrdiff_t>(prompt.size()), tokens.end()};
}

} // namespace quire::test
