// attend: out [T, heads, v_dim] = softmax(softcap(scale * q k^T)) v over the paged cache.
//
// attend_decode: one query token a sequence, a fixed persistent grid over a work list; attend_clusters: the same for
// few sequences, each in a cluster of blocks. attend_prefill: chunks of queries on mma.sync; attend_prefill_sm90: long
// ones on wgmma. attend_fixed_whole and attend_fixed_parts: all of it in fixed order, KV in parts at fixed positions.
// attend_any: every other shape (float32 caches, odd head sizes). The lists are planned on the host once a step
// (attend_plan.hpp) and serve all layers of the same shape.
#pragma once

#include "ops.hpp"

#include <algorithm>

namespace quire::cuda {

inline constexpr uint32_t kDecodeTile = 16;      // positions: the grain of the decode list
inline constexpr uint32_t kMaxDecodeParts = 256; // of one sequence
inline constexpr uint32_t kKvChunk = 512;        // positions: a part of KV in fixed order
inline constexpr uint32_t kPrefillRows = 128;    // queries times heads of a group in a block
inline constexpr uint32_t kWideTokens = 128;     // query tokens in a block of attend_prefill_sm90

// A stretch of KV for one query token, all its heads. A token whose stretches number more than one: each leaves a
// partial result, and the last to finish adds them up in the order of `part`.
struct DecodeItem {
  uint32_t token;      // row of q and out
  uint32_t begin, end; // positions
  uint32_t table;      // of the sequence: index into the group's table
  uint32_t part, parts;
  uint32_t partial; // index of the token's first partial result, and of its counter
  uint32_t stored;  // positions below are in the cache since before this step
};

// A part of a sequence for one block of a cluster: the item (`partial` is not used; an empty one has token, parts and
// begin == end == 0, padding has parts 0 as well), and the first of the cache's blocks that it reads, from that of
// position `begin` on; any beyond kClusterBlocks are looked up in the table.
inline constexpr uint32_t kClusterBlocks = 24;
struct alignas(128) ClusterItem {
  DecodeItem item;
  uint32_t blocks[kClusterBlocks];
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

// Up to kWideTokens query tokens of one sequence, for each query head.
struct WideItem {
  uint32_t token, tokens;
  uint32_t position; // of the first
  uint32_t table;    // of the sequence
  uint32_t end;      // positions of the sequence that are stored once this step's are
};

// The step's own keys and values as they were before rope and kv_store: with them attend_decode does the work of both.
struct FreshTokens {
  Tensor k, v;                        // [T, kv_heads, dim] fp16; absent: the cache has them, and q is rotated
  const float* frequencies = nullptr; // [rotary_dim / 2]
  uint32_t rotary_dim = 0;
  bool interleaved = false;
  float magnitude = 1;
};

struct AttendArgs {
  Tensor q;   // [T, heads, k_dim] fp16
  Tensor out; // [T, heads, v_dim] fp16
  KvLayer kv;
  float scale = 1;
  float softcap = 0;
  const float* sinks = nullptr;    // [heads]
  const uint32_t* table = nullptr; // the group's
  // Partial results. attend_decode: sums [partial][kv_head][head of the group][v_dim] and, in partial_sums, (m, l)
  // alike. attend_fixed_parts: [partial][head] of (v_dim sums, m, l).
  float* partials = nullptr;
  float* partial_sums = nullptr;
  uint32_t* counters = nullptr; // [partial][kv_head], zero between launches
  FreshTokens fresh;            // attend_decode
};

// Whether the tensor-core kernels take this shape.
bool attend_fast(uint32_t heads, const quire_kv_layer& layer, uint32_t format, int compute_capability);

// Whether attend_decode takes fresh tokens where blocks may have so much shared memory.
bool attend_takes_fresh(uint32_t head_dim, uint64_t shared_bytes);

// Blocks of the decode grid.
uint32_t decode_blocks(uint32_t multiprocessors);

// num_items, items: device memory that no kernel writes.
void attend_decode(const Queue&, uint32_t blocks, const uint32_t* num_items, const DecodeItem* items,
                   const AttendArgs&);

// What decides which code of attend_clusters runs.
struct ClusterShape {
  uint32_t group = 1; // query heads a KV head
  uint32_t head_dim = 0;
  uint32_t format = 0; // of the cache
  bool capped = false;
};
// Which numbers of tasks, each a sequence and a KV head, may have clusters.
struct ClusterRoom {
  uint32_t least = 0;      // fewer would leave too much of the device idle where contexts are long
  uint32_t of_16 = 0;      // with 16 blocks each, all on the device at once, none two to a multiprocessor
  uint32_t of_8 = 0;       // with 8 blocks each, all on the device at once
  uint32_t of_8_apart = 0; // of these, with none two to a multiprocessor
  bool operator==(const ClusterRoom&) const = default;
};
ClusterRoom cluster_room(const ClusterShape&, int compute_capability, uint32_t multiprocessors);
// Blocks of the cluster that a task gets; 0: the tasks are attend_decode's.
inline uint32_t cluster_blocks(const ClusterRoom& room, uint32_t tasks) {
  return tasks < room.least ? 0 : tasks <= room.of_16 ? 16 : tasks <= room.of_8 ? 8 : 0;
}
// Whether each of these blocks gets a multiprocessor to itself.
inline bool clusters_apart(const ClusterRoom& room, uint32_t tasks) {
  return tasks <= std::max(room.of_16, room.of_8_apart);
}
// items: [sequences, cluster], device memory that no kernel writes. apart: each block is to have a multiprocessor to
// itself; otherwise they crowd where the kernel in front leaves first, and its rate of reading is what they share.
// keys_first: the kernel behind may not begin before the keys have been asked for.
void attend_clusters(const Queue&, uint32_t cluster, bool apart, bool keys_first, uint32_t sequences,
                     const ClusterItem* items, const AttendArgs&);

// Rows of a block of attend_prefill.
uint32_t prefill_rows(uint32_t head);
void attend_prefill(const Queue&, uint32_t num_items, const PrefillItem* items, const AttendArgs&);

// Whether attend_prefill_sm90 takes this shape; this build may lack its code.
bool attend_wide(const quire_kv_layer& layer, uint32_t format, int compute_capability);
// What its copies by tensor need to know, made once a layer: 128 bytes each. tokens: rows of q.
struct WideMaps {
  alignas(64) uint64_t q[16]{}, k[16]{}, v[16]{};
};
WideMaps map_wide(const AttendArgs&, uint32_t tokens, uint32_t num_blocks);
void attend_prefill_sm90(const Queue&, uint32_t num_items, const WideItem* items, const WideMaps& maps,
                         const AttendArgs&);

// Fixed order: KV in chunks of kKvChunk, each summed on its own and folded in order.
void attend_fixed_whole(const Queue&, uint32_t num_items, const PrefillItem* items, const AttendArgs&);
// What the lists are found by, in the step buffer: where the parts are and how many; they change from step to step, the
// launch doesn't.
struct ListHeader {
  uint32_t num_decode;
  uint32_t parts;     // bytes from the step buffer's start to them
  uint32_t num_parts; // each one chunk of KV for at most 16 rows
  uint32_t num_first; // sequences
};
// Fixed order for few rows: a grid of `blocks` computes the items' partial results; then the chunks are folded, in the
// order and arithmetic of attend_fixed_whole. first_items: of each sequence.
void attend_fixed_parts(const Queue&, uint32_t blocks, const std::byte* step_buffer, const ListHeader* header,
                        const PrefillItem* first_items, const AttendArgs&);

// positions, sequence tables by token: [T]
void attend_any(const Queue&, uint32_t tokens, const uint32_t* positions, const uint32_t* token_tables,
                const AttendArgs&);

} // namespace quire::cuda
