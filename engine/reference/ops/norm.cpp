// out[0] = norm(in[0] + in[1]) over the elements of a head; out[1] = in[0] + in[1].
// Sources: Ba et al. 2016 (layer), Zhang and Sennrich 2019 (rms).
#include "reference/ops.hpp"

#include <cmath>

namespace quire::reference {
namespace {

// y = (x - mean) / sqrt(var + eps) * (weight + offset) + bias, over n elements. The two sums are kept in double: they
// are few and make the order of summation immaterial at float32.
void norm_head(const quire_norm& p, const float* x, const float* weight, const float* bias, size_t n, float* y) {
  double mean = 0;
  if (p.kind == QUIRE_NORM_LAYER) {
    for (size_t i = 0; i < n; ++i) mean += x[i];
    mean /= static_cast<double>(n);
  }
  double squares = 0;
  for (size_t i = 0; i < n; ++i) squares += (x[i] - mean) * (x[i] - mean);
  const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + p.epsilon);
  for (size_t i = 0; i < n; ++i) {
    const auto normed = static_cast<float>((x[i] - mean) * inverse);
    y[i] = normed * (weight ? weight[i] + p.weight_offset : 1.0f) + (bias ? bias[i] : 0.0f);
  }
}

} // namespace

void norm(const OpRun& run) {
  const quire_norm& p = run.op.u.norm;
  const Tensor in = run.in(0), residual = run.in(1); // [rows, heads, dim]
  const Tensor out = run.out(0), sum = run.out(1);
  const float* weight = p.weight ? run.weight(p.weight)->vector() : nullptr; // [dim]
  const float* bias = p.bias ? run.weight(p.bias)->vector() : nullptr;
  const size_t width = in.width();
  run.for_rows(in.rows, [&](size_t r) {
    // in[0] + in[1] is formed in out[1], or in out[0] where nobody wants the sum.
    float* x = sum ? sum.row(r) : out.row(r);
    const float* a = in.row(r);
    if (residual) {
      const float* b = residual.row(r);
      for (size_t i = 0; i < width; ++i) x[i] = a[i] + b[i];
    } else if (x != a) {
      for (size_t i = 0; i < width; ++i) x[i] = a[i];
    }
    for (size_t head = 0; head < in.heads; ++head)
      norm_head(p, x + head * in.dim, weight, bias, in.dim, out.row(r) + head * in.dim);
  });
}

} // namespace quire::reference
