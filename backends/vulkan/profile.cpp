#include "profile.hpp"

#include "instance.hpp"
#include "repack.hpp"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

namespace quire::vulkan {

std::vector<OpWork> work_of(const quire_program& program, const quire_limits& limits) {
  const auto width = [&](uint32_t id) -> uint64_t {
    return id == 0 ? 0 : uint64_t{program.values[id - 1].heads} * program.values[id - 1].dim;
  };
  const auto weight = [&](uint32_t id) -> const quire_weight& { return program.weights[id - 1]; };
  const uint64_t kv_bytes = limits.kv_format == QUIRE_F32 ? 4 : 2;
  std::vector<OpWork> works;
  for (uint32_t i = 0; i < program.num_ops; ++i) {
    const quire_op& op = program.ops[i];
    OpWork work;
    work.count = op.out[0] != 0 ? program.values[op.out[0] - 1].rows : uint32_t{QUIRE_TOKENS};
    for (const uint32_t id : op.in) work.row_bytes += width(id) * 4;
    for (const uint32_t id : op.out) work.row_bytes += width(id) * 4;
    work.row_flops = width(op.out[0]);
    switch (op.kind) {
    case QUIRE_OP_EMBED:
      work.row_bytes += file_bytes(weight(op.u.embed.table)) / std::max<uint64_t>(weight(op.u.embed.table).rows, 1);
      break;
    case QUIRE_OP_LINEAR:
      work.row_flops = 0;
      for (const uint32_t id : op.u.linear.weights)
        if (id != 0) {
          work.fixed_bytes += file_bytes(weight(id));
          work.row_flops += 2 * weight(id).rows * weight(id).cols;
        }
      break;
    case QUIRE_OP_EXPERT_LINEAR: {
      const quire_weight& own = weight(op.u.expert_linear.weight);
      const uint64_t experts = std::max<uint64_t>(own.experts, 1), choices = width(op.in[1]);
      work.row_bytes += file_bytes(own) / experts * choices; // each token reads the experts that it chose
      work.row_flops = 2 * choices * own.rows * own.cols;
      break;
    }
    case QUIRE_OP_KV_STORE:
      work.row_bytes += (width(op.in[0]) + width(op.in[1])) * kv_bytes;
      break;
    case QUIRE_OP_ATTEND: {
      const quire_kv_layer& layer = program.kv_layers[op.u.attend.kv_layer];
      work.row_flops = 0;
      work.context_bytes = uint64_t{layer.kv_heads} * (layer.k_dim + layer.v_dim) * kv_bytes;
      work.position_flops = uint64_t{2} * program.values[op.in[0] - 1].heads * (layer.k_dim + layer.v_dim);
      work.window = program.kv_groups[layer.group].window;
      break;
    }
    default:
      break;
    }
    works.push_back(work);
  }
  return works;
}

namespace {

using Clock = std::chrono::steady_clock;

double median(std::vector<double>& samples) {
  const auto middle = samples.begin() + static_cast<std::ptrdiff_t>(samples.size() / 2);
  std::nth_element(samples.begin(), middle, samples.end());
  return *middle;
}

void add_work(const OpWork& work, const quire_step& step, quire_op_time& time) {
  const uint64_t rows = work.count == QUIRE_TOKENS      ? step.num_tokens
                        : work.count == QUIRE_SEQUENCES ? step.num_sequences
                                                        : step.num_rows;
  time.bytes += work.fixed_bytes + rows * work.row_bytes;
  time.flops += rows * work.row_flops;
  if (work.position_flops == 0) return;
  for (uint32_t s = 0; s < step.num_sequences; ++s) {
    const uint32_t length = step.seq_len[s], tokens = step.query_start[s + 1] - step.query_start[s];
    time.bytes += work.context_bytes * (work.window != 0 ? std::min(length, work.window) : length);
    for (uint32_t seen = length - tokens + 1; seen <= length; ++seen)
      time.flops += work.position_flops * (work.window != 0 ? std::min(seen, work.window) : seen);
  }
}

} // namespace

uint32_t VulkanInstance::profile(const quire_step& step, uint32_t repetitions, std::span<quire_op_time> out) {
  device_->check_usable();
  Compiled& own = compiled(step.program);
  if (submitted_ != waited_) throw Failure(QUIRE_INVALID, "profile: wait for the steps in flight first");
  if (repetitions == 0) throw Failure(QUIRE_INVALID, "profile needs at least one repetition");
  check_step(step, *own.program, own.pool.get());
  device_->wait_all();
  slot_of(waited_).program = 0; // the buffers no longer hold a ticket's outputs
  Slot& slot = slot_of(submitted_ + 1);
  const Bucket bucket = prepare(step, own, slot, submitted_ + 1);
  device_->wait(device_->submit({&slot.upload, 1}));

  // Each dispatch is queued and waited for alone, and timed by the host; what an empty submission takes is taken off.
  const auto timed = [&](const auto& record) {
    std::vector<double> samples;
    begin(slot.sample);
    record(slot.sample);
    check(device_->vk().vkEndCommandBuffer(slot.sample), "recording a launch");
    for (uint32_t r = 0; r <= repetitions; ++r) {
      const Clock::time_point start = Clock::now();
      // The commands are recorded for one submission at a time: each is done before the next.
      device_->wait(device_->submit({&slot.sample, 1}));
      if (r != 0) samples.push_back(std::chrono::duration<double>(Clock::now() - start).count());
    }
    return median(samples);
  };
  const double empty = timed([](VkCommandBuffer) {});
  std::vector<quire_op_time> times(own.program->work().size());
  quire_op_time other{};
  other.op = 0xFFFFFFFF;
  other.num_fused = 1;
  std::snprintf(other.kernel, sizeof other.kernel, "derive");
  for (uint32_t i = 0; i < times.size(); ++i) times[i].op = i;
  for (std::size_t i = 0; i < own.program->dispatches().size(); ++i) {
    const Dispatch& dispatch = own.program->dispatches()[i];
    bool included = false;
    const double seconds =
        timed([&](VkCommandBuffer commands) { included = own.program->record_dispatch(commands, bucket, i); });
    if (!included) continue;
    quire_op_time& time = dispatch.ops.empty() ? other : times[dispatch.ops.front()];
    time.seconds += std::max(0.0, seconds - empty);
    if (dispatch.ops.empty() || time.num_fused != 0) continue;
    time.num_fused = static_cast<uint32_t>(dispatch.ops.size());
    std::snprintf(time.kernel, sizeof time.kernel, "%s", dispatch.shader.c_str());
    for (const uint32_t op : dispatch.ops) add_work(own.program->work()[op], step, time);
  }
  times.push_back(other);
  std::copy_n(times.begin(), std::min(times.size(), out.size()), out.begin());
  return static_cast<uint32_t>(times.size());
}

// Reading: a buffer beyond any cache (256 MiB), as shaders read it. Multiplying: chains of float32 multiply-adds, the
// format that all of this backend's kernels calculate in.
void VulkanInstance::ceilings(double& bytes_per_second, double& flops_per_second) {
  device_->check_usable();
  device_->wait_all();
  const bool cpu = device_->traits().cpu;
  const uint32_t workgroup = cpu ? device_->traits().subgroup : 256, groups = cpu ? 512 : 4096;
  const uint32_t invocations = workgroup * groups;
  const uint32_t words = static_cast<uint32_t>((uint64_t{256} << 20) / 16 / invocations); // of 16 bytes, an invocation
  const uint64_t bytes = uint64_t{words} * invocations * 16;
  const Buffer data = memory_->allocate(bytes, MemoryKind::device, MemoryUse::scratch, "measuring");
  const Buffer results =
      memory_->allocate(uint64_t{invocations} * 4, MemoryKind::device, MemoryUse::scratch, "measuring");
  const Buffer parameters =
      memory_->allocate(parameter_bytes + sizeof(StepBlock), MemoryKind::upload, MemoryUse::scratch, "measuring");
  const VkDescriptorSet set = pipelines_->describe(parameters.handle(), parameters.handle(), sizeof(StepBlock));
  const VolkDeviceTable& vk = device_->vk();
  device_->run_now([&](VkCommandBuffer commands) { vk.vkCmdFillBuffer(commands, data.handle(), 0, VK_WHOLE_SIZE, 1); });
  const auto best = [&](uint32_t multiply, uint32_t columns) {
    ElementParams params{};
    params.a = data.address();
    params.y = results.address();
    params.columns = columns;
    std::memcpy(parameters.mapped(), &params, sizeof params);
    const VkPipeline pipeline = pipelines_->get("ceiling", workgroup, {multiply});
    double seconds = 1e30;
    for (int repetition = 0; repetition < 4; ++repetition) {
      const Clock::time_point start = Clock::now();
      device_->run_now([&](VkCommandBuffer commands) {
        vk.vkCmdBindPipeline(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
        const uint32_t offset = 0;
        vk.vkCmdBindDescriptorSets(commands, VK_PIPELINE_BIND_POINT_COMPUTE, pipelines_->layout(), 0, 1, &set, 1,
                                   &offset);
        vk.vkCmdDispatch(commands, groups, 1, 1);
      });
      seconds = std::min(seconds, std::chrono::duration<double>(Clock::now() - start).count());
    }
    return seconds;
  };
  bytes_per_second = static_cast<double>(bytes) / best(0, words);
  const uint32_t steps = cpu ? 4000 : 20000;
  flops_per_second = 2.0 * 16 * steps * invocations / best(1, steps);
}

} // namespace quire::vulkan
