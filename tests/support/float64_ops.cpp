#include "support/float64_ops.hpp"

#include <algorithm>
#include <cmath>

namespace quire::tests {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr double kSteepest = 1.13; // largest slope of silu and gelu

double dot(const double* a, const double* b, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// Sum over i of (a[i] b[i])^2.
double dot_squares(const double* a, const double* b, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += squared(a[i] * b[i]);
  return sum;
}

} // namespace

double activate64(uint32_t activation, double x) {
  switch (activation) {
  case QUIRE_ACT_SILU:
    return x / (1 + std::exp(-x));
  case QUIRE_ACT_GELU_TANH:
    return x / 2 * (1 + std::tanh(std::sqrt(2 / kPi) * (x + 0.044715 * x * x * x)));
  case QUIRE_ACT_GELU_ERF:
    return x / 2 * (1 + std::erf(x / std::sqrt(2.0)));
  case QUIRE_ACT_RELU:
    return std::max(x, 0.0);
  default:
    return x;
  }
}

Tensor64 embed64(const Precision& p, const Matrix64& rows, const Matrix64* positions, double scale) {
  Tensor64 out(rows.rows, 1, rows.cols);
  for (size_t i = 0; i < out.size(); ++i) {
    const double scaled = scale * rows.v[i];
    out.v[i] = scaled + (positions ? positions->v[i] : 0);
    out.e[i] = together(store_error(p, out.v[i]), p.accumulate * scaled);
  }
  return out;
}

Tensor64 norm64(const Precision& p, const quire_norm& op, const Tensor64& in, const Tensor64* residual,
                const Matrix64* weight, const Matrix64* bias, Tensor64* sum) {
  const Tensor64 x = residual ? add64(p, in, *residual) : in;
  Tensor64 out(x.rows, x.heads, x.dim);
  const auto n = static_cast<double>(x.dim);
  for (size_t head = 0; head < x.rows * x.heads; ++head) {
    const double *v = x.v.data() + head * x.dim, *e = x.e.data() + head * x.dim;
    double total = 0, total_square = 0, error_squares = 0;
    for (size_t i = 0; i < x.dim; ++i) {
      total += v[i];
      total_square += v[i] * v[i];
      error_squares += e[i] * e[i];
    }
    const double mean = op.kind == QUIRE_NORM_LAYER ? total / n : 0;
    const double mean_error = op.kind == QUIRE_NORM_LAYER
                                  ? together(std::sqrt(error_squares) / n, sum_error(p, n, total_square, total) / n)
                                  : 0;
    double variance = 0, variance_error = 0;
    for (size_t i = 0; i < x.dim; ++i) {
      variance += squared(v[i] - mean) / n;
      variance_error += squared(2 * (v[i] - mean) * together(e[i], mean_error) / n);
    }
    const double r = 1 / std::sqrt(variance + op.epsilon);
    // d r / r = -d variance / (2 (variance + eps)); a sum of n squares; and the root.
    const double relative = together(std::sqrt(variance_error) * r * r / 2, p.accumulate * std::sqrt(n), p.function);
    for (size_t i = 0; i < x.dim; ++i) {
      const double scale = weight ? weight->v[i] + op.weight_offset : 1, centred = v[i] - mean;
      const double y = centred * r * scale;
      double& result = out.v[head * x.dim + i];
      result = y + (bias ? bias->v[i] : 0);
      const double centre_error = together(e[i], mean_error, p.accumulate * centred) * r * scale;
      const double weight_error =
          weight ? p.accumulate * (std::abs(weight->v[i]) + std::abs(op.weight_offset)) * centred * r : 0;
      out.e[head * x.dim + i] =
          together(centre_error, y * relative, weight_error, together(store_error(p, result), p.accumulate * 2 * y));
    }
  }
  if (sum) *sum = x;
  return out;
}

void linear64(const Precision& p, const quire_linear& op, const Tensor64& in, const Matrix64& part,
              const Matrix64* bias, size_t first_col, Tensor64& out) {
  const size_t K = part.cols;
  const double scale = op.scale == 0 ? 1 : op.scale;
  for (size_t row = 0; row < in.rows; ++row)
    for (size_t n = 0; n < part.rows; ++n) {
      const double *x = in.v.data() + row * K, *w = part.v.data() + n * K;
      const double sum = dot(x, w, K);
      double error = together(std::sqrt(dot_squares(in.e.data() + row * K, w, K)),
                              sum_error(p, static_cast<double>(K), dot_squares(x, w, K), sum));
      double y = sum + (bias ? bias->v[n] : 0);
      if (bias) error = together(error, p.accumulate * y);
      if (op.activation != QUIRE_ACT_NONE) {
        error = together(kSteepest * error,
                         p.function * std::min(std::abs(y), 1.0) + p.function * std::abs(activate64(op.activation, y)));
        y = activate64(op.activation, y);
      }
      y *= scale;
      error *= std::abs(scale);
      if (op.softcap != 0) {
        error = together(error, p.function * op.softcap);
        y = op.softcap * std::tanh(y / op.softcap);
      }
      const size_t at = row * out.width() + first_col + n;
      out.v[at] = y;
      out.e[at] = together(error, store_error(p, y));
    }
}

Tensor64 rope64(const Precision& p, const quire_rope& op, const Tensor64& in, const std::vector<uint32_t>& positions,
                const Matrix64& frequencies) {
  Tensor64 out = in;
  const double magnitude = op.magnitude == 0 ? 1 : op.magnitude;
  const size_t pairs = op.rotary_dim / 2;
  for (size_t row = 0; row < in.rows; ++row)
    for (size_t i = 0; i < pairs; ++i) {
      const double angle = positions[row] * frequencies.v[i];
      const double c = magnitude * std::cos(angle), s = magnitude * std::sin(angle);
      // The product is rounded, and its reduction to one turn once more.
      const double angle_error = magnitude * (p.angle + 2 * p.accumulate * angle);
      for (size_t head = 0; head < in.heads; ++head) {
        const size_t base = (row * in.heads + head) * in.dim;
        const size_t ia = base + (op.kind == QUIRE_ROPE_HALF ? i : 2 * i),
                     ib = base + (op.kind == QUIRE_ROPE_HALF ? i + pairs : 2 * i + 1);
        const double a = in.v[ia], b = in.v[ib], ea = in.e[ia], eb = in.e[ib];
        const double length = together(a, b);
        const auto error = [&](double y, double from_a, double from_b) {
          return together(from_a, from_b, angle_error * length,
                          together(2 * p.accumulate * magnitude * length, store_error(p, y)));
        };
        out.v[ia] = a * c - b * s;
        out.v[ib] = b * c + a * s;
        out.e[ia] = error(out.v[ia], c * ea, s * eb);
        out.e[ib] = error(out.v[ib], c * eb, s * ea);
      }
    }
  for (size_t i = 0; i < out.size(); ++i)
    if (i % in.dim >= op.rotary_dim) out.e[i] = together(out.e[i], store_error(p, out.v[i]));
  return out;
}

Tensor64 glu64(const Precision& p, uint32_t activation, const Tensor64& a, const Tensor64& b) {
  Tensor64 out(a.rows, a.heads, a.dim);
  for (size_t i = 0; i < out.size(); ++i) {
    const double act = activate64(activation, a.v[i]);
    out.v[i] = act * b.v[i];
    const double inexact = activation == QUIRE_ACT_NONE || activation == QUIRE_ACT_RELU ? 0 : p.function;
    // The functions' own errors are absolute below 1 (1 + tanh(x) cancels for negative x).
    const double act_error = inexact * (std::min(std::abs(a.v[i]), 1.0) + std::abs(act));
    out.e[i] = together(kSteepest * a.e[i] * b.v[i], act * b.e[i], act_error * b.v[i],
                        together(2 * p.accumulate * out.v[i], store_error(p, out.v[i])));
  }
  return out;
}

Tensor64 add64(const Precision& p, const Tensor64& a, const Tensor64& b) {
  Tensor64 out(a.rows, a.heads, a.dim);
  for (size_t i = 0; i < out.size(); ++i) {
    out.v[i] = a.v[i] + b.v[i];
    out.e[i] = together(a.e[i], b.e[i], store_error(p, out.v[i]));
  }
  return out;
}

Tensor64 mul64(const Precision& p, const Tensor64& a, const Tensor64& b) {
  Tensor64 out(a.rows, a.heads, a.dim);
  for (size_t i = 0; i < out.size(); ++i) {
    out.v[i] = a.v[i] * b.v[i];
    out.e[i] = together(a.e[i] * b.v[i], a.v[i] * b.e[i], store_error(p, out.v[i]));
  }
  return out;
}

Tensor64 mul64(const Precision& p, const Tensor64& a, const Matrix64& factor) {
  Tensor64 out(a.rows, a.heads, a.dim);
  for (size_t i = 0; i < out.size(); ++i) {
    const double f = factor.v[factor.cols == 1 ? 0 : i % a.width()];
    out.v[i] = a.v[i] * f;
    out.e[i] = together(a.e[i] * f, store_error(p, out.v[i]));
  }
  return out;
}

void attend64(const Precision& p, const quire_attend& op, const quire_kv_layer& layer, size_t heads, const double* q,
              const double* qe, const Seen& seen, const Matrix64* sinks, double* out, double* oute) {
  const size_t count = seen.k.size(), k_dim = layer.k_dim, v_dim = layer.v_dim;
  const auto n = static_cast<double>(count);
  std::vector<double> weight(count), relative(count);
  for (size_t head = 0; head < heads; ++head) {
    const size_t kv_head = head / (heads / layer.kv_heads);
    const double *qh = q + head * k_dim, *qeh = qe + head * k_dim;
    double largest = sinks ? sinks->v[head] : -HUGE_VAL;
    for (size_t j = 0; j < count; ++j) {
      const double *k = seen.k[j] + kv_head * k_dim, *ke = seen.ke[j] + kv_head * k_dim;
      const double sum = dot(qh, k, k_dim);
      double score = op.scale * sum;
      double error = op.scale * together(std::sqrt(dot_squares(qh, ke, k_dim)), std::sqrt(dot_squares(qeh, k, k_dim)),
                                         sum_error(p, static_cast<double>(k_dim), dot_squares(qh, k, k_dim), sum));
      if (op.softcap != 0) {
        score = op.softcap * std::tanh(score / op.softcap);
        error = together(error, p.function * op.softcap);
      }
      weight[j] = score;
      relative[j] = together(error, 2 * p.accumulate * std::abs(score)); // of exp(score)
      largest = std::max(largest, score);
    }
    double divisor = sinks ? std::exp(sinks->v[head] - largest) : 0;
    for (size_t j = 0; j < count; ++j) {
      relative[j] = together(relative[j], p.function, p.input, 2 * p.accumulate * std::abs(weight[j] - largest));
      weight[j] = std::exp(weight[j] - largest);
      divisor += weight[j];
    }
    for (size_t d = 0; d < v_dim; ++d) {
      double sum = 0, squares = 0;
      for (size_t j = 0; j < count; ++j) {
        const double term = weight[j] / divisor * seen.v[j][kv_head * v_dim + d];
        sum += term;
        squares += term * term;
      }
      double error = 0;
      for (size_t j = 0; j < count; ++j) {
        const double share = weight[j] / divisor;
        error += squared(share * relative[j] * (seen.v[j][kv_head * v_dim + d] - sum)) +
                 squared(share * seen.ve[j][kv_head * v_dim + d]);
      }
      out[head * v_dim + d] = sum;
      oute[head * v_dim + d] =
          together(std::sqrt(error), sum_error(p, n, squares, sum),
                   (p.accumulate * std::sqrt(n) + p.function) * std::abs(sum), store_error(p, sum));
    }
  }
}

RouteScores route_scores64(const Precision& p, const quire_route& op, const Tensor64& in, const Matrix64* bias) {
  const size_t experts = in.width();
  RouteScores scores{in, in};
  for (size_t t = 0; t < in.rows; ++t) {
    double* v = scores.weights.v.data() + t * experts;
    double* e = scores.weights.e.data() + t * experts;
    if (op.scoring == QUIRE_ROUTE_SOFTMAX) {
      const double largest = *std::max_element(v, v + experts);
      double sum = 0, spread = 0;
      for (size_t i = 0; i < experts; ++i) sum += std::exp(v[i] - largest);
      for (size_t i = 0; i < experts; ++i) spread += squared(std::exp(v[i] - largest) / sum * e[i]);
      for (size_t i = 0; i < experts; ++i) {
        const double rounding =
            p.function + p.accumulate * (std::sqrt(static_cast<double>(experts)) + 2 * (largest - v[i]));
        v[i] = std::exp(v[i] - largest) / sum;
        e[i] = v[i] * together(e[i], std::sqrt(spread), rounding);
      }
    } else if (op.scoring == QUIRE_ROUTE_SIGMOID) {
      for (size_t i = 0; i < experts; ++i) {
        v[i] = 1 / (1 + std::exp(-v[i]));
        e[i] = together(v[i] * (1 - v[i]) * e[i], 2 * p.function * v[i]);
      }
    }
    double* choosing = scores.choosing.v.data() + t * experts;
    for (size_t i = 0; i < experts; ++i) {
      choosing[i] = v[i] + (bias ? bias->v[i] : 0);
      scores.choosing.e[t * experts + i] = together(e[i], p.accumulate * choosing[i]);
    }
  }
  return scores;
}

Tensor64 route_weights64(const Precision& p, const quire_route& op, const Tensor64& in, const RouteScores& scores,
                         const std::vector<int32_t>& ids) {
  const size_t experts = in.width(), k = op.top_k;
  const double scale = op.scale == 0 ? 1 : op.scale;
  Tensor64 out(in.rows, 1, k);
  for (size_t t = 0; t < in.rows; ++t) {
    std::vector<double> v(k), e(k);
    for (size_t i = 0; i < k; ++i) {
      const size_t at = t * experts + static_cast<size_t>(ids[t * k + i]);
      v[i] = scores.weights.v[at];
      e[i] = scores.weights.e[at];
    }
    double sum = 1, relative = 0;
    if (op.scoring == QUIRE_ROUTE_SOFTMAX_SELECTED) {
      const double largest = *std::max_element(v.begin(), v.end());
      sum = 0;
      for (size_t i = 0; i < k; ++i) {
        e[i] = together(e[i], p.function, 2 * p.accumulate * (largest - v[i]));
        v[i] = std::exp(v[i] - largest);
        e[i] *= v[i];
        sum += v[i];
      }
    } else if (op.normalise) {
      sum = 0;
      for (size_t i = 0; i < k; ++i) sum += v[i];
    }
    if (sum != 1)
      for (size_t i = 0; i < k; ++i) relative = together(relative, e[i] / sum);
    for (size_t i = 0; i < k; ++i) {
      const double y = v[i] / sum * scale;
      out.v[t * k + i] = y;
      out.e[t * k + i] = together(e[i] / sum * scale, y * relative, store_error(p, y), 4 * p.accumulate * y);
    }
  }
  return out;
}

Tensor64 expert_linear64(const Precision& p, const Tensor64& in, const Tensor64& ids, const Tensor64* mix,
                         const Matrix64& weight, size_t num_experts, const Matrix64* bias) {
  const size_t N = weight.rows / num_experts, K = weight.cols, top_k = ids.width();
  const bool per_slot = in.width() != K;
  Tensor64 out(in.rows, mix ? 1 : top_k, N);
  for (size_t t = 0; t < in.rows; ++t)
    for (size_t n = 0; n < N; ++n) {
      double mixed = 0, mixed_squares = 0, mixed_error = 0;
      for (size_t slot = 0; slot < top_k; ++slot) {
        const auto expert = static_cast<size_t>(ids.ids[t * top_k + slot]);
        const size_t from = t * in.width() + (per_slot ? slot * K : 0);
        const double *x = in.v.data() + from, *w = weight.v.data() + (expert * N + n) * K;
        const double sum = dot(x, w, K), y = sum + (bias ? bias->v[expert * N + n] : 0);
        const double error =
            together(std::sqrt(dot_squares(in.e.data() + from, w, K)),
                     sum_error(p, static_cast<double>(K), dot_squares(x, w, K), sum), p.accumulate * y);
        if (!mix) {
          out.v[(t * top_k + slot) * N + n] = y;
          out.e[(t * top_k + slot) * N + n] = together(error, store_error(p, y));
          continue;
        }
        const double share = mix->v[t * top_k + slot];
        mixed += share * y;
        mixed_squares += squared(share * y);
        mixed_error = together(mixed_error, share * error, mix->e[t * top_k + slot] * y, p.store * share * y);
      }
      if (!mix) continue;
      out.v[t * N + n] = mixed;
      out.e[t * N + n] =
          together(mixed_error, sum_error(p, static_cast<double>(top_k), mixed_squares, mixed), store_error(p, mixed));
    }
  return out;
}

} // namespace quire::tests
