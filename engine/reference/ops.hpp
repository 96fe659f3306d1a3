// The ops: one function a kind, in ops/<op>.cpp, each a plain reading of plugin.h in float32.
//
// Each takes the op, the step and the scratch buffers; rows are independent work items for the pool. A result's element
// is computed in an order that depends on its own row alone (the design's «the same request gives the same tokens»).
// Errors: none; the program and the step were checked. Threads: the backend's queue.
#pragma once

#include "quire/plugin.h"
#include "reference/compiled_program.hpp"
#include "reference/kv_cache.hpp"
#include "reference/step.hpp"
#include "reference/thread_pool.hpp"

#include <bit>
#include <cstddef>
#include <cstdint>

namespace quire::reference {

// An activation of the running step.
struct Tensor {
  float* data = nullptr;
  uint32_t rows = 0;
  uint32_t stride = 0; // floats from row to row
  uint32_t heads = 1;
  uint32_t dim = 0;

  explicit operator bool() const { return data != nullptr; }
  uint32_t width() const { return heads * dim; }
  float* row(size_t r) const { return data + r * stride; }
};

// An element of a QUIRE_INT32 value.
inline uint32_t id_of(float bits) { return std::bit_cast<uint32_t>(bits); }
inline float id_bits(uint32_t id) { return std::bit_cast<float>(id); }

struct OpRun {
  const quire_op& op;
  const CompiledProgram& program;
  const Step& step;
  ThreadPool& pool;
  KvCache* kv; // NULL where the program has no layers

  Tensor value(uint32_t id) const {
    if (id == 0) return {};
    const quire_value& v = program.value(id);
    const ValuePlace& place = program.place(id);
    return {reinterpret_cast<float*>(program.scratch() + place.offset), step.count_of(v.rows), place.row_stride,
            v.heads, v.dim};
  }
  Tensor in(int i) const { return value(op.in[i]); }
  Tensor out(int i) const { return value(op.out[i]); }
  const Weight* weight(uint32_t id) const { return program.weight(id); }

  // body(row) for every row; small counts are not worth another thread.
  template <class Body> void for_rows(uint32_t rows, const Body& body) const {
    constexpr uint32_t band = 16;
    pool.run((rows + band - 1) / band, [&](size_t item, unsigned) {
      for (uint32_t r = static_cast<uint32_t>(item) * band; r < rows && r < (item + 1) * band; ++r) body(r);
    });
  }
};

// act(x) of quire_activation.
float activate(uint32_t activation, float x);

void embed(const OpRun&);
void norm(const OpRun&);
void linear(const OpRun&);
void rope(const OpRun&);
void kv_store(const OpRun&);
void attend(const OpRun&);
void glu(const OpRun&);
void add(const OpRun&);
void mul(const OpRun&);
void gather_rows(const OpRun&);
void route(const OpRun&);
void expert_linear(const OpRun&);
void collective(const OpRun&);

// By quire_op_kind; nullptr for QUIRE_OP_NONE.
using OpFunction = void (*)(const OpRun&);
OpFunction op_function(uint32_t kind);

// Floats of scratch that a worker needs for an op; 0 for most.
size_t linear_scratch_floats(const CompiledProgram&, const quire_op&);
size_t attend_scratch_floats(const CompiledProgram&, const quire_op&);
size_t route_scratch_floats(const CompiledProgram&, const quire_op&);
size_t expert_linear_scratch_floats(const CompiledProgram&, const quire_op&);

} // namespace quire::reference
