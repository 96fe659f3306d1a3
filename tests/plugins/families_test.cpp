// The model plugins against Hugging Face transformers: tiny models of each family, run by the reference backend.
//
// goldens/families.json (by make_family_goldens.py) holds configurations, weight names, tokens and logits; the weights
// are made by a formula of their names that both sides compute. Error of a row = RMS(difference) / RMS(expected).
#include "plugin_host.hpp"
#include "program/builder.hpp"
#include "support/backend_session.hpp"
#include "weights/config.hpp"

#include "build_paths.hpp"

#include <boost/json.hpp>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <memory>
#include <numeric>
#include <set>
#include <sstream>

namespace quire {
namespace {

// [-0.5, 0.5): SplitMix64 (Steele et al. 2014) of the name's FNV-1a hash plus the index.
double uniform(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<double>(z >> 40) / (1 << 24) - 0.5;
}

std::vector<float> made_up_weight(const std::string& name, uint64_t rows, uint64_t cols, bool is_matrix,
                                  bool less_one) {
  uint64_t seed = 0xCBF29CE484222325u;
  for (const char byte : name) seed = (seed ^ static_cast<unsigned char>(byte)) * 0x100000001B3u;
  std::vector<float> values(rows * cols);
  for (uint64_t i = 0; i < values.size(); ++i) {
    double value = uniform(seed, i);
    if (is_matrix)
      value = value * 4 / std::sqrt(static_cast<double>(cols));
    else if (name.find("norm") != std::string::npos)
      value = value * 0.5 + (less_one ? 0 : 1);
    values[i] = static_cast<float>(value);
  }
  return values;
}

boost::json::array goldens() {
  const char* folder = std::getenv("QUIRE_TEST_DATA");
  if (folder == nullptr) throw Error("QUIRE_TEST_DATA is not set: run the tests by meson test");
  std::ifstream file(std::string(folder) + "/plugins/goldens/families.json");
  std::stringstream text;
  text << file.rdbuf();
  return boost::json::parse(text.str()).as_array();
}

template <class T> std::vector<T> numbers(const boost::json::value& array) {
  std::vector<T> out;
  for (const auto& element : array.as_array()) out.push_back(element.to_number<T>());
  return out;
}

// Logits [rows, vocab] of one step over all tokens of one sequence.
std::vector<float> run(const quire_plugin& backend, const Program& program, const std::vector<int32_t>& tokens,
                       const std::vector<uint32_t>& rows) {
  tests::BackendSession session(backend, {});
  quire_limits limits{};
  limits.struct_size = sizeof(limits);
  limits.max_tokens = limits.max_context = 64, limits.max_sequences = 1, limits.max_rows = 64, limits.block_size = 8;
  limits.kv_format = QUIRE_F32;
  quire_kv_config kv{};
  kv.struct_size = sizeof(kv);
  kv.program = session.compile(program.view(), limits);
  for (uint32_t group = 0; group < program.kv_groups.size(); ++group) kv.num_blocks[group] = 8;
  session.kv_create(kv);

  const auto num_tokens = static_cast<uint32_t>(tokens.size());
  const std::vector<uint32_t> table = {5, 2, 7, 0, 3, 1}, query_start = {0, num_tokens}, seq_len = {num_tokens};
  const std::vector<uint32_t> table_start = {0, static_cast<uint32_t>(table.size())};
  const std::vector<const uint32_t*> tables(program.kv_groups.size(), table.data());
  quire_step step{};
  step.struct_size = sizeof(step);
  step.program = kv.program;
  step.num_tokens = num_tokens, step.num_sequences = 1, step.num_rows = static_cast<uint32_t>(rows.size());
  step.tokens = tokens.data(), step.query_start = query_start.data(), step.seq_len = seq_len.data();
  step.table_start = table_start.data(), step.tables = tables.data(), step.rows = rows.data();
  const uint64_t ticket = session.submit(step);
  std::vector<float> logits(rows.size() * program.vocab_size);
  std::vector<quire_sampling_row> sampling(rows.size());
  for (size_t r = 0; r < rows.size(); ++r) sampling[r].logits = logits.data() + r * program.vocab_size;
  session.sample(ticket, sampling);
  std::vector<quire_sampled_row> sampled(rows.size());
  session.wait(ticket, sampled);
  return logits;
}

// float32 against float64: some 40 roundings in a row's longest chain of ops, each of 2^-24, and sums of 56 terms.
constexpr double tolerance = 4e-6;

TEST(Families, LogitsEqualTransformers) {
  std::string why;
  const quire_plugin* reference = tests::find_backend("reference", "", &why);
  ASSERT_NE(reference, nullptr) << why;
  PluginHost host;
  host.load({{test::plugin_file("llama"), test::plugin_file("gemma3")}, false, false});
  const boost::json::array cases = goldens();
  ASSERT_GE(cases.size(), 9u);
  for (const auto& element : cases) {
    const boost::json::object& golden = element.as_object();
    SCOPED_TRACE(std::string(golden.at("name").as_string()));
    const Config config = Config::from_json(boost::json::serialize(golden.at("config")), "config.json");
    const boost::json::object& in_file = golden.at("weights").as_object();
    const bool less_one = config.string("architectures.0")->starts_with("Gemma");

    std::map<std::string, std::vector<float>> weights;
    ProgramSource source;
    source.name = golden.at("name").as_string();
    source.config_name = "config.json";
    source.config = as_quire_config(config, false);
    source.bind = [&](quire_weight& wanted, bool optional) {
      const auto* shape = in_file.if_contains(wanted.name);
      if (shape == nullptr && optional) return false;
      if (shape == nullptr) throw Error("tensor `" + std::string(wanted.name) + "` is missing");
      const bool is_matrix = shape->as_array().size() == 2;
      EXPECT_EQ(shape->as_array().back().to_number<uint64_t>(), wanted.cols) << wanted.name;
      EXPECT_EQ(is_matrix ? shape->as_array()[0].to_number<uint64_t>() : 1, wanted.rows) << wanted.name;
      std::vector<float>& data = weights[wanted.name] =
          made_up_weight(wanted.name, wanted.rows, wanted.cols, is_matrix, less_one);
      wanted.format = QUIRE_F32;
      wanted.planes[0] = {data.data(), data.size() * sizeof(float)};
      return true;
    };
    const Plugin& plugin = host.model(*config.string("architectures.0"));
    const Program program = build_program(plugin.model, plugin.id, std::move(source));
    EXPECT_EQ(weights.size(), in_file.size()) << "not every weight of the file is used";

    const auto rows = numbers<uint32_t>(golden.at("rows"));
    const std::vector<float> logits = run(*reference, program, numbers<int32_t>(golden.at("tokens")), rows);
    for (size_t r = 0; r < rows.size(); ++r) {
      const auto expected = numbers<double>(golden.at("logits").as_array()[r]);
      double difference = 0, size = 0;
      for (size_t i = 0; i < expected.size(); ++i) {
        difference += std::pow(logits[r * expected.size() + i] - expected[i], 2);
        size += expected[i] * expected[i];
      }
      EXPECT_LT(std::sqrt(difference / size), tolerance) << "row " << rows[r];
    }
  }
}

} // namespace
} // namespace quire
