// A step as the device reads it: one stretch of memory, written on the host and brought over at once.
//
// Offsets depend on the shape of the step alone (for decode graphs, on the bucket), so that captured launches find
// their arrays; block tables and the chunk lists of fixed order, whose lengths vary, lie at the end and are found by
// indices in the items. Threads: the backend's queue. Errors: Failure (QUIRE_INVALID) for a step that breaks the
// limits.
#pragma once

#include "attend_plan.hpp"
#include "ops/sample.hpp"

#include <quire/plugin.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace quire::cuda {

// A kind of attend that shares a work list: same KV group, same heads.
struct AttendClass {
  uint32_t group = 0; // of KV
  uint32_t window = 0;
  uint32_t heads = 0, kv_heads = 0;
  uint64_t position_bytes = 0; // of K and V in a layer
  bool fast = false;           // the tensor-core kernels; else attend_any, which needs no list
  bool wide = false;           // attend_prefill_sm90 for long chunks
  uint32_t blocks = 1;         // of the decode grid
  ClusterRoom clusters;        // instead of it in steps of few sequences that read little
  uint32_t prefill_rows = kPrefillRows;
  bool operator==(const AttendClass&) const = default;
};

// Where things lie: bytes from the start.
struct StepLayout {
  uint64_t tokens = 0, token_rows = 0, positions = 0, rows = 0;
  uint64_t sampling = 0;              // SampleRow [sampling rows]: Sampler packs them
  std::vector<uint64_t> slots;        // [groups]
  std::vector<uint64_t> token_tables; // [groups]
  struct Class {
    uint64_t header = 0, decode = 0, clusters = 0, prefill = 0, wide = 0, first_parts = 0;
  };
  std::vector<Class> classes;
  uint64_t tables = 0; // all groups', behind each other; then the parts of each class
};

struct StepShape {
  uint32_t tokens = 0, rows = 0;
  uint32_t sampling_rows = 0; // that the step brings along
  std::vector<uint32_t> decode_items, cluster_items, prefill_items, wide_items, first_parts; // [classes] room
};

// How one token a sequence is attended to: by attend_decode; in clusters; in clusters whose blocks ask for their keys
// before the kernel behind may begin, whose weights would come in between.
enum class Clusters : uint8_t { none, plain, keys_first };

// Blocks of the clusters that attend to a class in a step padded to so many tokens and sequences; 0: attend_decode
// does. clusters: what clusters_for said of the step. The planner, the buffer's layout and the launches, which a graph
// holds for good, all go by it.
inline uint32_t cluster_of(const AttendClass& kind, Clusters clusters, uint32_t tokens, uint32_t sequences) {
  const bool wanted = clusters != Clusters::none && kind.fast && tokens == sequences;
  return wanted ? cluster_blocks(kind.clusters, sequences * kind.kv_heads) : 0;
}

StepLayout lay_out_step(const StepShape& shape, uint32_t groups, const std::vector<AttendClass>& classes);

// What a program's steps have in common.
struct StepTraits {
  uint32_t groups = 0;
  std::vector<AttendClass> classes;
  uint32_t block_size = 16;
  uint32_t vocab = 0;
  bool fixed_order = false;
  uint32_t max_partials = 0; // of the chunks of fixed order
  quire_limits limits{};
};

// The plans of a step, per class; keeps its memory.
struct StepPlans {
  std::vector<AttendPlan> classes;
  bool has_prefill = false;              // a decode graph can't run it
  std::vector<AttendSequence> sequences; // scratch
};

// Throws QUIRE_INVALID where the step breaks the program's limits. has_kv: kv_create was called, so num_blocks is
// known.
void check_step(const quire_step& step, const StepTraits& traits, std::span<const uint32_t> num_blocks);

// Whether every sequence has one token.
bool is_decode(const quire_step& step);

// Whether the output of every token is wanted, once: then gather_rows has nothing to do.
bool rows_in_order(const quire_step& step);

// Positions times KV heads, over the sequences of a step, that clusters are for at most. On an H200, a layer of 8 KV
// heads at batch 1 takes 1.7 to 2.3 us less in clusters at 200 to 2,200 positions; at 32,768 it takes 57.95 us in
// clusters and 35.0 us on the decode grid.
inline constexpr uint64_t kClusterReads = 32768;

// Bytes of K and V in a layer from which on keys come first. On an H200 (batch 1), us a token where they do and where
// they don't: 8B in Q4_K at 960 positions (3.9 MB) 1,494 and 1,482, at 1,500 1,517 and 1,521, at 2,048 1,522 and 1,532,
// at 3,400 1,646 and 1,682; 1B at 960 (2 MB) 769 and 757, at 2,048 777 and 776.
inline constexpr uint64_t kKeysFirstBytes = 5 << 20;

// Clusters where few sequences read so little, in every class that has clusters for so many, that they pay.
Clusters clusters_for(const quire_step& step, const StepTraits& traits);
// What it may say of steps of so many sequences, besides none.
std::vector<Clusters> clusters_of_bucket(uint32_t bucket, const StepTraits& traits);

// clusters: clusters_for(). bucket: sequences of the graph that will run it; 0: it runs as it is.
void plan_step(const quire_step& step, const StepTraits& traits, StepPlans& plans, Clusters clusters,
               uint32_t bucket = 0);

// A shape that holds the step as it is, or any decode step of `bucket` sequences for which clusters_for says so.
StepShape exact_shape(const quire_step& step, const StepPlans& plans);
StepShape bucket_shape(uint32_t bucket, Clusters clusters, const StepTraits& traits);

// Writes the step, padded to the shape; returns the bytes in use. row_base: added to token_rows (where the sampled
// tokens of the ticket before lie).
uint64_t write_step(const quire_step& step, const StepTraits& traits, const StepPlans& plans, const StepShape& shape,
                    const StepLayout& layout, uint32_t row_base, std::span<std::byte> out);

// The most bytes that any step within the limits needs.
uint64_t most_step_bytes(const StepTraits& traits);

} // namespace quire::cuda
