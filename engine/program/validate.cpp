#include "program/validate.hpp"

#include "quire/error.hpp"
#include "quire/plugin_check.hpp"

#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace quire {
namespace {

constexpr uint64_t max_columns = INT32_MAX; // of a value or a weight: kernels index a row with 32 bits
constexpr uint64_t max_rows = INT32_MAX;    // of a weight

std::string rows_text(uint32_t rows) { return rows == QUIRE_TOKENS ? "T" : rows == QUIRE_SEQUENCES ? "S" : "R"; }

// «[T, 9, 64]», «[T, 576]»
std::string shape_text(uint32_t rows, uint64_t heads, uint64_t dim) {
  const std::string head = heads > 1 ? std::to_string(heads) + ", " : "";
  return "[" + rows_text(rows) + ", " + head + std::to_string(dim) + "]";
}
std::string shape_text(const quire_value& value) { return shape_text(value.rows, value.heads, value.dim); }
std::string shape_text(const quire_weight& weight) {
  const std::string experts = weight.experts != 0 ? std::to_string(weight.experts) + ", " : "";
  return "[" + experts + std::to_string(weight.rows) + ", " + std::to_string(weight.cols) + "]";
}

uint64_t columns(const quire_value& value) { return uint64_t{value.heads} * value.dim; }
std::string quoted(const char* name) { return "`" + std::string(name) + "`"; }

class Validator {
 public:
  explicit Validator(const quire_program& program)
      : program_(program), written_(program.num_values, 0), stored_(program.num_kv_layers, 0),
        attended_(program.num_kv_layers, 0) {}

  void run() {
    check_values();
    check_weights();
    check_kv();
    for (index_ = 0; index_ < program_.num_ops; ++index_) check_op();
    check_outputs();
    check_everything_is_used();
  }

 private:
  const quire_op& op() const { return program_.ops[index_]; }
  std::string op_name() const {
    return "op " + std::to_string(index_) + " (" + op_word(op().kind) + ", layer " + std::to_string(op().layer) + ")";
  }
  [[noreturn]] void fail(const std::string& what) const { throw Error(op_name() + ": " + what); }

  // -- tensors --
  void check_values() const {
    for (uint32_t id = 1; id <= program_.num_values; ++id) {
      const quire_value& value = program_.values[id - 1];
      if (value.name == nullptr) throw Error("value " + std::to_string(id) + " has no name");
      const std::string name = "value " + quoted(value.name);
      if (value.rows > QUIRE_OUTPUTS)
        throw Error(name + " has row kind " + std::to_string(value.rows) + ", expected T, S or R (0 to 2)");
      if (value.dtype > QUIRE_INT32)
        throw Error(name + " has dtype " + std::to_string(value.dtype) + ", expected 0 or 1");
      if (value.heads == 0 || value.dim == 0 || columns(value) > max_columns)
        throw Error(name + " is " + shape_text(value) + ": a row must have 1 to 2147483647 elements");
      if (value.parent == 0) {
        if (value.offset != 0) throw Error(name + " has an offset but no parent");
        continue;
      }
      if (value.parent > program_.num_values)
        throw Error(name + " is a view of value " + std::to_string(value.parent) + ", of which there are " +
                    std::to_string(program_.num_values));
      const quire_value& parent = program_.values[value.parent - 1];
      if (parent.parent != 0) throw Error(name + " is a view of a view; give it the root");
      if (value.rows != parent.rows || value.dtype != parent.dtype || value.offset + columns(value) > columns(parent))
        throw Error(name + " " + shape_text(value) + " at column " + std::to_string(value.offset) + " is no view of " +
                    quoted(parent.name) + " " + shape_text(parent));
    }
  }

