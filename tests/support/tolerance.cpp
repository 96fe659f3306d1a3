#include "support/tolerance.hpp"

#include "quire/plugin.h"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace quire::tests {

namespace {

// From one E4M3 to the next: 3 bits of mantissa, the smallest normal number 2^-6.
double e4m3_step(double magnitude) { return magnitude < 0x1p-6 ? 0x1p-9 : std::ldexp(1, std::ilogb(magnitude) - 3); }

} // namespace

Precision precision_of(const std::string& backend) {
  Precision p;
  if (backend == "vulkan") {
    // exp has (3 + 2 |x|) ulp (Vulkan specification, «Precision of GLSL.std.450 Instructions»); tanh and erf are made
    // of it.
    p.function = 0x1p-18;
    p.angle = 0x1p-18;
  } else if (backend == "cuda") {
    // Activations and operands of the matrix units in fp16, sums in float32 (docs/cuda.md).
    p.store = 0x1p-11;
    p.input = 0x1p-11;
    p.smallest = 0x1p-14;
    p.function = 0x1p-18;
    p.angle = 0x1p-20;
  }
  return p;
}

double unit_roundoff(uint32_t format) {
  return format == QUIRE_F16 ? 0x1p-11 : format == QUIRE_BF16 ? 0x1p-8 : 0x1p-24;
}

double smallest_normal(uint32_t format) { return format == QUIRE_F16 ? 0x1p-14 : 0x1p-126; }

double together(double a, double b, double c, double d) { return std::sqrt(a * a + b * b + c * c + d * d); }

double store_error(const Precision& p, double value) { return p.store * std::max(std::abs(value), p.smallest); }

double kv_error(const Precision& p, double value) { return p.kv * std::max(std::abs(value), p.kv_smallest); }

double round_e4m3(double value) {
  if (std::isnan(value)) return value;
  const double magnitude = std::abs(value);
  const double step = e4m3_step(magnitude);
  return std::copysign(std::min(std::nearbyint(magnitude / step) * step, 448.0), value);
}

double keep_in_cache(const Precision& p, double value, double& error) {
  if (!p.kv_e4m3) {
    error = together(error, kv_error(p, value));
    return value;
  }
  const double reach = kElementMargin * error;
  error = round_e4m3(value - reach) == round_e4m3(value + reach)
              ? 0
              : together(error, e4m3_step(std::min(std::abs(value) + reach, 448.0)));
  return round_e4m3(value);
}

double sum_error(const Precision& p, double n, double squares, double sum) {
  // sqrt(2): each operand may be rounded on its way in.
  return together(std::sqrt(2.0) * p.input * std::sqrt(squares),
                  p.accumulate * std::sqrt(n) * std::max(std::sqrt(squares), std::abs(sum)));
}

Comparison compare(const float* actual, const std::vector<double>& expected, const std::vector<double>& e, size_t rows,
                   size_t width) {
  Comparison result;
  std::ostringstream message;
  const auto complain = [&](size_t row, size_t i, const char* what, double ratio) {
    if (!result.message.empty()) return;
    message << "row " << row << ", element " << i << ": got " << actual[row * width + i] << ", expected "
            << expected[row * width + i] << ", " << what << " " << ratio << " times the derived error "
            << e[row * width + i];
    result.message = message.str();
  };
  constexpr double tiny = 1e-300; // where both must be exact
  for (size_t row = 0; row < rows; ++row) {
    double squares = 0, allowed = 0;
    size_t worst = 0;
    for (size_t i = 0; i < width; ++i) {
      const size_t at = row * width + i;
      const double difference = std::abs(actual[at] - expected[at]);
      const double ratio = std::isfinite(difference) ? difference / std::max(e[at], tiny) : HUGE_VAL;
      if (ratio > kElementMargin) complain(row, i, "which is off by", ratio);
      result.worst_element = std::max(result.worst_element, ratio);
      if (ratio * e[at] > std::abs(actual[row * width + worst] - expected[row * width + worst])) worst = i;
      squares += difference * difference;
      allowed += e[at] * e[at];
    }
    const double ratio = std::sqrt(squares / std::max(allowed, tiny * tiny));
    // The RMS of a few elements scatters too much to be held to a narrower bound than each of them.
    if (width >= 32) {
      if (!(ratio <= kRowMargin)) complain(row, worst, "whose row's RMS is off by", ratio);
      result.worst_row = std::max(result.worst_row, ratio);
    }
  }
  return result;
}

} // namespace quire::tests
