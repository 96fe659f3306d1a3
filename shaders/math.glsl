// Elementary functions to about 1e-7, the same on every device: the built-in ones may be far off (exp by 3 + 2 |x| ulp, sin and
// cos by 2^-11), so that results would depend on the driver. Methods: argument reduction and Taylor or Maclaurin series, whose
// remainders stand at each function.
#ifndef QUIRE_MATH_GLSL
#define QUIRE_MATH_GLSL

// 2^k, k in [-126, 127].
float power_of_two(int k) { return uintBitsToFloat(uint(k + 127) << 23); }

// e^x: x = k ln 2 + r, |r| <= 0.347; the series to r^7 leaves 6e-9. Below -87.3 it is 0, e^0 is exactly 1.
float exp_of(float x) {
  const float clamped = clamp(x, -87.3, 88.7);
  const float k = roundEven(clamped * 1.44269504);
  float r = fma(k, -0.693359375, clamped); // ln 2 in two parts: the first product is exact
  r = fma(k, 2.12194440e-4, r);
  float p = 1.0 / 5040.0;
  p = fma(p, r, 1.0 / 720.0);
  p = fma(p, r, 1.0 / 120.0);
  p = fma(p, r, 1.0 / 24.0);
  p = fma(p, r, 1.0 / 6.0);
  p = fma(p, r, 0.5);
  p = fma(p, r, 1.0);
  p = fma(p, r, 1.0);
  const int half_k = int(k) / 2;
  const float result = p * power_of_two(half_k) * power_of_two(int(k) - half_k);
  return x < -87.3 ? 0.0 : x > 88.72 ? uintBitsToFloat(0x7F800000u) : isnan(x) ? x : result;
}

// log(1 + f) for 1 + f in [0.70, 1.42] by s = f / (2 + f), |s| <= 0.1716: the series to s^9 leaves 2e-9 of it.
float log_near_one(float f) {
  const float s = f / (2.0 + f), s2 = s * s;
  float p = 2.0 / 9.0;
  p = fma(p, s2, 2.0 / 7.0);
  p = fma(p, s2, 2.0 / 5.0);
  p = fma(p, s2, 2.0 / 3.0);
  return fma(s * s2, p, 2.0 * s);
}

// ln x of a positive normal number.
float log_of(float x) {
  const uint bits = floatBitsToUint(x) - 0x3F350000u; // the mantissa from 0.707 up
  const int e = int(bits) >> 23;
  const float mantissa = uintBitsToFloat((bits & 0x007FFFFFu) + 0x3F350000u);
  const float k = float(e);
  return fma(k, 0.693359375, fma(k, -2.12194440e-4, log_near_one(mantissa - 1.0)));
}

// Maclaurin's series below 0.25, to x^9: remainder 2e-9 of x.
float tanh_of(float x) {
  const float a = abs(x), x2 = x * x;
  float p = 62.0 / 2835.0;
  p = fma(p, x2, -17.0 / 315.0);
  p = fma(p, x2, 2.0 / 15.0);
  p = fma(p, x2, -1.0 / 3.0);
  const float small = fma(x * x2, p, x);
  const float t = exp_of(-2.0 * a);
  const float large = (1.0 - t) / (1.0 + t);
  return a < 0.25 ? small : x < 0.0 ? -large : isnan(x) ? x : large;
}

// Maclaurin's series below 1 (to x^21: remainder 1e-9); above, Abramowitz and Stegun 7.1.26 (1.5e-7).
float erf_of(float x) {
  const float a = abs(x), x2 = x * x;
  float p = 1.0 / 76204800.0;
  p = fma(p, x2, -1.0 / 6894720.0);
  p = fma(p, x2, 1.0 / 685440.0);
  p = fma(p, x2, -1.0 / 75600.0);
  p = fma(p, x2, 1.0 / 9360.0);
  p = fma(p, x2, -1.0 / 1320.0);
  p = fma(p, x2, 1.0 / 216.0);
  p = fma(p, x2, -1.0 / 42.0);
  p = fma(p, x2, 1.0 / 10.0);
  p = fma(p, x2, -1.0 / 3.0);
  p = fma(p, x2, 1.0);
  const float small = 1.12837917 * x * p;
  const float t = 1.0 / fma(0.3275911, a, 1.0);
  float q = 1.061405429;
  q = fma(q, t, -1.453152027);
  q = fma(q, t, 1.421413741);
  q = fma(q, t, -0.284496736);
  q = fma(q, t, 0.254829592);
  const float large = fma(-q * t, exp_of(-x2), 1.0);
  return a < 1.0 ? small : x < 0.0 ? -large : isnan(x) ? x : large;
}

float activate(float x, uint activation) {
  if (activation == act_silu) return x / (1.0 + exp_of(-x));
  if (activation == act_gelu_tanh) return 0.5 * x * (1.0 + tanh_of(0.79788456 * fma(0.044715 * x, x * x, x)));
  if (activation == act_gelu_erf) return 0.5 * x * (1.0 + erf_of(0.70710678 * x));
  if (activation == act_relu) return isnan(x) ? x : max(x, 0.0);
  return x;
}

// (cos, sin) of a fraction of a turn in units of 2^-32. The quadrant is exact; the series on |a| <= pi / 4 leave 2e-9.
vec2 cos_sin_of_turn(uint turn) {
  const uint quadrant = (turn + 0x20000000u) >> 30;
  const float a = float(int(turn - (quadrant << 30))) * 1.46291808e-9; // 2 pi / 2^32
  const float a2 = a * a;
  float s = -1.0 / 39916800.0;
  s = fma(s, a2, 1.0 / 362880.0);
  s = fma(s, a2, -1.0 / 5040.0);
  s = fma(s, a2, 1.0 / 120.0);
  s = fma(s, a2, -1.0 / 6.0);
  s = fma(a * a2, s, a);
  float c = 1.0 / 479001600.0;
  c = fma(c, a2, -1.0 / 3628800.0);
  c = fma(c, a2, 1.0 / 40320.0);
  c = fma(c, a2, -1.0 / 720.0);
  c = fma(c, a2, 1.0 / 24.0);
  c = fma(c, a2, -0.5);
  c = fma(c, a2, 1.0);
  const float u = (quadrant & 1u) == 0 ? c : s, v = (quadrant & 1u) == 0 ? s : c;
  return vec2(quadrant == 1 || quadrant == 2 ? -u : u, quadrant >= 2 ? -v : v);
}

// Round to nearest even to binary16: packHalf2x16's rounding is the driver's choice, and subnormals may be flushed.
uint half_of(float x) {
  const uint bits = floatBitsToUint(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  const uint normal = (magnitude + 0xFFFu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  const uint subnormal = uint(roundEven(uintBitsToFloat(magnitude) * 16777216.0)); // steps of 2^-24
  const uint large = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  return sign | (magnitude >= 0x477FF000u ? large : magnitude < 0x38800000u ? subnormal : normal);
}
// Likewise to bfloat16.
uint bfloat_of(float x) {
  const uint bits = floatBitsToUint(x);
  return isnan(x) ? 0x7FC0u : (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
}

#endif
