#include "attention_program.hpp"

#include <cmath>
#include <random>

namespace quire::bench {
namespace {
constexpr uint32_t kVocabulary = 1024;
}

AttentionProgram::AttentionProgram(const AttentionShape& shape, uint32_t layers, uint32_t max_context)
    : max_context_(max_context) {
  const uint32_t q_width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  values_.reserve(layers + 9);
  const uint32_t logit_rows = value(QUIRE_TOKENS, 1, kVocabulary), logits = value(QUIRE_OUTPUTS, 1, kVocabulary);
  // Normed, so that they are stored as a layer's queries, keys and values are.
  const uint32_t plain = value(QUIRE_TOKENS, 1, q_width + 2 * kv_width);
  const uint32_t qkv = value(QUIRE_TOKENS, 1, q_width + 2 * kv_width);
  const uint32_t q = value(QUIRE_TOKENS, shape.heads, shape.head_dim, qkv, 0);
  const uint32_t k = value(QUIRE_TOKENS, shape.kv_heads, shape.head_dim, qkv, q_width);
  const uint32_t v = value(QUIRE_TOKENS, shape.kv_heads, shape.head_dim, qkv, q_width + kv_width);
  kv_groups_.push_back({});
  {
    quire_op& embed = op(QUIRE_OP_EMBED);
    embed.out[0] = logit_rows;
    embed.u.embed.table = table(kVocabulary, 1);
    quire_op& gather = op(QUIRE_OP_GATHER_ROWS);
    gather.in[0] = logit_rows, gather.out[0] = logits;
  }
  {
    quire_op& embed = op(QUIRE_OP_EMBED);
    embed.out[0] = plain;
    embed.u.embed.table = table(q_width + 2 * kv_width, 2);
    quire_op& norm = op(QUIRE_OP_NORM);
    norm.in[0] = plain, norm.out[0] = qkv;
    norm.u.norm.epsilon = 1e-5f;
  }
  outputs_.push_back({"logits", logits});
  for (uint32_t layer = 0; layer < layers; ++layer) {
    kv_layers_.push_back({shape.kv_heads, shape.head_dim, shape.head_dim, 0});
    quire_op& store = op(QUIRE_OP_KV_STORE);
    store.in[0] = k, store.in[1] = v;
    store.u.kv_store.kv_layer = layer;
    quire_op& attend = op(QUIRE_OP_ATTEND);
    attend.in[0] = q;
    attend.out[0] = value(QUIRE_TOKENS, shape.heads, shape.head_dim);
    attend.u.attend.kv_layer = layer;
    attend.u.attend.scale = 1 / std::sqrt(static_cast<float>(shape.head_dim));
    if (layer + 1 == layers) outputs_.push_back({"attended", attend.out[0]});
  }
}

uint32_t AttentionProgram::table(uint32_t columns, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float>& plane = planes_.emplace_back(size_t{kVocabulary} * columns);
  for (float& x : plane) x = normal(random);
  quire_weight weight{};
  weight.name = "table";
  weight.format = QUIRE_F32;
  weight.rows = kVocabulary, weight.cols = columns;
  weight.planes[0] = {plane.data(), plane.size() * sizeof(float)};
  weights_.push_back(weight);
  return static_cast<uint32_t>(weights_.size());
}

uint32_t AttentionProgram::value(uint32_t rows, uint32_t heads, uint32_t dim, uint32_t parent, uint32_t offset) {
  quire_value value{};
  value.name = "value";
  value.rows = rows, value.heads = heads, value.dim = dim, value.parent = parent, value.offset = offset;
  values_.push_back(value);
  return static_cast<uint32_t>(values_.size());
}

quire_op& AttentionProgram::op(uint32_t kind) {
  quire_op& op = ops_.emplace_back();
  op = {};
  op.kind = kind;
  return op;
}

quire_program AttentionProgram::view() const {
  quire_program p{};
  p.struct_size = sizeof p;
  p.name = "attention";
  const auto list = [](const auto& from, auto& to, uint32_t& count, uint32_t& size) {
    to = from.data();
    count = static_cast<uint32_t>(from.size());
    size = sizeof from[0];
  };
  list(values_, p.values, p.num_values, p.value_size);
  list(weights_, p.weights, p.num_weights, p.weight_size);
  list(ops_, p.ops, p.num_ops, p.op_size);
  list(kv_layers_, p.kv_layers, p.num_kv_layers, p.kv_layer_size);
  list(kv_groups_, p.kv_groups, p.num_kv_groups, p.kv_group_size);
  list(outputs_, p.outputs, p.num_outputs, p.output_size);
  p.vocab_size = kVocabulary;
  p.max_context = max_context_;
  return p;
}

} // namespace quire::bench
