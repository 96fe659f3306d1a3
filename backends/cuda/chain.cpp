#include "chain.hpp"

#include "ops/linear_chain.hpp"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

namespace quire::cuda {
namespace {

constexpr int kLeastCapability = 80; // cp.async

uint64_t align_up(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

// A linear and the norm before it, by the groups that they are of.
struct Phase {
  const quire_op* norm = nullptr;
  const quire_op* gather = nullptr; // between the two: nothing to do where the rows are the tokens
  const quire_op* linear = nullptr;
  const quire_op* glu = nullptr;

  bool swapped = false; // the norm's inputs: the second is what the phase before made

  uint32_t groups() const { return 1 + (norm != nullptr ? 1 : 0) + (gather != nullptr ? 1 : 0); }

  uint32_t in() const { return norm != nullptr ? norm->in[swapped ? 1 : 0] : linear->in[0]; }
  uint32_t residual() const { return norm != nullptr ? norm->in[swapped ? 0 : 1] : 0; }
  uint32_t out() const { return glu != nullptr ? glu->out[0] : linear->out[0]; }
  uint32_t sum() const { return norm != nullptr ? norm->out[1] : 0; }
};

// The phases as the device will read them, with what they hand over in bytes a row.
struct Placed {
  std::vector<ChainPhase> phases;
  ChainShape shape; // once they are complete
  uint32_t row_bytes = 0;
  uint32_t late = 0; // blocks that begin where attention leaves
};

class ChainMaker {
 public:
  ChainMaker(const quire_program& program, const FusionPlan& fusion, const CompileContext& context, CompiledProgram& c)
      : program_(program), fusion_(fusion), device_(context.device), stream_(context.stream), c_(c) {}

  void run() {
    for (uint32_t i = 0; i < fusion_.groups.size();) {
      uint32_t count = chain_at(i, true);
      // For steps with other rows those that it is made of, too.
      if (count != 0 && c_.chains.back().gathers) count = chain_at(i, false);
      i += std::max(count, 1u);
    }
    c_.chain_values = DeviceBuffer(std::max<uint64_t>(2 * set_bytes_, 256), "values of chains");
    c_.chain_counters =
        DeviceBuffer(std::max<uint64_t>(sizeof(ChainRecord) * device_.multiprocessors, 256), "counters of chains");
    send_tables();
  }

 private:
  // Makes a chain of the groups from `first` on; how many it stands for. gathers: also across a gather_rows.
  uint32_t chain_at(uint32_t first, bool gathers) {
    std::vector<Phase> phases;
    std::vector<uint32_t> ends; // group behind each phase
    uint32_t a = 0, b = 0, symbol = 0;
    for (uint32_t at = first; phases.size() < kMaxPhases;) {
      std::optional<Phase> phase = phase_at(at);
      if (phase && phase->norm != nullptr && !phases.empty())
        phase->swapped = phase->norm->in[1] == phases.back().out();
      if (!phase || (phase->gather != nullptr && !gathers) || !holds(*phase->linear, a, b)) break;
      const uint32_t rows = c_.data.values[(phase->gather != nullptr ? phase->in() : phase->out()) - 1].rows;
      const uint32_t behind = at + phase->groups();
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
      Placed placed;
      if (!place(phases, first, ends.back(), placed)) continue;
      placed.shape = chain_shape(placed.phases);
      placed.late = first != 0 ? blocks_of_attention(fusion_.groups[first - 1].ops.back()) : 0;
      const uint32_t rows = std::min(chain_rows(placed.shape, device_.shared_bytes), most_rows());
      if (rows == 0) continue;
      set_bytes_ = std::max(set_bytes_, align_up(uint64_t{placed.row_bytes} * rows));
      Chain chain;
      chain.first = first, chain.count = ends.back() - first;
      chain.symbol = symbol, chain.max_rows = rows;
      chain.gathers = std::any_of(phases.begin(), phases.end(), [](const Phase& p) { return p.gather != nullptr; });
      for (uint32_t group = first; group < ends.back(); ++group)
        chain.launch.ops.insert(chain.launch.ops.end(), fusion_.groups[group].ops.begin(),
                                fusion_.groups[group].ops.end());
      std::sort(chain.launch.ops.begin(), chain.launch.ops.end());
      chain.launch.kernel = [count = phases.size()](uint32_t) { return "linear_chain x" + std::to_string(count); };
      c_.chains.push_back(std::move(chain));
      placed_.push_back(std::move(placed));
      return ends.back() - first;
    }
    return 0;
  }

  std::optional<Phase> phase_at(uint32_t group) const {
    Phase phase;
    uint32_t normed = 0; // what the linear behind a norm is of
    // The op of a group of one, if it is of this kind.
    const auto single = [&](uint32_t kind) -> const quire_op* {
      if (group >= fusion_.groups.size() || fusion_.groups[group].kind != GroupKind::single) return nullptr;
      const quire_op& op = c_.data.ops[fusion_.groups[group].ops[0]];
      return op.kind == kind ? &op : nullptr;
    };
    if (const quire_op* op = single(QUIRE_OP_NORM)) {
      if (!norm_fits(*op, group)) return {};
      phase.norm = op, normed = op->out[0];
      ++group;
    }
    if (const quire_op* op = single(QUIRE_OP_GATHER_ROWS); op != nullptr && normed != 0 && op->in[0] == normed) {
      if (!read_only_within(op->out[0], group, group + 2)) return {};
      phase.gather = op, normed = op->out[0];
      ++group;
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
      return phase.linear->in[0] == normed && cols <= kChainNormDim ? std::optional(phase) : std::nullopt;
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

  // Where each phase reads and writes; false where another block might write what one still reads.
  bool place(const std::vector<Phase>& phases, uint32_t first, uint32_t last, Placed& placed) const {
    const auto flat = [](Tensor t) {
      t.dim = t.width(), t.heads = 1;
      return t;
    };
    const auto take_place = [&](uint64_t bytes) { // a row
      const uint32_t at = placed.row_bytes;
      placed.row_bytes += static_cast<uint32_t>((bytes + 15) / 16 * 16);
      return at;
    };
    uint32_t kept = 0; // the value that is kept
    placed.phases.resize(phases.size());
    for (size_t p = 0; p < phases.size(); ++p) {
      const Phase& from = phases[p];
      ChainPhase& phase = placed.phases[p];
      if (p != 0) phase.takes = placed.phases[p - 1].gives, phase.in_width = placed.phases[p - 1].out_width;
      phase.out_width = c_.tensor(from.out()).width();
      fill_linear(from, phase.linear);
      if (p == 0) (from.norm != nullptr ? phase.norm.in : phase.linear.in) = flat(c_.tensor(from.in()));
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
      if (p + 1 < phases.size())
        phase.gives = take_place(uint64_t{phase.out_width} * 2);
      else
        phase.linear.out = flat(c_.tensor(from.out()));
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
          placed.phases[p + 1].copy_to = flat(phase.norm.sum);
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

  // Multiprocessors that an attend of one sequence holds until it ends; 0 where it is on all of them, or another op.
  uint32_t blocks_of_attention(uint32_t op) const {
    if (c_.data.ops[op].kind != QUIRE_OP_ATTEND) return 0;
    const AttendClass& kind = c_.step.classes[c_.class_of_attend[op]];
    return clusters_apart(kind.clusters, kind.kv_heads) ? kind.kv_heads * cluster_of(kind, Clusters::plain, 1, 1) : 0;
  }

  // The phases and their tensor maps to the device, and the launches.
  void send_tables() {
    std::vector<ChainPhase> phases;
    std::vector<ChainMap> maps;
    std::vector<uint32_t> map_cols;
    for (const Placed& placed : placed_)
      for (const ChainPhase& from : placed.phases) {
        ChainPhase phase = from;
        const Weight& first = phase.linear.parts[0].weight;
        if (first.format == QUIRE_F16) {
          const auto found = std::find(map_cols.begin(), map_cols.end(), first.cols);
          phase.map = static_cast<uint32_t>(found - map_cols.begin());
          if (found == map_cols.end()) {
            map_cols.push_back(first.cols);
            maps.push_back(device_.compute_capability >= 90
                               ? map_chain(c_.weights.arena.data(), c_.weights.arena.bytes(), first.cols)
                               : ChainMap{});
          }
          phase.arena = c_.weights.arena.data();
          phase.arena_rows = static_cast<uint32_t>(c_.weights.arena.bytes() / (2 * first.stride));
          for (uint32_t i = 0; i < phase.linear.num_parts; ++i)
            phase.part_row[i] =
                static_cast<uint32_t>((phase.linear.parts[i].weight.data - phase.arena) / (2 * first.stride));
        }
        split_phase(phase, placed.shape, device_.multiprocessors, &from == &placed.phases.front() ? placed.late : 0);
        phases.push_back(phase);
      }
    if (phases.empty()) return;
    if (const char* path = std::getenv("QUIRE_CUDA_TRACE"); kChainTraced && path != nullptr)
      c_.chain_trace = std::make_unique<ChainTrace>(path, device_.multiprocessors);
    const uint64_t map_bytes = maps.size() * sizeof(ChainMap), phase_bytes = phases.size() * sizeof(ChainPhase);
    c_.chain_tables = DeviceBuffer(map_bytes + phase_bytes, "phases of chains");
    const auto send = [&](uint64_t at, const void* from, uint64_t size) {
      if (size != 0)
        check(cudaMemcpyAsync(c_.chain_tables.data() + at, from, size, cudaMemcpyHostToDevice, stream_),
              "sending chains");
    };
    send(0, maps.data(), map_bytes);
    send(map_bytes, phases.data(), phase_bytes);
    check(cudaStreamSynchronize(stream_), "sending chains");
    const auto* all_phases = reinterpret_cast<const ChainPhase*>(c_.chain_tables.data() + map_bytes);
    std::vector<size_t> first_phase; // [chains]
    size_t num_phases = 0;
    for (const Placed& placed : placed_) {
      first_phase.push_back(num_phases);
      num_phases += placed.phases.size();
    }
    for (size_t i = 0; i < placed_.size(); ++i) {
      const uint32_t end = c_.chains[i].first + c_.chains[i].count;
      size_t next = i + 1;
      while (next < placed_.size() && c_.chains[next].first < end) ++next;
      if (next == placed_.size()) next = 0; // the next step's first
      ChainArgs args;
      args.maps = reinterpret_cast<const ChainMap*>(c_.chain_tables.data());
      args.phases = all_phases + first_phase[i];
      args.next = all_phases + first_phase[next];
      args.num_next = placed_[next].shape.num_phases;
      args.shape = placed_[i].shape;
      args.records = c_.chain_counters.as<ChainRecord>();
      args.handed = c_.chain_values.data();
      args.set_bytes = static_cast<uint32_t>(set_bytes_);
      args.row_bytes = placed_[i].row_bytes;
      if (c_.chain_trace) args.times = c_.chain_trace->times();
      c_.chains[i].launch.run = [args, blocks = device_.multiprocessors,
                                 symbol = c_.chains[i].symbol](const StepRun& run) {
        linear_chain(run.queue, blocks, rows_of(run, symbol), args);
      };
    }
  }

  const quire_program& program_;
  const FusionPlan& fusion_;
  const DeviceTraits& device_;
  cudaStream_t stream_;
  CompiledProgram& c_;
  std::vector<Placed> placed_; // [chains]
  uint64_t set_bytes_ = 0;     // that chains hand over, at most
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
