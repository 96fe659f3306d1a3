// out[0] [T, k] weights and out[1] [T, k] expert ids from in[0] [T, experts] scores: best first, the lowest id on ties.
// Sources: Shazeer et al. 2017 (top k of a softmax); DeepSeek-V3 2024, section 2.1.2 (sigmoid, bias for choosing,
// groups).
#include "reference/ops.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quire::reference {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// The index of the largest of n, the lowest on ties.
uint32_t best_of(const float* values, uint32_t n) {
  return static_cast<uint32_t>(std::max_element(values, values + n) - values);
}

// scores [n] in place.
void softmax(float* scores, uint32_t n) {
  const float largest = *std::max_element(scores, scores + n);
  float sum = 0;
  for (uint32_t i = 0; i < n; ++i) sum += scores[i] = std::exp(scores[i] - largest);
  for (uint32_t i = 0; i < n; ++i) scores[i] /= sum;
}

// Experts outside the top_groups best groups become kNever. choosing [experts]; group_scores [groups].
void keep_best_groups(const quire_route& p, float* choosing, uint32_t experts, float* group_scores) {
  const uint32_t size = experts / p.groups;
  for (uint32_t g = 0; g < p.groups; ++g) {
    float first = kNever, second = kNever;
    for (uint32_t e = g * size; e < (g + 1) * size; ++e) {
      second = std::max(second, std::min(first, choosing[e]));
      first = std::max(first, choosing[e]);
    }
    group_scores[g] = size == 1 ? first : first + second;
  }
  for (uint32_t dropped = p.top_groups; dropped < p.groups; ++dropped) {
    uint32_t worst = 0; // the highest id on ties, so that the lowest stays
    for (uint32_t g = 1; g < p.groups; ++g)
      if (!(group_scores[g] > group_scores[worst])) worst = g;
    group_scores[worst] = std::numeric_limits<float>::infinity();
    std::fill_n(choosing + worst * size, size, kNever);
  }
}

} // namespace

void route(const OpRun& run) {
  const quire_route& p = run.op.u.route;
  const Tensor in = run.in(0), weights = run.out(0), ids = run.out(1);
  const float* bias = p.bias ? run.weight(p.bias)->vector() : nullptr; // [experts]
  const float scale = p.scale == 0 ? 1.0f : p.scale;
  const uint32_t experts = in.width();
  run.pool.run(in.rows, [&](size_t t, unsigned worker) {
    float* scores = run.program.worker_scratch(worker); // [experts]
    float* choosing = scores + experts;                 // [experts]
    float* group_scores = choosing + experts;           // [groups]
    std::copy_n(in.row(t), experts, scores);
    if (p.scoring == QUIRE_ROUTE_SOFTMAX) softmax(scores, experts);
    if (p.scoring == QUIRE_ROUTE_SIGMOID)
      for (uint32_t e = 0; e < experts; ++e) scores[e] = 1.0f / (1.0f + std::exp(-scores[e]));
    for (uint32_t e = 0; e < experts; ++e) choosing[e] = scores[e] + (bias ? bias[e] : 0.0f);
    if (p.groups > 1 && p.top_groups != 0 && p.top_groups < p.groups)
      keep_best_groups(p, choosing, experts, group_scores);

    float* chosen = weights.row(t);
    float sum = 0;
    for (uint32_t i = 0; i < p.top_k; ++i) {
      const uint32_t best = best_of(choosing, experts);
      choosing[best] = kNever;
      chosen[i] = scores[best];
      sum += chosen[i];
      ids.row(t)[i] = id_bits(best);
    }
    if (p.scoring == QUIRE_ROUTE_SOFTMAX_SELECTED) {
      softmax(chosen, p.top_k);
    } else if (p.normalise) {
      for (uint32_t i = 0; i < p.top_k; ++i) chosen[i] /= sum;
    }
    for (uint32_t i = 0; i < p.top_k; ++i) chosen[i] *= scale;
  });
}

size_t route_scratch_floats(const CompiledProgram& program, const quire_op& op) {
  const quire_value& scores = program.value(op.in[0]);
  return 2 * size_t{scores.heads} * scores.dim + op.u.route.groups;
}

} // namespace quire::reference
