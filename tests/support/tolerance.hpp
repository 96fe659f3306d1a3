// How far a right backend may be from the exact result: derived from the arithmetic, in one place.
//
// Every element carries `e`, an estimate of its error's standard deviation. A rounding of x with unit roundoff u is a
// random error of at most u |x|, so u |x| (1.7 deviations of a uniform one) stands for it. Independent errors add in
// squares, and pass through an op by its derivative (Higham, «Accuracy and Stability of Numerical Algorithms»,
// sections 2.8 and 3.1: probabilistic rather than worst-case bounds, which a sum of 4,096 terms would make blind to a
// missing one). A sum of n products in float32 has an error of about u sqrt(n) max(|x . w|_2, |sum|) however it is
// ordered.
//
// A cache in E4M3 rounds so coarsely that a random error of that size would hide what is wrong. So the float64 machine
// rounds alike, and an element's error is that of a neighbour where the two may round apart, else nothing.
//
// Elements must lie within kElementMargin e, and a row's RMS difference within kRowMargin times its RMS e.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace quire::tests {

inline constexpr double kElementMargin = 6, kRowMargin = 2;

// Unit roundoffs, 2^-p for p significant bits. A backend may keep activations, and feed its matrix units, with fewer
// bits than float32.
struct Precision {
  double accumulate = 0x1p-24; // sums, in float32
  double store = 0x1p-24;      // activations between ops
  double input = 0;            // of a product's operands, if rounded on their way in (16-bit matrix units)
  double function = 0x1p-22;   // exp, tanh, erf, 1 / sqrt: relative, or absolute where the result is below 1
  double angle = 0x1p-23;      // sin and cos, absolute, for a given angle
  double kv = 0x1p-11;         // the cache; set from its format
  double smallest = 0x1p-126;  // normal number of stored activations: below it rounding is absolute
  double kv_smallest = 0x1p-14;
  bool kv_e4m3 = false; // in the place of the two before
};

// «reference», «vulkan», «cuda» or another backend's id.
Precision precision_of(const std::string& backend);
double unit_roundoff(uint32_t format);   // F32, F16, BF16
double smallest_normal(uint32_t format); // likewise

inline double squared(double x) { return x * x; }
// The root of a sum of squares of errors.
double together(double a, double b, double c = 0, double d = 0);

// The error of storing value.
double store_error(const Precision& p, double value);
// Of keeping it in the cache.
double kv_error(const Precision& p, double value);
// What the cache keeps of `value` that is off by `error`, which becomes the error of what is kept.
double keep_in_cache(const Precision& p, double value, double& error);
// The nearest E4M3, ties to even; +-448 beyond.
double round_e4m3(double value);
// Of a sum of n products: squares = sum of their squares, sum = their sum.
double sum_error(const Precision& p, double n, double squares, double sum);

// What compare found; ok where message is empty.
struct Comparison {
  std::string message;
  double worst_element = 0; // of |difference| / e
  double worst_row = 0;     // of RMS(difference) / RMS(e)
  bool ok() const { return message.empty(); }
};
// actual, expected, e: [rows, width]. NaN or infinity in actual is a difference without bounds.
Comparison compare(const float* actual, const std::vector<double>& expected, const std::vector<double>& e, size_t rows,
                   size_t width);

} // namespace quire::tests
