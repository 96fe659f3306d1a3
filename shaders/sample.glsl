// What the sampling shaders share: parameters, the random numbers and the distribution that a row is sampled from.
//
// Order of work of a step's rows (quire_sampling_row in plugin.h defines the meaning): sample_edit and sample_patch make the edited
// copies of the rows with penalties, bias or masks; sample_scan sums up each chunk of the vocabulary; sample_cut finds what top-k,
// top-p, min-p and typical-p keep and sample_kept chooses among it; sample_candidates finds the most probable tokens; sample_pick puts
// the chunks together. All sums are in a fixed order.
#include "math.glsl"

layout(set = 0, binding = 0, std140) uniform Launch { SampleParams p; };

layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer SampleRows { SampleRow at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) readonly buffer SampleEdits { SampleEdit at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer SampleChunks { SampleChunk at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer SampleCuts { SampleCut at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer SampleResults { SampleResult at[]; };
layout(buffer_reference, std430, buffer_reference_align = 4) buffer SampleCandidates { SampleCandidate at[]; };

#define minus_infinity uintBitsToFloat(0xFF800000u)
const uint no_token = 0xFFFFFFFFu;

ReadFloat raw_logits(uint row) { return read_at(p.logits, row, p.logit_stride); }
// What the row's token is chosen from, before the temperature.
ReadFloat row_logits(SampleRow row, uint index) {
  return (row.flags & sample_edited) != 0 ? read_at(p.edited, row.edited, p.vocab) : raw_logits(index);
}

// Philox4x32-10 (Salmon et al. 2011, «Parallel random numbers: as easy as 1, 2, 3»).
uvec4 philox(uvec4 counter, uvec2 key) {
  for (uint i = 0; i < 10; ++i) {
    uint high0, low0, high1, low1;
    umulExtended(0xD2511F53u, counter.x, high0, low0);
    umulExtended(0xCD9E8D57u, counter.z, high1, low1);
    counter = uvec4(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
    key += uvec2(0x9E3779B9u, 0xBB67AE85u);
  }
  return counter;
}

// -log(-log(u)), u = (word + 0.5) * 2^-32; near one through 1 - u, which is exact where u is not.
float gumbel(uint word) {
  const float u = (float(word) + 0.5) * 2.3283064e-10, rest = (float(~word) + 0.5) * 2.3283064e-10;
  const float exponential = word >= 0x80000000u ? (rest > 0.29 ? -log_of(1.0 - rest) : -log_near_one(-rest)) : -log_of(u);
  return -log_of(exponential);
}

// The order of floats as that of unsigned numbers; -0 is 0, so that the token's number decides.
uint key_of(float value) {
  const uint bits = value == 0.0 ? 0u : floatBitsToUint(value);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
float value_of_key(uint key) { return uintBitsToFloat((key & 0x80000000u) != 0 ? key & 0x7FFFFFFFu : ~key); }

// How far a token's information is from the expected one (typical-p): | -log p - H |.
float typical_score(float logit, SampleCut cut) { return abs((cut.log_sum - logit) - cut.entropy); }

// The larger value, the lower token where they are equal.
void take_better(inout float best, inout uint token, float other, uint other_token) {
  if (other > best || (other == best && other_token < token)) {
    best = other;
    token = other_token;
  }
}
void lanes_best(inout float best, inout uint token) {
  for (uint step_lanes = 1; step_lanes < lanes; step_lanes *= 2) {
    const float other = subgroupShuffle(best, gl_SubgroupInvocationID ^ step_lanes);
    const uint other_token = subgroupShuffle(token, gl_SubgroupInvocationID ^ step_lanes);
    take_better(best, token, other, other_token);
  }
}
