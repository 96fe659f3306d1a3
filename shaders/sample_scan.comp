// sample_scan: of each chunk of a row's vocabulary the raw maximum and sum of exponentials, whether there is a NaN, the largest edited
// logit over temperature, and for rows that are not cut the best token: the largest logit, or the largest with noise (Gumbel-max).
// With `kept` the same noise over what sample_cut kept, for the rows that are cut.
//
// A subgroup a chunk; a lane four neighbouring tokens, which share a counter of the generator. Grid: x = chunks, y = rows.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "sample.glsl"

layout(constant_id = 2) const uint kept = 0;

void main() {
  const uint index = gl_WorkGroupID.y;
  const SampleRow row = SampleRows(p.rows).at[index];
  const bool random = (row.flags & sample_random) != 0, cut = (row.flags & sample_cut) != 0;
  if (kept != 0 && !cut) return;
  ReadFloat raw = raw_logits(index);
  ReadFloat logits = row_logits(row, index);
  SampleCut keep = SampleCut(minus_infinity, 0.0, 0.0, 0.0);
  if (kept != 0) keep = SampleCuts(p.cuts).at[index];
  const bool typical = row.typical_p > 0.0 && row.typical_p < 1.0;
  const uint first = gl_WorkGroupID.x * p.chunk, end = min(first + p.chunk, p.vocab);

  float raw_max = minus_infinity, raw_sum = 0.0, nan = 0.0;
  if (kept == 0) {
    for (uint i = first + gl_SubgroupInvocationID; i < end; i += lanes) {
      const float logit = raw.at[i];
      nan = isnan(logit) ? 1.0 : nan;
      raw_max = max(raw_max, logit);
    }
    raw_max = lanes_max(raw_max);
    nan = lanes_max(nan);
    for (uint i = first + gl_SubgroupInvocationID; i < end; i += lanes)
      raw_sum += raw_max == minus_infinity ? 0.0 : exp_of(raw.at[i] - raw_max);
    raw_sum = lanes_sum(raw_sum);
  }
  float best = minus_infinity, max_logit = minus_infinity;
  uint token = no_token;
  for (uint i = first + gl_SubgroupInvocationID * 4; i < end; i += lanes * 4) {
    uvec4 words = uvec4(0);
    if (random && cut == (kept != 0)) words = philox(uvec4(i / 4, row.position, row.choice, 0), uvec2(row.seed_low, row.seed_high));
    [[unroll]] for (uint w = 0; w < 4; ++w)
      if (i + w < end) {
        float logit = logits.at[i + w];
        if (random) logit /= row.temperature;
        if (logit > minus_infinity) {
          max_logit = max(max_logit, logit);
          bool in_play = true;
          if (kept != 0) in_play = logit >= keep.threshold && (!typical || typical_score(logit, keep) <= keep.typical);
          if (in_play) {
            float value = logit;
            if (random && cut == (kept != 0)) value += gumbel(words[w]);
            if (value > best) {
              best = value;
              token = i + w;
            }
          }
        }
      }
  }
  lanes_best(best, token);
  max_logit = lanes_max(max_logit);
  if (gl_SubgroupInvocationID != 0) return;
  SampleChunks chunks = SampleChunks(p.chunks);
  const uint at = index * p.num_chunks + gl_WorkGroupID.x;
  if (kept == 0) {
    SampleChunk chunk;
    chunk.raw_max = raw_max;
    chunk.raw_sum = raw_sum;
    chunk.best = best;
    chunk.best_token = token;
    chunk.max_logit = max_logit;
    chunk.nan = nan != 0.0 ? 1 : 0;
    chunk.unused0 = chunk.unused1 = 0;
    chunks.at[at] = chunk;
  } else {
    chunks.at[at].best = best;
    chunks.at[at].best_token = token;
  }
}
