// out[0] [T, k, N] = in[0] [T, K] or [T, k, K] times the experts that in[1] [T, k] chose; with in[2] = weights [T, k]:
// their weighted sum [T, N], added up in rising order of the expert's id.
#include "reference/dot.hpp"
#include "reference/ops.hpp"

#include <algorithm>

namespace quire::reference {
namespace {
constexpr uint64_t kTileRows = 16;
}

void expert_linear(const OpRun& run) {
  const quire_expert_linear& p = run.op.u.expert_linear;
  const Tensor in = run.in(0), ids = run.in(1), mix = run.in(2), out = run.out(0);
  const Weight& weight = *run.weight(p.weight); // [experts, N, K]
  const Weight* bias = run.weight(p.bias);      // [experts, N]
  const uint64_t num_cols = weight.cols(), top_k = ids.width();
  const uint64_t num_rows = mix ? out.width() : out.width() / top_k; // N
  const uint64_t num_experts = weight.num_rows() / num_rows;
  const bool in_per_slot = in.width() != num_cols;

  run.pool.run((num_rows + kTileRows - 1) / kTileRows, [&](size_t tile, unsigned worker) {
    const uint64_t first = tile * kTileRows, count = std::min(kTileRows, num_rows - first);
    float* scratch = run.program.worker_scratch(worker); // [kTileRows, K]
    float* bias_row = scratch + kTileRows * num_cols;    // [N]
    if (mix)
      for (uint32_t t = 0; t < in.rows; ++t) std::fill_n(out.row(t) + first, count, 0.0f);
    for (uint64_t expert = 0; expert < num_experts; ++expert) {
      const float *w = nullptr, *b = nullptr;
      for (uint32_t t = 0; t < in.rows; ++t)
        for (uint64_t slot = 0; slot < top_k; ++slot) {
          if (id_of(ids.row(t)[slot]) != expert) continue;
          if (!w) {
            w = weight.rows(expert * num_rows + first, count, scratch);
            b = bias ? bias->rows(expert, 1, bias_row) + first : nullptr;
          }
          const float* x = in.row(t) + (in_per_slot ? slot * num_cols : 0);
          float y[kTileRows];
          dot_rows(x, 0, 1, w, num_cols, count, num_cols, y, 0);
          if (b)
            for (uint64_t n = 0; n < count; ++n) y[n] += b[n];
          if (mix) {
            for (uint64_t n = 0; n < count; ++n) out.row(t)[first + n] += mix.row(t)[slot] * y[n];
          } else {
            std::copy_n(y, count, out.row(t) + slot * num_rows + first);
          }
        }
    }
  });
}

size_t expert_linear_scratch_floats(const CompiledProgram& program, const quire_op& op) {
  const quire_expert_linear& p = op.u.expert_linear;
  const size_t bias = p.bias ? program.weight(p.bias)->cols() : 0;
  return kTileRows * program.weight(p.weight)->cols() + bias;
}

} // namespace quire::reference
