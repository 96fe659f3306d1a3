// sample_candidates: the most probable tokens of a row's raw logits, a workgroup a row: the key of the n-th largest digit by digit as in
// sample_cut, then, where more tie at it than fit, the lowest ids among them likewise, then their order by counting. Grid: y = rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "reduce.glsl"
#include "sample.glsl"

shared uint found;
shared float found_logits[max_candidates];
shared uint found_tokens[max_candidates];

void main() {
  const uint index = gl_WorkGroupID.y;
  const SampleRow row = SampleRows(p.rows).at[index];
  if ((row.flags & sample_candidates) == 0) return;
  ReadFloat raw = raw_logits(index);
  const uint wanted = min(min(row.num_candidates, p.vocab), max_candidates);

  uint least = 0; // key of the last one
  for (int shift = 28; shift >= 0; shift -= 4) {
    float counts[15];
    [[unroll]] for (uint j = 0; j < 15; ++j) counts[j] = 0.0;
    for (uint i = gl_LocalInvocationID.x; i < p.vocab; i += gl_WorkGroupSize.x) {
      const uint key = key_of(raw.at[i]);
      [[unroll]] for (uint j = 0; j < 15; ++j) counts[j] += key >= (least | (j + 1) << shift) ? 1.0 : 0.0;
    }
    group_sums(counts);
    uint digit = 0;
    [[unroll]] for (uint j = 0; j < 15; ++j) digit = counts[j] >= float(wanted) ? j + 1 : digit;
    least |= digit << shift;
  }
  float above = 0.0, equal = 0.0;
  for (uint i = gl_LocalInvocationID.x; i < p.vocab; i += gl_WorkGroupSize.x) {
    const uint key = key_of(raw.at[i]);
    above += key > least ? 1.0 : 0.0;
    equal += key == least ? 1.0 : 0.0;
  }
  above = group_sum(above);
  equal = group_sum(equal);
  uint last_token = p.vocab; // of those that tie, the first `wanted - above`
  if (above + equal > float(wanted)) {
    // The largest token that fewer than the room for ties come before.
    last_token = 0;
    for (int shift = 28; shift >= 0; shift -= 4) {
      float counts[15];
      [[unroll]] for (uint j = 0; j < 15; ++j) counts[j] = 0.0;
      for (uint i = gl_LocalInvocationID.x; i < p.vocab; i += gl_WorkGroupSize.x) {
        const bool ties = key_of(raw.at[i]) == least;
        [[unroll]] for (uint j = 0; j < 15; ++j) counts[j] += ties && i < (last_token | (j + 1) << shift) ? 1.0 : 0.0;
      }
      group_sums(counts);
      uint digit = 0;
      [[unroll]] for (uint j = 0; j < 15; ++j) digit = above + counts[j] < float(wanted) ? j + 1 : digit;
      last_token |= digit << shift;
    }
  }
  if (gl_LocalInvocationID.x == 0) found = 0;
  barrier();
  for (uint i = gl_LocalInvocationID.x; i < p.vocab; i += gl_WorkGroupSize.x) {
    const float logit = raw.at[i];
    const uint key = key_of(logit);
    if (key > least || (key == least && i <= last_token)) {
      const uint at = atomicAdd(found, 1);
      if (at < max_candidates) {
        found_logits[at] = logit;
        found_tokens[at] = i;
      }
    }
  }
  barrier();
  const uint count = min(found, wanted);
  for (uint i = gl_LocalInvocationID.x; i < count; i += gl_WorkGroupSize.x) {
    uint rank = 0;
    for (uint j = 0; j < count; ++j)
      if (found_logits[j] > found_logits[i] || (found_logits[j] == found_logits[i] && found_tokens[j] < found_tokens[i])) ++rank;
    SampleCandidate candidate;
    candidate.token = int(found_tokens[i]);
    candidate.logprob = found_logits[i]; // sample_pick subtracts the normaliser
    SampleCandidates(p.candidates).at[row.candidate + rank] = candidate;
  }
  if (gl_LocalInvocationID.x == 0) SampleResults(p.results).at[index].num_candidates = count;
}