  void check_weights() const {
    for (uint32_t id = 1; id <= program_.num_weights; ++id) {
      const quire_weight& weight = program_.weights[id - 1];
      if (weight.name == nullptr) throw Error("weight " + std::to_string(id) + " has no name");
      const std::string name = "weight " + quoted(weight.name);
      const BlockFormat* format = block_format(weight.format);
      if (format == nullptr)
        throw Error(name + " has format " + std::to_string(weight.format) + ", which is not known");
      if (weight.shard > QUIRE_SHARD_VOCABULARY)
        throw Error(name + " has shard axis " + std::to_string(weight.shard) + ", which is not known");
      if (weight.rows == 0 || weight.cols == 0 || weight.rows > max_rows || weight.cols > max_columns ||
          weight.experts > UINT16_MAX)
        throw Error(name + " is " + shape_text(weight) + ": dimensions must be 1 to 2147483647, experts at most 65535");
      if (weight.cols % format->block_elements != 0)
        throw Error(name + " is " + shape_text(weight) + " in " + format->name + ", whose rows are whole blocks of " +
                    std::to_string(format->block_elements));
      uint64_t bytes = weight.experts != 0 ? weight.experts : 1; // times rows is below 2^47
      const uint64_t row_bytes = weight.cols / format->block_elements * format->block_bytes;
      if (__builtin_mul_overflow(bytes * weight.rows, row_bytes, &bytes))
        throw Error(name + " is " + shape_text(weight) + ", which is more than 2^64 bytes");
      if (weight.planes[0].data == nullptr || bytes != weight.planes[0].bytes)
        throw Error(name + " " + shape_text(weight) + " in " + format->name + " has " +
                    std::to_string(weight.planes[0].bytes) + " bytes of data, expected " + std::to_string(bytes));
    }
  }

  void check_kv() const {
    if (program_.num_kv_groups > QUIRE_MAX_GROUPS)
      throw Error("the program has " + std::to_string(program_.num_kv_groups) + " KV groups, at most " +
                  std::to_string(QUIRE_MAX_GROUPS) + " are possible");
    for (uint32_t i = 0; i < program_.num_kv_layers; ++i) {
      const quire_kv_layer& layer = program_.kv_layers[i];
      if (layer.kv_heads == 0 || layer.k_dim == 0 || layer.v_dim == 0 ||
          uint64_t{layer.kv_heads} * layer.k_dim > max_columns || uint64_t{layer.kv_heads} * layer.v_dim > max_columns)
        throw Error("kv layer " + std::to_string(i) + " has " + std::to_string(layer.kv_heads) + " heads of " +
                    std::to_string(layer.k_dim) + " and " + std::to_string(layer.v_dim) +
                    " elements: none may be 0, a row at most 2147483647");
      if (layer.group >= program_.num_kv_groups)
        throw Error("kv layer " + std::to_string(i) + " is of group " + std::to_string(layer.group) +
                    ", of which there are " + std::to_string(program_.num_kv_groups));
    }
  }

