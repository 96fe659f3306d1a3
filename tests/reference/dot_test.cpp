// The order of every sum is the one that lanes.hpp states, whatever tile or instruction set forms it.
#include "reference/dot.hpp"

#include "support/random.hpp"

#include <gtest/gtest.h>

#include <cstring>

namespace quire::tests {
namespace {

// 16 lane sums, then a tree: one element at a time.
float dot_in_order(const float* x, const float* w, size_t length) {
  float lanes[16] = {};
  for (size_t k = 0; k < length; ++k) {
    const float product = x[k] * w[k];
    lanes[k % 16] += product;
  }
  for (size_t width = 8; width > 0; width /= 2)
    for (size_t j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  return lanes[0];
}

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof(a)) == 0; }

} // namespace

TEST(Dot, EveryElementIsSummedInTheStatedOrder) {
  Random random(1);
  for (int i = 0; i < 200; ++i) {
    const size_t tokens = random.integer(1, 11), rows = random.integer(1, 19), length = random.integer(1, 200);
    const size_t x_stride = length + random.integer(0, 9), w_stride = length + random.integer(0, 9),
                 out_stride = rows + random.integer(0, 5);
    const auto x = random.normals(tokens * x_stride), w = random.normals(rows * w_stride);
    std::vector<float> out(tokens * out_stride);
    reference::dot_rows(x.data(), x_stride, tokens, w.data(), w_stride, rows, length, out.data(), out_stride);
    for (size_t t = 0; t < tokens; ++t)
      for (size_t n = 0; n < rows; ++n)
        ASSERT_TRUE(same_bits(out[t * out_stride + n], dot_in_order(&x[t * x_stride], &w[n * w_stride], length)))
            << tokens << " x " << rows << " x " << length << " at " << t << ", " << n;
  }
}

TEST(Dot, WeightedRowsAreAddedInRisingOrder) {
  Random random(2);
  for (int i = 0; i < 100; ++i) {
    const size_t count = random.integer(0, 70), dim = random.integer(1, 200), stride = dim + random.integer(0, 7);
    const auto p = random.normals(count), v = random.normals(count * stride + 1);
    auto out = random.normals(dim);
    auto expected = out;
    for (size_t d = 0; d < dim; ++d) {
      expected[d] *= 0.75f;
      for (size_t j = 0; j < count; ++j) {
        const float product = v[j * stride + d] * p[j];
        expected[d] += product;
      }
    }
    reference::accumulate_rows(p.data(), count, v.data(), stride, dim, 0.75f, out.data());
    for (size_t d = 0; d < dim; ++d)
      ASSERT_TRUE(same_bits(out[d], expected[d])) << count << " rows of " << dim << ", element " << d;
  }
}

} // namespace quire::tests
