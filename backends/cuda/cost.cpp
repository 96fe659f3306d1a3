#include "cost.hpp"

#include <algorithm>

namespace quire::cuda {
namespace {

uint64_t weight_bytes(const Weight& w) {
  if (w.format == QUIRE_F16) return uint64_t{w.rows} * w.cols * 2;
  return file_row_bytes(w.format, w.cols) * w.rows;
}

} // namespace

Cost cost_of(const CompiledProgram& program, uint32_t index, const quire_step& step) {
  const quire_op& op = program.data.ops[index];
  const auto rows_of = [&](uint32_t value) -> uint64_t {
    const uint32_t symbol = program.data.values[value - 1].rows;
    return symbol == QUIRE_TOKENS ? step.num_tokens : symbol == QUIRE_SEQUENCES ? step.num_sequences : step.num_rows;
  };
  const auto bytes_in = [&](uint32_t value) -> uint64_t {
    if (value == 0) return 0;
    const quire_value& v = program.data.values[value - 1];
    return rows_of(value) * v.heads * v.dim * bytes_of(program.types[value - 1]);
  };
  Cost cost;
  for (const uint32_t value : op.in) cost.bytes += bytes_in(value);
  for (const uint32_t value : op.out) cost.bytes += bytes_in(value);
  switch (op.kind) {
  case QUIRE_OP_EMBED: {
    const Weight& table = program.weights.matrix(op.u.embed.table);
    cost.bytes += weight_bytes(table) / std::max(1u, table.rows) * step.num_tokens;
    break;
  }
  case QUIRE_OP_LINEAR:
    for (const uint32_t id : op.u.linear.weights) {
      if (id == 0) continue;
      const Weight& w = program.weights.matrix(id);
      cost.bytes += weight_bytes(w);
      cost.flops += 2 * rows_of(op.out[0]) * w.rows * w.cols;
    }
    break;
  case QUIRE_OP_EXPERT_LINEAR: {
    const Weight& w = program.weights.matrix(op.u.expert_linear.weight);
    const uint64_t slots =
        rows_of(op.in[1]) * program.data.values[op.in[1] - 1].heads * program.data.values[op.in[1] - 1].dim;
    cost.bytes += weight_bytes(w) * std::min<uint64_t>(w.experts, slots);
    cost.flops += 2 * slots * w.rows * w.cols;
    break;
  }
  case QUIRE_OP_KV_STORE:
  case QUIRE_OP_ATTEND: {
    const bool stores = op.kind == QUIRE_OP_KV_STORE;
    const quire_kv_layer& layer = program.data.kv_layers[stores ? op.u.kv_store.kv_layer : op.u.attend.kv_layer];
    const uint64_t position_bytes =
        uint64_t{layer.kv_heads} * (layer.k_dim + layer.v_dim) * kv_element_bytes(program.limits.kv_format);
    if (stores) {
      cost.bytes += position_bytes * step.num_tokens;
      break;
    }
    const uint32_t window = program.data.kv_groups[layer.group].window;
    const uint64_t heads = program.data.values[op.in[0] - 1].heads;
    for (uint32_t s = 0; s < step.num_sequences; ++s) {
      const uint32_t queries = step.query_start[s + 1] - step.query_start[s], first = step.seq_len[s] - queries;
      cost.bytes += position_bytes * (step.seq_len[s] - first_seen(first, window));
      for (uint32_t q = 0; q < queries; ++q)
        cost.flops += 2 * heads * (layer.k_dim + layer.v_dim) * (first + q + 1 - first_seen(first + q, window));
    }
    break;
  }
  default:
    break;
  }
  return cost;
}

} // namespace quire::cuda
