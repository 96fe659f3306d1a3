// out[0] = in[0] * in[1], or in[0] times a weight: [1, cols] a column, or [1, 1] for all.
#include "reference/ops.hpp"

namespace quire::reference {

void mul(const OpRun& run) {
  const Tensor a = run.in(0), b = run.in(1), out = run.out(0);
  const Weight* weight = b ? nullptr : run.weight(run.op.u.mul.weight);
  const size_t width = out.width();
  const size_t factor_step = weight && weight->cols() == 1 ? 0 : 1;
  run.for_rows(out.rows, [&](size_t r) {
    const float* x = a.row(r);
    const float* factor = weight ? weight->vector() : b.row(r);
    float* y = out.row(r);
    for (size_t i = 0; i < width; ++i) y[i] = x[i] * factor[i * factor_step];
  });
}

} // namespace quire::reference
