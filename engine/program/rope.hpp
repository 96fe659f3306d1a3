// Rope frequencies of every public scaling kind, worked out on the host so that all backends rotate alike.
//
// The angle of pair i at position p is p * frequencies[i] (radians); cos and sin are multiplied by the magnitude. Kinds
// and their formulas, in float32 where Hugging Face `transformers` computes in float32 (modeling_rope_utils), so that
// both agree to the last bits:
//   default   theta^(-2 i / d): Su et al. 2021 (RoFormer)
//   linear    divided by factor: Chen et al. 2023 (position interpolation)
//   dynamic   theta grown for a context beyond the trained one (NTK-aware), at the fixed context that is served
//   llama3    low frequencies divided, high ones kept, a ramp between: Llama 3.1's reference code
//   yarn      the ramp by rotations over the trained context, and a magnitude: Peng et al. 2023
//   longrope  divided by a searched factor a pair, and a magnitude: Ding et al. 2024; the long factors where the
//   context that is served
//             exceeds the trained one, else the short ones
// Errors: quire::Error names the key. Threads: pure functions.
#pragma once

#include "quire/plugin.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace quire {

enum class RopeScalingKind { none, linear, dynamic, llama3, yarn, longrope };

struct RopeScaling {
  RopeScalingKind kind = RopeScalingKind::none;
  double factor = 1;
  double trained_context = 0;      // original_max_position_embeddings; of dynamic, max_position_embeddings
  double low_freq_factor = 1;      // llama3
  double high_freq_factor = 4;     // llama3
  double beta_fast = 32;           // yarn
  double beta_slow = 1;            // yarn
  bool truncate = true;            // yarn: the ramp's ends are whole numbers
  std::vector<float> long_factor;  // longrope, [rotary_dim / 2]
  std::vector<float> short_factor; // longrope, [rotary_dim / 2]
  double magnitude = 1;            // yarn, longrope
};

// From `rope_scaling.*` (or, where a model nests it by layer type, `rope_scaling.full_attention.*`). `source` names the
// file in errors. Longrope's factors may be missing in GGUF metadata: then they are empty, for the caller to fill from
// the file's tensors.
RopeScaling read_rope_scaling(const quire_config& config, const std::string& source);

// [rotary_dim / 2]; context: tokens a sequence that will be served. rotary_dim is even, at least 2.
std::vector<float> rope_frequencies(const RopeScaling& scaling, double theta, uint32_t rotary_dim, uint32_t context,
                                    const std::string& source);

} // namespace quire
