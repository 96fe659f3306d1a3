#include "reference/instance.hpp"

#include "reference/ops.hpp"

#include <algorithm>
#include <cstring>
#include <unistd.h>
#include <utility>

namespace quire::reference {
namespace {

[[noreturn]] void fail(const std::string& sentence) { throw Failure(QUIRE_INVALID, sentence); }

unsigned threads_of(const quire_create_options& options) {
  const unsigned all = std::max(1u, std::thread::hardware_concurrency());
  return options.num_threads == 0 ? all : std::min(options.num_threads, 256u);
}

// A single rank can carry out a collective only if it is the identity.
void check_collectives(const quire_program& program) {
  for (uint32_t i = 0; i < program.num_ops; ++i) {
    const quire_op& op = program.ops[i];
    if (op.kind != QUIRE_OP_COLLECTIVE) continue;
    const quire_value &in = program.values[op.in[0] - 1], &out = program.values[op.out[0] - 1];
    if (in.heads * in.dim != out.heads * out.dim || in.rows != out.rows)
      throw Failure(QUIRE_UNSUPPORTED, "op " + std::to_string(i) +
                                           " (collective) changes its shape over ranks, but the reference "
                                           "backend is a single rank: run the program of one rank");
  }
}

} // namespace

ReferenceInstance::ReferenceInstance(const quire_create_options& options)
    : pool_(threads_of(options)), sample_scratch_(pool_.num_threads()) {}

ReferenceInstance::Loaded& ReferenceInstance::loaded(uint32_t program) {
  if (program == 0 || program > programs_.size())
    fail("program " + std::to_string(program) + " was not compiled; there are " + std::to_string(programs_.size()));
  return *programs_[program - 1];
}

quire_memory_info ReferenceInstance::memory() {
  quire_memory_info info{};
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  info.total_bytes = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * page;
  info.free_bytes = static_cast<uint64_t>(sysconf(_SC_AVPHYS_PAGES)) * page;
  for (const auto& loaded : programs_) {
    info.weights_bytes += loaded->program.weights_bytes();
    info.scratch_bytes += loaded->program.scratch_bytes();
    if (loaded->kv) info.kv_bytes += loaded->kv->bytes();
  }
  return info;
}

uint32_t ReferenceInstance::compile(const quire_program& program, const quire_limits& limits) {
  check_collectives(program);
  programs_.push_back(std::make_unique<Loaded>(Loaded{CompiledProgram(program, limits, pool_.num_threads()), nullptr}));
  return static_cast<uint32_t>(programs_.size());
}

uint64_t ReferenceInstance::kv_block_bytes(uint32_t program, uint32_t group) {
  const CompiledProgram& compiled = loaded(program).program;
  if (group >= compiled.kv_groups().size())
    fail("KV group " + std::to_string(group) + " of a program with " + std::to_string(compiled.kv_groups().size()));
  return reference::kv_block_bytes(compiled, group);
}

void ReferenceInstance::kv_create(const quire_kv_config& config) {
  Loaded& target = loaded(config.program);
  auto kv = std::make_unique<KvCache>(target.program, config);
  queue_.wait_all();
  target.kv = std::move(kv);
}

void ReferenceInstance::check_step(const quire_step& step, Step& into, uint32_t previous_rows) {
  const Loaded& target = loaded(step.program);
  into.assign(step, target.program, target.kv ? target.kv->num_blocks() : std::vector<uint32_t>{}, previous_rows);
}

uint64_t ReferenceInstance::submit(const quire_step& step) {
  if (submitted_ - waited_ >= 2)
    fail("two tickets are unwaited already: wait for ticket " + std::to_string(waited_ + 1));
  const uint64_t ticket = submitted_ + 1;
  const bool feeds = step.token_rows &&
                     std::any_of(step.token_rows, step.token_rows + step.num_tokens, [](uint32_t r) { return r != 0; });
  if (feeds && (step.token_ticket != submitted_ || submitted_ == 0))
    fail("the step feeds from ticket " + std::to_string(step.token_ticket) + ", expected the one just before, " +
         std::to_string(submitted_));
  Slot& target = slot(ticket);
  check_step(step, target.step, feeds ? slot(submitted_).num_sampled : 0);
  target.has_sampling = false;
  target.num_sampled = 0;
  target.last_job = queue_.push([this, ticket] { run_step(ticket); });
  newest_program_ = step.program;
  return submitted_ = ticket;
}

void ReferenceInstance::sample(uint64_t ticket, std::span<const quire_sampling_row> rows) {
  if (ticket == 0 || ticket != submitted_ || ticket == waited_)
    fail("ticket " + std::to_string(ticket) + " is not the one just submitted, " + std::to_string(submitted_));
  Slot& target = slot(ticket);
  if (target.has_sampling) fail("ticket " + std::to_string(ticket) + " is being sampled already");
  if (rows.size() != target.step.rows.size())
    fail("ticket " + std::to_string(ticket) + " has " + std::to_string(target.step.rows.size()) +
         " rows to sample, not " + std::to_string(rows.size()));
  const uint32_t vocab = loaded(target.step.program).program.vocab_size();
  target.sampling.resize(std::max(target.sampling.size(), rows.size()));
  target.sampled.resize(std::max(target.sampled.size(), rows.size()));
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].pending_row != 0 && (ticket < 2 || rows[r].pending_row > slot(ticket - 1).num_sampled))
      fail("sampling row " + std::to_string(r) + " counts row " + std::to_string(rows[r].pending_row) +
           " of the step before, which sampled " + std::to_string(ticket < 2 ? 0 : slot(ticket - 1).num_sampled));
    target.sampling[r].assign(rows[r], vocab);
  }
  target.num_sampled = static_cast<uint32_t>(rows.size());
  target.has_sampling = true;
  target.last_job = queue_.push([this, ticket] { run_sampling(ticket); });
}

