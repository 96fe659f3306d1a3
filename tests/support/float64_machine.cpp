#include "support/float64_machine.hpp"

#include "support/block_formats.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

namespace quire::tests {
Float64Machine::Float64Machine(const Program& program, const Precision& precision)
    : program_(program), precision_(precision) {}

Matrix64 Float64Machine::rows_of(uint32_t id, const std::vector<uint64_t>& rows) const {
  const quire_weight& weight = program_.weight(id);
  Matrix64 result{rows.size(), weight.cols, std::vector<double>(rows.size() * weight.cols)};
  const uint64_t row_bytes = format_row_bytes(weight.format, weight.cols);
  for (size_t i = 0; i < rows.size(); ++i)
    decode(weight.format, static_cast<const uint8_t*>(weight.planes[0].data) + rows[i] * row_bytes, weight.cols,
           result.v.data() + i * weight.cols);
  return result;
}

const Matrix64& Float64Machine::matrix(uint32_t id) {
  const auto found = matrices_.find(id);
  if (found != matrices_.end()) return found->second;
  const quire_weight& weight = program_.weight(id);
  std::vector<uint64_t> rows(std::max<uint64_t>(weight.experts, 1) * weight.rows);
  std::iota(rows.begin(), rows.end(), uint64_t{0});
  return matrices_[id] = rows_of(id, rows);
}

// A copy of the value; of a view, its columns.
Tensor64 Float64Machine::in(const quire_op& op, int i) const {
  const quire_value& value = program_.value(op.in[i]);
  if (value.parent == 0) {
    Tensor64 whole = values_.at(op.in[i]);
    whole.heads = value.heads, whole.dim = value.dim;
    return whole;
  }
  const Tensor64& parent = values_.at(value.parent);
  Tensor64 part(parent.rows, value.heads, value.dim);
  for (size_t row = 0; row < part.rows; ++row) {
    const size_t from = row * parent.width() + value.offset;
    std::copy_n(parent.v.begin() + static_cast<ptrdiff_t>(from), part.width(),
                part.v.begin() + static_cast<ptrdiff_t>(row * part.width()));
    std::copy_n(parent.e.begin() + static_cast<ptrdiff_t>(from), part.width(),
                part.e.begin() + static_cast<ptrdiff_t>(row * part.width()));
  }
  return part;
}

void Float64Machine::run(const LogicalStep& step, const ChosenIds& chosen) {
  values_.clear();
  tokens_.clear();
  positions_.clear();
  owners_.clear();
  for (const LogicalStep::Part& part : step.parts) {
    sequences_[part.sequence].length += part.skip;
    for (const int32_t token : part.tokens) {
      tokens_.push_back(token);
      positions_.push_back(sequences_[part.sequence].length++);
      owners_.push_back(part.sequence);
    }
  }
  const auto is_there = [&](uint32_t id) {
    return id == 0 || values_.count(program_.value(id).parent ? program_.value(id).parent : id) != 0;
  };
  for (const quire_op& op : program_.ops)
    if (step.checked || (op.kind != QUIRE_OP_ATTEND && std::all_of(op.in, op.in + 4, is_there)))
      run_op(op, step, chosen);
}

void Float64Machine::run_op(const quire_op& op, const LogicalStep& step, const ChosenIds& chosen) {
  const auto put = [&](int i, Tensor64 result) {
    const quire_value& value = program_.value(op.out[i]);
    result.heads = value.heads, result.dim = value.dim;
    values_[op.out[i]] = std::move(result);
  };
  switch (op.kind) {
  case QUIRE_OP_EMBED:
    embed(op);
    break;
  case QUIRE_OP_NORM: {
    const quire_norm& p = op.u.norm;
    Tensor64 residual, sum;
    if (op.in[1] != 0) residual = in(op, 1);
    put(0, norm64(precision_, p, in(op, 0), op.in[1] ? &residual : nullptr, p.weight ? &matrix(p.weight) : nullptr,
                  p.bias ? &matrix(p.bias) : nullptr, &sum));
    if (op.out[1] != 0) put(1, sum);
    break;
  }
  case QUIRE_OP_LINEAR:
    linear(op);
    break;
  case QUIRE_OP_ROPE:
    put(0, rope64(precision_, op.u.rope, in(op, 0), positions_, matrix(op.u.rope.frequencies)));
    break;
  case QUIRE_OP_KV_STORE:
    store(op);
    break;
  case QUIRE_OP_ATTEND:
    attend(op);
    break;
  case QUIRE_OP_GLU:
    put(0, glu64(precision_, op.u.glu.activation, in(op, 0), in(op, 1)));
    break;
  case QUIRE_OP_ADD:
    put(0, add64(precision_, in(op, 0), in(op, 1)));
    break;
  case QUIRE_OP_MUL:
    put(0, op.in[1] ? mul64(precision_, in(op, 0), in(op, 1)) : mul64(precision_, in(op, 0), matrix(op.u.mul.weight)));
    break;
  case QUIRE_OP_GATHER_ROWS: {
    const Tensor64 from = in(op, 0);
    Tensor64 out(step.rows.size(), from.heads, from.dim);
    for (size_t r = 0; r < step.rows.size(); ++r)
      for (size_t i = 0; i < from.width(); ++i) {
        out.v[r * from.width() + i] = from.v[step.rows[r] * from.width() + i];
        out.e[r * from.width() + i] =
            together(from.e[step.rows[r] * from.width() + i], store_error(precision_, out.v[r * from.width() + i]));
      }
    put(0, std::move(out));
    break;
  }
  case QUIRE_OP_ROUTE:
    route(op, chosen);
    break;
  case QUIRE_OP_EXPERT_LINEAR: {
    const quire_expert_linear& p = op.u.expert_linear;
    Tensor64 mix;
    if (op.in[2] != 0) mix = in(op, 2);
    put(0, expert_linear64(precision_, in(op, 0), values_.at(op.in[1]), op.in[2] ? &mix : nullptr, matrix(p.weight),
                           program_.weight(p.weight).experts, p.bias ? &matrix(p.bias) : nullptr));
    break;
  }
  case QUIRE_OP_COLLECTIVE:
    put(0, in(op, 0));
    break;
  default:
    break;
  }
}

void Float64Machine::embed(const quire_op& op) {
  const quire_embed& p = op.u.embed;
  const Matrix64 rows = rows_of(p.table, {tokens_.begin(), tokens_.end()});
  Matrix64 learned;
  if (p.positions != 0) learned = rows_of(p.positions, {positions_.begin(), positions_.end()});
  values_[op.out[0]] = embed64(precision_, rows, p.positions ? &learned : nullptr, p.scale == 0 ? 1 : p.scale);
}

void Float64Machine::linear(const quire_op& op) {
  const quire_linear& p = op.u.linear;
  const Tensor64 x = in(op, 0);
  const quire_value& value = program_.value(op.out[0]);
  Tensor64 out(x.rows, value.heads, value.dim);
  size_t col = 0;
  for (int part = 0; part < QUIRE_MAX_PARTS && p.weights[part] != 0; ++part) {
    const quire_weight& weight = program_.weight(p.weights[part]);
    // A weight too large to keep in float64 is decoded in bands.
    constexpr uint64_t band = 4096;
    for (uint64_t first = 0; first < weight.rows; first += band) {
      std::vector<uint64_t> rows(std::min(band, weight.rows - first));
      std::iota(rows.begin(), rows.end(), first);
      Matrix64 bias;
      if (p.biases[part] != 0) {
        const Matrix64& all = matrix(p.biases[part]);
        bias = {1,
                rows.size(),
                {all.v.begin() + static_cast<ptrdiff_t>(first),
                 all.v.begin() + static_cast<ptrdiff_t>(first + rows.size())}};
      }
      linear64(precision_, p, x, rows_of(p.weights[part], rows), p.biases[part] ? &bias : nullptr, col, out);
      col += rows.size();
    }
  }
  values_[op.out[0]] = std::move(out);
}

void Float64Machine::store(const quire_op& op) {
  const Tensor64 k = in(op, 0), v = in(op, 1);
  const auto row_of = [&](const Tensor64& from, size_t t, std::vector<double>& value, std::vector<double>& error) {
    const auto begin = static_cast<ptrdiff_t>(t * from.width()), end = begin + static_cast<ptrdiff_t>(from.width());
    value.assign(from.v.begin() + begin, from.v.begin() + end);
    error.assign(from.e.begin() + begin, from.e.begin() + end);
    for (size_t i = 0; i < value.size(); ++i) value[i] = keep_in_cache(precision_, value[i], error[i]);
  };
  for (size_t t = 0; t < k.rows; ++t) {
    auto& rows = sequences_[owners_[t]].layers[op.u.kv_store.kv_layer];
    rows.resize(std::max<size_t>(rows.size(), positions_[t] + 1));
    row_of(k, t, rows[positions_[t]].k, rows[positions_[t]].ke);
    row_of(v, t, rows[positions_[t]].v, rows[positions_[t]].ve);
  }
}

void Float64Machine::attend(const quire_op& op) {
  const quire_attend& p = op.u.attend;
  const quire_kv_layer& layer = program_.kv_layers[p.kv_layer];
  const uint32_t window = program_.kv_groups[layer.group].window;
  const Tensor64 q = in(op, 0);
  Tensor64 out(q.rows, q.heads, layer.v_dim);
  for (size_t t = 0; t < q.rows; ++t) {
    const auto& rows = sequences_[owners_[t]].layers[p.kv_layer];
    Seen seen;
    for (uint32_t position = 0; position <= positions_[t]; ++position) {
      if (window != 0 && positions_[t] - position >= window) continue;
      seen.k.push_back(rows[position].k.data());
      seen.v.push_back(rows[position].v.data());
      seen.ke.push_back(rows[position].ke.data());
      seen.ve.push_back(rows[position].ve.data());
    }
    attend64(precision_, p, layer, q.heads, q.v.data() + t * q.width(), q.e.data() + t * q.width(), seen,
             p.sinks ? &matrix(p.sinks) : nullptr, out.v.data() + t * out.width(), out.e.data() + t * out.width());
  }
  values_[op.out[0]] = std::move(out);
}

void Float64Machine::route(const quire_op& op, const ChosenIds& chosen) {
  const quire_route& p = op.u.route;
  const Tensor64 scores_in = in(op, 0);
  const RouteScores scores = route_scores64(precision_, p, scores_in, p.bias ? &matrix(p.bias) : nullptr);
  Tensor64 ids(scores_in.rows, 1, p.top_k);
  ids.ids = chosen(op.out[1]);
  check_choice(op, scores, ids.ids);
  if (!wrong_choice_.empty()) { // go on with something legal
    for (int32_t& id : ids.ids) id = std::clamp<int32_t>(id, 0, static_cast<int32_t>(scores_in.width()) - 1);
  }
  values_[op.out[0]] = route_weights64(precision_, p, scores_in, scores, ids.ids);
  values_[op.out[1]] = std::move(ids);
}

// False where rounding decides which groups are kept; otherwise the experts of the others become -infinity.
bool Float64Machine::keep_best_groups(const quire_route& p, double* choosing, const double* errors, size_t experts) {
  const size_t size = experts / p.groups;
  std::vector<double> sums(p.groups);
  for (size_t g = 0; g < p.groups; ++g) {
    std::vector<double> scores(choosing + g * size, choosing + (g + 1) * size);
    std::sort(scores.rbegin(), scores.rend());
    sums[g] = scores[0] + (size > 1 ? scores[1] : 0);
  }
  std::vector<double> sorted = sums;
  std::sort(sorted.rbegin(), sorted.rend());
  const double last_kept = sorted[p.top_groups - 1], first_dropped = sorted[p.top_groups];
  if (last_kept - first_dropped <= 4 * kElementMargin * *std::max_element(errors, errors + experts)) return false;
  for (size_t g = 0; g < p.groups; ++g)
    if (sums[g] < last_kept) std::fill_n(choosing + g * size, size, -HUGE_VAL);
  return true;
}

void Float64Machine::check_choice(const quire_op& op, const RouteScores& all, const std::vector<int32_t>& ids) {
  const quire_route& p = op.u.route;
  const size_t experts = all.choosing.width();
  for (size_t t = 0; t < all.choosing.rows && wrong_choice_.empty(); ++t) {
    const auto first = all.choosing.v.begin() + static_cast<ptrdiff_t>(t * experts);
    std::vector<double> scores(first, first + static_cast<ptrdiff_t>(experts));
    const double* errors = all.choosing.e.data() + t * experts;
    const bool grouped = p.groups > 1 && p.top_groups != 0 && p.top_groups < p.groups;
    const bool certain = !grouped || keep_best_groups(p, scores.data(), errors, experts);
    std::vector<bool> taken(experts);
    for (size_t i = 0; i < p.top_k; ++i) {
      const int32_t id = ids[t * p.top_k + i];
      size_t best = experts; // the lowest id on ties
      for (size_t e = 0; e < experts; ++e)
        if (!taken[e] && (best == experts || scores[e] > scores[best])) best = e;
      const auto chosen = static_cast<size_t>(id);
      const bool legal = id >= 0 && chosen < experts && !taken[chosen];
      const bool near = legal && scores[best] - scores[chosen] <= kElementMargin * (errors[best] + errors[chosen]);
      const bool against_tie_rule = legal && scores[chosen] == scores[best] && chosen > best;
      if (!legal || (certain && (!near || against_tie_rule))) {
        std::ostringstream message;
        message << "row " << t << " chose expert " << id << " as number " << i << ", expected " << best;
        wrong_choice_ = message.str();
        return;
      }
      taken[chosen] = true;
    }
  }
}

} // namespace quire::tests
