// What attend and attend_combine share: the folding of a segment's partial softmax into the running one. Each step is an explicit
// fused multiply-add, so that both shaders give the same bits.
#include "math.glsl"

layout(set = 0, binding = 0, std140) uniform Launch { AttendParams p; };

// Weights of the running state and of the segment, given their maxima; updates the running one.
vec2 fold_weights(inout float running_max, float segment_max) {
  const float both = max(running_max, segment_max);
  const vec2 weights = vec2(running_max == both ? 1.0 : exp_of(running_max - both),
                            segment_max == both ? 1.0 : exp_of(segment_max - both));
  running_max = both;
  return weights;
}
float fold(float running, float segment, vec2 weights) { return fma(segment, weights.y, running * weights.x); }

// What the running values are multiplied by at last: one over the denominator, with the head's sink in it.
float last_weight(float running_max, float running_sum, uint head) {
  if (p.sinks == 0) return 1.0 / running_sum;
  const float sink = ReadFloat(p.sinks).at[head];
  const vec2 weights = fold_weights(running_max, sink);
  return weights.x / fold(running_sum, 1.0, weights);
}
