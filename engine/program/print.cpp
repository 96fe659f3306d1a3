#include "program/print.hpp"

#include "quire/plugin_check.hpp"

#include <array>
#include <cstdio>
#include <map>
#include <utility>

namespace quire {
namespace {

std::string number(double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.6g", value);
  return text.data();
}

const char* activation_word(uint32_t activation) {
  static constexpr std::array<const char*, 5> words = {"none", "silu", "gelu_tanh", "gelu_erf", "relu"};
  return activation < words.size() ? words[activation] : "unknown";
}

uint64_t bytes_of(const quire_weight& weight) {
  return weight.planes[0].bytes + weight.planes[1].bytes + weight.planes[2].bytes;
}

class Printer {
 public:
  explicit Printer(const quire_program& program) : program_(program) {}

  std::string run() {
    header();
    for (uint32_t i = 0; i < program_.num_ops; ++i) {
      const quire_op& op = program_.ops[i];
      if (i == 0 || op.layer != program_.ops[i - 1].layer) text_ += "layer " + std::to_string(op.layer) + "\n";
      std::array<char, 32> head{};
      std::snprintf(head.data(), head.size(), "%6u %-14s", i, op_word(op.kind));
      text_ += head.data() + line(op) + "\n";
    }
    for (uint32_t i = 0; i < program_.num_outputs; ++i)
      text_ += "output " + std::string(program_.outputs[i].name) + " = " + value(program_.outputs[i].value) + "\n";
    return std::move(text_);
  }

 private:
  void header() {
    uint64_t total = 0;
    std::map<uint32_t, std::pair<uint32_t, uint64_t>> by_format; // count and bytes
    for (uint32_t i = 0; i < program_.num_weights; ++i) {
      const quire_weight& weight = program_.weights[i];
      total += bytes_of(weight);
      ++by_format[weight.format].first;
      by_format[weight.format].second += bytes_of(weight);
    }
    text_ += "program " + std::string(program_.name) + ": " + std::to_string(program_.num_ops) + " ops, vocabulary " +
             std::to_string(program_.vocab_size) + ", context " + std::to_string(program_.max_context) + "\n";
    text_ += "weights: " + std::to_string(program_.num_weights) + ", " + bytes_text(total) + " (";
    const char* separator = "";
    for (const auto& [format, sum] : by_format) {
      text_ += separator + std::to_string(sum.first) + " " + block_format(format)->name + " " + bytes_text(sum.second);
      separator = ", ";
    }
    text_ += ")\n";
    for (uint32_t group = 0; group < program_.num_kv_groups; ++group) {
      const uint32_t window = program_.kv_groups[group].window;
      text_ += "kv group " + std::to_string(group) + ": " +
               (window == 0 ? "all positions" : "the last " + std::to_string(window) + " positions");
      for (uint32_t i = 0; i < program_.num_kv_layers;) i = kv_run(group, i);
      text_ += "\n";
    }
  }

  // Appends the next run of equal cache layers of the group from `first` on; returns the index behind it.
  uint32_t kv_run(uint32_t group, uint32_t first) {
    const quire_kv_layer& layer = program_.kv_layers[first];
    if (layer.group != group) return first + 1;
    const auto same = [&](const quire_kv_layer& other) {
      return other.group == group && other.kv_heads == layer.kv_heads && other.k_dim == layer.k_dim &&
             other.v_dim == layer.v_dim;
    };
    uint32_t end = first + 1;
    while (end < program_.num_kv_layers && same(program_.kv_layers[end])) ++end;
    text_ += "; cache " + std::to_string(first) + (end - first > 1 ? "-" + std::to_string(end - 1) : "") + " k [" +
             std::to_string(layer.kv_heads) + ", " + std::to_string(layer.k_dim) + "] v [" +
             std::to_string(layer.kv_heads) + ", " + std::to_string(layer.v_dim) + "]";
    return end;
  }

  // «linear3[576:768] [T, 3, 64]»
  std::string value(uint32_t id) const {
    const quire_value& v = program_.values[id - 1];
    std::string text = v.name;
    if (v.parent != 0)
      text = program_.values[v.parent - 1].name + ("[" + std::to_string(v.offset)) + ":" +
             std::to_string(v.offset + v.heads * v.dim) + "]";
    text += v.rows == QUIRE_TOKENS ? " [T, " : v.rows == QUIRE_SEQUENCES ? " [S, " : " [R, ";
    if (v.heads > 1) text += std::to_string(v.heads) + ", ";
    return text + std::to_string(v.dim) + (v.dtype == QUIRE_INT32 ? "] int32" : "]");
  }

  // «model.norm.weight [576] F32 2.25 KiB»
  std::string weight(uint32_t id) const {
    const quire_weight& w = program_.weights[id - 1];
    std::string text = w.name + std::string(" [");
    if (w.experts != 0) text += std::to_string(w.experts) + ", ";
    if (w.experts != 0 || w.rows != 1) text += std::to_string(w.rows) + ", ";
    return text + std::to_string(w.cols) + "] " + block_format(w.format)->name + " " + bytes_text(bytes_of(w));
  }
  std::string optional_weight(const char* before, uint32_t id) const { return id != 0 ? before + weight(id) : ""; }

