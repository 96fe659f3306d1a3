#include "program.hpp"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <cassert>

namespace quire::vulkan {
namespace {

constexpr uint32_t column_choices[] = {1, 2, 4, 8};
uint32_t columns_for(uint32_t rows) {
  for (const uint32_t columns : column_choices)
    if (rows <= columns) return columns;
  return 8;
}

void check_limits(const quire_program& program, const quire_limits& limits) {
  const auto need = [&](bool good, const std::string& sentence) {
    if (!good)
      throw Failure(QUIRE_INVALID,
                    "limits of program " + std::string(program.name != nullptr ? program.name : "") + ": " + sentence);
  };
  need(limits.max_tokens >= 1 && limits.max_tokens <= 65535,
       "max_tokens is " + std::to_string(limits.max_tokens) + ", has to be 1 to 65535");
  need(limits.max_sequences >= 1 && limits.max_sequences <= 65535,
       "max_sequences is " + std::to_string(limits.max_sequences) + ", has to be 1 to 65535");
  need(limits.max_rows <= max_sampled_rows,
       "max_rows is " + std::to_string(limits.max_rows) + ", has to be at most 65535");
  need(limits.block_size >= 8 && limits.block_size <= 256 && (limits.block_size & (limits.block_size - 1)) == 0,
       "block_size is " + std::to_string(limits.block_size) + ", has to be a power of two from 8 to 256");
  if (limits.kv_format == QUIRE_KV_E4M3)
    throw Failure(QUIRE_UNSUPPORTED, "Vulkan has no f8 KV cache: use --kv-format f16, bf16 or f32, or --backend cuda");
  need(limits.kv_format <= QUIRE_BF16,
       "kv_format is " + std::to_string(limits.kv_format) + ", has to be F32, F16 or BF16");
  need(program.num_kv_groups <= max_groups, "the program has more than " + std::to_string(max_groups) + " KV groups");
  need(program.num_outputs >= 1, "the program has no outputs");
}

} // namespace

Program::Program(Memory& memory, Pipelines& pipelines, const quire_program& program, const quire_limits& limits,
                 const Options& options)
    : memory_(memory), pipelines_(pipelines), shape_(memory.device().traits(), options.texels),
      limits_((check_limits(program, limits), limits)), kv_(program, limits), vocab_(program.vocab_size),
      weights_(memory, shape_.texels ? std::min(memory.largest_buffer(), largest_texel_buffer(memory.device()))
                                     : memory.largest_buffer()) {
  const Units units = plan_units(program, options.fuse, memory.largest_buffer());
  PlanOptions plan_options;
  plan_options.launch_of_op = units.unit_of_op;
  plan_options.unstored = units.unstored;
  const BufferPlan plan = plan_buffers(program, limits, plan_options);
  const WeightHandles handles = add_weights(program, weights_);
  weights_.load(options.progress);
  scratch_ = memory.allocate(plan.peak_bytes, MemoryKind::device, MemoryUse::scratch,
                             "activations (lower the largest step's tokens)");

  // Partial results of attention that is split over its context: at least one long sequence, at most some 64 MiB.
  uint32_t partial_heads = 1, partial_stride = 16;
  for (uint32_t i = 0; i < program.num_ops; ++i) {
    if (program.ops[i].kind != QUIRE_OP_ATTEND) continue;
    const uint32_t layer = program.ops[i].u.attend.kv_layer, heads = program.values[program.ops[i].in[0] - 1].heads;
    partial_heads = std::max(partial_heads, heads);
    partial_stride = std::max(partial_stride, kv_.layers[layer].v_row + 2);
    const AttendShape shape = attend_shape(shape_, heads, program.kv_layers[layer].kv_heads, kv_.layers[layer].v_row);
    attend_width_ = std::max(attend_width_, program.kv_layers[layer].kv_heads * shape.head_tiles);
    tile_tokens_ = tile_tokens_ == 0 ? shape.tile_tokens : std::min(tile_tokens_, shape.tile_tokens);
  }
  const uint64_t per_sequence = uint64_t{limits.max_context} / segment_tokens + 2;
  const uint64_t partial_bytes = uint64_t{partial_heads} * partial_stride * 4;
  // Where an item can't have a whole context, every token of a step may have to be split.
  const uint64_t needed = per_sequence > shape_.max_segments
                              ? std::min(per_sequence * limits.max_tokens, (uint64_t{1} << 30) / partial_bytes)
                              : per_sequence;
  max_partials_ = static_cast<uint32_t>(
      std::max(needed, std::min(per_sequence * limits.max_sequences, (uint64_t{64} << 20) / partial_bytes)));
  partials_ = memory.allocate(max_partials_ * partial_bytes, MemoryKind::device, MemoryUse::scratch,
                              "partial results of attention");

  dispatches_ = lower({program, limits, units, plan, kv_, shape_, weights_, handles, scratch_.address(),
                       partials_.address(), partial_stride});
  work_ = work_of(program, limits);
  for (uint32_t i = 0; i < program.num_outputs; ++i) {
    const quire_value& value = program.values[program.outputs[i].value - 1];
    const ValuePlace& place = plan[program.outputs[i].value];
    outputs_.push_back(
        {scratch_.address() + place.offset, place.offset, place.row_stride, value.heads * value.dim, value.rows});
  }

  // Parameters: a stretch a dispatch. The last one's stretch is read to its full size.
  const VkDeviceSize alignment = memory.device().traits().properties.limits.minUniformBufferOffsetAlignment;
  parameter_stride_ = static_cast<uint32_t>(align_up(parameter_bytes, std::max<uint64_t>(alignment, 16)));
  std::vector<std::byte> parameters(dispatches_.size() * parameter_stride_);
  for (std::size_t i = 0; i < dispatches_.size(); ++i) {
    assert(dispatches_[i].parameters.size() <= parameter_bytes);
    std::copy(dispatches_[i].parameters.begin(), dispatches_[i].parameters.end(),
              parameters.begin() + static_cast<std::ptrdiff_t>(i * parameter_stride_));
  }
  parameters_ = memory.allocate(parameters.size(), MemoryKind::device, MemoryUse::scratch, "parameters");
  memory.write(parameters_, 0, parameters.data(), parameters.size());

  // Grids: every distinct one that some bucket may need.
  for (const Dispatch& dispatch : dispatches_)
    for (const uint32_t columns : column_choices) {
      Bucket bucket;
      bucket.token_columns = bucket.row_columns = columns;
      const Grid grid = grid_of(dispatch, bucket);
      if (std::find(grids_.begin(), grids_.end(), grid) == grids_.end()) grids_.push_back(grid);
    }
  const uint64_t step_size = sizeof(StepBlock) + grids_.size() * sizeof(VkDispatchIndirectCommand);
  if (step_size > 65536)
    throw Failure(QUIRE_UNSUPPORTED, "the program has too many distinct shapes for the Vulkan backend");
  step_ = memory.allocate(step_size, MemoryKind::device, MemoryUse::scratch, "the step");
  set_ = pipelines_.describe(parameters_.handle(), step_.handle(), sizeof(StepBlock));
  if (shape_.texels)
    for (const Buffer& buffer : weights_.buffers())
      texels_.push_back(std::make_unique<TexelViews>(memory.device(), pipelines.texel_layout(), scratch_, buffer));
  warm_up();
}

Program::~Program() {
  for (const auto& [bucket, commands] : commands_) memory_.device().free_commands(commands);
}

Bucket Program::bucket_of(const StepSizes& sizes) const {
  Bucket bucket;
  bucket.token_columns = columns_for(sizes.counts[count_tokens]);
  bucket.row_columns = columns_for(std::max(sizes.counts[count_rows], sizes.counts[count_sequences]));
  for (uint32_t group = 0; group < max_groups; ++group) {
    bucket.items |= sizes.items[group] != 0;
    bucket.tile_items |= sizes.tile_items[group] != 0;
    bucket.combines |= sizes.combines[group] != 0;
  }
  return bucket;
}

bool Program::included(const Dispatch& dispatch, const Bucket& bucket) const {
  return dispatch.needs == Needs::nothing || (dispatch.needs == Needs::items && bucket.items) ||
         (dispatch.needs == Needs::tile_items && bucket.tile_items) ||
         (dispatch.needs == Needs::combines && bucket.combines);
}

uint32_t Program::columns_of(const Dispatch& dispatch, const Bucket& bucket) const {
  return dispatch.columns_count == count_tokens ? bucket.token_columns : bucket.row_columns;
}

Grid Program::grid_of(const Dispatch& dispatch, const Bucket& bucket) const {
  Grid grid = dispatch.grid;
  if (dispatch.columns_constant >= 0) grid.x.value = columns_of(dispatch, bucket);
  return grid;
}

VkPipeline Program::pipeline_of(const Dispatch& dispatch, const Bucket& bucket) {
  if (dispatch.columns_constant < 0) return pipelines_.get(dispatch.shader, dispatch.workgroup, dispatch.constants);
  // A linear: row_lanes, sets, cols, splits, broadcast, shared_floats.
  std::vector<uint32_t> constants = dispatch.constants;
  const uint32_t columns = columns_of(dispatch, bucket);
  constants[static_cast<std::size_t>(dispatch.columns_constant)] = columns;
  uint32_t workgroup = dispatch.workgroup;
  // On a CPU a lane has panel_rows / row_lanes rows of each set: fewer where there are many sums to keep.
  if (shape_.cpu && dispatch.gated && columns >= 4 && constants[0] * 2 <= panel_rows) {
    constants[0] *= 2;
    workgroup *= 2;
  }
  const uint32_t sums = constants[1] * (panel_rows / constants[0]) * columns;
  if (constants[3] > 1) constants[5] = constants[3] * sums * constants[0];
  return pipelines_.get(dispatch.shader, workgroup, constants);
}

std::vector<std::byte> Program::step_bytes(const StepBlock& block, const StepSizes& sizes, const Bucket&) const {
  std::vector<std::byte> bytes(sizeof block + grids_.size() * sizeof(VkDispatchIndirectCommand));
  std::memcpy(bytes.data(), &block, sizeof block);
  for (std::size_t i = 0; i < grids_.size(); ++i) {
    const VkDispatchIndirectCommand groups{grids_[i].x.groups(sizes), grids_[i].y.groups(sizes), 1};
    std::memcpy(bytes.data() + sizeof block + i * sizeof groups, &groups, sizeof groups);
  }
  return bytes;
}

VkCommandBuffer Program::commands(const Bucket& bucket) {
  if (const auto found = commands_.find(bucket); found != commands_.end()) return found->second;
  const VolkDeviceTable& vk = memory_.device().vk();
  const VkCommandBuffer commands = memory_.device().allocate_commands();
  commands_.emplace(bucket, commands);
  try {
    // Two steps of one bucket may be queued at a time.
    VkCommandBufferBeginInfo begin{VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    begin.flags = VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT;
    check(vk.vkBeginCommandBuffer(commands, &begin), "recording a program");
    record(commands, bucket);
    check(vk.vkEndCommandBuffer(commands), "recording a program");
  } catch (...) {
    commands_.erase(bucket);
    memory_.device().free_commands(commands);
    throw;
  }
  return commands;
}

bool Program::record_dispatch(VkCommandBuffer commands, const Bucket& bucket, std::size_t index) {
  const Dispatch& dispatch = dispatches_[index];
  if (!included(dispatch, bucket)) return false;
  const VolkDeviceTable& vk = memory_.device().vk();
  const auto grid = std::find(grids_.begin(), grids_.end(), grid_of(dispatch, bucket)) - grids_.begin();
  vk.vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline_of(dispatch, bucket));
  const auto offset = static_cast<uint32_t>(index * parameter_stride_);
  vk.vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipelines_.layout(), 0, 1, &set_, 1, &offset);
  if (dispatch.texels >= 0) {
    const VkDescriptorSet set = texels_[static_cast<std::size_t>(dispatch.texels)]->set();
    vk.vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipelines_.layout(), 1, 1, &set, 0, nullptr);
  }
  vk.vkCmdDispatchIndirect(commands, step_.handle(),
                           sizeof(StepBlock) + static_cast<uint64_t>(grid) * sizeof(VkDispatchIndirectCommand));
  return true;
}

