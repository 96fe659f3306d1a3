// out[0] = act(in[0]) * in[1]; and the activations, which linear shares.
#include "reference/ops.hpp"

#include <cmath>
#include <numbers>

namespace quire::reference {

// silu: Elfwing et al. 2017; gelu and its tanh approximation: Hendrycks and Gimpel 2016.
float activate(uint32_t activation, float x) {
  switch (activation) {
  case QUIRE_ACT_SILU:
    return x / (1.0f + std::exp(-x));
  case QUIRE_ACT_GELU_TANH: {
    constexpr float c = 0.7978845608f; // sqrt(2 / pi)
    return 0.5f * x * (1.0f + std::tanh(c * (x + 0.044715f * x * x * x)));
  }
  case QUIRE_ACT_GELU_ERF:
    return 0.5f * x * (1.0f + std::erf(x / std::numbers::sqrt2_v<float>));
  case QUIRE_ACT_RELU:
    return x < 0.0f ? 0.0f : x; // NaN stays NaN
  default:
    return x;
  }
}

void glu(const OpRun& run) {
  const Tensor a = run.in(0), b = run.in(1), out = run.out(0);
  const uint32_t activation = run.op.u.glu.activation;
  const size_t width = out.width();
  run.for_rows(out.rows, [&](size_t r) {
    const float *x = a.row(r), *gate = b.row(r);
    float* y = out.row(r);
    for (size_t i = 0; i < width; ++i) y[i] = activate(activation, x[i]) * gate[i];
  });
}

} // namespace quire::reference
