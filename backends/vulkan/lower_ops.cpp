#include "lower_ops.hpp"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <cctype>

namespace quire::vulkan {

std::string format_shader(const char* op, uint32_t format) {
  std::string name = std::string(op) + "_" + block_format(format)->name;
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

Lowering::At Lowering::value(uint32_t id) const {
  if (id == 0) return {};
  const quire_value& value = c_.program.values[id - 1];
  const ValuePlace& place = c_.plan[id];
  return {place.bytes == 0 ? 0 : c_.scratch + place.offset, place.row_stride, value.rows, value.heads, value.dim};
}

Access Lowering::access(uint32_t id, bool write) const {
  const ValuePlace& root = c_.plan[c_.plan[id].root];
  return {c_.scratch + root.offset, c_.scratch + root.offset + root.bytes, write};
}
void Lowering::reads(Dispatch& dispatch, uint32_t id) const {
  if (id != 0 && c_.plan[id].bytes != 0) dispatch.accesses.push_back(access(id, false));
}
void Lowering::writes(Dispatch& dispatch, uint32_t id) const {
  if (id != 0 && c_.plan[id].bytes != 0) dispatch.accesses.push_back(access(id, true));
}

Dispatch& Lowering::add(std::string shader, uint32_t workgroup, std::vector<uint32_t> constants, const Unit& unit) {
  Dispatch dispatch;
  dispatch.shader = std::move(shader);
  dispatch.workgroup = workgroup;
  dispatch.constants = std::move(constants);
  dispatch.ops = unit.ops;
  dispatches_.push_back(std::move(dispatch));
  return dispatches_.back();
}

GridSide Lowering::columns_of(uint32_t columns) const {
  return {GridSide::Kind::fixed, 0, (columns + c_.shape.element_columns - 1) / c_.shape.element_columns, 1};
}

void Lowering::derive() {
  const uint32_t workgroup = std::max(64u, c_.shape.subgroup);
  Dispatch& dispatch = add("derive", workgroup, {}, {});
  dispatch.grid = {{GridSide::Kind::derive, 0, workgroup, 1}, {}};
  dispatch.parameters.resize(16);
  dispatch.accesses = {{1, 2, true}}; // what it derives, which every op may read: unit() adds the reading
}

void Lowering::unit(const Unit& unit) {
  switch (op(unit.ops[0]).kind) {
  case QUIRE_OP_EMBED:
    return embed(unit);
  case QUIRE_OP_NORM:
    return norm(unit);
  case QUIRE_OP_LINEAR:
    return linear(unit);
  case QUIRE_OP_ROPE:
  case QUIRE_OP_KV_STORE:
    return rope_store(unit);
  case QUIRE_OP_ATTEND:
    return attend(unit);
  case QUIRE_OP_GLU:
  case QUIRE_OP_ADD:
  case QUIRE_OP_MUL:
  case QUIRE_OP_COLLECTIVE:
    return element(unit);
  case QUIRE_OP_GATHER_ROWS:
    return gather_rows(unit);
  case QUIRE_OP_ROUTE:
    return route(unit);
  case QUIRE_OP_EXPERT_LINEAR:
    return expert_linear(unit);
  default:
    throw Failure(QUIRE_UNSUPPORTED, std::string("op ") + std::to_string(unit.ops[0]) + " (" +
                                         op_word(op(unit.ops[0]).kind) + ") is unknown to the Vulkan backend");
  }
}

void Lowering::embed(const Unit& unit) {
  const quire_op& own = op(unit.ops[0]);
  const At y = value(own.out[0]);
  const auto one = [&](uint32_t weight, bool by_position, float scale) {
    const Matrix& table = matrix(weight);
    const uint32_t workgroup = c_.shape.cpu ? c_.shape.subgroup : std::max(32u, c_.shape.subgroup);
    Dispatch& dispatch = add(format_shader("embed", table.format), workgroup, {}, unit);
    EmbedParams params{};
    params.y = y.data;
    params.y_stride = y.stride;
    params.dim = y.columns();
    params.blocks = table.blocks;
    params.rows = static_cast<uint32_t>(table.rows);
    params.piece_rows = static_cast<uint32_t>(table.piece_panels * panel_rows);
    params.scale = scale;
    params.by_position = by_position ? 1 : 0;
    params.num_pieces = static_cast<uint32_t>(table.pieces.size());
    dispatch.set_parameters(params);
    dispatch.append_parameters(table.pieces);
    dispatch.grid = {{GridSide::Kind::fixed, 0, (table.blocks + workgroup - 1) / workgroup, 1}, rows_of(count_tokens)};
    dispatch.accesses.push_back({1, 2, false});
    writes(dispatch, own.out[0]);
  };
  one(own.u.embed.table, false, own.u.embed.scale == 0 ? 1.0f : own.u.embed.scale);
  if (own.u.embed.positions != 0) one(own.u.embed.positions, true, 1.0f);
}

void Lowering::norm(const Unit& unit) {
  const quire_op& own = op(unit.ops[0]);
  const At x = value(own.in[0]), residual = value(own.in[1]), y = value(own.out[0]), sum = value(own.out[1]);
  uint32_t workgroup = c_.shape.subgroup;
  if (!c_.shape.cpu)
    while (workgroup < 256 && workgroup < x.dim) workgroup *= 2;
  Dispatch& dispatch = add("norm", workgroup, {}, unit);
  NormParams params{};
  params.x = x.data;
  params.residual = residual.data;
  params.y = y.data;
  params.sum = sum.data;
  params.weight = vector(own.u.norm.weight);
  params.bias = vector(own.u.norm.bias);
  params.x_stride = x.stride;
  params.residual_stride = residual.stride;
  params.y_stride = y.stride;
  params.sum_stride = sum.stride;
  params.dim = x.dim;
  params.kind = own.u.norm.kind;
  params.count = x.count;
  params.epsilon = own.u.norm.epsilon;
  params.weight_offset = own.u.norm.weight_offset;
  params.heads = x.heads;
  dispatch.set_parameters(params);
  dispatch.grid = {{GridSide::Kind::fixed, 0, x.heads, 1}, rows_of(x.count)};
  reads(dispatch, own.in[0]);
  reads(dispatch, own.in[1]);
  writes(dispatch, own.out[0]);
  writes(dispatch, own.out[1]);
}

void Lowering::rope_store(const Unit& unit) {
  RopeParams params{};
  params.block_shift = c_.kv.block_shift;
  uint32_t stored = no_handle; // the kv_store op
  for (const uint32_t index : unit.ops)
    if (op(index).kind == QUIRE_OP_KV_STORE) stored = index;
  Dispatch& dispatch =
      add(op(unit.ops[0]).kind == QUIRE_OP_ROPE ? "rope" : "kv_store", std::max(64u, c_.shape.subgroup),
          {c_.limits.kv_format == QUIRE_F32   ? 0u
           : c_.limits.kv_format == QUIRE_F16 ? 1u
                                              : 2u},
          unit);
  const quire_rope* rope = nullptr;
  for (const uint32_t index : unit.ops) {
    const quire_op& own = op(index);
    if (own.kind != QUIRE_OP_ROPE) continue;
    rope = &own.u.rope;
    if (stored != no_handle && op(stored).in[0] == own.out[0]) {
      const At k = value(own.in[0]);
      params.k = k.data;
      params.k_stride = k.stride;
    } else {
      const At q = value(own.in[0]), out = value(own.out[0]);
      params.q = q.data;
      params.q_stride = q.stride;
      params.q_out = out.data;
      params.q_out_stride = out.stride;
      params.q_heads = q.heads;
      params.dim = q.dim;
      writes(dispatch, own.out[0]);
    }
    reads(dispatch, own.in[0]);
  }
  if (rope != nullptr) {
    params.rotary_dim = rope->rotary_dim;
    params.kind = rope->kind;
    params.magnitude = rope->magnitude == 0 ? 1.0f : rope->magnitude;
    params.frequencies = c_.store.vector(c_.handles.frequencies[rope->frequencies - 1]);
  }
  uint32_t pairs = params.q_heads * ((params.dim + 1) / 2);
  if (stored != no_handle) {
    const quire_op& own = op(stored);
    const KvLayerPlace& place = c_.kv.layers[own.u.kv_store.kv_layer];
    const quire_kv_layer& layer = c_.program.kv_layers[own.u.kv_store.kv_layer];
    const At k = value(own.in[0]), v = value(own.in[1]);
    if (params.k == 0) { // stored as it is
      params.k = k.data;
      params.k_stride = k.stride;
      reads(dispatch, own.in[0]);
    }
    params.v = v.data;
    params.v_stride = v.stride;
    params.kv_heads = layer.kv_heads;
    params.dim = layer.k_dim;
    params.v_dim = layer.v_dim;
    params.group = layer.group;
    params.k_offset = place.k_offset;
    params.v_offset = place.v_offset;
    params.k_row = place.k_row;
    params.v_row = place.v_row;
    params.store = 1;
    pairs += layer.kv_heads * (place.k_row + place.v_row) / 2;
    reads(dispatch, own.in[1]);
    dispatch.accesses.push_back(kv_access(own.u.kv_store.kv_layer, true));
  }
  dispatch.set_parameters(params);
  dispatch.grid = {{GridSide::Kind::fixed, 0, (pairs + dispatch.workgroup - 1) / dispatch.workgroup, 1},
                   rows_of(count_tokens)};
  dispatch.accesses.push_back({1, 2, false});
}

void Lowering::attend(const Unit& unit) {
  const quire_op& own = op(unit.ops[0]);
  const quire_attend& attend = own.u.attend;
  const quire_kv_layer& layer = c_.program.kv_layers[attend.kv_layer];
  const KvLayerPlace& place = c_.kv.layers[attend.kv_layer];
  const At q = value(own.in[0]), y = value(own.out[0]);
  const AttendShape shape = attend_shape(c_.shape, q.heads, layer.kv_heads, place.v_row);
  AttendParams params{};
  params.q = q.data;
  params.y = y.data;
  params.partials = c_.partials;
  params.sinks = vector(attend.sinks);
  params.q_stride = q.stride;
  params.y_stride = y.stride;
  params.heads = q.heads;
  params.kv_heads = layer.kv_heads;
  params.dim = layer.k_dim;
  params.v_dim = layer.v_dim;
  params.group = layer.group;
  params.k_offset = place.k_offset;
  params.v_offset = place.v_offset;
  params.block_shift = c_.kv.block_shift;
  params.k_row = place.k_row;
  params.v_row = place.v_row;
  params.scale = attend.scale == 0 ? 1.0f : attend.scale;
  params.softcap = attend.softcap;
  params.head_tiles = shape.head_tiles;
  params.partial_stride = c_.partial_stride;
  const uint32_t format = c_.limits.kv_format == QUIRE_F32 ? 0 : c_.limits.kv_format == QUIRE_F16 ? 1 : 2;
  const GridSide heads{GridSide::Kind::fixed, 0, layer.kv_heads * shape.head_tiles, 1};
  const Access partials{2, 3, true};
  const auto finish = [&](Dispatch& dispatch, Needs needs) {
    dispatch.set_parameters(params);
    dispatch.needs = needs;
    dispatch.accesses.push_back({1, 2, false});
    dispatch.accesses.push_back(kv_access(attend.kv_layer, false));
    reads(dispatch, own.in[0]);
    if (needs != Needs::tile_items) dispatch.accesses.push_back({partials.begin, partials.end, needs == Needs::items});
    writes(dispatch, own.out[0]);
  };
  Dispatch& tiles =
      add("attend", c_.shape.subgroup, {format, shape.tile_tokens, shape.tile_heads, shape.v_quads, 1}, unit);
  tiles.grid = {heads, {GridSide::Kind::tile_items, layer.group, 1, 1}};
  finish(tiles, Needs::tile_items);
  Dispatch& items = add("attend", c_.shape.subgroup, {format, 1, shape.tile_heads, shape.v_quads, 0}, unit);
  items.grid = {heads, {GridSide::Kind::items, layer.group, 1, 1}};
  finish(items, Needs::items);
  Dispatch& combine = add("attend_combine", c_.shape.small_group, {}, unit);
  combine.grid = {{GridSide::Kind::fixed, 0, q.heads, 1}, {GridSide::Kind::combines, layer.group, 1, 1}};
  finish(combine, Needs::combines);
}

void Lowering::element(const Unit& unit) {
  const quire_op& own = op(unit.ops[0]);
  const At a = value(own.in[0]), b = value(own.in[1]), y = value(own.out[0]);
  ElementParams params{};
  params.a = a.data;
  params.a_stride = a.stride;
  params.b = b.data;
  params.b_stride = b.stride;
  params.y = y.data;
  params.y_stride = y.stride;
  params.columns = a.columns();
  params.count = a.count;
  // One device is one rank: a reduction or gather over it is what it has.
  const char* shader = own.kind == QUIRE_OP_GLU   ? "glu"
                       : own.kind == QUIRE_OP_ADD ? "add"
                       : own.kind == QUIRE_OP_MUL ? "mul"
                                                  : "collective";
  if (own.kind == QUIRE_OP_GLU) params.activation = own.u.glu.activation;
  if (own.kind == QUIRE_OP_MUL && own.u.mul.weight != 0) {
    params.b = vector(own.u.mul.weight);
    params.b_shared = 1;
    params.b_scalar = c_.program.weights[own.u.mul.weight - 1].cols == 1 ? 1 : 0;
  }
  Dispatch& dispatch = add(shader, c_.shape.element_group, {}, unit);
  dispatch.set_parameters(params);
  dispatch.grid = {columns_of(params.columns), rows_of(a.count)};
  reads(dispatch, own.in[0]);
  reads(dispatch, own.in[1]);
  writes(dispatch, own.out[0]);
}

void Lowering::gather_rows(const Unit& unit) {
  const quire_op& own = op(unit.ops[0]);
  const At x = value(own.in[0]), y = value(own.out[0]);
  ElementParams params{};
  params.a = x.data;
  params.a_stride = x.stride;
  params.y = y.data;
  params.y_stride = y.stride;
  params.columns = x.columns();
  Dispatch& dispatch = add("gather_rows", c_.shape.element_group, {}, unit);
  dispatch.set_parameters(params);
  dispatch.grid = {columns_of(params.columns), rows_of(count_rows)};
  reads(dispatch, own.in[0]);
  writes(dispatch, own.out[0]);
}

void Lowering::route(const Unit& unit) {
  const quire_op& own = op(unit.ops[0]);
  const quire_route& route = own.u.route;
  const At scores = value(own.in[0]), weights = value(own.out[0]), ids = value(own.out[1]);
  if (route.groups > 64)
    throw Failure(QUIRE_UNSUPPORTED, "op " + std::to_string(unit.ops[0]) + " (route) has " +
                                         std::to_string(route.groups) +
                                         " groups of experts; the Vulkan backend has up to 64");
  RouteParams params{};
  params.scores = scores.data;
  params.weights = weights.data;
  params.ids = ids.data;
  params.bias = vector(route.bias);
  params.score_stride = scores.stride;
  params.weight_stride = weights.stride;
  params.id_stride = ids.stride;
  params.experts = scores.columns();
  params.scoring = route.scoring;
  params.top_k = route.top_k;
  params.groups = route.groups;
  params.top_groups = route.top_groups;
  params.normalise = route.normalise;
  params.scale = route.scale == 0 ? 1.0f : route.scale;
  Dispatch& dispatch = add("route", c_.shape.subgroup, {}, unit);
  dispatch.set_parameters(params);
  dispatch.grid = {{}, rows_of(count_tokens)};
  reads(dispatch, own.in[0]);
  writes(dispatch, own.out[0]);
  writes(dispatch, own.out[1]);
}

} // namespace quire::vulkan
