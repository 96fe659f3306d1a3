// out[0] [rows, sum N] = softcap(scale * act(in[0] [rows, K] W^T + bias)), W in row-concatenated parts.
#include "reference/dot.hpp"
#include "reference/ops.hpp"

#include <algorithm>
#include <cmath>

namespace quire::reference {
namespace {
constexpr uint64_t kTileRows = 16; // rows of W dequantised at a time: they stay in the cache while all tokens pass
}

void linear(const OpRun& run) {
  const quire_linear& p = run.op.u.linear;
  const Tensor in = run.in(0), out = run.out(0); // [rows, K], [rows, sum N]
  const float scale = p.scale == 0 ? 1.0f : p.scale;
  uint64_t first_col = 0;
  for (int part = 0; part < QUIRE_MAX_PARTS && p.weights[part] != 0; ++part) {
    const Weight& weight = *run.weight(p.weights[part]); // [N, K]
    const float* bias = p.biases[part] ? run.weight(p.biases[part])->vector() : nullptr;
    const uint64_t num_rows = weight.num_rows();
    run.pool.run((num_rows + kTileRows - 1) / kTileRows, [&](size_t tile, unsigned worker) {
      const uint64_t first = tile * kTileRows, count = std::min(kTileRows, num_rows - first);
      const float* w = weight.rows(first, count, run.program.worker_scratch(worker));
      float* y = out.data + first_col + first;
      dot_rows(in.data, in.stride, in.rows, w, weight.cols(), count, weight.cols(), y, out.stride);
      if (!bias && p.activation == QUIRE_ACT_NONE && scale == 1.0f && p.softcap == 0) return;
      for (uint32_t t = 0; t < in.rows; ++t)
        for (uint64_t n = 0; n < count; ++n) {
          float& v = y[size_t{t} * out.stride + n];
          v = activate(p.activation, v + (bias ? bias[first + n] : 0.0f)) * scale;
          if (p.softcap != 0) v = p.softcap * std::tanh(v / p.softcap);
        }
    });
    first_col += num_rows;
  }
}

size_t linear_scratch_floats(const CompiledProgram& program, const quire_op& op) {
  size_t floats = 0;
  for (const uint32_t id : op.u.linear.weights)
    if (id != 0) floats = std::max(floats, static_cast<size_t>(kTileRows * program.weight(id)->cols()));
  return floats;
}

} // namespace quire::reference
