// route: chooses top_k of the experts for each token, a subgroup a token; ties go to the lowest id.
//
// Instead of marking what was chosen, each round takes the best that comes after the last one chosen in the order (score down, id up).
// Grid: y = tokens.
#version 460
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "math.glsl"

layout(set = 0, binding = 0, std140) uniform Launch { RouteParams p; };

const uint softmax = 0, sigmoid = 1, softmax_selected = 2;

// What an expert is chosen by.
float choice_score(float weight, uint expert) { return p.bias != 0 ? weight + ReadFloat(p.bias).at[expert] : weight; }

struct Best {
  float score;
  uint id;
};

// The first in the order (score down, id up) over the subgroup.
Best lanes_best(Best best) {
  for (uint step_lanes = 1; step_lanes < lanes; step_lanes *= 2) {
    const float score = subgroupShuffle(best.score, gl_SubgroupInvocationID ^ step_lanes);
    const uint id = subgroupShuffle(best.id, gl_SubgroupInvocationID ^ step_lanes);
    if (score > best.score || (score == best.score && id < best.id)) best = Best(score, id);
  }
  return best;
}

void main() {
  const uint token = gl_WorkGroupID.y, lane = gl_SubgroupInvocationID;
  if (token >= step.num_tokens) return;
  ReadFloat scores = read_at(p.scores, token, p.score_stride);
  const float lowest = uintBitsToFloat(0xFF800000u);

  float largest = lowest, sum = 0.0;
  if (p.scoring == softmax) {
    for (uint e = lane; e < p.experts; e += lanes) largest = max(largest, scores.at[e]);
    largest = lanes_max(largest);
    for (uint e = lane; e < p.experts; e += lanes) sum += exp_of(scores.at[e] - largest);
    sum = lanes_sum(sum);
  }
  const uint group_experts = p.groups > 1 ? p.experts / p.groups : p.experts;
  uint allowed_low = 0xFFFFFFFFu, allowed_high = 0xFFFFFFFFu; // groups, up to 64
  if (p.groups > 1 && p.top_groups != 0 && p.top_groups < p.groups) {
    allowed_low = allowed_high = 0;
    Best last = Best(uintBitsToFloat(0x7F800000u), 0);
    for (uint round = 0; round < p.top_groups; ++round) {
      Best best = Best(lowest, 0xFFFFFFFFu);
      for (uint g = lane; g < p.groups; g += lanes) {
        float first = lowest, second = lowest;
        for (uint e = g * group_experts; e < (g + 1) * group_experts; ++e) {
          const float raw = scores.at[e];
          const float weight = p.scoring == softmax   ? exp_of(raw - largest) / sum
                               : p.scoring == sigmoid ? 1.0 / (1.0 + exp_of(-raw))
                                                      : raw;
          const float score = choice_score(weight, e);
          second = max(second, min(first, score));
          first = max(first, score);
        }
        const float score = group_experts > 1 ? first + second : first;
        const bool later = round == 0 || score < last.score || (score == last.score && g > last.id);
        if (later && (score > best.score || (score == best.score && g < best.id))) best = Best(score, g);
      }
      last = lanes_best(best);
      if (last.id < 32) allowed_low |= 1u << last.id;
      else if (last.id < 64) allowed_high |= 1u << (last.id - 32);
    }
  }

  WriteFloat weights = write_at(p.weights, token, p.weight_stride);
  WriteInt ids = WriteInt(p.ids + uint64_t(token) * p.id_stride * 4);
  Best last = Best(uintBitsToFloat(0x7F800000u), 0);
  float total = 0.0, first_raw = 0.0;
  for (uint round = 0; round < p.top_k; ++round) {
    Best best = Best(lowest, 0xFFFFFFFFu);
    for (uint e = lane; e < p.experts; e += lanes) {
      const uint g = e / group_experts;
      const bool allowed = p.groups <= 1 || ((g < 32 ? allowed_low >> g : allowed_high >> (g - 32)) & 1u) != 0;
      const float raw = scores.at[e];
      const float weight = p.scoring == softmax   ? exp_of(raw - largest) / sum
                           : p.scoring == sigmoid ? 1.0 / (1.0 + exp_of(-raw))
                                                  : raw;
      const float score = choice_score(weight, e);
      const bool later = round == 0 || score < last.score || (score == last.score && e > last.id);
      if (allowed && later && (score > best.score || (score == best.score && e < best.id))) best = Best(score, e);
    }
    last = lanes_best(best);
    const uint id = min(last.id, p.experts - 1); // NaN scores leave none
    const float raw = scores.at[id];
    if (round == 0) first_raw = raw;
    // softmax over the chosen: relative to the first, which is near the largest; a bias may put a larger one later
    const float weight = p.scoring == softmax   ? exp_of(raw - largest) / sum
                         : p.scoring == sigmoid ? 1.0 / (1.0 + exp_of(-raw))
                                                : exp_of(raw - first_raw);
    total += weight;
    if (lane == 0) {
      ids.at[round] = int(id);
      weights.at[round] = weight;
    }
  }
  if (lane != 0) return;
  const float divisor = p.scoring == softmax_selected || p.normalise != 0 ? total : 1.0;
  for (uint round = 0; round < p.top_k; ++round) weights.at[round] = weights.at[round] / divisor * p.scale;
}
