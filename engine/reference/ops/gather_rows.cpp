// out[0] [R, ...] = the rows of in[0] [T, ...] that the step asks for.
#include "reference/ops.hpp"

#include <algorithm>

namespace quire::reference {

void gather_rows(const OpRun& run) {
  const Tensor in = run.in(0), out = run.out(0);
  for (uint32_t r = 0; r < out.rows; ++r) std::copy_n(in.row(run.step.rows[r]), out.width(), out.row(r));
}

} // namespace quire::reference
