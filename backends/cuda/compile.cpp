#include "compile.hpp"

#include "buckets.hpp"
#include "chain.hpp"
#include "launches.hpp"

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <string_view>

namespace quire::cuda {
namespace {

constexpr uint64_t kSplitBytes = 48ull << 20; // of split sums, at most

ProgramData data_of(const quire_program& program) {
  ProgramData data;
  data.values.assign(program.values, program.values + program.num_values);
  data.ops.assign(program.ops, program.ops + program.num_ops);
  data.kv_layers.assign(program.kv_layers, program.kv_layers + program.num_kv_layers);
  data.kv_groups.assign(program.kv_groups, program.kv_groups + program.num_kv_groups);
  for (uint32_t i = 0; i < program.num_outputs; ++i) data.outputs.push_back(program.outputs[i].value);
  data.vocab = program.vocab_size;
  for (quire_value& value : data.values) value.name = nullptr;
  return data;
}

void check_limits(const quire_program& program, const quire_limits& limits, const DeviceTraits& device) {
  if (kv_element_bytes(limits.kv_format) == 0)
    throw Failure(QUIRE_UNSUPPORTED,
                  "CUDA: KV format " + std::to_string(limits.kv_format) + " is not one of F16, BF16, F32 and E4M3");
  if (limits.kv_format == QUIRE_BF16 && device.compute_capability < 80)
    throw Failure(QUIRE_UNSUPPORTED, "CUDA: a bf16 KV cache needs compute capability 8.0: use f16 on " + device.name);
  if (limits.block_size < 8 || limits.block_size > 256 || (limits.block_size & (limits.block_size - 1)) != 0)
    throw Failure(QUIRE_INVALID,
                  "CUDA: block size " + std::to_string(limits.block_size) + " is not a power of two from 8 to 256");
  for (uint32_t i = 0; i < program.num_ops; ++i) {
    const uint32_t kind = program.ops[i].kind;
    if (kind == QUIRE_OP_NONE || kind >= QUIRE_OP_KIND_COUNT)
      throw Failure(QUIRE_UNSUPPORTED, "CUDA: op " + std::to_string(i) + " is of kind " + std::to_string(kind) +
                                           ", which this backend doesn't know");
    if (kind == QUIRE_OP_LINEAR && program.ops[i].u.linear.adapter_slot != 0)
      throw Failure(QUIRE_UNSUPPORTED,
                    "CUDA: op " + std::to_string(i) + " asks for a low-rank adapter, which this backend doesn't have");
  }
}

// For measuring: QUIRE_CUDA_PREFILL=mma keeps attention on mma.sync where the chip has wgmma.
bool prefers_mma() {
  const char* word = std::getenv("QUIRE_CUDA_PREFILL");
  return word != nullptr && std::string_view(word) == "mma";
}

// For measuring: QUIRE_CUDA_DECODE=grid keeps attention of one token a sequence on attend_decode.
bool prefers_grid() {
  const char* word = std::getenv("QUIRE_CUDA_DECODE");
  return word != nullptr && std::string_view(word) == "grid";
}

// The classes of attend, and which each op is of.
void find_classes(const DeviceTraits& device, CompiledProgram& c) {
  c.class_of_attend.assign(c.data.ops.size(), 0);
  for (uint32_t i = 0; i < c.data.ops.size(); ++i) {
    const quire_op& op = c.data.ops[i];
    if (op.kind != QUIRE_OP_ATTEND) continue;
    const quire_kv_layer& layer = c.data.kv_layers[op.u.attend.kv_layer];
    AttendClass kind;
    kind.group = layer.group;
    kind.window = c.data.kv_groups[layer.group].window;
    kind.heads = c.data.values[op.in[0] - 1].heads;
    kind.kv_heads = layer.kv_heads;
    kind.position_bytes = uint64_t{layer.kv_heads} * (layer.k_dim + layer.v_dim) * kv_element_bytes(c.limits.kv_format);
    const Tensor q = c.tensor(op.in[0]), out = c.tensor(op.out[0]);
    const auto aligned = [](const Tensor& tensor) { // rows, for copies of 16 bytes
      return tensor.stride % 8 == 0 && reinterpret_cast<uintptr_t>(tensor.data) % 16 == 0;
    };
    // Queries of another type are converted first.
    kind.fast = (q.type != Type::f16 || aligned(q)) && out.type == Type::f16 && aligned(out) && op.u.attend.scale > 0 &&
                attend_fast(kind.heads, layer, c.limits.kv_format, device.compute_capability);
    // Fixed order has kernels of its own.
    kind.wide = kind.fast && !c.step.fixed_order && !prefers_mma() &&
                attend_wide(layer, c.limits.kv_format, device.compute_capability);
    kind.blocks = decode_blocks(device.multiprocessors);
    if (kind.fast && !c.step.fixed_order && !prefers_grid())
      kind.clusters =
          cluster_room({kind.heads / kind.kv_heads, layer.k_dim, c.limits.kv_format, op.u.attend.softcap != 0},
                       device.compute_capability, device.multiprocessors);
    kind.prefill_rows = c.step.fixed_order ? kPrefillRows : prefill_rows(layer.k_dim);
    const auto found = std::find(c.step.classes.begin(), c.step.classes.end(), kind);
    c.class_of_attend[i] = static_cast<uint32_t>(found - c.step.classes.begin());
    if (found == c.step.classes.end()) c.step.classes.push_back(kind);
  }
}

} // namespace

std::vector<Type> plan_types(const quire_program& program) {
  std::vector<Type> types(program.num_values, Type::f16);
  for (uint32_t i = 0; i < program.num_values; ++i)
    if (program.values[i].dtype == QUIRE_INT32) types[i] = Type::i32;
  const auto set = [&](uint32_t value, Type type) {
    if (value != 0 && types[value - 1] != Type::i32) types[value - 1] = type;
  };
  const auto of = [&](uint32_t value) { return types[root_of(program, value) - 1]; };
  for (uint32_t i = 0; i < program.num_ops; ++i) {
    const quire_op& op = program.ops[i];
    switch (op.kind) {
    case QUIRE_OP_EMBED:
    case QUIRE_OP_ADD:
      set(op.out[0], Type::f32);
      break;
    case QUIRE_OP_NORM:
      set(op.out[1], Type::f32);
      break;
    case QUIRE_OP_ROUTE:
      set(op.out[0], Type::f32);
      set(root_of(program, op.in[0]), Type::f32); // close scores decide
      break;
    case QUIRE_OP_MUL:
    case QUIRE_OP_COLLECTIVE:
    case QUIRE_OP_GATHER_ROWS:
      set(op.out[0], of(op.in[0]));
      break;
    default:
      break;
    }
  }
  set(root_of(program, program.outputs[0].value), Type::f32); // the logits
  for (uint32_t i = 0; i < program.num_values; ++i)
    if (program.values[i].parent != 0) types[i] = types[program.values[i].parent - 1];
  return types;
}

Tensor CompiledProgram::tensor(uint32_t value) const {
  if (value == 0) return {};
  const quire_value& v = data.values[value - 1];
  const ValuePlace& place = plan[value];
  return {activations.data() + place.offset, place.row_stride, v.heads, v.dim, types[value - 1]};
}

std::unique_ptr<CompiledProgram> compile_program(const quire_program& program, const quire_limits& limits,
                                                 const CompileContext& context) {
  check_limits(program, limits, context.device);
  auto compiled = std::make_unique<CompiledProgram>();
  CompiledProgram& c = *compiled;
  c.data = data_of(program);
  c.limits = limits;
  c.types = plan_types(program);
  const FusionPlan fusion = plan_fusion(program);

  std::vector<uint8_t> value_bytes(program.num_values);
  for (uint32_t i = 0; i < program.num_values; ++i) value_bytes[i] = static_cast<uint8_t>(bytes_of(c.types[i]));
  // A graph's padding may reach beyond the limits by a bucket.
  quire_limits padded = limits;
  padded.max_tokens = std::max(limits.max_tokens, bucket_for(limits.max_sequences, limits.max_sequences));
  padded.max_rows = std::max(limits.max_rows, bucket_for(limits.max_sequences, limits.max_sequences));
  PlanOptions options;
  options.value_bytes = value_bytes;
  options.launch_of_op = fusion.lives;
  options.unstored = fusion.unstored;
  options.in_place |= 1u << QUIRE_OP_NORM;
  c.plan = plan_buffers(program, padded, options);
  for (uint32_t g = 0; g < program.num_kv_groups; ++g) c.kv_layouts.push_back(lay_out_group(program, limits, g));

  c.weights = load_weights(program, context.stream, context.progress);
  c.activations =
      DeviceBuffer(std::max<uint64_t>(c.plan.peak_bytes, 256), "activations (fewer tokens a step need less)");

  c.step.groups = program.num_kv_groups;
  c.step.block_size = limits.block_size;
  c.step.vocab = program.vocab_size;
  c.step.fixed_order = context.fixed_order;
  c.step.limits = limits;
  find_classes(context.device, c);

  WorkspaceNeeds needs;
  needs.split_bytes = c.split_bytes = kSplitBytes;
  make_launches(program, fusion, context, c, needs);
  make_chains(program, fusion, context, c);
  make_rotated_attends(fusion, context, c);
  c.workspace = DeviceBuffer(needs.total(), "workspace");
  c.counters = DeviceBuffer(std::max<uint64_t>(needs.counters * 4, 256), "counters");
  check(cudaMemsetAsync(c.counters.data(), 0, c.counters.bytes(), context.stream), "clearing counters");
  check(cudaStreamSynchronize(context.stream), "compiling the program");
  return compiled;
}

uint32_t rows_of(const StepRun& run, uint32_t symbol) {
  return symbol == QUIRE_TOKENS ? run.tokens : symbol == QUIRE_SEQUENCES ? run.sequences : run.rows;
}

std::vector<const Launch*> launches_of(const CompiledProgram& program, const StepRun& run) {
  std::vector<const Launch*> launches;
  launches.reserve(program.launches.size());
  const auto takes = [&](const Chain& chain) {
    const uint32_t rows = rows_of(run, chain.symbol);
    return rows != 0 && rows <= chain.max_rows && (!chain.decode_only || run.tokens == run.sequences) &&
           (!chain.gathers || run.rows_in_order);
  };
  auto chain = program.chains.begin();
  for (uint32_t i = 0; i < program.launches.size();) {
    while (chain != program.chains.end() && (chain->first < i || (chain->first == i && !takes(*chain)))) ++chain;
    if (chain != program.chains.end() && chain->first == i) {
      launches.push_back(&chain->launch);
      i += chain->count;
    } else {
      launches.push_back(&program.launches[i++]);
    }
  }
  return launches;
}

void run_program(const CompiledProgram& program, const StepRun& run) {
  for (const Launch* launch : launches_of(program, run)) launch->run(run);
}

} // namespace quire::cuda
