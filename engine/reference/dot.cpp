#include "reference/dot.hpp"

#include "reference/lanes.hpp"

#include <algorithm>

namespace quire::reference {
namespace {

[[gnu::always_inline]] inline const UnalignedLanes& lanes_at(const float* p) {
  return *reinterpret_cast<const UnalignedLanes*>(p);
}

// The lanes as a tree: 16 to 8 to 4 to 2 to 1.
[[gnu::always_inline]] inline float sum_of(const Lanes& lanes) {
  float half[kLanes];
  for (size_t j = 0; j < kLanes; ++j) half[j] = lanes[j];
  for (size_t width = kLanes / 2; width > 0; width /= 2)
    for (size_t j = 0; j < width; ++j) half[j] += half[j + width];
  return half[0];
}

// A tile of T x N sums, all in registers where the machine has enough of them.
template <size_t T, size_t N>
[[gnu::always_inline]] inline void dot_tile(const float* x, size_t x_stride, const float* w, size_t w_stride,
                                            size_t length, float* out, size_t out_stride) {
  Lanes sums[T][N] = {};
  size_t k = 0;
  for (; k + kLanes <= length; k += kLanes) {
    Lanes a[T], b[N];
    for (size_t t = 0; t < T; ++t) a[t] = lanes_at(x + t * x_stride + k);
    for (size_t n = 0; n < N; ++n) b[n] = lanes_at(w + n * w_stride + k);
    for (size_t t = 0; t < T; ++t)
      for (size_t n = 0; n < N; ++n) sums[t][n] += a[t] * b[n];
  }
  if (k < length) {
    Lanes a[T] = {}, b[N] = {};
    for (size_t j = 0; k + j < length; ++j) {
      for (size_t t = 0; t < T; ++t) a[t][j] = x[t * x_stride + k + j];
      for (size_t n = 0; n < N; ++n) b[n][j] = w[n * w_stride + k + j];
    }
    for (size_t t = 0; t < T; ++t)
      for (size_t n = 0; n < N; ++n) sums[t][n] += a[t] * b[n];
  }
  for (size_t t = 0; t < T; ++t)
    for (size_t n = 0; n < N; ++n) out[t * out_stride + n] = sum_of(sums[t][n]);
}

template <size_t T>
[[gnu::always_inline]] inline void dot_band(const float* x, size_t x_stride, const float* w, size_t w_stride,
                                            size_t rows, size_t length, float* out, size_t out_stride) {
  size_t n = 0;
  for (; n + 4 <= rows; n += 4) dot_tile<T, 4>(x, x_stride, w + n * w_stride, w_stride, length, out + n, out_stride);
  for (; n < rows; ++n) dot_tile<T, 1>(x, x_stride, w + n * w_stride, w_stride, length, out + n, out_stride);
}

} // namespace

QUIRE_LEVELS
void dot_rows(const float* x, size_t x_stride, size_t tokens, const float* w, size_t w_stride, size_t rows,
              size_t length, float* out, size_t out_stride) {
  size_t t = 0;
  for (; t + 4 <= tokens; t += 4)
    dot_band<4>(x + t * x_stride, x_stride, w, w_stride, rows, length, out + t * out_stride, out_stride);
  for (; t < tokens; ++t)
    dot_band<1>(x + t * x_stride, x_stride, w, w_stride, rows, length, out + t * out_stride, out_stride);
}

QUIRE_LEVELS
void accumulate_rows(const float* p, size_t count, const float* v, size_t v_stride, size_t dim, float decay,
                     float* out) {
  constexpr size_t band = 4;
  size_t d = 0;
  for (; d + band * kLanes <= dim; d += band * kLanes) {
    Lanes sums[band];
    for (size_t b = 0; b < band; ++b) sums[b] = lanes_at(out + d + b * kLanes) * decay;
    for (size_t j = 0; j < count; ++j)
      for (size_t b = 0; b < band; ++b) sums[b] += lanes_at(v + j * v_stride + d + b * kLanes) * p[j];
    for (size_t b = 0; b < band; ++b)
      for (size_t i = 0; i < kLanes; ++i) out[d + b * kLanes + i] = sums[b][i];
  }
  for (; d < dim; ++d) {
    float sum = out[d] * decay;
    for (size_t j = 0; j < count; ++j) sum += v[j * v_stride + d] * p[j];
    out[d] = sum;
  }
}

} // namespace quire::reference
