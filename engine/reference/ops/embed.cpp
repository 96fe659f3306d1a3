// out[0] [T, dim] = scale * table[token] (+ positions[position]).
#include "reference/ops.hpp"

namespace quire::reference {

void embed(const OpRun& run) {
  const quire_embed& p = run.op.u.embed;
  const Weight& table = *run.weight(p.table);
  const Weight* positions = run.weight(p.positions);
  const Tensor out = run.out(0); // [T, dim]
  const float scale = p.scale == 0 ? 1.0f : p.scale;
  const size_t dim = out.width();
  run.pool.run(out.rows, [&](size_t t, unsigned worker) {
    float* scratch = run.program.worker_scratch(worker); // [dim]
    float* y = out.row(t);
    const float* row = table.rows(static_cast<uint64_t>(run.step.tokens[t]), 1, scratch);
    for (size_t i = 0; i < dim; ++i) y[i] = row[i] * scale;
    if (positions) {
      const float* learned = positions->rows(run.step.position[t], 1, scratch);
      for (size_t i = 0; i < dim; ++i) y[i] += learned[i];
    }
  });
}

} // namespace quire::reference
