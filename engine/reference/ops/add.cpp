// out[0] = in[0] + in[1].
#include "reference/ops.hpp"

namespace quire::reference {

void add(const OpRun& run) {
  const Tensor a = run.in(0), b = run.in(1), out = run.out(0);
  const size_t width = out.width();
  run.for_rows(out.rows, [&](size_t r) {
    const float *x = a.row(r), *z = b.row(r);
    float* y = out.row(r);
    for (size_t i = 0; i < width; ++i) y[i] = x[i] + z[i];
  });
}

} // namespace quire::reference
