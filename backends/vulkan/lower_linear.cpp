// linear and expert_linear: how the K-partition, rows and columns are laid over the device.
#include "lower_ops.hpp"

#include "repack.hpp"

#include <quire/plugin_check.hpp>

#include <algorithm>
#include <cassert>

namespace quire::vulkan {
namespace {

// The K-partition of a weight: it depends on K, the format and the device alone, so that a row's sum is the same in
// every batch.
struct Partition {
  uint32_t splits;         // side by side in a workgroup
  uint32_t segment_blocks; // of a split
};
Partition partition_of(const KernelShape& shape, uint32_t blocks, uint32_t super_blocks) {
  if (shape.cpu) return {1, (blocks + super_blocks - 1) / super_blocks * super_blocks};
  const uint32_t supers = (blocks + super_blocks - 1) / super_blocks;
  uint32_t splits = 1;
  while (splits < 8 && splits * 2 <= supers && blocks / (splits * 2) >= 4) splits *= 2;
  while (splits * panel_rows < shape.subgroup) splits *= 2; // whole subgroups
  return {splits, (supers + splits - 1) / splits * super_blocks};
}

} // namespace

// Turns addresses into bytes within the buffers that texel views show; returns which buffer of weights, or -1 where one
// launch would need several, or activations don't begin at whole texels.
int32_t Lowering::through_texels(LinearParams& params, std::vector<WeightPart>& parts) const {
  constexpr uint32_t texel_floats = 4;
  const address x = params.x - c_.scratch;
  if (!c_.shape.texels || x % (texel_floats * 4) != 0 || params.x_stride % texel_floats != 0) return -1;
  const uint32_t buffer = c_.store.buffer_of(parts[0].quants);
  if (std::any_of(parts.begin(), parts.end(),
                  [&](const WeightPart& part) { return c_.store.buffer_of(part.quants) != buffer; }))
    return -1;
  params.x = x;
  const address base = c_.store.buffers()[buffer].address();
  for (WeightPart& part : parts) {
    part.quants -= base;
    part.high -= base;
    part.aux -= base;
  }
  return static_cast<int32_t>(buffer);
}

void Lowering::linear(const Unit& unit) {
  const quire_op& own = op(unit.ops[0]);
  const quire_linear& linear = own.u.linear;
  if (linear.adapter_slot != 0)
    throw Failure(QUIRE_UNSUPPORTED, "op " + std::to_string(unit.ops[0]) +
                                         " (linear) has an adapter slot, which the Vulkan backend "
                                         "does not have yet");
  const bool gated = unit.fusion == Fusion::gated, residual = unit.fusion == Fusion::residual;
  const quire_op& last = op(unit.ops.back());
  const At x = value(own.in[0]), y = value(last.out[0]);
  const uint32_t other = residual ? (last.in[0] == own.out[0] ? last.in[1] : last.in[0]) : 0;
  const At added = value(other);

  struct Row {
    WeightPart part;
    uint32_t format;
  };
  std::vector<Row> rows; // every piece of every part
  uint32_t column = 0;
  for (uint32_t i = 0; i < QUIRE_MAX_PARTS && linear.weights[i] != 0; ++i) {
    const Matrix& weight = matrix(linear.weights[i]);
    const address bias = vector(linear.biases[i]);
    for (const WeightPart& piece : weight.pieces) {
      WeightPart part = piece;
      part.bias = bias == 0 ? 0 : bias + uint64_t{piece.out_column} * 4;
      part.out_column += column;
      rows.push_back({part, weight.format});
    }
    column += static_cast<uint32_t>(weight.rows);
  }
  assert(!gated || rows.size() == 2);
  for (std::size_t first = 0; first < rows.size();) {
    // One dispatch for neighbours of one format, and where texel views show them, of one buffer.
    const uint32_t buffer = c_.store.buffer_of(rows[first].part.quants);
    const auto fits = [&](const Row& row) {
      return gated || !c_.shape.texels || c_.store.buffer_of(row.part.quants) == buffer;
    };
    std::vector<WeightPart> parts;
    const uint32_t format = rows[first].format;
    uint32_t panels = 0;
    while (first < rows.size() && rows[first].format == format && parts.size() < max_parts && fits(rows[first])) {
      WeightPart part = rows[first++].part;
      part.first_panel = panels;
      panels += (part.rows + panel_rows - 1) / panel_rows;
      parts.push_back(part);
    }
    if (gated) panels /= 2;
    const Matrix& weight = matrix(linear.weights[0]); // all parts share K
    const Layout& layout = layout_of(format);
    const Partition partition = partition_of(c_.shape, weight.blocks, layout.super_blocks);
    LinearParams params{};
    params.x = x.data;
    params.y = y.data;
    params.residual = added.data;
    params.x_stride = x.stride;
    params.y_stride = y.stride;
    params.residual_stride = added.stride;
    params.columns = static_cast<uint32_t>(weight.cols);
    params.blocks = weight.blocks;
    params.segment_blocks = partition.segment_blocks;
    params.count = x.count;
    params.num_parts = static_cast<uint32_t>(parts.size());
    params.num_panels = panels;
    params.activation = linear.activation;
    params.scale = linear.scale == 0 ? 1.0f : linear.scale;
    params.softcap = linear.softcap;
    params.glu = gated ? last.u.glu.activation + 1 : 0;
    const uint32_t row_lanes = c_.shape.cpu ? std::min(c_.shape.subgroup, panel_rows) : panel_rows;
    // row_lanes, sets, cols, splits, broadcast, shared_floats; cols and shared_floats are set when recorded
    const int32_t texels = through_texels(params, parts);
    std::vector<uint32_t> constants = {row_lanes, gated ? 2u : 1u, 1, partition.splits, c_.shape.cpu ? 1u : 0u, 1};
    Dispatch& dispatch = add(format_shader("linear", format) + (texels >= 0 ? "_texels" : ""),
                             row_lanes * partition.splits, std::move(constants), unit);
    dispatch.texels = texels;
    dispatch.set_parameters(params);
    dispatch.append_parameters(parts);
    dispatch.columns_constant = 2;
    dispatch.columns_count = x.count;
    dispatch.gated = gated;
    dispatch.grid = {{GridSide::Kind::count, x.count, 1, 1}, {GridSide::Kind::fixed, 0, panels, 1}};
    reads(dispatch, own.in[0]);
    reads(dispatch, other);
    writes(dispatch, last.out[0]);
  }
}

void Lowering::expert_linear(const Unit& unit) {
  const quire_op& own = op(unit.ops[0]);
  const Matrix& weight = matrix(own.u.expert_linear.weight);
  const At x = value(own.in[0]), experts = value(own.in[1]), weights = value(own.in[2]), y = value(own.out[0]);
  ExpertParams params{};
  params.x = x.data;
  params.y = y.data;
  params.experts = experts.data;
  params.weights = weights.data;
  params.bias = vector(own.u.expert_linear.bias);
  params.x_stride = x.stride;
  params.choices = experts.columns();
  params.columns = static_cast<uint32_t>(weight.cols);
  params.x_expert_stride = x.columns() == params.columns ? 0 : params.columns; // [T, K] or [T, k, K]
  params.y_stride = y.stride;
  params.expert_stride = experts.stride;
  params.weight_stride = weights.stride;
  params.blocks = weight.blocks;
  params.rows = static_cast<uint32_t>(weight.rows);
  params.expert_panels = static_cast<uint32_t>(weight.expert_panels);
  params.num_experts = static_cast<uint32_t>(weight.experts);
  params.piece_experts = static_cast<uint32_t>(weight.piece_panels / weight.expert_panels);
  const uint32_t row_lanes = c_.shape.cpu ? std::min(c_.shape.subgroup, panel_rows) : panel_rows;
  const uint32_t workgroup = std::max(row_lanes, c_.shape.subgroup);
  if (workgroup != row_lanes)
    throw Failure(QUIRE_UNSUPPORTED,
                  "op " + std::to_string(unit.ops[0]) + " (expert_linear) needs subgroups of at most 32 invocations");
  Dispatch& dispatch =
      add(format_shader("expert_linear", weight.format), workgroup, {row_lanes, 1, 1, 1, c_.shape.cpu ? 1u : 0u}, unit);
  dispatch.set_parameters(params);
  std::vector<WeightPart> pieces = weight.pieces;
  pieces.resize(max_pieces);
  dispatch.append_parameters(pieces);
  GridSide rows = rows_of(count_tokens);
  if (params.weights == 0) rows.times = params.choices;
  dispatch.grid = {{GridSide::Kind::fixed, 0, params.expert_panels, 1}, rows};
  reads(dispatch, own.in[0]);
  reads(dispatch, own.in[1]);
  reads(dispatch, own.in[2]);
  writes(dispatch, own.out[0]);
}

} // namespace quire::vulkan
