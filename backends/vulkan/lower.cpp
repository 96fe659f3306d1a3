#include "lower.hpp"

#include "lower_ops.hpp"
#include "repack.hpp"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

namespace quire::vulkan {

// Activations of 2 GiB by 16 bytes, and weights of 512 MiB by 4.
constexpr uint32_t enough_texels = 1u << 27;

KernelShape::KernelShape(const Traits& traits, bool use_texels)
    : cpu(traits.cpu),
      texels(traits.cpu && use_texels && traits.properties.limits.maxTexelBufferElements >= enough_texels),
      subgroup(traits.subgroup), small_group(traits.cpu ? traits.subgroup : std::max(64u, traits.subgroup)),
      element_group(traits.cpu ? traits.subgroup : 256u), element_columns(traits.cpu ? 512u : 256u),
      reduce_group(traits.cpu ? 256u
                              : std::min(1024u, traits.properties.limits.maxComputeWorkGroupInvocations /
                                                    traits.subgroup * traits.subgroup)),
      max_segments(traits.cpu ? 64u : 0xFFFFFFFFu) {}

uint32_t GridSide::groups(const StepSizes& sizes) const {
  const auto divided = [&](uint32_t number) {
    return static_cast<uint32_t>((uint64_t{number} * times + value - 1) / value);
  };
  switch (kind) {
  case Kind::count:
    return divided(sizes.counts[which]);
  case Kind::derive:
    return divided(std::max(sizes.counts[count_tokens], sizes.entries));
  case Kind::items:
    return sizes.items[which];
  case Kind::tile_items:
    return sizes.tile_items[which];
  case Kind::combines:
    return sizes.combines[which];
  case Kind::fixed:
    break;
  }
  return value;
}

Access kv_access(uint32_t layer, bool write) {
  const address begin = (address{1} << 63) + layer;
  return {begin, begin + 1, write};
}

AttendShape attend_shape(const KernelShape& shape, uint32_t heads, uint32_t kv_heads, uint32_t v_row) {
  const uint32_t group = heads / kv_heads;
  AttendShape tile{};
  tile.v_quads = (v_row / 4 + shape.subgroup - 1) / shape.subgroup;
  // Query vectors that share what is read of the cache, bounded by the registers that their sums take; on a CPU device
  // also by the time that its compiler takes, which grows with the square.
  const uint32_t most = shape.cpu || tile.v_quads > 4 ? 4 : 8;
  tile.tile_heads = std::min(group, most);
  tile.head_tiles = (group + tile.tile_heads - 1) / tile.tile_heads;
  tile.tile_tokens = std::max(1u, most / tile.tile_heads);
  return tile;
}

namespace {

// Who reads each value, by op; views count for their parents. An output counts as one more reader.
class Readers {
 public:
  explicit Readers(const quire_program& program)
      : program_(program), readers_(program.num_values), producer_(program.num_values, none) {
    for (uint32_t op = 0; op < program.num_ops; ++op) {
      for (const uint32_t id : program.ops[op].in)
        if (id != 0) readers_[root_of(program, id) - 1].push_back(op);
      for (const uint32_t id : program.ops[op].out)
        if (id != 0) producer_[id - 1] = op;
    }
    for (uint32_t i = 0; i < program.num_outputs; ++i)
      readers_[root_of(program, program.outputs[i].value) - 1].push_back(none);
  }
  static constexpr uint32_t none = 0xFFFFFFFF;
  bool only(uint32_t id, uint32_t op) const {
    const std::vector<uint32_t>& all = readers_[root_of(program_, id) - 1];
    return std::all_of(all.begin(), all.end(), [&](uint32_t reader) { return reader == op; });
  }
  // The op that writes the value or its parent; none for no value.
  uint32_t producer(uint32_t id) const { return id == 0 ? none : producer_[root_of(program_, id) - 1]; }

