// Which ops of a program run in one launch.
//
// rope and kv_store: a store whose keys were just rotated, and the rotation of the queries that attend to them: one
// launch. glu: a linear of two equal parts that only a glu reads: one launch for few rows, two behind each other for
// more. Everything else is alone. Where attend follows on rope and kv_store, a step of one token a sequence may do all
// of it in one launch; others, and so the buffers, have two. Threads: pure functions; no device.
#pragma once

#include <quire/plugin.h>

#include <cstdint>
#include <vector>

namespace quire::cuda {

enum class GroupKind : uint32_t { single, rope_store, linear_glu };

struct LaunchGroup {
  GroupKind kind = GroupKind::single;
  std::vector<uint32_t> ops; // rising; it runs in the place of the last
  // rope_store
  uint32_t rope_k = UINT32_MAX, rope_q = UINT32_MAX, store = UINT32_MAX; // ops; UINT32_MAX = none
  bool keep_k = false;                                                   // somebody else reads the rotated keys
  uint32_t attend = UINT32_MAX; // of the group behind it: nobody else reads the rotated queries and keys
};

struct FusionPlan {
  std::vector<LaunchGroup> groups;    // in the order in which they run
  std::vector<uint32_t> launch_of_op; // [num_ops]
  std::vector<uint32_t> lives;        // [num_ops] the launch by which values live: what attend may do counts as its own
  std::vector<uint8_t> unstored;      // [num_values]
};

FusionPlan plan_fusion(const quire_program& program);

} // namespace quire::cuda
