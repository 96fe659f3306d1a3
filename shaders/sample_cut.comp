// sample_cut: the thresholds of min-p, top-k, typical-p and top-p of a row, a workgroup a row, without sorting.
//
// A threshold is found digit by digit, four bits a pass from the top of the floats' ordered keys: the largest key whose tokens at or
// above it count, or weigh, at least the target. Each pass sums for the 15 keys that the digit divides by, every sum over the same
// tokens in the same order, so that a larger set never weighs less. Ties at a threshold are all kept. Grid: y = rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "reduce.glsl"
#include "sample.glsl"

const uint by_count = 0, by_mass = 1, by_score = 2;

// Weight of a token in the sums, 0 where what came before has cut it.
float weight_of(float logit, uint kind, float largest, SampleCut cut, bool typical) {
  if (!(logit >= cut.threshold) || logit == minus_infinity) return 0.0;
  if (typical && typical_score(logit, cut) > cut.typical) return 0.0;
  return kind == by_count ? 1.0 : exp_of(logit - largest);
}

// The largest key at or above which the tokens weigh at least `target`. by_score: of the scores' complements, the lowest score first.
uint find_key(ReadFloat logits, float temperature, uint kind, float target, float largest, SampleCut cut, bool typical) {
  uint prefix = 0;
  for (int shift = 28; shift >= 0; shift -= 4) {
    float sums[15];
    [[unroll]] for (uint j = 0; j < 15; ++j) sums[j] = 0.0;
    for (uint i = gl_LocalInvocationID.x; i < p.vocab; i += gl_WorkGroupSize.x) {
      const float logit = logits.at[i] / temperature;
      const float weight = weight_of(logit, kind, largest, cut, typical);
      const uint key = kind == by_score ? ~key_of(typical_score(logit, cut)) : key_of(logit);
      [[unroll]] for (uint j = 0; j < 15; ++j) sums[j] += key >= (prefix | (j + 1) << shift) ? weight : 0.0;
    }
    group_sums(sums);
    uint digit = 0;
    [[unroll]] for (uint j = 0; j < 15; ++j) digit = sums[j] >= target ? j + 1 : digit;
    prefix |= digit << shift;
  }
  return prefix;
}

void main() {
  const uint index = gl_WorkGroupID.y;
  const SampleRow row = SampleRows(p.rows).at[index];
  if ((row.flags & sample_cut) == 0) return;
  ReadFloat logits = row_logits(row, index);
  SampleChunks chunks = SampleChunks(p.chunks);
  float largest = minus_infinity;
  for (uint i = 0; i < p.num_chunks; ++i) largest = max(largest, chunks.at[index * p.num_chunks + i].max_logit);

  SampleCut cut = SampleCut(minus_infinity, 0.0, 0.0, 0.0);
  bool typical = false;
  if (row.min_p > 0.0) cut.threshold = largest + log_of(row.min_p);
  if (row.top_k != 0 && row.top_k < p.vocab)
    cut.threshold = max(cut.threshold, value_of_key(find_key(logits, row.temperature, by_count, float(row.top_k), largest, cut, false)));
  if (row.typical_p > 0.0 && row.typical_p < 1.0) {
    float mass = 0.0;
    for (uint i = gl_LocalInvocationID.x; i < p.vocab; i += gl_WorkGroupSize.x)
      mass += weight_of(logits.at[i] / row.temperature, by_mass, largest, cut, false);
    mass = group_sum(mass);
    cut.log_sum = largest + log_of(mass);
    float entropy = 0.0; // of p: log sum - mean of the logits
    for (uint i = gl_LocalInvocationID.x; i < p.vocab; i += gl_WorkGroupSize.x) {
      const float logit = logits.at[i] / row.temperature;
      const float weight = weight_of(logit, by_mass, largest, cut, false);
      entropy += weight == 0.0 ? 0.0 : weight * (cut.log_sum - logit);
    }
    cut.entropy = group_sum(entropy) / mass;
    const uint key = find_key(logits, row.temperature, by_score, row.typical_p * mass, largest, cut, false);
    cut.typical = value_of_key(~key);
    typical = true;
  }
  if (row.top_p > 0.0 && row.top_p < 1.0) {
    float mass = 0.0;
    for (uint i = gl_LocalInvocationID.x; i < p.vocab; i += gl_WorkGroupSize.x)
      mass += weight_of(logits.at[i] / row.temperature, by_mass, largest, cut, typical);
    const float target = row.top_p * group_sum(mass);
    cut.threshold = max(cut.threshold, value_of_key(find_key(logits, row.temperature, by_mass, target, largest, cut, typical)));
  }
  if (gl_LocalInvocationID.x == 0) SampleCuts(p.cuts).at[index] = cut;
}
