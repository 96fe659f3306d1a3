// Writes in[0] = k [T, kv_heads, k_dim] and in[1] = v [T, kv_heads, v_dim] into the slots of the tokens' positions.
#include "reference/ops.hpp"

namespace quire::reference {

void kv_store(const OpRun& run) {
  const uint32_t layer = run.op.u.kv_store.kv_layer;
  const uint32_t group = run.program.kv_layers()[layer].group;
  const uint32_t block_size = run.program.limits().block_size;
  const Tensor k = run.in(0), v = run.in(1);
  run.for_rows(k.rows, [&](size_t t) {
    const uint32_t position = run.step.position[t];
    const uint32_t first_entry = run.step.table_start[run.step.sequence[t]];
    const uint32_t block = run.step.tables[group][first_entry + position / block_size];
    run.kv->store(layer, 0, block, position % block_size, k.row(t));
    run.kv->store(layer, 1, block, position % block_size, v.row(t));
  });
}

} // namespace quire::reference
