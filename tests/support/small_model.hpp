// A small random network of the Llama family as a test program: two layers, grouped heads, mixed weight formats.
#pragma once

#include "support/test_program.hpp"

#include <cstdint>

namespace quire::tests {

struct SmallModel {
  uint32_t vocab = 320, dim = 128, layers = 2, heads = 6, kv_heads = 2, head_dim = 64, inner = 192;
  uint32_t format = QUIRE_Q4_1;    // of the matrices; the embedding is Q8_0 and tied
  uint32_t kv_weights = QUIRE_F16; // of the matrices that make k and v
  uint32_t window = 0;             // of every second layer
  bool head_norms = false;         // q and k are normalised per head
  uint32_t rope = QUIRE_ROPE_INTERLEAVED;
  uint32_t rotary_dim = 0; // 0 = head_dim
  float softcap = 0;       // of attention
  bool sinks = false;
  uint32_t max_context = 2048;
};

// outputs[0] = logits [R, vocab]; outputs[1] = the last hidden state [T, dim].
TestProgram small_model(const SmallModel& shape, Random& random);

} // namespace quire::tests
