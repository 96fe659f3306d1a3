#include "instance.hpp"

#include "ops/chain_times.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <cstdlib>
#include <cstring>

namespace quire::cuda {

Failure CudaInstance::device_lost() const { return Failure(QUIRE_DEVICE_LOST, *lost_); }

CudaInstance::CudaInstance(const quire_create_options& options)
    : options_(options), cache_dir_(options.cache_dir != nullptr ? options.cache_dir : ""),
      device_(open_device(options.device)) {
  library_.emplace();
  if (library_->available())
    log(QUIRE_LOG_DEBUG, "CUDA: fp16 products by " + library_->description());
  else
    log(QUIRE_LOG_INFO,
        "CUDA: " + library_->description() + "; our own matrix kernel runs, which is slower for prompts");
  if (!kChainTraced && std::getenv("QUIRE_CUDA_TRACE") != nullptr)
    log(QUIRE_LOG_WARNING,
        "CUDA: QUIRE_CUDA_TRACE is set, but chains of this build note no times: configure it with -Dtrace_chains=true");
  load_choices();
}

CudaInstance::~CudaInstance() { ignore(cudaDeviceSynchronize()); }

void CudaInstance::log(int32_t level, const std::string& message) const {
  if (options_.log != nullptr) options_.log(options_.host, level, message.c_str());
}

CudaInstance::Loaded& CudaInstance::loaded(uint32_t program) {
  if (program == 0 || program > programs_.size())
    throw Failure(QUIRE_INVALID, "CUDA: there is no program " + std::to_string(program));
  return programs_[program - 1];
}

KvCache& CudaInstance::kv() {
  if (kv_program_ == 0) throw Failure(QUIRE_INVALID, "CUDA: no KV cache was created");
  return *programs_[kv_program_ - 1].program->kv;
}

quire_memory_info CudaInstance::memory() {
  return verb([&] {
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free memory");
    quire_memory_info info{};
    info.total_bytes = total, info.free_bytes = free;
    for (const Loaded& loaded : programs_) {
      info.weights_bytes += loaded.program->weights.arena.bytes();
      info.scratch_bytes += loaded.program->scratch_bytes() + loaded.step_buffer.bytes();
      if (loaded.program->kv) info.kv_bytes += loaded.program->kv->bytes();
    }
    info.scratch_bytes += sampler_.bytes() + library_->workspace_bytes();
    return info;
  });
}

uint32_t CudaInstance::compile(const quire_program& program, const quire_limits& limits) {
  return verb([&] {
    Progress progress;
    if (options_.progress != nullptr)
      progress = [this](uint64_t done, uint64_t total) { options_.progress(options_.host, done, total); };
    Loaded loaded;
    loaded.program = compile_program(program, limits,
                                     {device_, *library_, choices_, stream_.get(), options_.invariant != 0, progress});
    if (loaded.program->weights.saturated)
      log(QUIRE_LOG_WARNING, "CUDA: some weights are beyond the range of fp16 and were clamped to it");
    loaded.step_bytes = most_step_bytes(loaded.program->step);
    loaded.step_buffer = DeviceBuffer(loaded.step_bytes, "steps");
    for (PinnedBuffer& staging : staging_)
      if (staging.bytes() < loaded.step_bytes) staging = PinnedBuffer(loaded.step_bytes, "steps");
    const int32_t* tokens_before = sampler_.tokens();
    loaded.fetch_slots = PinnedBuffer(kFetchSlots * loaded.fetch_bytes(), "steps");
    loaded.fetch_turn = DeviceBuffer(2 * sizeof(uint32_t), "steps");
    check(cudaMemsetAsync(loaded.fetch_turn.data(), 0, loaded.fetch_turn.bytes(), stream_.get()), "preparing steps");
    sampler_.reserve(std::max(limits.max_rows, limits.max_sequences), program.vocab_size); // a graph's rows, padded
    tuning_.reset();
    programs_.push_back(std::move(loaded));
    if (sampler_.tokens() != tokens_before)
      for (Loaded& other : programs_) capture(other); // the graphs hold the address
    return static_cast<uint32_t>(programs_.size());
  });
}

uint64_t CudaInstance::kv_block_bytes(uint32_t program, uint32_t group) {
  const auto& layouts = loaded(program).program->kv_layouts;
  if (group >= layouts.size()) throw Failure(QUIRE_INVALID, "CUDA: there is no KV group " + std::to_string(group));
  return layouts[group].block_bytes;
}

void CudaInstance::kv_create(const quire_kv_config& config) {
  verb([&] {
    Loaded& target = loaded(config.program);
    CompiledProgram& program = *target.program;
    check(cudaStreamSynchronize(stream_.get()), "waiting for the device");
    program.kv.reset(); // its memory first
    program.kv = std::make_unique<KvCache>(program.kv_layouts, config);
    kv_program_ = config.program;
    capture(target);
  });
}

void CudaInstance::capture(Loaded& target) {
  if (!target.program->kv) return;
  target.graphs.capture_all(*target.program, target.fetch(), sampler_, queue());
}

void CudaInstance::wait_for_swaps_of(const quire_step& step, CompiledProgram& program) {
  if (!program.kv || !program.kv->swapping()) return;
  program.kv->settle();
  if (!program.kv->swapping()) return;
  const uint32_t block_size = program.step.block_size;
  for (uint32_t g = 0; g < program.step.groups; ++g)
    for (uint32_t s = 0; s < step.num_sequences; ++s) {
      const uint32_t* const table = step.tables[g] + step.table_start[s];
      for (uint32_t i = 0; i < (step.seq_len[s] + block_size - 1) / block_size; ++i) // behind them may be any block
        if (table[i] < program.kv->num_blocks(g) && program.kv->is_busy(g, table[i]))
          return program.kv->join_swaps(stream_.get());
    }
}

void CudaInstance::queue_step(const quire_step& step, Loaded& target, bool may_use_graph, Queued& queued) {
  CompiledProgram& program = *target.program;
  Lap lap;
  std::array<uint32_t, QUIRE_MAX_GROUPS> num_blocks{};
  if (program.step.groups != 0) {
    if (!program.kv) throw Failure(QUIRE_INVALID, "CUDA: the program needs a KV cache, and none was created");
    for (uint32_t g = 0; g < program.step.groups; ++g) num_blocks[g] = program.kv->num_blocks(g);
  }
  check_step(step, program.step, num_blocks);
  lap.add(times_.now.check);
  Clusters clusters = clusters_for(step, program.step);
  const bool in_order = rows_in_order(step);
  if (may_use_graph && is_decode(step) && in_order) queued.graph = target.graphs.find(step.num_sequences, clusters);
  if (queued.graph != nullptr) clusters = queued.graph->clusters;
  plan_step(step, program.step, plans_, clusters, queued.graph != nullptr ? queued.graph->shape.tokens : 0);
  if (plans_.has_prefill) queued.graph = nullptr; // in fixed order, whose plans don't depend on the bucket
  lap.add(times_.now.plan);
  const uint64_t ticket = last_ticket_ + 1;
  const StepShape exact = queued.graph == nullptr ? exact_shape(step, plans_) : StepShape{};
  const StepShape& shape = queued.graph != nullptr ? queued.graph->shape : exact;
  if (queued.graph == nullptr) queued.layout = lay_out_step(shape, program.step.groups, program.step.classes);
  const StepLayout& layout = queued.graph != nullptr ? queued.graph->layout : queued.layout;
  const uint64_t entries = step.table_start != nullptr ? step.table_start[step.num_sequences] : 0;
  if (layout.tables + 4 * entries * program.step.groups + 128 > target.step_bytes)
    throw Failure(QUIRE_INVALID, "CUDA: the step's block tables are longer than the context of the limits");

  if (staging_in_doubt_) check(cudaStreamSynchronize(stream_.get()), "waiting for the device");
  std::byte* const staging =
      queued.graph != nullptr ? target.next_slot() + sizeof(FetchHeader) : staging_[ticket % kSlots].data();
  const uint64_t bytes = write_step(step, program.step, plans_, shape, layout, sampler_.row_base(step.token_ticket),
                                    {staging, static_cast<size_t>(target.step_bytes)});
  mark_done();
  wait_for_swaps_of(step, program);
  if (queued.graph != nullptr) {
    const FetchHeader header{static_cast<uint32_t>(bytes), {}};
    std::memcpy(target.next_slot(), &header, sizeof header);
    lap.add(times_.now.write);
    return;
  }
  staging_in_doubt_ = true;
  check(cudaMemcpyAsync(target.step_buffer.data(), staging, bytes, cudaMemcpyHostToDevice, stream_.get()),
        "sending a step");

  StepRun& run = queued.run;
  run.queue = queue();
  run.tokens = step.num_tokens, run.sequences = step.num_sequences, run.rows = step.num_rows;
  run.clusters = clusters;
  run.rows_in_order = in_order;
  run.buffer = target.step_buffer.data();
  run.layout = &layout;
  run.arrays = arrays_at(run.buffer, layout, sampler_.tokens());
  run.plans = &plans_;
}

uint64_t CudaInstance::submit(const quire_step& step) {
  return verb([&] {
    Loaded& target = loaded(step.program);
    if (last_ticket_ - last_waited_ >= 2) throw Failure(QUIRE_INVALID, "CUDA: two tickets are already unwaited");
    if (step.token_rows != nullptr && step.token_ticket != 0 && step.token_ticket != last_ticket_)
      throw Failure(QUIRE_INVALID, "CUDA: tokens can only be taken from the ticket just before");
    times_.now = {};
    Queued queued;
    queue_step(step, target, true, queued);
    if (queued.graph == nullptr) run_program(*target.program, queued.run);
    staging_in_doubt_ = false;
    unmarked_ = ++last_ticket_;
    unlaunched_ = {&target, queued.graph};
    decodes_[last_ticket_ % kSlots] = false;
    sampler_.forget(last_ticket_);
    last_program_ = step.program, last_rows_ = step.num_rows, last_tokens_ = step.num_tokens,
    last_sequences_ = step.num_sequences;
    return last_ticket_;
  });
}

void CudaInstance::launch_decode() {
  const uint64_t slot = last_ticket_ % kSlots;
  if (is_timed(last_ticket_)) begun_[slot].record(stream_.get());
  unlaunched_.graph->graph.launch(stream_.get());
  unlaunched_.target->next_fetch = (unlaunched_.target->next_fetch + 1) % kFetchSlots;
  unlaunched_ = {};
  decodes_[slot] = true;
}

void CudaInstance::launch_unsampled() {
  for (SampleRow& row : unlaunched_.rows()) row.out = kNotSampled;
  launch_decode();
}

void CudaInstance::sample(uint64_t ticket, std::span<const quire_sampling_row> rows) {
  verb_before_launch([&] {
    if (ticket != last_ticket_ || ticket == 0)
      throw Failure(QUIRE_INVALID, "CUDA: only the ticket just submitted can be sampled");
    if (rows.size() != last_rows_)
      throw Failure(QUIRE_INVALID,
                    "CUDA: the ticket has " + std::to_string(last_rows_) + " rows, not " + std::to_string(rows.size()));
    if (rows.empty()) return;
    const CompiledProgram& program = *loaded(last_program_).program;
    Lap lap;
    bool plain = false;
    if (unlaunched_.graph != nullptr) {
      plain = sampler_.pack_plain(ticket, rows, program.data.vocab, unlaunched_.rows());
      lap.add(times_.now.pack);
      launch_decode();
      lap.add(times_.now.launch);
    }
    if (plain) {
      sampler_.sampled_plain(ticket, static_cast<uint32_t>(rows.size()));
    } else {
      const Tensor logits = program.tensor(program.data.outputs[0]);
      sampler_.sample(ticket, rows, static_cast<const float*>(logits.data), program.data.vocab, queue(), times_.now);
    }
    lap = {};
    mark_done();
    lap.add(times_.now.sample);
    if (decodes_[ticket % kSlots]) times_.add_submitted();
  });
}

void CudaInstance::wait(uint64_t ticket, std::span<quire_sampled_row> rows) {
  verb_before_launch([&] {
    if (ticket != last_waited_ + 1 || ticket > last_ticket_)
      throw Failure(QUIRE_INVALID, "CUDA: tickets are waited for in their order, each once");
    if (rows.size() != sampler_.num_rows(ticket))
      throw Failure(QUIRE_INVALID, "CUDA: " + std::to_string(sampler_.num_rows(ticket)) + " rows were sampled, not " +
                                       std::to_string(rows.size()));
    if (unlaunched_.graph != nullptr) {
      try {
        launch_unsampled();
      } catch (const Failure&) {
        if (ticket == last_ticket_) { // its step won't come
          unlaunched_ = {};
          last_waited_ = ticket;
          throw;
        }
      }
    }
    if (unmarked_ == ticket) mark_done();
    const uint64_t slot = ticket % kSlots, before = (ticket - 1) % kSlots;
    done_[slot].wait();
    last_waited_ = ticket;
    Lap lap;
    sampler_.take(ticket, rows);
    if (!decodes_[slot]) return;
    if (is_timed(ticket)) {
      times_.add_run(seconds_between(begun_[slot], done_[slot]));
      if (ticket > 1 && decodes_[before]) times_.add_gap(seconds_between(done_[before], begun_[slot]));
    }
    lap.add(times_.take);
  });
}

void CudaInstance::mark_done() {
  if (unmarked_ == 0) return;
  done_[unmarked_ % kSlots].record(stream_.get());
  unmarked_ = 0;
}

void CudaInstance::copy_blocks(std::span<const quire_block_copy> copies) {
  verb([&] {
    KvCache& cache = kv();
    for (const quire_block_copy& copy : copies)
      if (copy.group >= cache.num_groups() || copy.from >= cache.num_blocks(copy.group) ||
          copy.to >= cache.num_blocks(copy.group))
        throw Failure(QUIRE_INVALID, "CUDA: a copy names a block that isn't there");
    cache.join_swaps(stream_.get());
    cache.copy(copies, stream_.get());
  });
}

void CudaInstance::swap_out(std::span<const quire_block_copy> copies) {
  verb([&] { kv().swap_out(copies, stream_.get()); });
}

void CudaInstance::swap_in(std::span<const quire_block_copy> copies) {
  verb([&] { kv().swap_in(copies, stream_.get()); });
}

void CudaInstance::read_output(uint32_t program, uint32_t index, std::span<std::byte> out) {
  verb([&] {
    const CompiledProgram& compiled = *loaded(program).program;
    if (program != last_program_ || index >= compiled.data.outputs.size())
      throw Failure(QUIRE_INVALID, "CUDA: the last step has no output " + std::to_string(index) + " of program " +
                                       std::to_string(program));
    const uint32_t value = compiled.data.outputs[index], symbol = compiled.data.values[value - 1].rows;
    const uint32_t rows = symbol == QUIRE_TOKENS      ? last_tokens_
                          : symbol == QUIRE_SEQUENCES ? last_sequences_
                                                      : last_rows_;
    const Tensor tensor = compiled.tensor(value);
    if (out.size() != uint64_t{rows} * tensor.width() * 4)
      throw Failure(QUIRE_INVALID, "CUDA: output " + std::to_string(index) + " has " +
                                       std::to_string(uint64_t{rows} * tensor.width() * 4) + " bytes, not " +
                                       std::to_string(out.size()));
    if (out.empty()) return;
    DeviceBuffer plain(out.size(), "an output for the host");
    Tensor to = tensor;
    to.data = plain.data(), to.stride = tensor.width();
    if (to.type == Type::f16) to.type = Type::f32;
    convert({stream_.get(), false}, rows, tensor, to);
    check(cudaMemcpyAsync(out.data(), plain.data(), out.size(), cudaMemcpyDeviceToHost, stream_.get()),
          "bringing an output to the host");
    check(cudaStreamSynchronize(stream_.get()), "bringing an output to the host");
  });
}

} // namespace quire::cuda