 private:
  const quire_program& program_;
  std::vector<std::vector<uint32_t>> readers_;
  std::vector<uint32_t> producer_;
};

bool whole(const quire_program& program, uint32_t id) { return program.values[id - 1].parent == 0; }

// linear of two parts of one format whose halves only a glu reads: the op's index of the glu, or none.
uint32_t find_gated(const quire_program& program, const Readers& readers, uint32_t op, uint64_t piece_bytes) {
  const quire_linear& linear = program.ops[op].u.linear;
  const uint32_t out = program.ops[op].out[0];
  if (linear.weights[1] == 0 || linear.weights[2] != 0 || linear.activation != QUIRE_ACT_NONE || linear.softcap != 0 ||
      (linear.scale != 0 && linear.scale != 1))
    return Readers::none;
  const quire_weight &gate = program.weights[linear.weights[0] - 1], &up = program.weights[linear.weights[1] - 1];
  if (gate.format != up.format || gate.rows != up.rows || linear.weights[0] == linear.weights[1]) return Readers::none;
  if (block_format(gate.format) == nullptr) return Readers::none;
  const Extent extent(gate);
  if (extent.panels * extent.panel_bytes() > piece_bytes) return Readers::none;
  for (uint32_t next = op + 1; next < program.num_ops; ++next) {
    const quire_op& glu = program.ops[next];
    if (glu.kind != QUIRE_OP_GLU || readers.producer(glu.in[0]) != op) continue;
    const quire_value &a = program.values[glu.in[0] - 1], &b = program.values[glu.in[1] - 1];
    const bool halves = a.parent == out && b.parent == out && a.offset == 0 && b.offset == gate.rows &&
                        uint64_t{a.heads} * a.dim == gate.rows && uint64_t{b.heads} * b.dim == gate.rows;
    return halves && readers.only(out, next) ? next : Readers::none;
  }
  return Readers::none;
}

// linear whose sum with an earlier value an add makes, and nobody else reads it.
uint32_t find_residual(const quire_program& program, const Readers& readers, uint32_t op) {
  const uint32_t out = program.ops[op].out[0];
  for (uint32_t next = op + 1; next < program.num_ops; ++next) {
    const quire_op& add = program.ops[next];
    if (add.kind != QUIRE_OP_ADD || (add.in[0] != out && add.in[1] != out)) continue;
    const uint32_t other = add.in[0] == out ? add.in[1] : add.in[0];
    const uint32_t producer = readers.producer(other);
    return other != out && producer < op && readers.only(out, next) && whole(program, add.out[0]) ? next
                                                                                                  : Readers::none;
  }
  return Readers::none;
}

// The rope of k whose result a kv_store stores and nobody else reads, with a rope of q like it behind them.
std::vector<uint32_t> find_rope_store(const quire_program& program, const Readers& readers, uint32_t op) {
  const quire_op& rope = program.ops[op];
  const uint32_t out = rope.out[0];
  uint32_t store = Readers::none;
  for (uint32_t next = op + 1; next < program.num_ops && store == Readers::none; ++next)
    if (program.ops[next].kind == QUIRE_OP_KV_STORE && program.ops[next].in[0] == out) store = next;
  if (store == Readers::none || !readers.only(out, store)) return {};
  if (readers.producer(program.ops[store].in[1]) >= op) return {}; // v has to be there by then
  std::vector<uint32_t> ops = {op, store};
  for (uint32_t next = op + 1; next < program.num_ops && program.ops[next].kind != QUIRE_OP_ATTEND; ++next) {
    const quire_op& other = program.ops[next];
    if (other.kind != QUIRE_OP_ROPE || std::memcmp(&other.u.rope, &rope.u.rope, sizeof rope.u.rope) != 0) continue;
    const bool same_dim = program.values[other.in[0] - 1].dim == program.values[rope.in[0] - 1].dim;
    if (same_dim && readers.producer(other.in[0]) < op) {
      ops.push_back(next);
      break;
    }
  }
  std::sort(ops.begin(), ops.end());
  return ops;
}

} // namespace

Units plan_units(const quire_program& program, bool fuse, uint64_t piece_bytes) {
  const Readers readers(program);
  Units result;
  result.unit_of_op.assign(program.num_ops, Readers::none);
  result.unstored.assign(program.num_values, 0);
  const auto add = [&](std::vector<uint32_t> ops, Fusion fusion) {
    for (const uint32_t op : ops) result.unit_of_op[op] = static_cast<uint32_t>(result.units.size());
    result.units.push_back({std::move(ops), fusion});
  };
  for (uint32_t op = 0; op < program.num_ops; ++op) {
    if (result.unit_of_op[op] != Readers::none) continue;
    const quire_op& own = program.ops[op];
    if (fuse && own.kind == QUIRE_OP_LINEAR) {
      if (const uint32_t glu = find_gated(program, readers, op, piece_bytes); glu != Readers::none) {
        result.unstored[own.out[0] - 1] = 1;
        add({op, glu}, Fusion::gated);
        continue;
      }
      if (const uint32_t sum = find_residual(program, readers, op); sum != Readers::none) {
        result.unstored[own.out[0] - 1] = 1;
        add({op, sum}, Fusion::residual);
        continue;
      }
    }
    if (fuse && own.kind == QUIRE_OP_ROPE)
      if (std::vector<uint32_t> ops = find_rope_store(program, readers, op); !ops.empty()) {
        result.unstored[own.out[0] - 1] = 1;
        add(std::move(ops), Fusion::rope_store);
        continue;
      }
    add({op}, Fusion::none);
  }
  return result;
}

WeightHandles add_weights(const quire_program& program, WeightStore& store) {
  WeightHandles handles;
  handles.matrices.assign(program.num_weights, no_handle);
  handles.vectors.assign(program.num_weights, no_handle);
  handles.frequencies.assign(program.num_weights, no_handle);
  const auto matrix = [&](uint32_t id) {
    if (id != 0 && handles.matrices[id - 1] == no_handle)
      handles.matrices[id - 1] = store.add_matrix(program.weights[id - 1]);
  };
  const auto vector = [&](uint32_t id) {
    if (id != 0 && handles.vectors[id - 1] == no_handle)
      handles.vectors[id - 1] = store.add_vector(program.weights[id - 1]);
  };
  const auto frequencies = [&](uint32_t id) {
    if (id == 0 || handles.frequencies[id - 1] != no_handle) return;
    const quire_weight& weight = program.weights[id - 1];
    if (weight.format != QUIRE_F32)
      throw Failure(QUIRE_UNSUPPORTED, std::string("weight ") + weight.name + ": rope frequencies have to be F32");
    // Radians a position become turns, modulo one, as a 64-bit fraction: position * turns is then exact in integers.
    std::vector<uint32_t> words;
    for (uint64_t i = 0; i < weight.rows * weight.cols; ++i) {
      float radians;
      std::memcpy(&radians, static_cast<const std::byte*>(weight.planes[0].data) + 4 * i, 4);
      constexpr double turn = 6.283185307179586476925286766559;
      double turns = static_cast<double>(radians) / turn;
      turns -= std::floor(turns);
      const double high = std::floor(turns * 0x1p32), low = std::floor((turns * 0x1p32 - high) * 0x1p32);
      words.push_back(static_cast<uint32_t>(low));
      words.push_back(static_cast<uint32_t>(std::min(high, 4294967295.0)));
    }
    handles.frequencies[id - 1] = store.add_words(std::move(words));
  };
  for (uint32_t i = 0; i < program.num_ops; ++i) {
    const quire_op& op = program.ops[i];
    switch (op.kind) {
    case QUIRE_OP_EMBED:
      matrix(op.u.embed.table);
      matrix(op.u.embed.positions);
      break;
    case QUIRE_OP_NORM:
      vector(op.u.norm.weight);
      vector(op.u.norm.bias);
      break;
    case QUIRE_OP_LINEAR:
      for (uint32_t part = 0; part < QUIRE_MAX_PARTS; ++part) {
        matrix(op.u.linear.weights[part]);
        vector(op.u.linear.biases[part]);
      }
      break;
    case QUIRE_OP_ROPE:
      frequencies(op.u.rope.frequencies);
      break;
    case QUIRE_OP_ATTEND:
      vector(op.u.attend.sinks);
      break;
    case QUIRE_OP_MUL:
      vector(op.u.mul.weight);
      break;
    case QUIRE_OP_ROUTE:
      vector(op.u.route.bias);
      break;
    case QUIRE_OP_EXPERT_LINEAR:
      matrix(op.u.expert_linear.weight);
      vector(op.u.expert_linear.bias);
      break;
    default:
      break;
    }
  }
  return handles;
}

std::vector<Dispatch> lower(const LowerContext& context) {
  Lowering lowering(context);
  lowering.derive();
  for (const Unit& unit : context.units.units) lowering.unit(unit);
  return std::move(lowering).take();
}

} // namespace quire::vulkan
