#include "decode_rate.hpp"

#include "quire/error.hpp"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <limits>

namespace quire {
namespace {

constexpr uint64_t enough_weights = 8'000'000; // milliseconds of work, far more than a launch costs
constexpr uint32_t max_context = 64, block_size = 16;

struct Reading {
  uint64_t weights = 0, bytes = 0;
};

// What an op reads of its matrices for one token.
Reading reading(const quire_program& program, const quire_op& op) {
  Reading result;
  const auto add = [&](uint32_t id, uint64_t experts) {
    const quire_weight& weight = program.weights[id - 1];
    const uint64_t stacked = std::max<uint64_t>(weight.experts, 1);
    result.weights += weight.rows * weight.cols * experts;
    for (const quire_plane& plane : weight.planes) result.bytes += plane.bytes / stacked * experts;
  };
  if (op.kind == QUIRE_OP_LINEAR)
    for (const uint32_t id : op.u.linear.weights)
      if (id != 0) add(id, 1);
  if (op.kind == QUIRE_OP_EXPERT_LINEAR) {
    const quire_value& chosen = program.values[op.in[1] - 1];
    add(op.u.expert_linear.weight, uint64_t{chosen.heads} * chosen.dim);
  }
  return result;
}

void require(const quire_status& status) {
  if (status.code != QUIRE_OK) throw Error(status.message);
}

} // namespace

ProgramStart::ProgramStart(const quire_program& whole)
    : program(whole), weights(whole.weights, whole.weights + whole.num_weights) {
  Reading start, all;
  uint32_t end = 0;
  for (uint32_t i = 0; i < whole.num_ops; ++i) {
    const Reading own = reading(whole, whole.ops[i]);
    all.bytes += own.bytes;
    if (start.weights >= enough_weights || own.bytes == 0 || whole.ops[i].out[0] == 0) continue;
    const quire_value& out = whole.values[whole.ops[i].out[0] - 1];
    if (out.rows != QUIRE_TOKENS || out.heads * out.dim > whole.vocab_size) continue;
    end = i + 1;
    start = {};
    for (uint32_t n = 0; n < end; ++n) {
      const Reading one = reading(whole, whole.ops[n]);
      start.weights += one.weights;
      start.bytes += one.bytes;
    }
  }
  share = all.bytes == 0 ? 0 : static_cast<double>(start.bytes) / static_cast<double>(all.bytes);
  if (end == 0) return;
  // Values up to the last one in use; a recorder that hands out ids long before their ops is not one to cut short.
  std::vector<uint8_t> made(whole.num_values + 1, 0);
  program.num_values = 0;
  for (uint32_t i = 0; i < end; ++i) {
    for (const uint32_t id : whole.ops[i].in) program.num_values = std::max(program.num_values, id);
    for (const uint32_t id : whole.ops[i].out) {
      program.num_values = std::max(program.num_values, id);
      made[id] = 1;
    }
  }
  for (uint32_t id = 1; id <= program.num_values; ++id) {
    const uint32_t parent = whole.values[id - 1].parent;
    if (made[parent != 0 ? parent : id] == 0) share = 0;
  }
  program.num_kv_layers = program.num_kv_groups = 0;
  for (uint32_t i = 0; i < end; ++i) {
    if (whole.ops[i].kind != QUIRE_OP_KV_STORE) continue;
    const uint32_t layer = whole.ops[i].u.kv_store.kv_layer;
    program.num_kv_layers = std::max(program.num_kv_layers, layer + 1);
    program.num_kv_groups = std::max(program.num_kv_groups, whole.kv_layers[layer].group + 1);
  }
  const quire_value& last = whole.values[whole.ops[end - 1].out[0] - 1];
  values.assign(whole.values, whole.values + program.num_values);
  values.push_back({"logits", QUIRE_OUTPUTS, 1, last.heads * last.dim, QUIRE_REAL, 0, 0});
  ops.assign(whole.ops, whole.ops + end);
  quire_op gather{};
  gather.kind = QUIRE_OP_GATHER_ROWS;
  gather.in[0] = whole.ops[end - 1].out[0];
  gather.out[0] = static_cast<uint32_t>(values.size());
  ops.push_back(gather);
  output = {"logits", gather.out[0]};
  program.values = values.data();
  program.num_values = gather.out[0];
  program.ops = ops.data();
  program.num_ops = static_cast<uint32_t>(ops.size());
  program.vocab_size = last.heads * last.dim;
  program.outputs = &output;
  program.num_outputs = 1;
  program.output_size = sizeof output;
  for (uint32_t i = 0; i < end; ++i)
    if (whole.ops[i].kind == QUIRE_OP_EMBED) {
      quire_weight& table = weights[whole.ops[i].u.embed.table - 1];
      const uint64_t rows = std::min<uint64_t>(table.rows, program.vocab_size);
      for (quire_plane& plane : table.planes) plane.bytes = plane.bytes / table.rows * rows;
      table.rows = rows;
    }
  program.weights = weights.data();
}

double measure_decode_rate(const quire_backend& backend, const quire_program& program, const RateOptions& options) {
  using Clock = std::chrono::steady_clock;
  const ProgramStart start(program);
  if (start.share == 0) throw Error("the program has no beginning that could be measured");
  quire_create_options create{};
  create.struct_size = sizeof create;
  create.device = options.device;
  create.invariant = 1;
  create.num_threads = options.num_threads;
  create.cache_dir = options.cache_dir.empty() ? nullptr : options.cache_dir.c_str();
  create.log = [](void*, int32_t, const char*) {};
  create.progress = [](void*, uint64_t, uint64_t) {};
  quire_status status{};
  struct Instance {
    const quire_backend& backend;
    void* self;
    ~Instance() {
      if (self != nullptr) backend.destroy(self);
    }
  } instance{backend, backend.create(backend.self, &create, &status)};
  if (status.code != QUIRE_OK) instance.self = nullptr;
  require(status);
  const quire_limits limits{sizeof(quire_limits), 1, 1, 1, max_context, block_size, QUIRE_F16};
  const uint32_t id = backend.compile(instance.self, &start.program, &limits, &status);
  require(status);
  constexpr uint32_t blocks[max_context / block_size] = {0, 1, 2, 3};
  const uint32_t* tables[QUIRE_MAX_GROUPS];
  std::fill(std::begin(tables), std::end(tables), blocks);
  const uint32_t groups = start.program.num_kv_groups;
  if (groups != 0) {
    quire_kv_config kv{};
    kv.struct_size = sizeof kv;
    kv.program = id;
    std::fill_n(kv.num_blocks, groups, max_context / block_size);
    backend.kv_create(instance.self, &kv, &status);
    require(status);
  }

  // The first step pays for what is done once (kernels compiled for the device, pages touched).
  constexpr double most_seconds = 0.12;
  double best = std::numeric_limits<double>::infinity(), spent = 0;
  for (uint32_t n = 0; n < 3 || (n < max_context && spent < most_seconds); ++n) {
    const int32_t token = 1;
    const uint32_t query_start[] = {0, 1}, seq_len[] = {n + 1}, table_start[] = {0, max_context / block_size};
    quire_step step{};
    step.struct_size = sizeof step;
    step.program = id;
    step.num_tokens = step.num_sequences = 1;
    step.tokens = &token;
    step.query_start = query_start;
    step.seq_len = seq_len;
    step.table_start = table_start;
    step.tables = tables;
    const auto before = Clock::now();
    const uint64_t ticket = backend.submit(instance.self, &step, &status);
    require(status);
    backend.wait(instance.self, ticket, nullptr, 0, &status);
    require(status);
    const double seconds = std::chrono::duration<double>(Clock::now() - before).count();
    if (n == 0) continue;
    spent += seconds;
    best = std::min(best, seconds);
  }
  return start.share / best;
}

} // namespace quire
