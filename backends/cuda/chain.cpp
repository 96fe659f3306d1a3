#include "chain.hpp"

#include "ops/linear_chain.hpp"

#include <algorithm>
#include <optional>

namespace quire::cuda {
namespace {

constexpr int kLeastCapability = 80; // cp.async

uint64_t align_up(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

// A linear and the norm before it, by the groups that they are of.
struct Phase {
  const quire_op* norm = nullptr;
  const quire_op* linear = nullptr;
  const quire_op* glu = nullptr;

  bool swapped = false; // the norm's inputs: the second is what the phase before made

  uint32_t in() const { return norm != nullptr ? norm->in[swapped ? 1 : 0] : linear->in[0]; }
  uint32_t residual() const { return norm != nullptr ? norm->in[swapped ? 0 : 1] : 0; }
  uint32_t out() const { return glu != nullptr ? glu->out[0] : linear->out[0]; }
  uint32_t sum() const { return norm != nullptr ? norm->out[1] : 0; }
};

class ChainMaker {
 public:
  ChainMaker(const quire_program& program, const FusionPlan& fusion, const CompileContext& context, CompiledProgram& c)
      : program_(program), fusion_(fusion), device_(context.device), c_(c) {}

  void run() {
    for (uint32_t i = 0; i < fusion_.groups.size();) {
      const uint32_t count = chain_at(i);
      i += std::max(count, 1u);
    }
    c_.chain_values = DeviceBuffer(std::max<uint64_t>(2 * handed_bytes_, 256), "values of chains");
    c_.chain_counters = DeviceBuffer(std::max<uint64_t>(4 * device_.multiprocessors, 256), "counters of chains");
    for (size_t i = 0; i < args_.size(); ++i) {
      args_[i].launches = c_.chain_counters.as<uint32_t>();
      settle(args_[i]);
      if (device_.compute_capability >= 90) map_chain(args_[i]);
      c_.chains[i].launch.run = [args = args_[i], blocks = device_.multiprocessors,
                                 symbol = c_.chains[i].symbol](const StepRun& run) {
        linear_chain(run.queue, blocks, rows_of(run, symbol), args);
      };
    }
  }

 private:
  // Makes a chain of the groups from `first` on; how many it stands for.
  uint32_t chain_at(uint32_t first) {
    std::vector<Phase> phases;
    std::vector<uint32_t> ends; // group behind each phase
    uint32_t a = 0, b = 0, symbol = 0;
    for (uint32_t at = first; phases.size() < kMaxPhases;) {
      std::optional<Phase> phase = phase_at(at);
      if (phase && phase->norm != nullptr && !phases.empty())
        phase->swapped = phase->norm->in[1] == phases.back().out();
      if (!phase || !holds(*phase->linear, a, b)) break;
      const uint32_t rows = c_.data.values[phase->out() - 1].rows, behind = at + (phase->norm != nullptr ? 2 : 1);
      if (phases.empty()) symbol = rows;
      if (rows != symbol) break;
      // What the phase before makes is handed over to this phase alone.
      if (!phases.empty() && (phases.back().out() != phase->in() || !read_only_within(phase->in(), at, behind) ||
                              !handed_fits(phases.back())))
        break;
      at = behind;
      phases.push_back(*phase);
      ends.push_back(at);
    }
    for (; !phases.empty(); phases.pop_back(), ends.pop_back()) {
      ChainArgs args;
      uint64_t bytes = 0;
      if (!place(phases, first, ends.back(), args, bytes)) continue;
      const uint32_t rows = std::min(chain_rows(args, device_.shared_bytes), most_rows());
      if (rows == 0) continue;
      handed_bytes_ = std::max(handed_bytes_, bytes);
      Chain chain;
      chain.first = first, chain.count = ends.back() - first;
      chain.symbol = symbol, chain.max_rows = rows;
      for (uint32_t group = first; group < ends.back(); ++group)
        chain.launch.ops.insert(chain.launch.ops.end(), fusion_.groups[group].ops.begin(),
                                fusion_.groups[group].ops.end());
      std::sort(chain.launch.ops.begin(), chain.launch.ops.end());
      chain.launch.kernel = [count = phases.size()](uint32_t) { return "linear_chain x" + std::to_string(count); };
      c_.chains.push_back(std::move(chain));
      args_.push_back(args);
      return ends.back() - first;
    }
    return 0;
  }

  std::optional<Phase> phase_at(uint32_t group) const {
    Phase phase;
    if (group < fusion_.groups.size() && fusion_.groups[group].kind == GroupKind::single) {
      const quire_op& op = c_.data.ops[fusion_.groups[group].ops[0]];
      if (op.kind == QUIRE_OP_NORM) {
        if (!norm_fits(op, group)) return {};
        phase.norm = &op;
        ++group;
      }
    }
    if (group >= fusion_.groups.size()) return {};
    const LaunchGroup& linear = fusion_.groups[group];
    phase.linear = &c_.data.ops[linear.ops[0]];
    if (linear.kind == GroupKind::linear_glu)
      phase.glu = &c_.data.ops[linear.ops[1]];
    else if (linear.kind != GroupKind::single || phase.linear->kind != QUIRE_OP_LINEAR)
      return {};
    const uint32_t cols = c_.weights.matrix(phase.linear->u.linear.weights[0]).cols;
    if (cols % 8 != 0) return {};
    // What a tensor map takes.
    if (c_.weights.matrix(phase.linear->u.linear.weights[0]).format == QUIRE_F16 && device_.compute_capability >= 90 &&
        cols % 64 != 0)
      return {};
    if (phase.norm != nullptr)
      return phase.norm->out[0] == phase.linear->in[0] && cols <= kChainNormDim ? std::optional(phase) : std::nullopt;
    const Tensor in = c_.tensor(phase.linear->in[0]);
    return in.type == Type::f16 && aligned(in) ? std::optional(phase) : std::nullopt;
  }

  static bool aligned(const Tensor& tensor) {
    return !tensor || (reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0 && tensor.stride % 8 == 0);
  }
  // Whether nothing but the linear of the next group wants the normalised rows.
  bool norm_fits(const quire_op& op, uint32_t group) const {
    if (c_.data.values[op.in[0] - 1].heads != 1) return false;
    if (!aligned(c_.tensor(op.in[0])) || !aligned(c_.tensor(op.in[1])) || !aligned(c_.tensor(op.out[1]))) return false;
    return read_only_within(op.out[0], group, group + 2);
  }
  // Whether only groups first to last - 1 read the value, and it is neither an output nor a view nor viewed.
  bool read_only_within(uint32_t value, uint32_t first, uint32_t last) const {
    if (program_.values[value - 1].parent != 0) return false;
    for (uint32_t i = 0; i < program_.num_values; ++i)
      if (program_.values[i].parent == value) return false;
    for (uint32_t i = 0; i < program_.num_outputs; ++i)
      if (program_.outputs[i].value == value) return false;
    for (uint32_t op = 0; op < program_.num_ops; ++op)
      for (const uint32_t in : program_.ops[op].in)
        if (in == value && (fusion_.launch_of_op[op] < first || fusion_.launch_of_op[op] >= last)) return false;
    return true;
  }
  bool holds(const quire_op& linear, uint32_t& a, uint32_t& b) const {
    uint32_t first = a, second = b;
    for (const uint32_t id : linear.u.linear.weights)
      if (id != 0 && !chain_holds(c_.weights.matrix(id).format, first, second)) return false;
    a = first, b = second;
    return true;
  }

  bool handed_fits(const Phase& phase) const {
    for (const uint32_t id : phase.linear->u.linear.weights)
      if (id != 0 && c_.weights.matrix(id).rows % 8 != 0) return false;
    return c_.types[phase.out() - 1] == Type::f16;
  }

  // Where each phase reads and writes; false where another block might write what one still reads. What is handed over
  // gets its offset plus one for an address, until settle().
  bool place(const std::vector<Phase>& phases, uint32_t first, uint32_t last, ChainArgs& args, uint64_t& bytes) const {
    const auto flat = [](Tensor t) {
      t.dim = t.width(), t.heads = 1;
      return t;
    };
    uint32_t kept = 0; // the value that is kept
    Tensor handed;     // by the phase before
    for (size_t p = 0; p < phases.size(); ++p) {
      const Phase& from = phases[p];
      ChainPhase& phase = args.phases[args.num_phases++];
      fill_linear(from, phase.linear);
      Tensor& in = from.norm != nullptr ? phase.norm.in : phase.linear.in;
      in = p == 0 ? flat(c_.tensor(from.in())) : handed;
      if (from.norm != nullptr) {
        const quire_norm& n = from.norm->u.norm;
        phase.normed = true;
        phase.norm.weight = c_.weights.vector(n.weight), phase.norm.bias = c_.weights.vector(n.bias);
        phase.norm.epsilon = n.epsilon, phase.norm.weight_offset = n.weight_offset;
        phase.norm.layer = n.kind == QUIRE_NORM_LAYER;
        const uint32_t residual = from.residual();
        phase.residual_kept = residual != 0 && residual == kept;
        for (size_t q = 0; q < p && !phase.residual_kept; ++q)
          if (residual != 0 && (residual == phases[q].out() || residual == phases[q].sum())) return false;
        if (!phase.residual_kept) phase.norm.residual = c_.tensor(residual);
      }
      if (p + 1 < phases.size()) {
        handed = flat(c_.tensor(from.out()));
        handed.stride = handed.dim;
        handed.data = reinterpret_cast<void*>(bytes + 1);
        bytes += align_up(uint64_t{kChainRows} * handed.dim * 2);
        phase.linear.out = handed;
      } else {
        phase.linear.out = flat(c_.tensor(from.out()));
      }
      const auto read_here = [&](const Tensor& written) {
        return overlap(written, phase.linear.in) || overlap(written, phase.norm.in) ||
               overlap(written, phase.norm.residual);
      };
      if (read_here(phase.linear.out) || read_here(phase.copy_to)) return false;
      const uint32_t sum = from.sum();
      if (sum == 0) continue;
      for (size_t q = p + 1; q < phases.size(); ++q) phase.keeps_sum = phase.keeps_sum || phases[q].residual() == sum;
      if (!read_only_within(sum, first, last)) {
        phase.norm.sum = c_.tensor(sum);
        if (read_here(phase.norm.sum)) { // in the place of the residual: a phase later
          if (p + 1 == phases.size() || phases[p + 1].norm != nullptr) return false;
          args.phases[p + 1].copy_to = flat(phase.norm.sum);
          phase.norm.sum = {};
          phase.keeps_sum = true;
        }
      }
      if (phase.keeps_sum)
        kept = sum;
      else if (phase.norm.sum) // goes by way of where sums are kept
        kept = 0;
      if (phase.keeps_sum && chain_items(phase.linear) < device_.multiprocessors) return false;
    }
    return true;
  }
  void fill_linear(const Phase& from, LinearArgs& linear) const {
    const quire_linear& l = from.linear->u.linear;
    uint32_t col = 0;
    for (uint32_t i = 0; i < QUIRE_MAX_PARTS && l.weights[i] != 0; ++i) {
      linear.parts[linear.num_parts++] = {c_.weights.matrix(l.weights[i]), c_.weights.vector(l.biases[i]), col};
      col += linear.parts[i].weight.rows;
    }
    linear.activation = l.activation;
    linear.scale = l.scale == 0 ? 1.f : l.scale;
    linear.softcap = l.softcap;
    linear.glu = from.glu != nullptr;
    if (linear.glu) linear.glu_activation = from.glu->u.glu.activation;
  }
  // Rows of a chain at most: what the buffers of every symbol have.
  uint32_t most_rows() const {
    const quire_limits& limits = c_.limits;
    return std::min({kChainRows, limits.max_tokens, limits.max_rows, limits.max_sequences});
  }
  bool overlap(const Tensor& a, const Tensor& b) const {
    const auto range = [rows = most_rows()](const Tensor& t) {
      const auto begin = reinterpret_cast<uintptr_t>(t.data);
      return std::pair(begin, begin + uintptr_t{rows} * t.stride * bytes_of(t.type));
    };
    if (!a || !b) return false;
    const auto [a_begin, a_end] = range(a);
    const auto [b_begin, b_end] = range(b);
    return a_begin < b_end && b_begin < a_end;
  }

  // What is handed over at its place in c.chain_values.
  void settle(ChainArgs& args) const {
    args.handed = c_.chain_values.data();
    args.handed_bytes = static_cast<uint32_t>(handed_bytes_);
    for (uint32_t p = 0; p < args.num_phases; ++p) {
      ChainPhase& phase = args.phases[p];
      for (Tensor* tensor : {&phase.linear.in, &phase.linear.out, &phase.norm.in}) {
        const auto offset = reinterpret_cast<uintptr_t>(tensor->data);
        if (offset != 0 && offset <= handed_bytes_) tensor->data = c_.chain_values.data() + (offset - 1);
      }
    }
  }

  const quire_program& program_;
  const FusionPlan& fusion_;
  const DeviceTraits& device_;
  CompiledProgram& c_;
  std::vector<ChainArgs> args_; // [chains]
  uint64_t handed_bytes_ = 0;   // of a set
};

} // namespace

void make_chains(const quire_program& program, const FusionPlan& fusion, const CompileContext& context,
                 CompiledProgram& c) {
  const DeviceTraits& device = context.device;
  if (context.fixed_order || device.compute_capability < kLeastCapability || device.shared_bytes < kLeastChainShared)
    return;
  ChainMaker(program, fusion, context, c).run();
  check(cudaMemsetAsync(c.chain_counters.data(), 0, c.chain_counters.bytes(), context.stream), "clearing counters");
  check(cudaMemsetAsync(c.chain_values.data(), 0xff, c.chain_values.bytes(), context.stream), "emptying values");
}

} // namespace quire::cuda