  // -- an op's operands --
  const quire_value& in(uint32_t slot, quire_dtype dtype = QUIRE_REAL) {
    const uint32_t id = op().in[slot];
    if (id == 0) fail("input " + std::to_string(slot) + " is missing");
    if (id > program_.num_values)
      fail("input " + std::to_string(slot) + " is value " + std::to_string(id) + ", of which there are " +
           std::to_string(program_.num_values));
    const quire_value& value = program_.values[id - 1];
    const uint32_t root = value.parent != 0 ? value.parent : id;
    if (written_[root - 1] == 0) fail("input " + quoted(value.name) + " is read before any op has written it");
    if (value.dtype != dtype)
      fail("input " + quoted(value.name) + " is " +
           (value.dtype == QUIRE_INT32 ? "int32, expected real" : "real, expected int32"));
    return value;
  }
  const quire_value& out(uint32_t slot, quire_dtype dtype = QUIRE_REAL) {
    const uint32_t id = op().out[slot];
    if (id == 0) fail("output " + std::to_string(slot) + " is missing");
    if (id > program_.num_values)
      fail("output " + std::to_string(slot) + " is value " + std::to_string(id) + ", of which there are " +
           std::to_string(program_.num_values));
    const quire_value& value = program_.values[id - 1];
    if (value.parent != 0) fail("output " + quoted(value.name) + " is a view: views are read only");
    if (written_[id - 1] != 0) fail("output " + quoted(value.name) + " is written a second time");
    if (value.dtype != dtype)
      fail("output " + quoted(value.name) + " is " +
           (value.dtype == QUIRE_INT32 ? "int32, expected real" : "real, expected int32"));
    written_[id - 1] = 1;
    return value;
  }
  // Slots that the kind has no use for.
  void only(uint32_t inputs, uint32_t outputs) const {
    for (uint32_t i = inputs; i < 4; ++i)
      if (op().in[i] != 0) fail("input " + std::to_string(i) + " is given, but it takes " + std::to_string(inputs));
    for (uint32_t i = outputs; i < 2; ++i)
      if (op().out[i] != 0) fail("output " + std::to_string(i) + " is given, but it has " + std::to_string(outputs));
  }
  const quire_weight& weight(uint32_t id, const char* role) const {
    if (id == 0) fail(std::string("its ") + role + " is missing");
    if (id > program_.num_weights)
      fail(std::string("its ") + role + " is weight " + std::to_string(id) + ", of which there are " +
           std::to_string(program_.num_weights));
    return program_.weights[id - 1];
  }
  // A weight [rows, cols] of whatever format.
  const quire_weight& matrix(uint32_t id, const char* role, uint64_t experts, uint64_t rows, uint64_t cols) const {
    const quire_weight& given = weight(id, role);
    if (given.experts != experts || given.rows != rows || given.cols != cols) {
      quire_weight expected{};
      expected.experts = experts, expected.rows = rows, expected.cols = cols;
      fail(std::string("its ") + role + " " + quoted(given.name) + " is " + shape_text(given) + ", expected " +
           shape_text(expected));
    }
    return given;
  }
  // [rows, cols] of one element a block, so that kernels read it by index.
  void plain(uint32_t id, const char* role, uint64_t rows, uint64_t cols) const {
    const quire_weight& given = matrix(id, role, 0, rows, cols);
    if (given.format > QUIRE_BF16)
      fail(std::string("its ") + role + " " + quoted(given.name) + " is " + block_format(given.format)->name +
           ", expected F32, F16 or BF16");
  }
  void expect(const quire_value& value, uint32_t rows, uint64_t heads, uint64_t dim) const {
    if (value.rows != rows || value.heads != heads || value.dim != dim)
      fail(quoted(value.name) + " is " + shape_text(value) + ", expected " + shape_text(rows, heads, dim));
  }
  // The same rows and columns; how columns divide into heads is free.
  void expect_like(const quire_value& value, const quire_value& other) const {
    if (value.rows != other.rows || columns(value) != columns(other))
      fail(quoted(value.name) + " is " + shape_text(value) + ", expected " + shape_text(other) + " as " +
           quoted(other.name));
  }
  void expect_columns(const quire_value& value, uint32_t rows, uint64_t count) const {
    if (value.rows != rows || columns(value) != count)
      fail(quoted(value.name) + " is " + shape_text(value) + ", expected " + shape_text(rows, 1, count));
  }
  void finite(float number, const char* role) const {
    if (!std::isfinite(number)) fail(std::string(role) + " is not a finite number");
  }
  void not_negative(float number, const char* role) const {
    finite(number, role);
    if (number < 0) fail(std::string(role) + " is negative");
  }
  void at_most(uint32_t word, uint32_t last, const char* role) const {
    if (word > last) fail(std::string(role) + " " + std::to_string(word) + " is not known");
  }
  const quire_kv_layer& kv_layer(uint32_t index) const {
    if (index >= program_.num_kv_layers)
      fail("it names kv layer " + std::to_string(index) + ", of which there are " +
           std::to_string(program_.num_kv_layers));
    return program_.kv_layers[index];
  }

  // -- the ops --
  void check_op() {
    switch (op().kind) {
    case QUIRE_OP_EMBED:
      return embed();
    case QUIRE_OP_NORM:
      return norm();
    case QUIRE_OP_LINEAR:
      return linear();
    case QUIRE_OP_ROPE:
      return rope();
    case QUIRE_OP_KV_STORE:
      return kv_store();
    case QUIRE_OP_ATTEND:
      return attend();
    case QUIRE_OP_GLU:
      return glu();
    case QUIRE_OP_ADD:
      return add();
    case QUIRE_OP_MUL:
      return mul();
    case QUIRE_OP_GATHER_ROWS:
      return gather_rows();
    case QUIRE_OP_ROUTE:
      return route();
    case QUIRE_OP_EXPERT_LINEAR:
      return expert_linear();
    case QUIRE_OP_COLLECTIVE:
      return collective();
    default:
      fail("its kind is not known"); // KnownProgram has refused it already
    }
  }

