// out[0] = in[0] [T, heads, dim] with the first rotary_dim elements of each head rotated by the token's position.
// Source: Su et al. 2021, in the two pairings of quire_rope_kind.
#include "reference/ops.hpp"

#include <cmath>

namespace quire::reference {

void rope(const OpRun& run) {
  const quire_rope& p = run.op.u.rope;
  const Tensor in = run.in(0), out = run.out(0);
  const float* frequencies = run.weight(p.frequencies)->vector(); // [rotary_dim / 2], radians a position
  const double magnitude = p.magnitude == 0 ? 1.0 : p.magnitude;
  const size_t pairs = p.rotary_dim / 2;
  const bool half = p.kind == QUIRE_ROPE_HALF;
  run.for_rows(in.rows, [&](size_t t) {
    const float* x = in.row(t);
    float* y = out.row(t);
    for (size_t i = 0; i < pairs; ++i) {
      // The angle in double: at position 100,000 a float32 product would be off by 0.004 radians.
      const double angle = static_cast<double>(run.step.position[t]) * frequencies[i];
      const auto c = static_cast<float>(std::cos(angle) * magnitude),
                 s = static_cast<float>(std::sin(angle) * magnitude);
      const size_t ia = half ? i : 2 * i, ib = half ? i + pairs : 2 * i + 1;
      for (size_t head = 0; head < in.heads; ++head) {
        const size_t base = head * in.dim;
        const float a = x[base + ia], b = x[base + ib];
        y[base + ia] = a * c - b * s;
        y[base + ib] = b * c + a * s;
      }
    }
    for (size_t head = 0; head < in.heads; ++head)
      for (size_t i = p.rotary_dim; i < in.dim; ++i) y[head * in.dim + i] = x[head * in.dim + i];
  });
}

} // namespace quire::reference
