#include "support/small_model.hpp"

#include <cmath>

namespace quire::tests {
namespace {

struct Maker {
  TestProgram& p;
  const SmallModel& s;
  Random& random;

  uint32_t rotary_dim() const { return s.rotary_dim != 0 ? s.rotary_dim : s.head_dim; }
  uint32_t weight(uint32_t format, uint32_t rows, uint32_t cols) {
    return p.random_weight(format, 0, rows, cols, 1 / std::sqrt(static_cast<double>(cols)), random);
  }
  uint32_t norm_weight(uint32_t dim) { return p.vector(random.normals(dim, 0.1, 1)); }

  uint32_t norm(uint32_t x, uint32_t residual, uint32_t* sum) {
    const quire_value in = p.value(x);
    const uint32_t out = p.tensor(QUIRE_TOKENS, in.heads, in.dim);
    *sum = residual ? p.tensor(QUIRE_TOKENS, 1, s.dim) : x;
    quire_norm norm{};
    norm.weight = norm_weight(in.dim);
    norm.epsilon = 1e-5f;
    p.op(QUIRE_OP_NORM, {x, residual}, {out, residual ? *sum : 0}).u.norm = norm;
    return out;
  }
  uint32_t linear(uint32_t x, std::initializer_list<uint32_t> weights, uint32_t rows = QUIRE_TOKENS) {
    uint32_t width = 0, part = 0;
    for (const uint32_t w : weights) width += static_cast<uint32_t>(p.weight(w).rows);
    const uint32_t out = p.tensor(rows, 1, width);
    quire_op& op = p.op(QUIRE_OP_LINEAR, {x}, {out});
    for (const uint32_t w : weights) op.u.linear.weights[part++] = w;
    return out;
  }
  uint32_t rope(uint32_t x, uint32_t heads, uint32_t frequencies) {
    const uint32_t out = p.tensor(QUIRE_TOKENS, heads, s.head_dim);
    quire_rope rope{};
    rope.kind = s.rope;
    rope.rotary_dim = rotary_dim();
    rope.frequencies = frequencies;
    p.op(QUIRE_OP_ROPE, {x}, {out}).u.rope = rope;
    return out;
  }
  uint32_t head_norm(uint32_t x) {
    if (!s.head_norms) return x;
    uint32_t unused = 0;
    return norm(x, 0, &unused);
  }
};

} // namespace

TestProgram small_model(const SmallModel& s, Random& random) {
  TestProgram p;
  p.name = "small";
  p.vocab_size = s.vocab;
  p.max_context = s.max_context;
  p.kv_groups.push_back({0});
  if (s.window) p.kv_groups.push_back({s.window});
  Maker m{p, s, random};
  std::vector<float> theta(m.rotary_dim() / 2);
  for (size_t i = 0; i < theta.size(); ++i)
    theta[i] = static_cast<float>(std::pow(1e4, -2.0 * static_cast<double>(i) / m.rotary_dim()));
  const uint32_t frequencies = p.vector(theta);
  const uint32_t table = m.weight(QUIRE_Q8_0, s.vocab, s.dim);
  uint32_t residual = p.embed(table), x = residual;
  p.ops.back().u.embed.scale = 8;
  uint32_t branch = 0; // what the residual stream still lacks
  for (uint32_t layer = 0; layer < s.layers; ++layer) {
    x = m.norm(branch ? branch : residual, branch ? residual : 0, &residual);
    const uint32_t q_width = s.heads * s.head_dim, kv_width = s.kv_heads * s.head_dim;
    const uint32_t qkv = m.linear(x, {m.weight(s.format, q_width, s.dim), m.weight(s.kv_weights, kv_width, s.dim),
                                      m.weight(s.kv_weights, kv_width, s.dim)});
    const uint32_t q = m.rope(m.head_norm(p.view(qkv, s.heads, s.head_dim, 0)), s.heads, frequencies);
    const uint32_t k = m.rope(m.head_norm(p.view(qkv, s.kv_heads, s.head_dim, q_width)), s.kv_heads, frequencies);
    const uint32_t v = p.view(qkv, s.kv_heads, s.head_dim, q_width + kv_width);
    const uint32_t group = s.window && layer % 2 ? 1 : 0;
    p.kv_layers.push_back({s.kv_heads, s.head_dim, s.head_dim, group});
    p.op(QUIRE_OP_KV_STORE, {k, v}, {}).u.kv_store.kv_layer = layer;
    const uint32_t attended = p.tensor(QUIRE_TOKENS, s.heads, s.head_dim);
    quire_op& attend = p.op(QUIRE_OP_ATTEND, {q}, {attended});
    attend.u.attend.kv_layer = layer;
    attend.u.attend.scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
    attend.u.attend.softcap = s.softcap;
    if (s.sinks) p.ops.back().u.attend.sinks = p.vector(random.normals(s.heads, 1));
    branch = m.linear(attended, {m.weight(s.format, s.dim, q_width)});

    x = m.norm(branch, residual, &residual);
    const uint32_t both = m.linear(x, {m.weight(s.format, s.inner, s.dim), m.weight(s.format, s.inner, s.dim)});
    const uint32_t gated = p.tensor(QUIRE_TOKENS, 1, s.inner);
    p.op(QUIRE_OP_GLU, {p.view(both, 1, s.inner, 0), p.view(both, 1, s.inner, s.inner)}, {gated}).u.glu.activation =
        QUIRE_ACT_SILU;
    branch = m.linear(gated, {m.weight(s.format, s.dim, s.inner)});
  }
  x = m.norm(branch, residual, &residual);
  const uint32_t logits = m.linear(p.gather_rows(x), {table}, QUIRE_OUTPUTS);
  p.add_output("logits", logits);
  p.add_output("hidden", x);
  return p;
}

} // namespace quire::tests