  void embed() {
    only(0, 1);
    const quire_embed& u = op().u.embed;
    const quire_weight& table = weight(u.table, "table");
    if (table.experts != 0)
      fail("its table " + quoted(table.name) + " is " + shape_text(table) + ", expected a matrix");
    if (table.rows < program_.vocab_size)
      fail("its table " + quoted(table.name) + " is " + shape_text(table) + ", but the vocabulary has " +
           std::to_string(program_.vocab_size) + " tokens");
    expect_columns(out(0), QUIRE_TOKENS, table.cols);
    if (u.positions != 0) plain(u.positions, "positions", program_.max_context, table.cols);
    finite(u.scale, "its scale");
  }

  void norm() {
    only(2, 2);
    const quire_norm& u = op().u.norm;
    const quire_value& x = in(0);
    at_most(u.kind, QUIRE_NORM_LAYER, "norm kind");
    if (op().in[1] != 0)
      expect_like(in(1), x);
    else if (op().out[1] != 0)
      fail("output 1 is the sum of two inputs, but there is one");
    if (u.weight != 0) plain(u.weight, "weight", 1, x.dim);
    if (u.bias != 0) plain(u.bias, "bias", 1, x.dim);
    finite(u.epsilon, "its epsilon"), finite(u.weight_offset, "its weight offset");
    if (u.epsilon <= 0) fail("its epsilon is " + std::to_string(u.epsilon) + ", expected more than 0");
    expect_like(out(0), x);
    if (op().out[1] != 0) expect_like(out(1), x);
  }

  void linear() {
    only(1, 1);
    const quire_linear& u = op().u.linear;
    const quire_value& x = in(0);
    uint64_t total = 0;
    uint32_t parts = 0;
    for (; parts < QUIRE_MAX_PARTS && u.weights[parts] != 0; ++parts) {
      const quire_weight& given = weight(u.weights[parts], "weight");
      matrix(u.weights[parts], "weight", 0, given.rows, columns(x));
      if (u.biases[parts] != 0) plain(u.biases[parts], "bias", 1, given.rows);
      total += given.rows;
    }
    if (parts == 0) fail("it has no weight");
    for (uint32_t i = parts; i < QUIRE_MAX_PARTS; ++i)
      if (u.weights[i] != 0 || u.biases[i] != 0) fail("part " + std::to_string(i) + " follows a missing weight");
    at_most(u.activation, QUIRE_ACT_RELU, "activation");
    finite(u.scale, "its scale"), not_negative(u.softcap, "its softcap");
    if (u.adapter_slot != 0)
      fail("it has adapter slot " + std::to_string(u.adapter_slot) + ", but adapters are not supported yet");
    expect_columns(out(0), x.rows, total);
  }

  void rope() {
    only(1, 1);
    const quire_rope& u = op().u.rope;
    const quire_value& x = in(0);
    at_most(u.kind, QUIRE_ROPE_INTERLEAVED, "rope kind");
    if (x.rows != QUIRE_TOKENS) expect(x, QUIRE_TOKENS, x.heads, x.dim);
    if (u.rotary_dim < 2 || u.rotary_dim % 2 != 0 || u.rotary_dim > x.dim)
      fail("it rotates " + std::to_string(u.rotary_dim) + " elements of " + quoted(x.name) + " " + shape_text(x) +
           ", expected an even number, 2 to " + std::to_string(x.dim));
    const quire_weight& frequencies = matrix(u.frequencies, "frequencies", 0, 1, u.rotary_dim / 2);
    if (frequencies.format != QUIRE_F32) fail("its frequencies " + quoted(frequencies.name) + " are not F32");
    finite(u.magnitude, "its magnitude");
    expect(out(0), x.rows, x.heads, x.dim);
  }

