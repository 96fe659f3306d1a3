// route and expert_linear.
#include "conformance/harness.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <sstream>

namespace quire::tests {
namespace {

TestProgram program_for(uint32_t tokens) {
  TestProgram program;
  program.vocab_size = tokens + 1;
  program.max_context = 8192;
  return program;
}

struct Routed {
  uint32_t weights, ids;
};
Routed add_route(TestProgram& p, uint32_t scores, const quire_route& route) {
  const Routed out{p.tensor(QUIRE_TOKENS, 1, route.top_k), p.tensor(QUIRE_TOKENS, 1, route.top_k, QUIRE_INT32)};
  p.op(QUIRE_OP_ROUTE, {scores}, {out.weights, out.ids}).u.route = route;
  p.extra_output(out.weights);
  p.extra_output(out.ids);
  return out;
}

} // namespace

TEST(Route, TheBestExpertsAreChosen) {
  Harness h("Route.TheBestExpertsAreChosen");
  Random& random = h.random();
  for (int i = 0; i < h.cases(12); ++i) {
    const uint32_t tokens = random.integer(1, 300);
    quire_route route{};
    uint32_t experts = random.chance(0.5) ? random.pick({8u, 64u, 128u, 256u}) : random.integer(2, 130);
    if (i % 3 == 2) {
      route.groups = random.pick({2u, 4u, 8u});
      experts = route.groups * random.integer(2, 32);
      route.top_groups = random.integer(1, route.groups);
    }
    const uint32_t reachable = route.groups ? experts / route.groups * route.top_groups : experts;
    route.scoring = static_cast<uint32_t>(i % 2 ? random.pick({QUIRE_ROUTE_SOFTMAX, QUIRE_ROUTE_SIGMOID}) : i / 2 % 3);
    route.top_k = random.integer(1, std::min(8u, reachable));
    route.normalise = random.chance(0.5);
    route.scale = random.pick({0.0f, 2.5f});
    TestProgram p = program_for(tokens);
    if (random.chance(0.4)) route.bias = p.random_weight(QUIRE_F32, 0, 1, experts, 0.2, random);
    add_route(p, p.input(experts, random, 2), route);
    p.add_plain_logits(random);
    std::ostringstream what;
    what << route.top_k << " of " << experts << " experts, scoring " << route.scoring << ", groups " << route.groups
         << " of which " << route.top_groups << (route.bias ? ", bias" : "") << (route.normalise ? ", normalised" : "");
    h.check(p, {plain_step(tokens, 1, random)}, what.str());
  }
}

TEST(Route, TiesGoToTheLowestId) {
  Harness h("Route.TiesGoToTheLowestId");
  for (const uint32_t scoring : {QUIRE_ROUTE_SOFTMAX, QUIRE_ROUTE_SIGMOID, QUIRE_ROUTE_SOFTMAX_SELECTED}) {
    constexpr uint32_t tokens = 20, experts = 48;
    TestProgram p = program_for(tokens);
    std::vector<float> scores(size_t{p.vocab_size} * experts);
    for (float& score : scores) score = static_cast<float>(h.random().integer(0, 3)); // many equal ones
    quire_route route{};
    route.scoring = scoring;
    route.top_k = 6;
    add_route(p, p.embed(p.matrix(p.vocab_size, experts, scores)), route);
    p.add_plain_logits(h.random());
    h.check(p, {plain_step(tokens, 1, h.random())}, describe("scoring ", scoring));
  }
}

TEST(ExpertLinear, ChosenExpertsAreApplied) {
  Harness h("ExpertLinear.ChosenExpertsAreApplied");
  Random& random = h.random();
  for (const uint32_t format : all_formats())
    for (int i = 0; i < h.cases(1); ++i) {
      const uint32_t tokens = random.chance(0.3) ? 1 : random.integer(2, 120), experts = random.integer(2, 24);
      const uint32_t K = std::max(format_shape(format).elements, 32u) * random.integer(1, 2),
                     N = random.integer(1, 150);
      const bool per_slot = random.chance(0.4), mix = random.chance(0.5);
      TestProgram p = program_for(tokens);
      quire_route route{};
      route.top_k = random.integer(1, std::min(6u, experts));
      route.normalise = 1;
      const Routed routed = add_route(p, p.input(experts, random), route);
      const uint32_t in = per_slot ? p.view(p.input(route.top_k * K, random), route.top_k, K, 0) : p.input(K, random);
      const uint32_t out = mix ? p.tensor(QUIRE_TOKENS, 1, N) : p.tensor(QUIRE_TOKENS, route.top_k, N);
      quire_expert_linear linear{};
      linear.weight = p.random_weight(format, experts, N, K, 1 / std::sqrt(K), random);
      if (random.chance(0.5)) linear.bias = p.random_weight(QUIRE_F32, 0, experts, N, 1, random);
      p.op(QUIRE_OP_EXPERT_LINEAR, {in, routed.ids, mix ? routed.weights : 0}, {out}).u.expert_linear = linear;
      p.extra_output(out);
      p.add_plain_logits(random);
      std::ostringstream what;
      what << format_shape(format).name << " [" << experts << ", " << N << ", " << K << "], " << route.top_k
           << " of them for " << tokens << " tokens" << (per_slot ? ", an input a slot" : "") << (mix ? ", mixed" : "")
           << (linear.bias ? ", bias" : "");
      h.check(p, {plain_step(tokens, 1, random)}, what.str());
    }
}

} // namespace quire::tests
