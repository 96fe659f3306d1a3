// The ops of plugin.h in float64, written for the tests: straightforward loops that share nothing with
// engine/reference.
//
// Every function returns the exact result `v` for its exact inputs, and the error `e` that a right backend of the given
// precision may have made by then (see tolerance.hpp).
#pragma once

#include "support/tolerance.hpp"

#include "quire/plugin.h"

#include <cstdint>
#include <vector>

namespace quire::tests {

// [rows, heads, dim]; ids for QUIRE_INT32.
struct Tensor64 {
  size_t rows = 0, heads = 1, dim = 0;
  std::vector<double> v, e;
  std::vector<int32_t> ids;

  Tensor64() = default;
  Tensor64(size_t rows_, size_t heads_, size_t dim_)
      : rows(rows_), heads(heads_), dim(dim_), v(rows_ * heads_ * dim_), e(rows_ * heads_ * dim_) {}
  size_t width() const { return heads * dim; }
  size_t size() const { return rows * width(); }
};

// A weight [experts * rows, cols] in float64.
struct Matrix64 {
  size_t rows = 0, cols = 0;
  std::vector<double> v;
};

double activate64(uint32_t activation, double x);

Tensor64 embed64(const Precision&, const Matrix64& rows_of_tokens, const Matrix64* rows_of_positions, double scale);
// residual may be NULL; *sum = in + residual.
Tensor64 norm64(const Precision&, const quire_norm&, const Tensor64& in, const Tensor64* residual,
                const Matrix64* weight, const Matrix64* bias, Tensor64* sum);
// out columns [first_col, first_col + part.rows) of out.
void linear64(const Precision&, const quire_linear&, const Tensor64& in, const Matrix64& part, const Matrix64* bias,
              size_t first_col, Tensor64& out);
Tensor64 rope64(const Precision&, const quire_rope&, const Tensor64& in, const std::vector<uint32_t>& positions,
                const Matrix64& frequencies);
Tensor64 glu64(const Precision&, uint32_t activation, const Tensor64& a, const Tensor64& b);
Tensor64 add64(const Precision&, const Tensor64& a, const Tensor64& b);
Tensor64 mul64(const Precision&, const Tensor64& a, const Tensor64& b);
// factor [1, cols] or [1, 1].
Tensor64 mul64(const Precision&, const Tensor64& a, const Matrix64& factor);

// What one token sees of one layer, position by position in rising order.
struct Seen {
  std::vector<const double*> k, v;   // [positions][kv_heads, dim]
  std::vector<const double*> ke, ve; // errors
};
// q, out: one token's [heads, k_dim] and [heads, v_dim].
void attend64(const Precision&, const quire_attend&, const quire_kv_layer&, size_t heads, const double* q,
              const double* qe, const Seen& seen, const Matrix64* sinks, double* out, double* oute);

// The scores by which experts are chosen and those that become weights, [T, experts] each; groups that can't be chosen
// are -infinity.
struct RouteScores {
  Tensor64 choosing, weights;
};
RouteScores route_scores64(const Precision&, const quire_route&, const Tensor64& in, const Matrix64* bias);
// The weights [T, k] of the chosen ids [T, k].
Tensor64 route_weights64(const Precision&, const quire_route&, const Tensor64& in, const RouteScores&,
                         const std::vector<int32_t>& ids);

// weight: [experts * N, K]; bias [experts, N].
Tensor64 expert_linear64(const Precision&, const Tensor64& in, const Tensor64& ids, const Tensor64* mix,
                         const Matrix64& weight, size_t num_experts, const Matrix64* bias);

} // namespace quire::tests
