// The measuring verbs of the reference backend: what each op of a step took, and what this machine can do at most.
#include "quire/plugin_check.hpp"
#include "reference/dot.hpp"
#include "reference/instance.hpp"
#include "reference/ops.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>

namespace quire::reference {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

uint64_t value_bytes(const OpRun& run, uint32_t id) {
  if (id == 0) return 0;
  const Tensor t = run.value(id);
  return uint64_t{t.rows} * t.width() * sizeof(float);
}

// Positions that the step's tokens see in a layer, summed over the tokens.
uint64_t positions_seen(const OpRun& run, uint32_t window) {
  uint64_t seen = 0;
  for (const uint32_t position : run.step.position) seen += window ? std::min(position + 1, window) : position + 1;
  return seen;
}

// What the op must move, each input and output once, and what it must do.
void count_work(const OpRun& run, quire_op_time& time) {
  for (const uint32_t id : run.op.in) time.bytes += value_bytes(run, id);
  for (const uint32_t id : run.op.out) time.bytes += value_bytes(run, id);
  const uint64_t rows = run.in(0) ? run.in(0).rows : run.step.num_tokens();
  const uint64_t elements = run.op.out[0] ? value_bytes(run, run.op.out[0]) / sizeof(float) : 0;
  const uint64_t kv_bytes = kv_element_bytes(run.program.limits().kv_format);
  switch (run.op.kind) {
  case QUIRE_OP_EMBED:
    time.bytes += rows * run.weight(run.op.u.embed.table)->bytes() / run.weight(run.op.u.embed.table)->num_rows();
    break;
  case QUIRE_OP_LINEAR:
    for (const uint32_t id : run.op.u.linear.weights)
      if (const Weight* weight = run.weight(id)) {
        time.bytes += weight->bytes();
        time.flops += 2 * rows * weight->num_rows() * weight->cols();
      }
    break;
  case QUIRE_OP_EXPERT_LINEAR: {
    const Weight& weight = *run.weight(run.op.u.expert_linear.weight);
    const uint64_t slots = rows * run.in(1).width();
    const uint64_t row_count = run.op.in[2] ? run.out(0).width() : run.out(0).width() / run.in(1).width();
    const uint64_t experts = weight.num_rows() / row_count;
    time.bytes += weight.bytes() / experts * std::min(slots, experts);
    time.flops += 2 * slots * row_count * weight.cols();
    break;
  }
  case QUIRE_OP_KV_STORE:
    time.bytes += (run.in(0).width() + run.in(1).width()) * rows * kv_bytes;
    break;
  case QUIRE_OP_ATTEND: {
    const quire_kv_layer& layer = run.program.kv_layers()[run.op.u.attend.kv_layer];
    const uint32_t window = run.program.kv_groups()[layer.group].window;
    for (const uint32_t length : run.step.seq_len)
      time.bytes += uint64_t{window ? std::min(length, window) : length} * layer.kv_heads *
                    (layer.k_dim + layer.v_dim) * kv_bytes;
    time.flops += 2 * positions_seen(run, window) * run.in(0).heads * (layer.k_dim + layer.v_dim);
    break;
  }
  default:
    time.flops += elements;
    break;
  }
}

} // namespace

uint32_t ReferenceInstance::profile(const quire_step& given, uint32_t repetitions, std::span<quire_op_time> out) {
  if (submitted_ != waited_) throw Failure(QUIRE_INVALID, "profile needs that every ticket was waited for");
  if (repetitions == 0) throw Failure(QUIRE_INVALID, "profile needs at least one repetition");
  Step step;
  check_step(given, step, 0);
  const Loaded& target = loaded(given.program);
  const auto& ops = target.program.ops();
  std::vector<std::vector<double>> seconds(ops.size());
  newest_program_ = 0; // the buffers no longer hold a ticket's outputs
  queue_.push([&] {
    for (uint32_t repetition = 0; repetition < repetitions; ++repetition)
      for (size_t i = 0; i < ops.size(); ++i) {
        const auto start = Clock::now();
        run_op(target, step, i);
        seconds[i].push_back(seconds_since(start));
      }
  });
  queue_.wait_all();
  for (size_t i = 0; i < std::min(ops.size(), out.size()); ++i) {
    quire_op_time time{};
    time.op = static_cast<uint32_t>(i);
    time.num_fused = 1;
    std::snprintf(time.kernel, sizeof(time.kernel), "%s", op_word(ops[i].kind));
    auto& samples = seconds[i];
    std::nth_element(samples.begin(), samples.begin() + static_cast<ptrdiff_t>(samples.size() / 2), samples.end());
    time.seconds = samples[samples.size() / 2];
    count_work(OpRun{ops[i], target.program, step, pool_, target.kv.get()}, time);
    out[i] = time;
  }
  return static_cast<uint32_t>(ops.size());
}

void ReferenceInstance::ceilings(double& bytes_per_second, double& flops_per_second) {
  queue_.wait_all();
  constexpr size_t chunk = size_t{1} << 16, chunks = 4096; // 1 GiB of floats: beyond any cache
  const std::vector<float> stream(chunk * chunks, 1.0f);
  constexpr size_t parts = 4; // of a chunk, for as many sums side by side
  std::vector<float> sums(chunks * parts);
  double best = 1e30;
  for (int repetition = 0; repetition < 3; ++repetition) {
    const auto start = Clock::now();
    pool_.run(chunks, [&](size_t i, unsigned) {
      const float* p = stream.data() + i * chunk;
      dot_rows(p, 0, 1, p, chunk / parts, parts, chunk / parts, sums.data() + i * parts, 0);
    });
    best = std::min(best, seconds_since(start));
  }
  bytes_per_second = static_cast<double>(stream.size() * sizeof(float)) / best;

  constexpr size_t tokens = 256, rows = 1024, length = 1024, tile = 16;
  const std::vector<float> x(tokens * length, 1.0f), w(rows * length, 1.0f);
  std::vector<float> y(tokens * rows);
  best = 1e30;
  for (int repetition = 0; repetition < 3; ++repetition) {
    const auto start = Clock::now();
    pool_.run(rows / tile, [&](size_t i, unsigned) {
      dot_rows(x.data(), length, tokens, w.data() + i * tile * length, length, tile, length, y.data() + i * tile, rows);
    });
    best = std::min(best, seconds_since(start));
  }
  flops_per_second = 2.0 * tokens * rows * length / best;
}

} // namespace quire::reference
