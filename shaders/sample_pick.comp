// sample_pick: puts a row's chunks together in their order: token, logprob, normalised candidates. A subgroup a row. Grid: y = rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "sample.glsl"

void main() {
  const uint index = gl_WorkGroupID.y;
  const SampleRow row = SampleRows(p.rows).at[index];
  SampleChunks chunks = SampleChunks(p.chunks);
  float best = minus_infinity, raw_max = minus_infinity, raw_sum = 0.0;
  uint token = no_token, nan = 0;
  for (uint i = 0; i < p.num_chunks; ++i) {
    const SampleChunk chunk = chunks.at[index * p.num_chunks + i];
    if (chunk.best_token != no_token) take_better(best, token, chunk.best, chunk.best_token);
    nan |= chunk.nan;
    if (chunk.raw_max == minus_infinity) continue;
    const float both = max(raw_max, chunk.raw_max);
    raw_sum = fma(chunk.raw_sum, chunk.raw_max == both ? 1.0 : exp_of(chunk.raw_max - both),
                  raw_sum * (raw_max == both ? 1.0 : exp_of(raw_max - both)));
    raw_max = both;
  }
  const float log_sum = raw_max + log_of(raw_sum);
  const bool chosen = nan == 0 && token != no_token;
  SampleResults results = SampleResults(p.results);
  uint num_candidates = 0;
  if (nan == 0 && (row.flags & sample_candidates) != 0) num_candidates = results.at[index].num_candidates;
  for (uint i = gl_SubgroupInvocationID; i < num_candidates; i += lanes)
    SampleCandidates(p.candidates).at[row.candidate + i].logprob -= log_sum;
  if (gl_SubgroupInvocationID != 0) return;
  SampleResult result;
  result.token = chosen ? int(token) : -1;
  float logprob = 0.0;
  if (chosen) logprob = raw_logits(index).at[token] - log_sum;
  result.logprob = logprob;
  result.num_candidates = num_candidates;
  result.unused = 0;
  results.at[index] = result;
  WriteInt(p.sampled).at[index] = result.token;
}
