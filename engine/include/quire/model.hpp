// What a model file is written with: the configuration it reads (ModelConfig), the handles it computes with (Weight,
// Value) and the recorder of its operations (Builder). Included by plugin.hpp.
//
// Shapes: a Weight is [rows, cols], a vector [1, cols]; a Value is [T or R, heads, dim]. Shapes of results follow from
// their inputs; the host checks them all again and names the op. Errors: Failure with one sentence. Threads: [load].
#pragma once

#include <quire/plugin.h>
#include <quire/plugin_check.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quire {
// Authors write quire::Value; the inline namespace keeps these short words apart from the engine's own.
inline namespace authoring {

// The model's configuration in config.json's words, e.g. integer("hidden_size"), real("rope_scaling.factor"),
// text("layer_types.0").
class ModelConfig {
 public:
  explicit ModelConfig(const quire_config& config) : config_(&config) {}

  // Weights follow GGUF's conventions: Llama's q and k permuted for interleaved rope, Gemma's norms stored as 1 +
  // weight.
  bool from_gguf() const { return config_->from_gguf != 0; }

  std::optional<int64_t> find_integer(const std::string& key) const {
    int64_t value = 0;
    return config_->integer(config_->self, key.c_str(), &value) != 0 ? std::optional(value) : std::nullopt;
  }
  std::optional<double> find_real(const std::string& key) const {
    double value = 0;
    return config_->real(config_->self, key.c_str(), &value) != 0 ? std::optional(value) : std::nullopt;
  }
  std::optional<bool> find_flag(const std::string& key) const {
    int32_t value = 0;
    return config_->boolean(config_->self, key.c_str(), &value) != 0 ? std::optional(value != 0) : std::nullopt;
  }
  std::optional<std::string> find_text(const std::string& key) const {
    const char* value = nullptr;
    return config_->string(config_->self, key.c_str(), &value) != 0 ? std::optional<std::string>(value) : std::nullopt;
  }
  // Elements of an array; 0 where there is none.
  uint64_t length(const std::string& key) const {
    uint64_t value = 0;
    return config_->length(config_->self, key.c_str(), &value) != 0 ? value : 0;
  }

  // A size that must be there, at least 1.
  uint32_t size(const std::string& key) const { return size_from(key, find_integer(key)); }
  uint32_t size(const std::string& key, uint32_t fallback) const {
    const auto value = find_integer(key);
    return value ? size_from(key, value) : fallback;
  }
  double real(const std::string& key) const {
    const auto value = find_real(key);
    if (!value) throw missing(key, "a number");
    return *value;
  }
  double real(const std::string& key, double fallback) const { return find_real(key).value_or(fallback); }
  bool flag(const std::string& key, bool fallback) const { return find_flag(key).value_or(fallback); }
  std::string text(const std::string& key, const std::string& fallback) const {
    return find_text(key).value_or(fallback);
  }

 private:
  static Failure missing(const std::string& key, const char* what) {
    return Failure(QUIRE_INVALID, "the model's configuration has no `" + key + "`, or it is not " + what);
  }
  static uint32_t size_from(const std::string& key, std::optional<int64_t> value) {
    if (!value) throw missing(key, "an integer");
    if (*value < 1 || *value > std::numeric_limits<int32_t>::max())
      throw Failure(QUIRE_INVALID, "the model's configuration says `" + key + "` is " + std::to_string(*value) +
                                       ", expected 1 to 2147483647");
    return static_cast<uint32_t>(*value);
  }

  const quire_config* config_;
};

// A handle of a weight [rows, cols]; false where an optional one is absent.
struct Weight {
  uint32_t id = 0;
  uint64_t rows = 0, cols = 0;
  explicit operator bool() const { return id != 0; }
};

// A handle of an activation [rows, heads, dim].
struct Value {
  uint32_t id = 0;
  uint32_t rows = QUIRE_TOKENS;
  uint32_t heads = 1, dim = 0;
  uint32_t root = 0, offset = 0; // a view: its root and first column
  explicit operator bool() const { return id != 0; }
  uint32_t columns() const { return heads * dim; }
};

// One part of a linear layer: x W^T + bias.
struct Part {
  Part(Weight weight_, Weight bias_ = {}) : weight(weight_), bias(bias_) {}
  Weight weight; // [N, K]
  Weight bias;   // [1, N] or absent
};

struct LinearOptions {
  quire_activation activation = QUIRE_ACT_NONE;
  float scale = 1, softcap = 0;
};

struct NormOptions {
  quire_norm_kind kind = QUIRE_NORM_RMS;
  float weight_offset = 0;
  Weight bias = {};
};

// How positions turn queries and keys.
struct Rotation {
  quire_rope_kind kind = QUIRE_ROPE_HALF;
  uint32_t rotary_dim = 0;
  Weight frequencies; // [1, rotary_dim / 2]
  float magnitude = 1;
};

struct KvLayer {
  uint32_t index = 0;
  uint32_t kv_heads = 0, k_dim = 0, v_dim = 0;
};

struct AttendOptions {
  float scale = 0; // 0 = 1 / sqrt(dim)
  float softcap = 0;
  Weight sinks = {}; // [1, heads]
};

// Records a program. Each method is one op of the closed set and returns its result's handle.
class Builder {
 public:
  explicit Builder(const quire_builder& builder) : builder_(builder) {}

  // Later ops belong to this layer of the model, for listings and errors.
  void layer(uint32_t index) { layer_ = index; }

  // -- weights, by their Hugging Face names --
  Weight matrix(const std::string& name, uint64_t rows, uint64_t cols, quire_shard shard = QUIRE_REPLICATE) {
    return weight(name, 0, rows, cols, shard, false);
  }
  Weight vector(const std::string& name, uint64_t cols, quire_shard shard = QUIRE_REPLICATE) {
    return weight(name, 0, 1, cols, shard, false);
  }
  // False where the file has none.
  Weight optional_matrix(const std::string& name, uint64_t rows, uint64_t cols, quire_shard shard = QUIRE_REPLICATE) {
    return weight(name, 0, rows, cols, shard, true);
  }
  Weight optional_vector(const std::string& name, uint64_t cols, quire_shard shard = QUIRE_REPLICATE) {
    return weight(name, 0, 1, cols, shard, true);
  }
  // [experts, rows, cols]
  Weight experts(const std::string& name, uint64_t experts, uint64_t rows, uint64_t cols) {
    return weight(name, experts, rows, cols, QUIRE_SHARD_EXPERTS, false);
  }
  Weight constant(const std::string& name, std::span<const float> data) {
    CallStatus status;
    const uint32_t id = builder_.constant(builder_.self, name.c_str(), data.data(), data.size(), status);
    status.check();
    return {id, 1, data.size()};
  }
  // Frequencies of base theta under the configuration's rope scaling.
  Rotation rotation(quire_rope_kind kind, double theta, uint32_t rotary_dim) {
    CallStatus status;
    Rotation rotation{kind, rotary_dim, {0, 1, rotary_dim / 2}, 1};
    rotation.frequencies.id = builder_.rope_frequencies(builder_.self, theta, rotary_dim, &rotation.magnitude, status);
    status.check();
    return rotation;
  }

  // Plain frequencies of base theta, whatever scaling the configuration has for other layers.
  Rotation plain_rotation(quire_rope_kind kind, double theta, uint32_t rotary_dim) {
    std::vector<float> frequencies(rotary_dim / 2);
    for (uint32_t i = 0; i < frequencies.size(); ++i)
      frequencies[i] = 1.0f / std::pow(float(theta), float(2 * i) / float(rotary_dim));
    return {kind, rotary_dim, constant("rope.plain." + std::to_string(theta), frequencies), 1};
  }

  // -- the cache --
  // One layer's cache; window 0 sees all positions.
  KvLayer kv_layer(uint32_t kv_heads, uint32_t k_dim, uint32_t v_dim, uint32_t window = 0) {
    CallStatus status;
    const quire_kv_group group{window};
    const uint32_t group_id = builder_.kv_group(builder_.self, &group, status);
    status.check();
    const quire_kv_layer layer{kv_heads, k_dim, v_dim, group_id - 1};
    const uint32_t layer_id = builder_.kv_layer(builder_.self, &layer, status);
    status.check();
    return {layer_id - 1, kv_heads, k_dim, v_dim};
  }

  // -- ops --
  // [T, dim] = scale * table[token] (+ positions[position])
  Value embed(Weight table, float scale = 1, Weight positions = {}) {
    quire_op op = start(QUIRE_OP_EMBED);
    op.u.embed = {table.id, positions.id, scale};
    return finish(op, QUIRE_TOKENS, 1, narrow(table.cols));
  }
  // norm(x) over dim, per head
  Value norm(Value x, Weight weight, double epsilon, const NormOptions& options = {}) {
    quire_op op = start(QUIRE_OP_NORM, x);
    op.u.norm = {uint32_t(options.kind), weight.id, options.bias.id, float(epsilon), options.weight_offset};
    return finish(op, x.rows, x.heads, x.dim);
  }
  // {norm(x + y), x + y}
  std::pair<Value, Value> add_norm(Value x, Value y, Weight weight, double epsilon, const NormOptions& options = {}) {
    quire_op op = start(QUIRE_OP_NORM, x, y);
    op.u.norm = {uint32_t(options.kind), weight.id, options.bias.id, float(epsilon), options.weight_offset};
    const Value sum = new_value(op.kind, x.rows, x.heads, x.dim, QUIRE_REAL);
    op.out[1] = sum.id;
    return {finish(op, x.rows, x.heads, x.dim), sum};
  }
  // norm(x + y), where the sum itself is not needed
  Value sum_norm(Value x, Value y, Weight weight, double epsilon, const NormOptions& options = {}) {
    quire_op op = start(QUIRE_OP_NORM, x, y);
    op.u.norm = {uint32_t(options.kind), weight.id, options.bias.id, float(epsilon), options.weight_offset};
    return finish(op, x.rows, x.heads, x.dim);
  }
  // [rows, sum N]: the parts side by side
  Value linear(Value x, std::initializer_list<Part> parts, const LinearOptions& options = {}) {
    if (parts.size() == 0 || parts.size() > QUIRE_MAX_PARTS)
      throw Failure(QUIRE_INVALID, "a linear op of layer " + std::to_string(layer_) + " has " +
                                       std::to_string(parts.size()) + " parts, expected 1 to " +
                                       std::to_string(QUIRE_MAX_PARTS));
    quire_op op = start(QUIRE_OP_LINEAR, x);
    op.u.linear = {{}, {}, uint32_t(options.activation), options.scale, options.softcap, 0};
    uint64_t columns = 0;
    uint32_t i = 0;
    for (const Part& part : parts) {
      op.u.linear.weights[i] = part.weight.id;
      op.u.linear.biases[i++] = part.bias.id;
      columns += part.weight.rows;
    }
    return finish(op, x.rows, 1, narrow(columns));
  }
  // Columns [offset, offset + heads * dim) of x; no op, no copy.
  Value view(Value x, uint32_t offset, uint32_t heads, uint32_t dim) {
    Value view{0, x.rows, heads, dim, x.root != 0 ? x.root : x.id, x.offset + offset};
    const std::string name = numbered("v");
    const quire_value value{name.c_str(), x.rows, heads, dim, QUIRE_REAL, view.root, view.offset};
    view.id = record(value);
    return view;
  }
  // x [T, heads, dim], turned by each token's position
  Value rope(Value x, const Rotation& rotation) {
    quire_op op = start(QUIRE_OP_ROPE, x);
    op.u.rope = {uint32_t(rotation.kind), rotation.rotary_dim, rotation.frequencies.id, rotation.magnitude};
    return finish(op, x.rows, x.heads, x.dim);
  }
  // k [T, kv_heads, k_dim], v [T, kv_heads, v_dim] into the cache
  void kv_store(const KvLayer& kv, Value k, Value v) {
    quire_op op = start(QUIRE_OP_KV_STORE, k, v);
    op.u.kv_store = {kv.index};
    record(op);
  }
  // [T, heads, v_dim] = causal attention of q [T, heads, k_dim] over the cache
  Value attend(const KvLayer& kv, Value q, const AttendOptions& options = {}) {
    quire_op op = start(QUIRE_OP_ATTEND, q);
    const float scale = options.scale != 0 ? options.scale : inverse_sqrt(q.dim);
    op.u.attend = {kv.index, scale, options.softcap, options.sinks.id};
    return finish(op, q.rows, q.heads, kv.v_dim);
  }
  // act(gate) * up
  Value glu(Value gate, Value up, quire_activation activation) {
    quire_op op = start(QUIRE_OP_GLU, gate, up);
    op.u.glu = {uint32_t(activation)};
    return finish(op, gate.rows, gate.heads, gate.dim);
  }
  Value add(Value x, Value y) { return finish(start(QUIRE_OP_ADD, x, y), x.rows, x.heads, x.dim); }
  Value mul(Value x, Value y) { return finish(start(QUIRE_OP_MUL, x, y), x.rows, x.heads, x.dim); }
  // weight [1, columns] or [1, 1]
  Value mul(Value x, Weight weight) {
    quire_op op = start(QUIRE_OP_MUL, x);
    op.u.mul = {weight.id};
    return finish(op, x.rows, x.heads, x.dim);
  }
  // [R, ...]: the rows of x [T, ...] whose output is wanted
  Value gather_rows(Value x) { return finish(start(QUIRE_OP_GATHER_ROWS, x), QUIRE_OUTPUTS, x.heads, x.dim); }
  // {weights [T, k], expert ids [T, k]} from scores [T, experts]
  std::pair<Value, Value> route(Value scores, const quire_route& parameters) {
    quire_op op = start(QUIRE_OP_ROUTE, scores);
    op.u.route = parameters;
    const Value ids = new_value(op.kind, scores.rows, 1, parameters.top_k, QUIRE_INT32);
    op.out[1] = ids.id;
    return {finish(op, scores.rows, 1, parameters.top_k), ids};
  }
  // [T, k, N] = x [T, K] or [T, k, K] times the experts `ids` [T, k] chose; with weights [T, k], [T, N] = their
  // weighted sum
  Value expert_linear(Value x, Value ids, Weight weight, Weight bias = {}, Value weights = {}) {
    quire_op op = start(QUIRE_OP_EXPERT_LINEAR, x, ids);
    op.in[2] = weights.id;
    op.u.expert_linear = {weight.id, bias.id};
    return finish(op, x.rows, weights ? 1 : ids.dim, narrow(weight.rows));
  }

  // A further output that stays on the device, by name.
  void output(const std::string& name, Value value) {
    CallStatus status;
    builder_.output(builder_.self, name.c_str(), value.id, status);
    status.check();
  }

 private:
  static uint32_t narrow(uint64_t size) {
    if (size > std::numeric_limits<uint32_t>::max())
      throw Failure(QUIRE_INVALID, "a tensor of " + std::to_string(size) + " columns is beyond 2^32");
    return static_cast<uint32_t>(size);
  }
  static float inverse_sqrt(uint32_t dim) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim))); }

  Weight weight(const std::string& name, uint64_t experts, uint64_t rows, uint64_t cols, quire_shard shard,
                bool optional) {
    CallStatus status;
    quire_weight wanted{};
    wanted.name = name.c_str();
    wanted.shard = shard;
    wanted.experts = experts;
    wanted.rows = rows;
    wanted.cols = cols;
    const uint32_t id = builder_.weight(builder_.self, &wanted, optional ? 1 : 0, status);
    status.check();
    return id != 0 ? Weight{id, rows, cols} : Weight{};
  }
  uint32_t record(const quire_value& value) {
    CallStatus status;
    const uint32_t id = builder_.value(builder_.self, &value, status);
    status.check();
    num_values_ = id;
    return id;
  }
  void record(const quire_op& op) {
    CallStatus status;
    builder_.op(builder_.self, &op, sizeof(op), status);
    status.check();
  }
  std::string numbered(const char* word) const {
    std::string name = word;
    return name += std::to_string(num_values_ + 1);
  }
  // Named by its op and number: `linear12`.
  Value new_value(uint32_t kind, uint32_t rows, uint32_t heads, uint32_t dim, quire_dtype dtype) {
    const std::string name = numbered(op_word(kind));
    const quire_value value{name.c_str(), rows, heads, dim, uint32_t(dtype), 0, 0};
    return {record(value), rows, heads, dim, 0, 0};
  }
  // All bytes zero, those of the union's longest member included.
  quire_op start(uint32_t kind, Value in0 = {}, Value in1 = {}) const {
    quire_op op;
    std::memset(&op, 0, sizeof(op));
    op.kind = kind;
    op.layer = layer_;
    op.in[0] = in0.id;
    op.in[1] = in1.id;
    return op;
  }
  Value finish(quire_op op, uint32_t rows, uint32_t heads, uint32_t dim) {
    const Value value = new_value(op.kind, rows, heads, dim, QUIRE_REAL);
    op.out[0] = value.id;
    record(op);
    return value;
  }

  const quire_builder& builder_;
  uint32_t layer_ = 0;
  uint32_t num_values_ = 0;
};

} // namespace authoring
} // namespace quire
