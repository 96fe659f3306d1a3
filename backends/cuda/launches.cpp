#include "launches.hpp"

#include "linear_launch.hpp"
#include "ops/expert_linear.hpp"

#include <algorithm>
#include <cassert>

namespace quire::cuda {
namespace {

constexpr uint64_t kPartsBytes = 64ull << 20; // partial results of fixed order, at most
constexpr uint32_t kRotatedRows = 64;         // tokens of an attend_decode that rotates, at most

uint64_t align_up(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

RopeArgs rotation_of(const CompiledProgram& c, const quire_op& op) {
  RopeArgs args;
  args.frequencies = c.weights.vector(op.u.rope.frequencies);
  args.rotary_dim = op.u.rope.rotary_dim;
  args.interleaved = op.u.rope.kind == QUIRE_ROPE_INTERLEAVED;
  args.magnitude = op.u.rope.magnitude == 0 ? 1.f : op.u.rope.magnitude;
  return args;
}

// Of attend's arguments what every step shares.
AttendArgs attend_args(const CompiledProgram& c, const quire_op& op) {
  AttendArgs args;
  args.q = c.tensor(op.in[0]), args.out = c.tensor(op.out[0]);
  args.scale = op.u.attend.scale, args.softcap = op.u.attend.softcap;
  args.sinks = c.weights.vector(op.u.attend.sinks);
  return args;
}
uint64_t decode_items(const CompiledProgram& c, const AttendClass& kind) {
  return max_decode_items(c.limits.max_sequences + 16, kind.blocks, kind.kv_heads);
}
// And where things lie once a step runs. A partial result of attend_decode has `heads` rows of v_dim.
void settle_attend(const CompiledProgram& c, const StepRun& run, const quire_op& op, const AttendClass& kind,
                   AttendArgs& args) {
  args.kv = c.kv->layer(op.u.attend.kv_layer);
  args.table = reinterpret_cast<const uint32_t*>(run.buffer + run.layout->tables);
  args.partials = c.workspace.as<float>();
  args.partial_sums = args.partials + decode_items(c, kind) * kind.heads * args.kv.v_dim;
  args.counters = c.counters.as<uint32_t>();
}
std::string decode_kernel(const AttendClass& kind) {
  return kind.clusters == ClusterRoom{} ? "attend_decode" : "attend_decode or _clusters";
}
void run_decode(const StepRun& run, const AttendClass& kind, const StepLayout::Class& places, const AttendArgs& args) {
  const uint32_t cluster = cluster_of(kind, run.clusters, run.tokens, run.sequences);
  if (cluster != 0) {
    const bool apart = clusters_apart(kind.clusters, run.sequences * kind.kv_heads);
    return attend_clusters(run.queue, cluster, apart, run.clusters == Clusters::keys_first, run.sequences,
                           reinterpret_cast<const ClusterItem*>(run.buffer + places.clusters), args);
  }
  attend_decode(run.queue, kind.blocks, &reinterpret_cast<const ListHeader*>(run.buffer + places.header)->num_decode,
                reinterpret_cast<const DecodeItem*>(run.buffer + places.decode), args);
}

class Maker {
 public:
  Maker(const quire_program& program, const CompileContext& context, CompiledProgram& c, WorkspaceNeeds& needs)
      : program_(program), device_(context.device), library_(context.library), choices_(context.choices),
        fixed_order_(context.fixed_order), c_(c), needs_(needs) {}

  void make(const LaunchGroup& group) {
    const quire_op& op = c_.data.ops[group.ops.back()];
    Launch launch;
    launch.ops = group.ops;
    if (group.kind == GroupKind::rope_store)
      rope_store(group, launch);
    else if (group.kind == GroupKind::linear_glu)
      linear(c_.data.ops[group.ops[0]], &op, launch);
    else
      single(op, group.ops[0], launch);
    c_.launches.push_back(std::move(launch));
  }

 private:
  uint32_t rows_symbol(uint32_t value) const { return c_.data.values[value - 1].rows; }
  static uint32_t count(const StepRun& run, uint32_t symbol) {
    return symbol == QUIRE_TOKENS ? run.tokens : symbol == QUIRE_SEQUENCES ? run.sequences : run.rows;
  }
  static void name(Launch& launch, const char* kernel) {
    launch.kernel = [kernel](uint32_t) { return std::string(kernel); };
  }
  const float* vector(uint32_t id) const { return c_.weights.vector(id); }

  // The tensor in fp16: itself, or a place in the workspace that it is converted to.
  struct Input {
    Tensor tensor, original;
  };
  Input half_input(uint32_t value) {
    Input input{c_.tensor(value), {}};
    if (input.tensor.type == Type::f16) return input;
    input.original = input.tensor;
    const uint32_t rows = std::max({c_.limits.max_tokens, c_.limits.max_rows, c_.limits.max_sequences}) + 16;
    input.tensor.type = Type::f16;
    input.tensor.stride = (input.tensor.width() + 7) / 8 * 8;
    needs_.convert_bytes = std::max(needs_.convert_bytes, align_up(uint64_t{rows} * input.tensor.stride * 2));
    return input;
  }
  // The input as the kernels take it, converted first if need be, behind what the launches share.
  static Tensor ready(const CompiledProgram& c, const Input& input, const Queue& queue, uint32_t rows) {
    if (!input.original) return input.tensor;
    Tensor to = input.tensor;
    to.data = c.workspace.data() + c.convert_offset;
    convert(queue, rows, input.original, to);
    return to;
  }

  void single(const quire_op& op, uint32_t index, Launch& launch) {
    const uint32_t symbol = op.out[0] != 0 ? rows_symbol(op.out[0]) : uint32_t{QUIRE_TOKENS};
    const Tensor a = c_.tensor(op.in[0]), b = c_.tensor(op.in[1]), out = c_.tensor(op.out[0]);
    switch (op.kind) {
    case QUIRE_OP_EMBED: {
      const Weight& table = c_.weights.matrix(op.u.embed.table);
      const Weight* positions = op.u.embed.positions != 0 ? &c_.weights.matrix(op.u.embed.positions) : nullptr;
      const float scale = op.u.embed.scale == 0 ? 1.f : op.u.embed.scale;
      launch.run = [=](const StepRun& run) { embed(run.queue, run.arrays, run.tokens, table, positions, scale, out); };
      return name(launch, "embed");
    }
    case QUIRE_OP_NORM: {
      NormArgs args;
      args.in = a, args.residual = b, args.out = out, args.sum = c_.tensor(op.out[1]);
      args.weight = vector(op.u.norm.weight), args.bias = vector(op.u.norm.bias);
      args.epsilon = op.u.norm.epsilon, args.weight_offset = op.u.norm.weight_offset;
      args.layer = op.u.norm.kind == QUIRE_NORM_LAYER;
      launch.run = [=](const StepRun& run) { norm(run.queue, count(run, symbol), args); };
      return name(launch, "norm");
    }
    case QUIRE_OP_LINEAR:
      return linear(op, nullptr, launch);
    case QUIRE_OP_ROPE: {
      RopeArgs args = rotation_of(c_, op);
      args.q_in = a, args.q_out = out;
      launch.run = [=](const StepRun& run) { rope(run.queue, run.arrays, run.tokens, args); };
      return name(launch, "rope");
    }
    case QUIRE_OP_KV_STORE: {
      RopeArgs args;
      args.k_in = a, args.v_in = b;
      store(op, args, launch);
      return name(launch, "kv_store");
    }
    case QUIRE_OP_ATTEND:
      return attend(op, index, launch);
    case QUIRE_OP_GLU:
      launch.run = [=, activation = op.u.glu.activation](const StepRun& run) {
        glu(run.queue, count(run, symbol), activation, a, b, out);
      };
      return name(launch, "glu");
    case QUIRE_OP_ADD:
      launch.run = [=](const StepRun& run) { add(run.queue, count(run, symbol), a, b, out); };
      return name(launch, "add");
    case QUIRE_OP_MUL: {
      const float* factor = b ? nullptr : vector(op.u.mul.weight);
      const uint32_t step = !b && factor_is_scalar(op.u.mul.weight) ? 0 : 1;
      launch.run = [=](const StepRun& run) { mul(run.queue, count(run, symbol), a, b, factor, step, out); };
      return name(launch, "mul");
    }
    case QUIRE_OP_GATHER_ROWS:
      launch.run = [=](const StepRun& run) { gather_rows(run.queue, run.arrays, run.rows, a, out); };
      return name(launch, "gather_rows");
    case QUIRE_OP_COLLECTIVE: // over the one rank that there is
      launch.run = [=](const StepRun& run) { convert(run.queue, count(run, symbol), a, out); };
      return name(launch, "copy");
    case QUIRE_OP_ROUTE: {
      RouteArgs args;
      args.scores = a, args.weights = out, args.ids = c_.tensor(op.out[1]);
      args.bias = vector(op.u.route.bias), args.op = op.u.route;
      launch.run = [=](const StepRun& run) { route(run.queue, count(run, symbol), args); };
      return name(launch, "route");
    }
    case QUIRE_OP_EXPERT_LINEAR:
      return expert(op, launch);
    default:
      throw Failure(QUIRE_UNSUPPORTED,
                    "CUDA: op " + std::to_string(index) + " is of a kind that this backend doesn't know");
    }
  }

  bool factor_is_scalar(uint32_t weight) const { return weight != 0 && program_.weights[weight - 1].cols == 1; }

  void store(const quire_op& op, RopeArgs args, Launch& launch) {
    const uint32_t layer = op.u.kv_store.kv_layer, group = c_.data.kv_layers[layer].group;
    launch.run = [this_ = &c_, args, layer, group](const StepRun& run) mutable {
      const KvLayer kv = this_->kv->layer(layer);
      args.kv = &kv;
      args.slots = reinterpret_cast<const uint32_t*>(run.buffer + run.layout->slots[group]);
      rope(run.queue, run.arrays, run.tokens, args);
    };
  }

  void rope_store(const LaunchGroup& group, Launch& launch) {
    const quire_op &k = c_.data.ops[group.rope_k], &kv = c_.data.ops[group.store];
    RopeArgs args = rotation_of(c_, k);
    args.k_in = c_.tensor(k.in[0]);
    if (group.keep_k) args.k_out = c_.tensor(k.out[0]);
    args.v_in = c_.tensor(kv.in[1]);
    if (group.rope_q != UINT32_MAX) {
      args.q_in = c_.tensor(c_.data.ops[group.rope_q].in[0]);
      args.q_out = c_.tensor(c_.data.ops[group.rope_q].out[0]);
    }
    store(kv, args, launch);
    name(launch, "rope_store");
  }

  void linear(const quire_op& op, const quire_op* glu_op, Launch& launch) {
    const quire_linear& p = op.u.linear;
    const uint32_t symbol = rows_symbol(op.out[0]);
    const Input input = half_input(op.in[0]);
    const Tensor out = c_.tensor(op.out[0]);
    uint64_t all_rows = 0;
    for (const uint32_t id : p.weights)
      if (id != 0) all_rows += c_.weights.matrix(id).rows;
    // One call for each run of parts of the same format.
    std::vector<LinearArgs> calls;
    uint32_t col = 0;
    for (uint32_t i = 0; i < QUIRE_MAX_PARTS && p.weights[i] != 0; ++i) {
      const LinearPart part{c_.weights.matrix(p.weights[i]), vector(p.biases[i]), col};
      col += part.weight.rows;
      if (calls.empty() || calls.back().parts[0].weight.format != part.weight.format) {
        LinearArgs args;
        args.in = input.tensor, args.out = out;
        args.out.heads = 1, args.out.dim = out.width();
        args.in.heads = 1, args.in.dim = input.tensor.width();
        args.slices = slices_of(part.weight.format, all_rows, part.weight.cols);
        args.fixed_order = fixed_order_;
        args.activation = p.activation;
        args.scale = p.scale == 0 ? 1.f : p.scale;
        args.softcap = p.softcap;
        args.wide_blocks = linear_blocks_wide(device_.compute_capability) ? device_.multiprocessors : 0;
        calls.push_back(args);
      }
      LinearArgs& args = calls.back();
      args.parts[args.num_parts++] = part;
    }
    std::optional<LinearGlu> glu;
    if (glu_op != nullptr)
      glu = {c_.tensor(glu_op->in[0]), c_.tensor(glu_op->in[1]), c_.tensor(glu_op->out[0]), glu_op->u.glu.activation};
    const auto made = std::make_shared<const LinearLaunch>(std::move(calls), glu);
    if (made->shape()) c_.tunable.push_back({made.get(), symbol, bool(input.original)});
    launch.run = [this_ = &c_, &library = library_, &choices = choices_, input, made, symbol,
                  split_bytes = needs_.split_bytes](const StepRun& run) {
      const uint32_t rows = count(run, symbol);
      if (rows == 0) return;
      void* in = ready(*this_, input, run.queue, rows).data;
      made->run(library, choices, run.queue, rows, {in, this_->workspace.as<float>(), split_bytes});
    };
    launch.kernel = [made, &library = library_, &choices = choices_](uint32_t rows) {
      return made->kernel(library, choices, rows);
    };
  }

  void attend(const quire_op& op, uint32_t index, Launch& launch) {
    const uint32_t which = c_.class_of_attend[index];
    const AttendClass& kind = c_.step.classes[which];
    const Input input = kind.fast ? half_input(op.in[0]) : Input{c_.tensor(op.in[0]), {}};
    AttendArgs args = attend_args(c_, op);
    if (kind.fast) {
      const uint64_t partial_bytes = uint64_t{kind.heads} * (c_.data.kv_layers[op.u.attend.kv_layer].v_dim + 2) * 4;
      uint64_t partials = decode_items(c_, kind);
      if (fixed_order_) {
        most_partial_bytes_ = std::max(most_partial_bytes_, partial_bytes);
        partials = std::max<uint64_t>(kPartsBytes / most_partial_bytes_, 1);
        c_.step.max_partials = static_cast<uint32_t>(partials);
      }
      needs_.attend_bytes = std::max(needs_.attend_bytes, align_up(partials * partial_bytes));
      needs_.counters = std::max(needs_.counters, decode_items(c_, kind) * kind.kv_heads);
    }
    const uint32_t multiprocessors = device_.multiprocessors, most_tokens = c_.limits.max_tokens;
    WideMaps maps;
    const std::byte* mapped = nullptr; // the cache that the maps are of
    launch.run = [this_ = &c_, input, args, op, which, kind, fixed_order = fixed_order_, multiprocessors, most_tokens,
                  maps, mapped](const StepRun& run) mutable {
      settle_attend(*this_, run, op, kind, args);
      args.q = ready(*this_, input, run.queue, run.tokens);
      const auto at = [&]<class T>(uint64_t offset, const T*) {
        return reinterpret_cast<const T*>(run.buffer + offset);
      };
      if (!kind.fast) {
        const auto* token_tables = at(run.layout->token_tables[kind.group], static_cast<const uint32_t*>(nullptr));
        return attend_any(run.queue, run.tokens, run.arrays.positions, token_tables, args);
      }
      const StepLayout::Class& places = run.layout->classes[which];
      const AttendPlan* plan = run.plans != nullptr ? &run.plans->classes[which] : nullptr;
      const auto* header = at(places.header, static_cast<const ListHeader*>(nullptr));
      const auto* prefill = at(places.prefill, static_cast<const PrefillItem*>(nullptr));
      if (fixed_order) {
        if (run.captured || !plan->parts.empty()) {
          const uint32_t most = 3 * multiprocessors;
          const uint32_t blocks =
              run.captured ? most
                           : std::min<uint32_t>(most, static_cast<uint32_t>(plan->parts.size()) * args.kv.kv_heads);
          attend_fixed_parts(run.queue, blocks, run.buffer, header,
                             at(places.first_parts, static_cast<const PrefillItem*>(nullptr)), args);
        }
        if (!run.captured && !plan->prefill.empty())
          attend_fixed_whole(run.queue, static_cast<uint32_t>(plan->prefill.size()), prefill, args);
        return;
      }
      if (run.captured || !plan->decode.empty() || !plan->clustered.empty()) run_decode(run, kind, places, args);
      if (run.captured) return;
      if (!plan->wide.empty()) {
        if (mapped != args.kv.base) {
          maps = map_wide(args, most_tokens, this_->kv->num_blocks(kind.group));
          mapped = args.kv.base;
        }
        attend_prefill_sm90(run.queue, static_cast<uint32_t>(plan->wide.size()),
                            at(places.wide, static_cast<const WideItem*>(nullptr)), maps, args);
      }
      if (!plan->prefill.empty()) attend_prefill(run.queue, static_cast<uint32_t>(plan->prefill.size()), prefill, args);
    };
    launch.kernel = [kind, fixed_order = fixed_order_](uint32_t) {
      if (!kind.fast) return std::string("attend_any");
      if (fixed_order) return std::string("attend_fixed_parts, _whole");
      return decode_kernel(kind) + (kind.wide ? ", _prefill_sm90" : ", _prefill");
    };
  }

  void expert(const quire_op& op, Launch& launch) {
    const uint32_t symbol = rows_symbol(op.out[0]);
    const Input input = half_input(op.in[0]);
    ExpertLinearArgs args;
    args.in = input.tensor;
    args.ids = c_.tensor(op.in[1]), args.mix = c_.tensor(op.in[2]), args.out = c_.tensor(op.out[0]);
    args.weight = c_.weights.matrix(op.u.expert_linear.weight);
    args.bias = vector(op.u.expert_linear.bias);
    args.top_k = args.ids.width();
    args.per_slot = input.tensor.width() != args.weight.cols;
    args.slices = slices_of(args.weight.format, args.weight.rows, args.weight.cols);
    args.fixed_order = fixed_order_;
    const uint32_t tokens = c_.limits.max_tokens + 16;
    needs_.expert_bytes = std::max(
        needs_.expert_bytes,
        align_up(expert_workspace_bytes(tokens, args.top_k, args.weight.experts, args.weight.rows, bool(args.mix))));
    launch.run = [this_ = &c_, input, args, symbol](const StepRun& run) mutable {
      const uint32_t rows = count(run, symbol);
      if (rows == 0) return;
      args.in.data = ready(*this_, input, run.queue, rows).data;
      args.workspace = this_->workspace.data();
      expert_linear(run.queue, rows, args);
    };
    name(launch, "expert_linear");
  }

  const quire_program& program_;
  const DeviceTraits& device_;
  MatrixLibrary& library_;
  const LinearChoices& choices_;
  bool fixed_order_;
  CompiledProgram& c_;
  WorkspaceNeeds& needs_;
  uint64_t most_partial_bytes_ = 0;
};

} // namespace

void make_launches(const quire_program& program, const FusionPlan& fusion, const CompileContext& context,
                   CompiledProgram& c, WorkspaceNeeds& needs) {
  Maker maker(program, context, c, needs);
  for (const LaunchGroup& group : fusion.groups) maker.make(group);
  c.convert_offset = align_up(needs.shared());
}

void make_rotated_attends(const FusionPlan& fusion, const CompileContext& context, CompiledProgram& c) {
  if (context.fixed_order) return;
  for (uint32_t i = 0; i < fusion.groups.size(); ++i) {
    const LaunchGroup& group = fusion.groups[i];
    if (group.attend == UINT32_MAX) continue;
    const quire_op &op = c.data.ops[group.attend], &rope_k = c.data.ops[group.rope_k];
    const uint32_t which = c.class_of_attend[group.attend];
    const AttendClass& kind = c.step.classes[which];
    AttendArgs args = attend_args(c, op);
    args.q = c.tensor(c.data.ops[group.rope_q].in[0]);
    args.fresh.k = c.tensor(rope_k.in[0]), args.fresh.v = c.tensor(c.data.ops[group.store].in[1]);
    if (!kind.fast || !attend_takes_fresh(args.q.dim, context.device.shared_bytes) || args.q.type != Type::f16 ||
        args.fresh.k.type != Type::f16 || args.fresh.v.type != Type::f16)
      continue;
    const RopeArgs rotation = rotation_of(c, rope_k);
    args.fresh.frequencies = rotation.frequencies;
    args.fresh.rotary_dim = rotation.frequencies != nullptr ? rotation.rotary_dim : 0;
    args.fresh.interleaved = rotation.interleaved, args.fresh.magnitude = rotation.magnitude;
    Chain chain;
    chain.first = i, chain.count = 2;
    chain.max_rows = kRotatedRows, chain.decode_only = true;
    chain.launch.ops = group.ops;
    chain.launch.ops.push_back(group.attend);
    chain.launch.kernel = [kind](uint32_t) { return decode_kernel(kind) + "+rope_store"; };
    chain.launch.run = [&c, args, op, which, kind](const StepRun& run) mutable {
      settle_attend(c, run, op, kind, args);
      run_decode(run, kind, run.layout->classes[which], args);
    };
    c.chains.push_back(std::move(chain));
  }
  std::stable_sort(c.chains.begin(), c.chains.end(), [](const Chain& a, const Chain& b) { return a.first < b.first; });
}

} // namespace quire::cuda