  void kv_store() {
    only(2, 0);
    const uint32_t index = op().u.kv_store.kv_layer;
    const quire_kv_layer& layer = kv_layer(index);
    expect(in(0), QUIRE_TOKENS, layer.kv_heads, layer.k_dim);
    expect(in(1), QUIRE_TOKENS, layer.kv_heads, layer.v_dim);
    if (stored_[index] != 0) fail("kv layer " + std::to_string(index) + " is stored a second time");
    stored_[index] = 1;
  }

  void attend() {
    only(1, 1);
    const quire_attend& u = op().u.attend;
    const quire_kv_layer& layer = kv_layer(u.kv_layer);
    const quire_value& q = in(0);
    if (stored_[u.kv_layer] == 0) fail("kv layer " + std::to_string(u.kv_layer) + " is attended before it is stored");
    attended_[u.kv_layer] = 1;
    expect(q, QUIRE_TOKENS, q.heads, layer.k_dim);
    if (q.heads % layer.kv_heads != 0)
      fail(quoted(q.name) + " has " + std::to_string(q.heads) + " heads, expected a multiple of the cache's " +
           std::to_string(layer.kv_heads));
    finite(u.scale, "its scale"), not_negative(u.softcap, "its softcap");
    if (u.scale == 0) fail("its scale is 0");
    if (u.sinks != 0) plain(u.sinks, "sinks", 1, q.heads);
    expect_columns(out(0), QUIRE_TOKENS, uint64_t{q.heads} * layer.v_dim);
  }

  void glu() {
    only(2, 1);
    const quire_value& gate = in(0);
    expect_like(in(1), gate);
    at_most(op().u.glu.activation, QUIRE_ACT_RELU, "activation");
    expect_like(out(0), gate);
  }

  void add() {
    only(2, 1);
    const quire_value& x = in(0);
    expect_like(in(1), x);
    expect_like(out(0), x);
  }

  void mul() {
    only(2, 1);
    const quire_value& x = in(0);
    const uint32_t id = op().u.mul.weight;
    if ((id != 0) == (op().in[1] != 0)) fail("it takes either a second input or a weight");
    if (id == 0)
      expect_like(in(1), x);
    else
      plain(id, "weight", 1, weight(id, "weight").cols == 1 ? 1 : columns(x));
    expect_like(out(0), x);
  }

  void gather_rows() {
    only(1, 1);
    const quire_value& x = in(0);
    expect(x, QUIRE_TOKENS, x.heads, x.dim);
    expect_columns(out(0), QUIRE_OUTPUTS, columns(x));
  }

  void route() {
    only(1, 2);
    const quire_route& u = op().u.route;
    const quire_value& scores = in(0);
    const uint64_t experts = columns(scores);
    at_most(u.scoring, QUIRE_ROUTE_SOFTMAX_SELECTED, "scoring");
    at_most(u.normalise, 1, "normalise");
    if (u.top_k < 1 || u.top_k > experts)
      fail("it chooses " + std::to_string(u.top_k) + " of " + std::to_string(experts) + " experts");
    if (u.groups != 0 && (experts % u.groups != 0 || u.top_groups < 1 || u.top_groups > u.groups ||
                          experts / u.groups * u.top_groups < u.top_k))
      fail("it chooses " + std::to_string(u.top_k) + " of " + std::to_string(experts) + " experts in the best " +
           std::to_string(u.top_groups) + " of " + std::to_string(u.groups) + " equal groups, which is not possible");
    if (u.groups == 0 && u.top_groups != 0) fail("it has top groups but no groups");
    if (u.bias != 0) plain(u.bias, "bias", 1, experts);
    finite(u.scale, "its scale");
    expect_columns(out(0), scores.rows, u.top_k);
    expect_columns(out(1, QUIRE_INT32), scores.rows, u.top_k);
  }

