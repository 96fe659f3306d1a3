// A program of nothing but attention, for measuring its kernels at chosen shapes without a model: each layer stores K
// and V and attends; q, k and v are the columns of one embedding table of seeded normal elements. Logits are another
// table's rows.
//
// Threads: one. Errors: none.
#pragma once

#include <cstdint>
#include <vector>

#include "quire/plugin.h"

namespace quire::bench {

struct AttentionShape {
  uint32_t heads = 32, kv_heads = 8, head_dim = 128;
};

class AttentionProgram {
 public:
  AttentionProgram(const AttentionShape& shape, uint32_t layers, uint32_t max_context);
  AttentionProgram(const AttentionProgram&) = delete; // the view points into it
  AttentionProgram& operator=(const AttentionProgram&) = delete;

  quire_program view() const;

 private:
  uint32_t table(uint32_t columns, uint32_t seed);
  uint32_t value(uint32_t rows, uint32_t heads, uint32_t dim, uint32_t parent = 0, uint32_t offset = 0);
  quire_op& op(uint32_t kind);

  std::vector<std::vector<float>> planes_;
  std::vector<quire_value> values_;
  std::vector<quire_weight> weights_;
  std::vector<quire_op> ops_;
  std::vector<quire_kv_layer> kv_layers_;
  std::vector<quire_kv_group> kv_groups_;
  std::vector<quire_output> outputs_;
  uint32_t max_context_;
};

} // namespace quire::bench
