// attend: out [T, heads, v_dim] = softmax(softcap(scale * q k^T)) v over the paged cache.
//
// Three kernels: attend_decode, one query token a sequence, a fixed persistent grid over a work list; attend_prefill,
// chunks of queries on mma.sync, and, in parts of KV at fixed positions, everything in fixed order; attend_any, every
// other shape (float32 caches, odd head sizes). The lists are planned on the host once a step (attend_plan.hpp) and
// serve all layers of the same shape.
#pragma once

#include "ops.hpp"

namespace quire::cuda {

inline constexpr uint32_t kKvUnit = 64;       // positions: the grain of the decode lists, and the tile of prefill
inline constexpr uint32_t kKvChunk = 512;     // positions: a part of KV in fixed order
inline constexpr uint32_t kPrefillRows = 128; // queries times heads of a group in a block

// A stretch of KV for one query token, all its heads. A token whose stretches number more than one: each leaves a
// partial result, and the last to finish adds them up in the order of `part`.
struct DecodeItem {
  uint32_t token;      // row of q and out
  uint32_t begin, end; // positions
  uint32_t table;      // of the sequence: index into the group's table
  uint32_t part, parts;
  uint32_t partial;  // index of the token's first partial result
  uint32_t sequence; // index of its counter
};

// A block of rows of one sequence: row r of it is query token r / group, head r % group of a KV head.
struct PrefillItem {
  uint32_t token;     // first query token of the sequence
  uint32_t first_row; // of this block
  uint32_t rows;      // of the sequence: query tokens * group
  uint32_t position;  // of the first query token
  uint32_t table;
  uint32_t chunk;   // with partials: which part of KV
  uint32_t partial; // with partials: of the sequence's first row and part
  uint32_t parts;   // with partials: how many
};

struct AttendArgs {
  Tensor q;   // [T, heads, k_dim] fp16
  Tensor out; // [T, heads, v_dim] fp16
  KvLayer kv;
  float scale = 1;
  float softcap = 0;
  const float* sinks = nullptr;    // [heads]
  const uint32_t* table = nullptr; // the group's
  // Partial results of the decode kernel, and of prefill in parts: [partial][head] of (m, l, v_dim sums)
  float* partials = nullptr;
  uint32_t* counters = nullptr; // [sequence][kv_head], zero between launches
};

// Whether the tensor-core kernels take this shape.
bool attend_fast(uint32_t heads, const quire_kv_layer& layer, uint32_t format, int compute_capability);

// Blocks of the decode grid a KV head: the workers that the plan divides work among.
uint32_t decode_workers(uint32_t kv_heads, uint32_t multiprocessors);

// items [worker_start[workers]], worker_start [workers + 1]: device memory.
void attend_decode(const Queue&, uint32_t workers, const DecodeItem* items, const uint32_t* worker_start,
                   const AttendArgs&);

// fixed_order: KV in chunks of kKvChunk, each summed on its own and folded in order.
void attend_prefill(const Queue&, uint32_t num_items, const PrefillItem* items, bool fixed_order, const AttendArgs&);
// What attend_parts finds its work by, in the step buffer: where the items are and how many; they change from step to
// step, the launch doesn't.
struct PartsHeader {
  uint32_t offset;    // bytes from the step buffer's start to the items
  uint32_t num_items; // each one chunk of KV for at most 16 rows
  uint32_t num_first; // sequences
  uint32_t reserved;
};
// Fixed order for few rows: a grid of `blocks` computes the items' partial results; then the chunks are folded, in the
// order and arithmetic of attend_prefill. first_items: of each sequence.
void attend_parts(const Queue&, uint32_t blocks, const std::byte* step_buffer, const PartsHeader* header,
                  const PrefillItem* first_items, const AttendArgs&);

// positions, sequence tables by token: [T]
void attend_any(const Queue&, uint32_t tokens, const uint32_t* positions, const uint32_t* token_tables,
                const AttendArgs&);

} // namespace quire::cuda
