// The two loops that take the time: dots of rows with rows, and weighted sums of rows.
//
// Both fix the order of every sum (see lanes.hpp), so that out's elements depend on their own row and length alone, not
// on how many are computed together. Errors: none. Threads: pure functions.
#pragma once

#include <cstddef>

namespace quire::reference {

// out[t * out_stride + n] = sum over k of x[t * x_stride + k] * w[n * w_stride + k], for t < tokens, n < rows, k <
// length.
void dot_rows(const float* x, size_t x_stride, size_t tokens, const float* w, size_t w_stride, size_t rows,
              size_t length, float* out, size_t out_stride);

// out[d] = out[d] * decay + sum over j < count, in rising order, of p[j] * v[j * v_stride + d], for d < dim.
void accumulate_rows(const float* p, size_t count, const float* v, size_t v_stride, size_t dim, float decay,
                     float* out);

} // namespace quire::reference
