// expert_linear: each token times the experts that it was routed to.
#pragma once

#include "ops.hpp"

namespace quire::cuda {

struct ExpertLinearArgs {
  Tensor in;                   // [T, K], or [T, k, K] (per_slot)
  Tensor ids;                  // [T, k] int32
  Tensor mix;                  // [T, k] weights; absent: every slot's result is stored
  Tensor out;                  // [T, k, N], or [T, N] with mix
  Weight weight;               // [experts, N, K]
  const float* bias = nullptr; // [experts, N]
  uint32_t top_k = 1;
  bool per_slot = false;
  uint32_t slices = 1;
  bool fixed_order = false;
  std::byte* workspace = nullptr; // of expert_workspace_bytes
};

// Tokens that one pass takes, and the memory for it.
uint32_t expert_pass_tokens(uint32_t max_tokens, uint32_t top_k, uint32_t outputs, bool mix);
uint64_t expert_workspace_bytes(uint32_t max_tokens, uint32_t top_k, uint32_t experts, uint32_t outputs, bool mix);

void expert_linear(const Queue&, uint32_t tokens, const ExpertLinearArgs&);

} // namespace quire::cuda
