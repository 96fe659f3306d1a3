#include "program/rope.hpp"

#include "quire/error.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numbers>

namespace quire {
namespace {

// Getters over one prefix of the configuration, errors with its name.
class Keys {
 public:
  Keys(const quire_config& config, const std::string& source) : config_(config), source_(source) {
    if (!text("rope_type") && !text("type") && has_text("rope_scaling.full_attention.rope_type"))
      prefix_ = "rope_scaling.full_attention.";
  }
  std::optional<std::string> text(const std::string& key) const {
    const char* value = nullptr;
    if (config_.string(config_.self, (prefix_ + key).c_str(), &value) == 0) return std::nullopt;
    return value;
  }
  std::optional<double> real(const std::string& key) const { return top_real(prefix_ + key); }
  std::optional<double> top_real(const std::string& key) const {
    double value = 0;
    if (config_.real(config_.self, key.c_str(), &value) == 0) return std::nullopt;
    if (!std::isfinite(value)) throw Error(source_ + ": `" + key + "` is not a finite number");
    return value;
  }
  double positive(const std::string& key, std::optional<double> value, const std::string& kind) const {
    if (!value) throw Error(source_ + ": `" + prefix_ + key + "` is missing, which rope type `" + kind + "` needs");
    if (*value <= 0)
      throw Error(source_ + ": `" + prefix_ + key + "` is " + std::to_string(*value) + ", expected more than 0");
    return *value;
  }
  std::vector<float> reals(const std::string& key) const {
    uint64_t length = 0;
    if (config_.length(config_.self, (prefix_ + key).c_str(), &length) == 0) return {};
    std::vector<float> values;
    for (uint64_t i = 0; i < length; ++i) {
      const std::string element = key + "." + std::to_string(i);
      values.push_back(static_cast<float>(positive(element, real(element), "longrope")));
    }
    return values;
  }
  bool flag(const std::string& key, bool fallback) const {
    int32_t value = 0;
    return config_.boolean(config_.self, (prefix_ + key).c_str(), &value) != 0 ? value != 0 : fallback;
  }

