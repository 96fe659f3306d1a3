#include "memory_plan.hpp"

#include "program/print.hpp" // bytes_text
#include "quire/error.hpp"

#include <algorithm>
#include <limits>
#include <string>

namespace quire {
namespace {

// Blocks of group g that a sequence at full length holds.
uint64_t blocks_a_sequence(const MemoryNeeds& n, size_t g, uint32_t context) {
  const uint64_t whole = (uint64_t{context} + n.block_size - 1) / n.block_size;
  if (n.windows[g] == 0) return whole;
  const uint64_t window =
      (uint64_t{n.windows[g]} + 2 * uint64_t{n.max_step_tokens} + n.block_size - 1) / n.block_size + 2;
  return std::min(whole, window);
}

uint64_t bytes_a_sequence(const MemoryNeeds& n, uint32_t context) {
  uint64_t bytes = 0;
  for (size_t g = 0; g < n.block_bytes.size(); ++g) bytes += blocks_a_sequence(n, g, context) * n.block_bytes[g];
  return bytes;
}

} // namespace

MemoryPlan plan_memory(const MemoryNeeds& n) {
  MemoryPlan plan;
  plan.max_context = n.max_context;
  if (bytes_a_sequence(n, plan.max_context) > n.kv_bytes) {
    if (n.context_is_firm)
      throw Error("the KV memory of " + bytes_text(n.kv_bytes) + " holds less than one sequence of max_context " +
                  std::to_string(n.max_context) + " tokens, which takes " +
                  bytes_text(bytes_a_sequence(n, n.max_context)) + ": lower --max-context or raise --kv-memory");
    uint32_t low = 0, high = plan.max_context / n.block_size; // blocks that fit, that don't
    while (low + 1 < high) {
      const uint32_t middle = low + (high - low) / 2;
      (bytes_a_sequence(n, middle * n.block_size) <= n.kv_bytes ? low : high) = middle;
    }
    plan.max_context = low * n.block_size;
    if (low < 2)
      throw Error("the KV memory of " + bytes_text(n.kv_bytes) + " holds not even two blocks of " +
                  std::to_string(n.block_size) +
                  " tokens: raise --kv-memory or --memory-fraction, or choose a smaller model");
  }
  // More than every sequence at full length would never be used.
  const uint64_t each = bytes_a_sequence(n, plan.max_context);
  const double sequences =
      std::min(static_cast<double>(n.kv_bytes) / static_cast<double>(each), static_cast<double>(n.max_sequences));
  const double swapped =
      std::min(static_cast<double>(n.swap_bytes) / static_cast<double>(each), static_cast<double>(n.max_sequences));
  const auto count = [&](size_t g, double share) {
    const double blocks = share * static_cast<double>(blocks_a_sequence(n, g, plan.max_context));
    return static_cast<uint32_t>(std::min(blocks, static_cast<double>(std::numeric_limits<uint32_t>::max() / 2)));
  };
  for (size_t g = 0; g < n.block_bytes.size(); ++g) {
    plan.blocks.push_back(count(g, sequences));
    plan.host_blocks.push_back(count(g, swapped));
    plan.kv_bytes += plan.blocks[g] * n.block_bytes[g];
    plan.swap_bytes += plan.host_blocks[g] * n.block_bytes[g];
  }
  return plan;
}

uint64_t kv_budget(uint64_t asked_bytes, double fraction, uint64_t free_bytes_now, uint64_t used_bytes, bool cpu) {
  if (asked_bytes) {
    if (asked_bytes > free_bytes_now)
      throw Error("--kv-memory asks for " + bytes_text(asked_bytes) + ", and the device has " +
                  bytes_text(free_bytes_now) + " left beside weights and scratch");
    return asked_bytes;
  }
  const double share = fraction * static_cast<double>(free_bytes_now + used_bytes);
  const double left = share - static_cast<double>(used_bytes);
  if (!(left > 0))
    throw Error("weights and scratch take " + bytes_text(used_bytes) + " and leave nothing of " +
                bytes_text(static_cast<uint64_t>(share)) +
                " for the KV cache: raise --memory-fraction or choose a smaller model");
  const auto bytes = static_cast<uint64_t>(left);
  return cpu ? std::min<uint64_t>(bytes, uint64_t{2} << 30) : bytes;
}

} // namespace quire