  std::string line(const quire_op& op) const {
    const auto in = [&](uint32_t slot) { return value(op.in[slot]); };
    std::string result = op.out[0] != 0 ? value(op.out[0]) + " = " : "";
    switch (op.kind) {
    case QUIRE_OP_EMBED:
      return result + weight(op.u.embed.table) + optional_weight(" + ", op.u.embed.positions) + scale(op.u.embed.scale);
    case QUIRE_OP_NORM:
      return result + norm(op);
    case QUIRE_OP_LINEAR:
      return result + linear(op);
    case QUIRE_OP_ROPE:
      return result + in(0) + (op.u.rope.kind == QUIRE_ROPE_HALF ? ", halves of " : ", pairs of ") +
             std::to_string(op.u.rope.rotary_dim) + ", " + weight(op.u.rope.frequencies) +
             (op.u.rope.magnitude != 0 && op.u.rope.magnitude != 1 ? ", magnitude " + number(op.u.rope.magnitude) : "");
    case QUIRE_OP_KV_STORE:
      return "cache " + std::to_string(op.u.kv_store.kv_layer) + " = k " + in(0) + ", v " + in(1);
    case QUIRE_OP_ATTEND:
      return result + "q " + in(0) + " over cache " + std::to_string(op.u.attend.kv_layer) + ", scale " +
             number(op.u.attend.scale) + softcap(op.u.attend.softcap) + optional_weight(", sinks ", op.u.attend.sinks);
    case QUIRE_OP_GLU:
      return result + activation_word(op.u.glu.activation) + " of " + in(0) + " * " + in(1);
    case QUIRE_OP_ADD:
      return result + in(0) + " + " + in(1);
    case QUIRE_OP_MUL:
      return result + in(0) + " * " + (op.u.mul.weight != 0 ? weight(op.u.mul.weight) : in(1));
    case QUIRE_OP_GATHER_ROWS:
      return result + "rows of " + in(0);
    case QUIRE_OP_ROUTE:
      return value(op.out[1]) + ", " + result + route(op);
    case QUIRE_OP_EXPERT_LINEAR:
      return result + in(0) + " x experts " + in(1) + " of " + weight(op.u.expert_linear.weight) +
             optional_weight(" + ", op.u.expert_linear.bias) + (op.in[2] != 0 ? ", summed by " + in(2) : "");
    case QUIRE_OP_COLLECTIVE:
      return result + (op.u.collective.kind == QUIRE_ALL_REDUCE ? "sum over ranks of " : "from all ranks ") + in(0);
    default:
      return result;
    }
  }

  std::string norm(const quire_op& op) const {
    const quire_norm& u = op.u.norm;
    std::string text = u.kind == QUIRE_NORM_RMS ? "rms of " : "layer norm of ";
    text += value(op.in[0]);
    if (op.in[1] != 0) text += " + " + value(op.in[1]);
    if (op.out[1] != 0) text += " (sum " + value(op.out[1]) + ")";
    if (u.weight != 0) text += " * " + weight(u.weight);
    if (u.weight_offset != 0) text += " plus " + number(u.weight_offset);
    return text + optional_weight(" + ", u.bias) + ", eps " + number(u.epsilon);
  }

  std::string linear(const quire_op& op) const {
    const quire_linear& u = op.u.linear;
    std::string text = value(op.in[0]);
    for (uint32_t i = 0; i < QUIRE_MAX_PARTS && u.weights[i] != 0; ++i)
      text += (i == 0 ? " x " : " | ") + weight(u.weights[i]) + optional_weight(" + ", u.biases[i]);
    if (u.activation != QUIRE_ACT_NONE) text += std::string(", ") + activation_word(u.activation);
    return text + scale(u.scale) + softcap(u.softcap);
  }

  std::string route(const quire_op& op) const {
    static constexpr std::array<const char*, 3> scoring = {"softmax", "sigmoid", "softmax of the chosen"};
    const quire_route& u = op.u.route;
    std::string text = "the best " + std::to_string(u.top_k) + " of " + value(op.in[0]) + " by " + scoring[u.scoring];
    if (u.groups != 0)
      text += ", in the best " + std::to_string(u.top_groups) + " of " + std::to_string(u.groups) + " groups";
    return text + optional_weight(", bias ", u.bias) + (u.normalise != 0 ? ", normalised" : "") + scale(u.scale);
  }

  static std::string scale(float factor) { return factor != 0 && factor != 1 ? ", scale " + number(factor) : ""; }
  static std::string softcap(float cap) { return cap != 0 ? ", softcap " + number(cap) : ""; }

  const quire_program& program_;
  std::string text_;
};

} // namespace

std::string bytes_text(uint64_t bytes) {
  static constexpr std::array<const char*, 5> units = {"B", "KiB", "MiB", "GiB", "TiB"};
  double amount = static_cast<double>(bytes);
  size_t unit = 0;
  for (; amount >= 1024 && unit + 1 < units.size(); ++unit) amount /= 1024;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.2f %s", amount, units[unit]);
  return text.data();
}

std::string print_program(const quire_program& program) { return Printer(program).run(); }

} // namespace quire