 private:
  bool has_text(const char* key) const {
    const char* value = nullptr;
    return config_.string(config_.self, key, &value) != 0;
  }
  const quire_config& config_;
  const std::string& source_;
  std::string prefix_ = "rope_scaling.";
};

// Peng et al. 2023, equation 22, with DeepSeek's weight.
double yarn_magnitude(double factor, double weight) {
  return factor <= 1 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0;
}

// theta^(2 i / d) as float32 [rotary_dim / 2]
std::vector<float> wave_scales(double theta, uint32_t rotary_dim) {
  std::vector<float> scales(rotary_dim / 2);
  for (uint32_t i = 0; i < scales.size(); ++i)
    scales[i] = std::pow(static_cast<float>(theta), static_cast<float>(2 * i) / static_cast<float>(rotary_dim));
  return scales;
}

// The pair that turns `rotations` times over the trained context (Peng et al. 2023, section 3.2).
double pair_of_rotations(double rotations, double theta, uint32_t rotary_dim, double trained_context) {
  return rotary_dim * std::log(trained_context / (rotations * 2 * std::numbers::pi)) / (2 * std::log(theta));
}

} // namespace

RopeScaling read_rope_scaling(const quire_config& config, const std::string& source) {
  const Keys keys(config, source);
  RopeScaling scaling;
  std::string kind = keys.text("rope_type").value_or(keys.text("type").value_or("default"));
  // mrope differs from the default only where an image's tokens have positions in two dimensions.
  if (kind == "default" || kind == "none" || kind == "mrope") return scaling;
  if (kind == "su") kind = "longrope"; // its older name

  const auto max_positions = keys.top_real("max_position_embeddings");
  // Where both are given, the outer one holds (Phi-3).
  auto trained = keys.top_real("original_max_position_embeddings");
  if (!trained) trained = keys.real("original_max_position_embeddings");
  if (!trained) trained = max_positions;
  auto factor = keys.real("factor");

  if (kind == "linear") {
    scaling.kind = RopeScalingKind::linear;
  } else if (kind == "dynamic") {
    scaling.kind = RopeScalingKind::dynamic;
    trained = max_positions;
  } else if (kind == "llama3") {
    scaling.kind = RopeScalingKind::llama3;
    scaling.low_freq_factor = keys.positive("low_freq_factor", keys.real("low_freq_factor"), kind);
    scaling.high_freq_factor = keys.positive("high_freq_factor", keys.real("high_freq_factor"), kind);
    if (scaling.high_freq_factor <= scaling.low_freq_factor)
      throw Error(source + ": rope type `llama3` needs `high_freq_factor` greater than `low_freq_factor`");
  } else if (kind == "yarn" || kind == "longrope") {
    scaling.kind = kind == "yarn" ? RopeScalingKind::yarn : RopeScalingKind::longrope;
    if (!factor && max_positions && trained && *trained > 0) factor = *max_positions / *trained;
  } else {
    throw Error(source + ": rope type `" + kind +
                "` is not known, expected default, linear, dynamic, llama3, yarn or longrope");
  }
  scaling.factor = keys.positive("factor", factor, kind);
  if (scaling.kind != RopeScalingKind::linear)
    scaling.trained_context = keys.positive("original_max_position_embeddings", trained, kind);

  if (scaling.kind == RopeScalingKind::yarn) {
    scaling.beta_fast = keys.real("beta_fast").value_or(0);
    if (scaling.beta_fast == 0) scaling.beta_fast = 32;
    scaling.beta_slow = keys.real("beta_slow").value_or(0);
    if (scaling.beta_slow == 0) scaling.beta_slow = 1;
    scaling.truncate = keys.flag("truncate", true);
    const double mscale = keys.real("mscale").value_or(0), mscale_all = keys.real("mscale_all_dim").value_or(0);
    scaling.magnitude = mscale != 0 && mscale_all != 0
                            ? yarn_magnitude(scaling.factor, mscale) / yarn_magnitude(scaling.factor, mscale_all)
                            : yarn_magnitude(scaling.factor, 1);
  }
  if (scaling.kind == RopeScalingKind::longrope) {
    scaling.long_factor = keys.reals("long_factor");
    scaling.short_factor = keys.reals("short_factor");
    if (scaling.factor > 1)
      scaling.magnitude = std::sqrt(1 + std::log(scaling.factor) / std::log(scaling.trained_context));
  }
  if (scaling.kind == RopeScalingKind::yarn || scaling.kind == RopeScalingKind::longrope)
    if (const auto given = keys.real("attention_factor"))
      scaling.magnitude = keys.positive("attention_factor", given, kind);
  return scaling;
}

std::vector<float> rope_frequencies(const RopeScaling& scaling, double theta, uint32_t rotary_dim, uint32_t context,
                                    const std::string& source) {
  assert(rotary_dim >= 2 && rotary_dim % 2 == 0);
  if (!(theta > 1) || !std::isfinite(theta))
    throw Error(source + ": `rope_theta` is " + std::to_string(theta) + ", expected a number greater than 1");
  const float factor = static_cast<float>(scaling.factor);

  if (scaling.kind == RopeScalingKind::dynamic && context > scaling.trained_context && rotary_dim > 2) {
    const double growth = scaling.factor * context / scaling.trained_context - (scaling.factor - 1);
    theta *= std::pow(growth, static_cast<double>(rotary_dim) / (rotary_dim - 2));
  }
  std::vector<float> scales = wave_scales(theta, rotary_dim);
  std::vector<float> frequencies(scales.size());
  std::transform(scales.begin(), scales.end(), frequencies.begin(), [](float scale) { return 1.0f / scale; });

  switch (scaling.kind) {
  case RopeScalingKind::none:
  case RopeScalingKind::dynamic:
    break;
  case RopeScalingKind::linear:
    for (float& frequency : frequencies) frequency /= factor;
    break;
  case RopeScalingKind::llama3: {
    const float trained = static_cast<float>(scaling.trained_context);
    const float low = static_cast<float>(scaling.low_freq_factor);
    const float band = static_cast<float>(scaling.high_freq_factor - scaling.low_freq_factor);
    const float longest = static_cast<float>(scaling.trained_context / scaling.low_freq_factor);
    const float shortest = static_cast<float>(scaling.trained_context / scaling.high_freq_factor);
    for (float& frequency : frequencies) {
      const float wavelength = static_cast<float>(2 * std::numbers::pi) / frequency;
      if (wavelength > longest) {
        frequency /= factor;
      } else if (wavelength >= shortest) {
        const float smooth = (trained / wavelength - low) / band;
        frequency = (1 - smooth) * frequency / factor + smooth * frequency;
      }
    }
    break;
  }
  case RopeScalingKind::yarn: {
    double first = pair_of_rotations(scaling.beta_fast, theta, rotary_dim, scaling.trained_context);
    double last = pair_of_rotations(scaling.beta_slow, theta, rotary_dim, scaling.trained_context);
    if (scaling.truncate) first = std::floor(first), last = std::ceil(last);
    first = std::max(first, 0.0);
    last = std::min(last, rotary_dim - 1.0);
    if (first == last) last += 0.001; // no division by zero
    for (uint32_t i = 0; i < frequencies.size(); ++i) {
      const float ramp = std::clamp(
          (static_cast<float>(i) - static_cast<float>(first)) / static_cast<float>(last - first), 0.0f, 1.0f);
      const float keep = 1 - ramp;
      frequencies[i] = 1.0f / (factor * scales[i]) * (1 - keep) + frequencies[i] * keep;
    }
    break;
  }
  case RopeScalingKind::longrope: {
    const bool is_long = context > scaling.trained_context;
    const std::vector<float>& factors = is_long ? scaling.long_factor : scaling.short_factor;
    if (factors.size() != frequencies.size())
      throw Error(source + ": `rope_scaling." + (is_long ? "long" : "short") + "_factor` has " +
                  std::to_string(factors.size()) + " elements, expected " + std::to_string(frequencies.size()) +
                  " (half the rotary dimension)");
    for (uint32_t i = 0; i < frequencies.size(); ++i) frequencies[i] = 1.0f / (factors[i] * scales[i]);
    break;
  }
  }
  return frequencies;
}

} // namespace quire
