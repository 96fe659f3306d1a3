// Rope frequencies against Hugging Face transformers (goldens/rope.json, by make_rope_goldens.py), and the errors of
// configurations.
#include "program/rope.hpp"

#include "made_up.hpp"

#include <boost/json.hpp>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>

namespace quire {
namespace {

using test::MadeUpConfig;

boost::json::array goldens() {
  const char* folder = std::getenv("QUIRE_TEST_DATA");
  if (folder == nullptr) throw Error("QUIRE_TEST_DATA is not set: run the tests by meson test");
  std::ifstream file(std::string(folder) + "/program/goldens/rope.json");
  std::stringstream text;
  text << file.rdbuf();
  return boost::json::parse(text.str()).as_array();
}

MadeUpConfig config_of(const boost::json::object& golden) {
  MadeUpConfig config;
  for (const auto& [key, value] : golden.at("config").as_object()) {
    if (value.is_string())
      config.entries[key] = std::string(value.as_string());
    else if (value.is_bool())
      config.entries[key] = value.as_bool();
    else if (value.is_int64())
      config.entries[key] = value.as_int64();
    else
      config.entries[key] = value.as_double();
  }
  for (const auto& [key, value] : golden.at("lengths").as_object()) config.lengths[key] = value.to_number<uint64_t>();
  return config;
}

// Three roundings of float32: the power, its product and its reciprocal, each by at most one unit in the last place.
constexpr double tolerance = 4 * 0x1p-23;

TEST(Rope, EqualsTransformers) {
  const boost::json::array cases = goldens();
  ASSERT_GE(cases.size(), 15u);
  for (const auto& element : cases) {
    const boost::json::object& golden = element.as_object();
    SCOPED_TRACE(std::string(golden.at("name").as_string()));
    MadeUpConfig config = config_of(golden);
    const RopeScaling scaling = read_rope_scaling(config.view(), "config.json");
    const std::vector<float> frequencies =
        rope_frequencies(scaling, golden.at("theta").to_number<double>(), golden.at("rotary_dim").to_number<uint32_t>(),
                         golden.at("context").to_number<uint32_t>(), "config.json");
    EXPECT_NEAR(scaling.magnitude, golden.at("magnitude").to_number<double>(), 1e-12);
    const boost::json::array& expected = golden.at("frequencies").as_array();
    ASSERT_EQ(frequencies.size(), expected.size());
    for (size_t i = 0; i < frequencies.size(); ++i) {
      const double exact = expected[i].to_number<double>();
      EXPECT_NEAR(frequencies[i], exact, exact * tolerance) << "pair " << i;
    }
  }
}

// Reads and works out the frequencies of these keys; the error's sentence.
std::string error_of(MadeUpConfig config, double theta = 10000) {
  try {
    const RopeScaling scaling = read_rope_scaling(config.view(), "config.json");
    rope_frequencies(scaling, theta, 8, 4096, "config.json");
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

MadeUpConfig scaled(const std::string& kind) {
  return {{{"max_position_embeddings", int64_t{4096}}, {"rope_scaling.rope_type", kind}}, {}, false};
}

TEST(Rope, NamesTheKeyThatIsWrong) {
  EXPECT_EQ(
      error_of(scaled("spiral")),
      "config.json: rope type `spiral` is not known, expected default, linear, dynamic, llama3, yarn or longrope");
  EXPECT_EQ(error_of(scaled("linear")),
            "config.json: `rope_scaling.factor` is missing, which rope type `linear` needs");
  MadeUpConfig config = scaled("linear");
  config.entries["rope_scaling.factor"] = -2.0;
  EXPECT_EQ(error_of(config), "config.json: `rope_scaling.factor` is -2.000000, expected more than 0");
  config.entries["rope_scaling.factor"] = std::nan("");
  EXPECT_EQ(error_of(config), "config.json: `rope_scaling.factor` is not a finite number");
  config = scaled("llama3");
  EXPECT_EQ(error_of(config), "config.json: `rope_scaling.low_freq_factor` is missing, which rope type `llama3` needs");
  config.entries["rope_scaling.low_freq_factor"] = 4.0;
  config.entries["rope_scaling.high_freq_factor"] = 4.0;
  EXPECT_EQ(error_of(config),
            "config.json: rope type `llama3` needs `high_freq_factor` greater than `low_freq_factor`");
  config = scaled("longrope");
  config.lengths["rope_scaling.short_factor"] = 3;
  for (const char* key : {"rope_scaling.short_factor.0", "rope_scaling.short_factor.1", "rope_scaling.short_factor.2"})
    config.entries[key] = 1.0;
  EXPECT_EQ(error_of(config),
            "config.json: `rope_scaling.short_factor` has 3 elements, expected 4 (half the rotary dimension)");
  config.entries.erase("rope_scaling.short_factor.1");
  EXPECT_EQ(error_of(config),
            "config.json: `rope_scaling.short_factor.1` is missing, which rope type `longrope` needs");
  EXPECT_EQ(error_of({}, 1), "config.json: `rope_theta` is 1.000000, expected a number greater than 1");
}

TEST(Rope, TextPositionsOfMropeAreTheDefault) { EXPECT_EQ(error_of(scaled("mrope")), ""); }

} // namespace
} // namespace quire
