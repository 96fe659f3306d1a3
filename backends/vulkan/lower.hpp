// Lowering: a program's ops become units (what is fused into one launch), and units become dispatches.
//
// Two phases, as addresses are known only once everything is allocated: plan_units() decides the fusions and names the
// weights; lower() writes the parameters. Fusions: rope of k and q with kv_store; gate and up with glu; linear with the
// add behind it. Errors: Failure QUIRE_UNSUPPORTED or QUIRE_INVALID that name the op. Threads: pure functions over
// their arguments.
#pragma once

#include "kv.hpp"
#include "launch.hpp"
#include "weights.hpp"

#include <quire/plan.hpp>
#include <quire/plugin.h>

#include <cstdint>
#include <vector>

namespace quire::vulkan {

// How kernels are shaped on this device.
struct KernelShape {
  // texels: linear layers may read through texel views where that is faster.
  KernelShape(const Traits& traits, bool texels);
  bool cpu;
  bool texels;
  uint32_t subgroup;
  uint32_t small_group;     // invocations of a workgroup of short rows
  uint32_t element_group;   // of elementwise ops ...
  uint32_t element_columns; // ... and the columns one does
  uint32_t reduce_group;    // of reductions over the vocabulary
  // Segments of context that one attend item may have: llvmpipe ends an invocation's loops, silently, after 65,535
  // iterations of all of them together (LP_MAX_TGSI_LOOP_ITERATIONS); a segment takes at most 16 tiles of 60.
  uint32_t max_segments;
};

// A tile of query vectors of attend.
struct AttendShape {
  uint32_t tile_heads; // of a KV head's query heads
  uint32_t head_tiles;
  uint32_t tile_tokens; // of the tiled work list
  uint32_t v_quads;
};

enum class Fusion : uint8_t { none, rope_store, gated, residual };
struct Unit {
  std::vector<uint32_t> ops; // in the order of the program
  Fusion fusion = Fusion::none;
};

struct Units {
  std::vector<Unit> units;
  std::vector<uint32_t> unit_of_op;
  std::vector<uint8_t> unstored; // values that a fusion keeps in registers
};
// fuse: false makes every op a unit of its own. Gate and up are fused only where each is one piece of at most
// piece_bytes.
Units plan_units(const quire_program& program, bool fuse, uint64_t piece_bytes);

// Handles of a program's weights in the store.
struct WeightHandles {
  std::vector<uint32_t> matrices; // by weight id - 1; no_handle where it is no matrix
  std::vector<uint32_t> vectors;
  std::vector<uint32_t> frequencies; // by weight id - 1: rope's turns a position
};
constexpr uint32_t no_handle = 0xFFFFFFFF;
WeightHandles add_weights(const quire_program& program, WeightStore& store);

struct LowerContext {
  const quire_program& program;
  const quire_limits& limits;
  const Units& units;
  const BufferPlan& plan;
  const KvLayout& kv;
  const KernelShape& shape;
  const WeightStore& store;
  const WeightHandles& handles;
  address scratch;
  address partials;
  uint32_t partial_stride; // floats of one head's partial
};
AttendShape attend_shape(const KernelShape& shape, uint32_t heads, uint32_t kv_heads, uint32_t v_row);
std::vector<Dispatch> lower(const LowerContext& context);

// A KV layer's cache as the barriers know it: a stretch of addresses that no buffer has.
Access kv_access(uint32_t layer, bool write);

} // namespace quire::vulkan
