// How the device's memory is shared out: blocks of each KV group on the device and slots for them on the host.
//
// Every group gets its share so that all run short together: a group that sees everything needs blocks for the whole
// context of a sequence, one with a window of w only for w and what a step adds. Bytes and blocks only, no device.
// Errors: quire::Error with the sizes and the fix. Pure.
#pragma once

#include <cstdint>
#include <vector>

namespace quire {

struct MemoryNeeds {
  std::vector<uint64_t> block_bytes; // [groups]
  std::vector<uint32_t> windows;     // [groups] 0 = all
  uint32_t block_size = 16;
  uint32_t max_context = 0;     // wanted
  bool context_is_firm = false; // asked for by the user: less is an error
  uint32_t max_sequences = 64;
  uint32_t max_step_tokens = 512;
  uint64_t kv_bytes = 0; // at most
  uint64_t swap_bytes = 0;
};

struct MemoryPlan {
  std::vector<uint32_t> blocks, host_blocks; // [groups]
  uint32_t max_context = 0;                  // that one sequence can reach alone
  uint64_t kv_bytes = 0, swap_bytes = 0;
};

MemoryPlan plan_memory(const MemoryNeeds& needs);

// Bytes for the KV cache: what was asked for, or what the fraction of the free memory leaves beside weights and
// scratch. On a CPU, whose memory is everybody's, at most 2 GiB unless asked for.
uint64_t kv_budget(uint64_t asked_bytes, double fraction, uint64_t free_bytes_now, uint64_t used_bytes, bool cpu);

} // namespace quire