void ReferenceInstance::wait(uint64_t ticket, std::span<quire_sampled_row> rows) {
  if (ticket != waited_ + 1 || ticket > submitted_)
    fail("ticket " + std::to_string(ticket) + " can't be waited for: the next in order is " +
         std::to_string(waited_ + 1));
  Slot& target = slot(ticket);
  if (rows.size() != target.num_sampled)
    fail("ticket " + std::to_string(ticket) + " has " + std::to_string(target.num_sampled) + " sampled rows, not " +
         std::to_string(rows.size()));
  queue_.wait(target.last_job);
  waited_ = ticket;
  for (size_t r = 0; r < rows.size(); ++r) {
    const SampledRow& from = target.sampled[r];
    rows[r].token = from.token;
    rows[r].logprob = from.logprob;
    const size_t capacity = rows[r].candidates ? rows[r].num_candidates : 0;
    rows[r].num_candidates = static_cast<uint32_t>(std::min(capacity, from.candidates.size()));
    std::copy_n(from.candidates.begin(), rows[r].num_candidates, rows[r].candidates);
  }
}

void ReferenceInstance::run_op(const Loaded& target, const Step& step, size_t index) {
  const quire_op& op = target.program.ops()[index];
  op_function(op.kind)(OpRun{op, target.program, step, pool_, target.kv.get()});
}

void ReferenceInstance::run_step(uint64_t ticket) {
  Step& step = slot(ticket).step;
  for (size_t t = 0; t < step.token_rows.size(); ++t)
    if (step.token_rows[t] != 0) step.tokens[t] = std::max(0, slot(ticket - 1).sampled[step.token_rows[t] - 1].token);
  const Loaded& target = *programs_[step.program - 1];
  for (size_t i = 0; i < target.program.ops().size(); ++i) run_op(target, step, i);
}

