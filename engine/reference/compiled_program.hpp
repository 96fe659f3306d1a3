// A program as the reference backend runs it: checked, its weights where they lie, its activations placed in one
// scratch buffer.
//
// Shapes: an activation is float32 [rows, heads * dim] with a row stride; QUIRE_INT32 values keep the integer's bits in
// the float's place (see ids.hpp). Weights are read as they are in the file and dequantised a few rows at a time;
// vectors (one row) are kept as float32. Errors: Failure or Error, one sentence, from the constructor. Threads:
// constructed under [load]; scratch belongs to the backend's queue, everything else is constant.
#pragma once

#include "quire/plan.hpp"
#include "quire/plugin.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace quire::reference {

// rows x cols elements an expert, row major.
class Weight {
 public:
  explicit Weight(const quire_weight& weight);

  // Rows [first, first + count) of all experts' rows in one sequence, as float32 [count, cols]: in place where they are
  // that already, else in scratch [count, cols].
  const float* rows(uint64_t first, uint64_t count, float* scratch) const;
  // The whole of a weight of one row, [cols].
  const float* vector() const { return vector_.data(); }

  uint64_t num_rows() const { return num_rows_; }
  uint64_t cols() const { return cols_; }
  uint64_t bytes() const { return num_rows_ * row_bytes_; }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  uint32_t format_;
  uint64_t num_rows_; // max(experts, 1) * rows
  uint64_t cols_;
  uint64_t row_bytes_;
  const std::byte* data_;
  std::vector<float> vector_;
};

class CompiledProgram {
 public:
  // Copies all it needs but the weights' planes. num_workers: threads that may run an op at once.
  CompiledProgram(const quire_program& program, const quire_limits& limits, unsigned num_workers);

  const quire_limits& limits() const { return limits_; }
  uint32_t vocab_size() const { return vocab_size_; }
  const std::vector<quire_op>& ops() const { return ops_; }
  const quire_value& value(uint32_t id) const { return values_[id - 1]; }
  const ValuePlace& place(uint32_t id) const { return plan_[id]; }
  const Weight* weight(uint32_t id) const { return id == 0 ? nullptr : &weights_[id - 1]; }
  const std::vector<quire_kv_layer>& kv_layers() const { return kv_layers_; }
  const std::vector<quire_kv_group>& kv_groups() const { return kv_groups_; }
  const std::vector<uint32_t>& outputs() const { return outputs_; } // value ids

  std::byte* scratch() const { return scratch_.get(); }
  float* worker_scratch(unsigned worker) const { return worker_scratch_.get() + worker * worker_floats_; }
  uint64_t weights_bytes() const;
  uint64_t scratch_bytes() const;

 private:
  uint64_t worker_floats_needed() const;

  quire_limits limits_;
  uint32_t vocab_size_;
  std::vector<quire_value> values_;
  std::vector<Weight> weights_;
  std::vector<quire_op> ops_;
  std::vector<quire_kv_layer> kv_layers_;
  std::vector<quire_kv_group> kv_groups_;
  std::vector<uint32_t> outputs_;
  BufferPlan plan_;
  uint64_t worker_floats_ = 0;
  unsigned num_workers_;
  struct Free {
    void operator()(void* p) const;
  };
  std::unique_ptr<std::byte, Free> scratch_; // not touched until it is used: a large plan costs no memory before
  std::unique_ptr<float, Free> worker_scratch_;
};

} // namespace quire::reference
