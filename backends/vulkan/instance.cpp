#include "instance.hpp"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <cstring>
#include <thread>

namespace quire::vulkan {

VulkanInstance::VulkanInstance(const InstanceOptions& options)
    : progress_(options.progress), fuse_(options.fuse), texels_(options.texels),
      device_(std::make_unique<Device>(options.device)), memory_(std::make_unique<Memory>(*device_)),
      pipelines_(std::make_unique<Pipelines>(*device_, options.cache_dir)) {
  if (options.largest_buffer != 0)
    memory_->set_largest_buffer(std::min(options.largest_buffer, memory_->largest_buffer()));
  sample_scratch_ = std::make_unique<SampleScratch>(*memory_, *pipelines_);
  sampled_ =
      memory_->allocate(uint64_t{2} * max_sampled_rows * 4, MemoryKind::device, MemoryUse::scratch, "sampled tokens");
  for (Slot& slot : slots_) {
    slot.arrays.emplace(*memory_);
    slot.sampling.emplace(*memory_, *pipelines_);
    slot.upload = device_->allocate_commands();
    slot.sample = device_->allocate_commands();
  }
}

VulkanInstance::~VulkanInstance() {
  try {
    if (!device_->lost()) device_->wait_all();
  } catch (...) { // a hung device can't be waited for; the driver cleans up behind it
  }
}

VulkanInstance::Compiled& VulkanInstance::compiled(uint32_t program) {
  if (program == 0 || program > programs_.size())
    throw Failure(QUIRE_INVALID, "there is no program " + std::to_string(program) + ": " +
                                     std::to_string(programs_.size()) + " were compiled, counted from 1");
  return programs_[program - 1];
}

// Work units that keep all of the device busy.
uint32_t VulkanInstance::parallel() const {
  return device_->traits().cpu ? 4 * std::max(1u, std::thread::hardware_concurrency()) : 1024;
}

quire_memory_info VulkanInstance::memory() {
  quire_memory_info info{};
  device_memory(device_->physical(), device_->traits(), info.total_bytes, info.free_bytes);
  info.weights_bytes = memory_->used(MemoryUse::weights);
  info.kv_bytes = memory_->used(MemoryUse::kv);
  info.scratch_bytes = memory_->used(MemoryUse::scratch);
  if (!device_->traits().memory_budget) {
    const uint64_t used = info.weights_bytes + info.kv_bytes + info.scratch_bytes;
    info.free_bytes = info.total_bytes > used ? info.total_bytes - used : 0;
  }
  return info;
}

uint32_t VulkanInstance::compile(const quire_program& program, const quire_limits& limits) {
  device_->check_usable();
  auto made =
      std::make_unique<Program>(*memory_, *pipelines_, program, limits, Program::Options{fuse_, texels_, progress_});
  programs_.push_back({std::move(made), nullptr});
  pipelines_->save();
  return static_cast<uint32_t>(programs_.size());
}

uint64_t VulkanInstance::kv_block_bytes(uint32_t program, uint32_t group) {
  const KvLayout& kv = compiled(program).program->kv();
  if (group >= kv.block_bytes.size())
    throw Failure(QUIRE_INVALID, "program " + std::to_string(program) + " has no KV group " + std::to_string(group));
  return kv.block_bytes[group];
}

void VulkanInstance::kv_create(const quire_kv_config& config) {
  Compiled& own = compiled(config.program);
  if (submitted_ != waited_) throw Failure(QUIRE_INVALID, "kv_create: wait for the steps in flight first");
  device_->wait_all();
  own.pool = std::make_unique<KvPool>(*memory_, own.program->kv(), config);
}

void VulkanInstance::begin(VkCommandBuffer commands) {
  VkCommandBufferBeginInfo begin{VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
  check(device_->vk().vkBeginCommandBuffer(commands, &begin), "recording a step");
}

Bucket VulkanInstance::prepare(const quire_step& step, Compiled& own, Slot& slot, uint64_t ticket) {
  StepBlock block;
  slot.arrays->fill(step, *own.program, own.pool.get(), parallel(), block, slot.sizes);
  block.header.parity = static_cast<uint32_t>(ticket % 2);
  block.header.previous = sampled_.address() + (ticket + 1) % 2 * uint64_t{max_sampled_rows} * 4;
  const Bucket bucket = own.program->bucket_of(slot.sizes);
  const std::vector<std::byte> bytes = own.program->step_bytes(block, slot.sizes, bucket);
  begin(slot.upload);
  full_barrier(device_->vk(), slot.upload); // the step before reads what is now written
  device_->vk().vkCmdUpdateBuffer(slot.upload, own.program->step_buffer().handle(), 0, bytes.size(), bytes.data());
  slot.arrays->record_upload(slot.upload);
  full_barrier(device_->vk(), slot.upload);
  check(device_->vk().vkEndCommandBuffer(slot.upload), "recording a step");
  return bucket;
}

uint64_t VulkanInstance::submit(const quire_step& step) {
  device_->check_usable();
  Compiled& own = compiled(step.program);
  if (submitted_ - waited_ >= 2) throw Failure(QUIRE_INVALID, "submit: two steps are in flight: wait for one first");
  check_step(step, *own.program, own.pool.get());
  if (step.token_rows != nullptr) {
    const bool any =
        std::any_of(step.token_rows, step.token_rows + step.num_tokens, [](uint32_t row) { return row != 0; });
    if (any && (step.token_ticket != submitted_ || submitted_ == 0))
      throw Failure(QUIRE_INVALID, "step: token_ticket is " + std::to_string(step.token_ticket) +
                                       ", but the step before is ticket " + std::to_string(submitted_));
    for (uint32_t t = 0; t < step.num_tokens; ++t)
      if (step.token_rows[t] > sampled_rows_)
        throw Failure(QUIRE_INVALID, "step: token_rows[" + std::to_string(t) + "] is " +
                                         std::to_string(step.token_rows[t]) + ", but the step before sampled " +
                                         std::to_string(sampled_rows_) + " rows");
  }
  const uint64_t ticket = submitted_ + 1;
  Slot& slot = slot_of(ticket);
  const Bucket bucket = prepare(step, own, slot, ticket);
  const VkCommandBuffer buffers[2] = {slot.upload, own.program->commands(bucket)};
  slot.point = device_->submit(buffers);
  slot.ticket = ticket;
  slot.program = step.program;
  slot.rows = step.num_rows;
  slot.sampled = false;
  previous_rows_ = sampled_rows_;
  sampled_rows_ = 0;
  return submitted_ = ticket;
}

void VulkanInstance::sample(uint64_t ticket, std::span<const quire_sampling_row> rows) {
  device_->check_usable();
  Slot& slot = slot_of(ticket);
  if (ticket == 0 || ticket != submitted_ || slot.ticket != ticket || slot.sampled)
    throw Failure(QUIRE_INVALID, "sample: ticket " + std::to_string(ticket) + " is not the one just submitted (" +
                                     std::to_string(submitted_) + "), or was sampled already");
  if (rows.size() != slot.rows)
    throw Failure(QUIRE_INVALID, "sample: " + std::to_string(rows.size()) + " rows are given, the step has " +
                                     std::to_string(slot.rows));
  const Program& program = *compiled(slot.program).program;
  const Program::Output& logits = program.outputs()[0];
  const uint64_t row_bytes = uint64_t{max_sampled_rows} * 4;
  SampleSource source;
  source.logits = logits.data;
  source.buffer = program.scratch().handle();
  source.buffer_offset = logits.offset;
  source.stride = logits.stride;
  source.vocab = program.vocab();
  source.sampled = sampled_.address() + ticket % 2 * row_bytes;
  source.previous = sampled_.address() + (ticket + 1) % 2 * row_bytes;
  source.previous_rows = previous_rows_;
  const SampleBatch batch(rows, source);
  if (!rows.empty()) {
    begin(slot.sample);
    slot.sampling->record(slot.sample, *sample_scratch_, batch, source);
    check(device_->vk().vkEndCommandBuffer(slot.sample), "recording sampling");
    slot.point = device_->submit({&slot.sample, 1});
  }
  slot.sampled = true;
  sampled_rows_ = slot.rows;
}

void VulkanInstance::wait(uint64_t ticket, std::span<quire_sampled_row> rows) {
  device_->check_usable();
  Slot& slot = slot_of(ticket);
  if (ticket != waited_ + 1 || ticket > submitted_ || slot.ticket != ticket)
    throw Failure(QUIRE_INVALID, "wait: ticket " + std::to_string(ticket) + " is not the next to wait for (" +
                                     std::to_string(waited_ + 1) + " of " + std::to_string(submitted_) + ")");
  if (rows.size() != (slot.sampled ? slot.rows : 0))
    throw Failure(QUIRE_INVALID, "wait: room for " + std::to_string(rows.size()) + " rows, the ticket has " +
                                     std::to_string(slot.sampled ? slot.rows : 0));
  device_->wait(slot.point);
  waited_ = ticket;
  slot.ticket = 0;
  if (!rows.empty()) slot.sampling->take(rows);
}

void VulkanInstance::move_blocks(KvPool::Direction direction, std::span<const quire_block_copy> copies) {
  device_->check_usable();
  if (copies.empty()) return;
  Compiled* own = nullptr; // the last program that has a cache: targets and drafts keep their own block ids
  for (Compiled& one : programs_)
    if (one.pool) own = &one;
  if (own == nullptr) throw Failure(QUIRE_INVALID, "there is no KV cache to copy blocks of: call kv_create");
  own->pool->check(direction, copies);
  // Command buffers of copies that are done are used again.
  VkCommandBuffer commands = VK_NULL_HANDLE;
  for (Moving& one : moving_)
    if (commands == VK_NULL_HANDLE && one.point <= device_->completed()) {
      commands = one.commands;
      one.point = device_->submitted() + 1;
    }
  if (commands == VK_NULL_HANDLE) {
    commands = device_->allocate_commands();
    moving_.push_back({device_->submitted() + 1, commands});
  }
  begin(commands);
  full_barrier(device_->vk(), commands);
  own->pool->record(commands, direction, copies);
  full_barrier(device_->vk(), commands);
  check(device_->vk().vkEndCommandBuffer(commands), "recording block copies");
  device_->submit({&commands, 1});
}

void VulkanInstance::copy_blocks(std::span<const quire_block_copy> copies) {
  move_blocks(KvPool::Direction::device_to_device, copies);
}
void VulkanInstance::swap_out(std::span<const quire_block_copy> copies) {
  move_blocks(KvPool::Direction::device_to_host, copies);
}
void VulkanInstance::swap_in(std::span<const quire_block_copy> copies) {
  move_blocks(KvPool::Direction::host_to_device, copies);
}

void VulkanInstance::read_output(uint32_t program, uint32_t index, std::span<std::byte> out) {
  device_->check_usable();
  const Program& own = *compiled(program).program;
  if (index >= own.outputs().size())
    throw Failure(QUIRE_INVALID, "program " + std::to_string(program) + " has no output " + std::to_string(index));
  const Slot& slot = slot_of(waited_);
  if (waited_ == 0 || waited_ != submitted_ || slot.program != program)
    throw Failure(QUIRE_INVALID,
                  "read_output: the last step waited for has to be of this program, and no other submitted since");
  const Program::Output& output = own.outputs()[index];
  const uint32_t rows = slot.sizes.counts[output.rows];
  if (out.size() != uint64_t{rows} * output.columns * 4)
    throw Failure(QUIRE_INVALID, "read_output: " + std::to_string(out.size()) + " bytes are given, the output has " +
                                     std::to_string(uint64_t{rows} * output.columns * 4));
  if (output.stride == output.columns) {
    memory_->read(own.scratch(), output.offset, out.data(), out.size());
    return;
  }
  for (uint32_t row = 0; row < rows; ++row)
    memory_->read(own.scratch(), output.offset + uint64_t{row} * output.stride * 4,
                  out.data() + uint64_t{row} * output.columns * 4, uint64_t{output.columns} * 4);
}

} // namespace quire::vulkan