void Program::record(VkCommandBuffer commands, const Bucket& bucket) {
  const VolkDeviceTable& vk = memory_.device().vk();
  struct Open { // since the last barrier
    Access access;
    std::size_t dispatch;
  };
  std::vector<Open> open;
  for (std::size_t i = 0; i < dispatches_.size(); ++i) {
    const Dispatch& dispatch = dispatches_[i];
    if (!included(dispatch, bucket)) continue;
    // Dispatches of one unit may write one output side by side: parts of a linear, the two kinds of attention's items.
    const auto beside = [&](std::size_t other) {
      return !dispatch.ops.empty() && dispatches_[other].ops == dispatch.ops &&
             (dispatch.columns_constant >= 0 || dispatch.needs == Needs::items);
    };
    const bool hazard = std::any_of(dispatch.accesses.begin(), dispatch.accesses.end(), [&](const Access& own) {
      return std::any_of(open.begin(), open.end(), [&](const Open& other) {
        return (own.write || other.access.write) && own.begin < other.access.end && other.access.begin < own.end &&
               !beside(other.dispatch);
      });
    });
    if (hazard) {
      VkMemoryBarrier barrier{VK_STRUCTURE_TYPE_MEMORY_BARRIER};
      barrier.srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT;
      barrier.dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT;
      vk.vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT, 0,
                              1, &barrier, 0, nullptr, 0, nullptr);
      open.clear();
    }
    for (const Access& access : dispatch.accesses) open.push_back({access, i});
    record_dispatch(commands, bucket, i);
  }
  full_barrier(vk, commands);
}

void Program::warm_up() {
  // Builds the pipelines of the smallest and the largest bucket, so that a first request does not wait for them.
  for (const uint32_t columns : {1u, 8u}) {
    Bucket bucket;
    bucket.token_columns = bucket.row_columns = columns;
    bucket.items = bucket.combines = bucket.tile_items = true;
    for (const Dispatch& dispatch : dispatches_) pipeline_of(dispatch, bucket);
  }
}

} // namespace quire::vulkan