void ReferenceInstance::run_sampling(uint64_t ticket) {
  Slot& target = slot(ticket);
  const CompiledProgram& program = programs_[target.step.program - 1]->program;
  const ValuePlace& place = program.place(program.outputs()[0]);
  const auto* logits = reinterpret_cast<const float*>(program.scratch() + place.offset); // [R, vocab]
  pool_.run(target.num_sampled, [&](size_t r, unsigned worker) {
    const SamplingRow& row = target.sampling[r];
    const std::span<const float> l(logits + r * place.row_stride, program.vocab_size());
    const uint32_t pending = row.parameters.pending_row;
    const int32_t pending_token = pending ? slot(ticket - 1).sampled[pending - 1].token : -1;
    sample_row(l, row, pending_token, sample_scratch_[worker], target.sampled[r]);
    if (row.parameters.logits) std::copy(l.begin(), l.end(), row.parameters.logits);
  });
}

void ReferenceInstance::queue_copies(std::span<const quire_block_copy> copies, CopyVerb verb, bool from_host,
                                     bool to_host, const char* name) {
  // A block id belongs to one program's cache; the target's, where there are several.
  if (copies.empty()) return;
  const auto with_cache =
      std::find_if(programs_.begin(), programs_.end(), [](const auto& p) { return p->kv != nullptr; });
  if (with_cache == programs_.end()) fail(std::string(name) + ": there is no KV cache: call kv_create first");
  KvCache* kv = (*with_cache)->kv.get();
  std::vector<std::pair<uint32_t, uint32_t>> read, written; // (group, block)
  for (const quire_block_copy& c : copies) {
    const auto& from = from_host ? kv->host_blocks() : kv->num_blocks();
    const auto& to = to_host ? kv->host_blocks() : kv->num_blocks();
    if (c.group >= from.size() || c.from >= from[c.group] || c.to >= to[c.group])
      fail(std::string(name) + " names block " + std::to_string(c.from) + " to " + std::to_string(c.to) +
           " of KV group " + std::to_string(c.group) + ", which the cache does not have");
    read.emplace_back(c.group, c.from);
    written.emplace_back(c.group, c.to);
  }
  std::sort(written.begin(), written.end());
  if (std::adjacent_find(written.begin(), written.end()) != written.end())
    fail(std::string(name) + " writes a block twice");
  if (from_host == to_host)
    for (const auto& block : read)
      if (std::binary_search(written.begin(), written.end(), block))
        fail(std::string(name) + " both reads and writes a block");
  queue_.push([kv, verb, owned = std::vector<quire_block_copy>(copies.begin(), copies.end())] { (kv->*verb)(owned); });
}

void ReferenceInstance::copy_blocks(std::span<const quire_block_copy> copies) {
  queue_copies(copies, &KvCache::copy, false, false, "copy_blocks");
}
void ReferenceInstance::swap_out(std::span<const quire_block_copy> copies) {
  queue_copies(copies, &KvCache::swap_out, false, true, "swap_out");
}
void ReferenceInstance::swap_in(std::span<const quire_block_copy> copies) {
  queue_copies(copies, &KvCache::swap_in, true, false, "swap_in");
}

void ReferenceInstance::read_output(uint32_t program, uint32_t index, std::span<std::byte> out) {
  const CompiledProgram& compiled = loaded(program).program;
  if (submitted_ == 0 || waited_ != submitted_ || newest_program_ != program)
    fail("outputs can be read only of the last step submitted, once it was waited for");
  if (index >= compiled.outputs().size())
    fail("output " + std::to_string(index) + " of a program with " + std::to_string(compiled.outputs().size()));
  const uint32_t id = compiled.outputs()[index];
  const quire_value& value = compiled.value(id);
  const ValuePlace& place = compiled.place(id);
  const uint64_t rows = slot(submitted_).step.count_of(value.rows),
                 row_bytes = uint64_t{value.heads} * value.dim * sizeof(float);
  if (out.size() != rows * row_bytes)
    fail("output " + std::to_string(index) + " has " + std::to_string(rows * row_bytes) + " bytes, not " +
         std::to_string(out.size()));
  const std::byte* from = compiled.scratch() + place.offset;
  for (uint64_t r = 0; r < rows; ++r)
    std::memcpy(out.data() + r * row_bytes, from + r * place.row_stride * sizeof(float), row_bytes);
}

} // namespace quire::reference