  void expert_linear() {
    only(3, 1);
    const quire_expert_linear& u = op().u.expert_linear;
    const quire_value& x = in(0);
    const quire_value& ids = in(1, QUIRE_INT32);
    const uint64_t chosen = columns(ids);
    if (ids.rows != x.rows) expect(ids, x.rows, ids.heads, ids.dim);
    const quire_weight& experts = weight(u.weight, "weight");
    if (experts.experts == 0)
      fail("its weight " + quoted(experts.name) + " is " + shape_text(experts) + ", expected [experts, N, K]");
    if (columns(x) != experts.cols && (x.heads != chosen || x.dim != experts.cols))
      fail(quoted(x.name) + " is " + shape_text(x) + ", expected " + shape_text(x.rows, 1, experts.cols) + " or " +
           shape_text(x.rows, chosen, experts.cols) + " for weight " + quoted(experts.name) + " " +
           shape_text(experts));
    if (u.bias != 0) plain(u.bias, "bias", experts.experts, experts.rows);
    if (op().in[2] != 0) {
      const quire_value& weights = in(2);
      expect_columns(weights, x.rows, chosen);
      expect_columns(out(0), x.rows, experts.rows);
    } else {
      expect_columns(out(0), x.rows, chosen * experts.rows);
    }
  }

  void collective() {
    only(1, 1);
    const quire_value& x = in(0);
    at_most(op().u.collective.kind, QUIRE_ALL_GATHER, "collective kind");
    const quire_value& result = out(0);
    if (op().u.collective.kind == QUIRE_ALL_REDUCE) return expect_like(result, x);
    if (result.rows != x.rows || columns(result) % columns(x) != 0)
      fail(quoted(result.name) + " is " + shape_text(result) + ", expected a whole number of " + quoted(x.name) + " " +
           shape_text(x));
  }

  // -- the whole --
  void check_outputs() const {
    if (program_.num_outputs == 0) throw Error("the program has no output; output 0 must be `logits` [R, vocabulary]");
    std::set<std::string_view> names;
    for (uint32_t i = 0; i < program_.num_outputs; ++i) {
      const quire_output& output = program_.outputs[i];
      if (output.name == nullptr) throw Error("output " + std::to_string(i) + " has no name");
      const std::string name = "output " + quoted(output.name);
      if (!names.insert(output.name).second) throw Error(name + " is named twice");
      if (output.value == 0 || output.value > program_.num_values)
        throw Error(name + " is value " + std::to_string(output.value) + ", of which there are " +
                    std::to_string(program_.num_values));
      const quire_value& value = program_.values[output.value - 1];
      if (value.parent != 0) throw Error(name + " is the view " + quoted(value.name) + "; give it a value of its own");
      if (written_[output.value - 1] == 0) throw Error(name + " is " + quoted(value.name) + ", which no op writes");
    }
    const quire_output& logits = program_.outputs[0];
    const quire_value& value = program_.values[logits.value - 1];
    if (std::string_view(logits.name) != "logits")
      throw Error("output 0 is " + quoted(logits.name) + ", expected `logits`");
    if (value.rows != QUIRE_OUTPUTS || columns(value) != program_.vocab_size || value.dtype != QUIRE_REAL)
      throw Error("output `logits` is " + quoted(value.name) + " " + shape_text(value) + ", expected " +
                  shape_text(QUIRE_OUTPUTS, 1, program_.vocab_size));
  }

  void check_everything_is_used() const {
    for (uint32_t id = 1; id <= program_.num_values; ++id) {
      const quire_value& value = program_.values[id - 1];
      if (value.parent == 0 && written_[id - 1] == 0)
        throw Error("value " + quoted(value.name) + " " + shape_text(value) + " is written by no op");
    }
    for (uint32_t i = 0; i < program_.num_kv_layers; ++i)
      if (stored_[i] == 0 || attended_[i] == 0)
        throw Error("kv layer " + std::to_string(i) + " is never " + (stored_[i] == 0 ? "stored" : "attended"));
  }

  const quire_program& program_;
  std::vector<uint8_t> written_;  // by root value
  std::vector<uint8_t> stored_;   // by kv layer
  std::vector<uint8_t> attended_; // by kv layer
  uint32_t index_ = 0;            // of the op at hand
};

} // namespace

void validate(const quire_program& program) {
  try {
    const KnownProgram known(&program);
    if (known.get().vocab_size == 0)
      throw Error("the program has no logits: output 0 must be `logits` [R, vocabulary]");
    if (known.get().max_context == 0) throw Error("the program's longest context is 0");
    Validator(known.get()).run();
  } catch (const Failure& failure) {
    throw Error(failure.what());
  }
}

} // namespace quire
