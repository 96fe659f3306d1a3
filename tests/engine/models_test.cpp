// The engine on real backends with a 2-layer random Llama: beams as Hugging Face finds them, and the same tokens
// however the work is cut up.
#include "bench/latency.hpp"
#include "quire/error.hpp"
#include "support/model_fixture.hpp"

#include <boost/json.hpp>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <sstream>

namespace quire::test {
namespace {

namespace fs = std::filesystem;

fs::path goldens() {
  const char* data = std::getenv("QUIRE_TEST_DATA");
  return fs::path(data ? data : "tests") / "decode" / "goldens";
}

bool full() {
  const char* word = std::getenv("QUIRE_FULL");
  return word && std::string(word) == "1";
}

std::vector<int32_t> ids(const boost::json::value& array) { return boost::json::value_to<std::vector<int32_t>>(array); }

FixtureOptions plenty() {
  FixtureOptions o;
  o.blocks = 256;
  o.host_blocks = 64;
  o.max_sequences = 16;
  o.max_context = 200;
  return o;
}

// ---- Beams

void compare_beams(EngineCore& core, const boost::json::value& file) {
  for (const boost::json::value& value : file.at("cases").as_array()) {
    const boost::json::object& golden = value.as_object();
    Request r = greedy(ids(golden.at("prompt")), golden.at("max_tokens").to_number<uint32_t>());
    r.beam.width = golden.at("width").to_number<int32_t>();
    r.beam.length_penalty = golden.at("length_penalty").to_number<float>();
    r.beam.early_stopping = golden.at("early_stopping").as_bool();
    r.n = golden.at("n").to_number<uint32_t>();
    r.sampling.min_tokens = golden.at("min_tokens").to_number<int32_t>();
    r.stop_tokens = ids(golden.at("ends"));
    const auto sink = send(core, r);
    ASSERT_TRUE(sink->wait());
    const boost::json::array& answers = golden.at("answers").as_array();
    ASSERT_EQ(sink->choices(), answers.size());
    std::vector<double> sums(answers.size());
    for (const TokenEvent& e : sink->events()) sums[e.choice] += static_cast<double>(e.logprob);
    for (uint32_t c = 0; c < answers.size(); ++c) {
      const auto tokens = sink->tokens(c);
      EXPECT_EQ(tokens, ids(answers[c].at("tokens")))
          << boost::json::serialize(golden.at("prompt")) << " width " << r.beam.width;
      const double score =
          sums[c] / std::pow(static_cast<double>(tokens.size()), static_cast<double>(r.beam.length_penalty));
      EXPECT_NEAR(score, answers[c].at("score").to_number<double>(), 1e-3 * std::max(1.0, std::abs(score)));
    }
  }
}

boost::json::value read_json(const fs::path& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return boost::json::parse(text.str());
}

TEST(Models, BeamsAreThoseOfHuggingFace) {
  const ModelOn model("reference", goldens() / "beam_llama");
  ASSERT_TRUE(model.available()) << model.why();
  const auto core = model.engine(plenty());
  compare_beams(*core, read_json(goldens() / "beams.json"));
}

// The real model, from where the full test run has it.
fs::path real_model() {
  if (const char* path = std::getenv("QUIRE_MODEL")) return path;
  const char *cache = std::getenv("XDG_CACHE_HOME"), *home = std::getenv("HOME");
  const fs::path root = cache && *cache ? fs::path(cache) : fs::path(home ? home : "/") / ".cache";
  return root / "quire" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
}

TEST(Models, BeamsOfTheRealModelAreThoseOfHuggingFace) {
  if (!full()) GTEST_SKIP() << "set QUIRE_FULL=1";
  if (!fs::exists(real_model())) GTEST_SKIP() << real_model() << " is not there";
  const ModelOn model("reference", real_model());
  FixtureOptions o = plenty();
  o.max_sequences = 8;
  compare_beams(*model.engine(o), read_json(goldens() / "beams_smollm2.json"));
}

// ---- The same tokens, whatever the batch, the chunks, the sharing and preemption.

class OnBackend : public testing::TestWithParam<const char*> {};

struct Workload {
  std::vector<Request> requests;
  explicit Workload(uint32_t vocab) {
    for (uint32_t i = 0; i < 16; ++i) {
      Request r = greedy(random_prompt(2 + i * 5, 40 + i, vocab), 14);
      if (i % 2) { // a common beginning, to be shared
        const auto common = random_prompt(24, 7, vocab);
        r.prompt.insert(r.prompt.begin(), common.begin(), common.end());
      }
      if (i % 3 == 2) r.sampling.temperature = 1, r.sampling.seed = i;
      requests.push_back(std::move(r));
    }
  }
  std::vector<std::vector<int32_t>> run(EngineCore& core, bool together) const {
    std::vector<std::vector<int32_t>> answers;
    std::vector<std::shared_ptr<Collector>> sinks;
    for (const Request& r : requests) {
      sinks.push_back(send(core, r));
      if (!together) {
        EXPECT_TRUE(sinks.back()->wait());
      }
    }
    for (auto& sink : sinks) {
      EXPECT_TRUE(sink->wait(std::chrono::seconds(300)));
      EXPECT_EQ(sink->error(), "");
      answers.push_back(sink->tokens());
    }
    return answers;
  }
};

TEST_P(OnBackend, TheSameTokensHoweverTheWorkIsCutUp) {
  const ModelOn model(GetParam(), goldens() / "beam_llama");
  if (!model.available()) GTEST_SKIP() << model.why();
  const Workload work(model.vocab_size());
  FixtureOptions o = plenty();
  o.prefix_cache = false;
  const auto alone = work.run(*model.engine(o), false);
  EXPECT_EQ(work.run(*model.engine(o), true), alone) << "together";
  o.prefix_cache = true;
  EXPECT_EQ(work.run(*model.engine(o), true), alone) << "with the prefix cache";
  EXPECT_EQ(work.run(*model.engine(o), false), alone) << "one after another with the prefix cache";

  std::vector<uint32_t> chunks = {1, 7, 16};
  if (full()) chunks = {1, 2, 3, 5, 8, 13, 16, 17, 31, 64, 128, 512};
  for (uint32_t chunk : chunks) {
    FixtureOptions cut = o;
    cut.max_chunk = chunk;
    if (chunk > cut.max_batched_tokens) cut.max_batched_tokens = chunk;
    cut.prefix_cache = chunk % 2;
    EXPECT_EQ(work.run(*model.engine(cut), true), alone) << "chunks of " << chunk;
  }
  for (PreemptionMode mode : {PreemptionMode::swap, PreemptionMode::recompute})
    for (bool cache : {false, true}) {
      FixtureOptions forced = o;
      forced.prefix_cache = cache;
      forced.before_schedule = preempt_at_random(mode, 4, cache);
      const auto disturbed = model.engine(forced);
      EXPECT_EQ(work.run(*disturbed, true), alone) << "preempted at random steps";
      EXPECT_GT(disturbed->stats().preemptions_swap + disturbed->stats().preemptions_recompute, 0u);
      FixtureOptions tight = o;
      tight.blocks = 34;
      tight.prefix_cache = cache;
      tight.preemption = mode;
      const auto core = model.engine(tight);
      EXPECT_EQ(work.run(*core, true), alone)
          << "preempted, by " << (mode == PreemptionMode::swap ? "swap" : "recompute");
      const Stats stats = core->stats();
      EXPECT_GT(mode == PreemptionMode::swap ? stats.preemptions_swap : stats.preemptions_recompute, 0u);
    }
}

TEST_P(OnBackend, TheRealModelSaysTheSameHoweverTheWorkIsCutUp) {
  if (!full()) GTEST_SKIP() << "set QUIRE_FULL=1";
  if (!fs::exists(real_model())) GTEST_SKIP() << real_model() << " is not there";
  const ModelOn model(GetParam(), real_model());
  if (!model.available()) GTEST_SKIP() << model.why();
  Workload work(model.vocab_size());
  work.requests.resize(6);
  FixtureOptions o = plenty();
  o.prefix_cache = false;
  const auto alone = work.run(*model.engine(o), false);
  o.prefix_cache = true;
  EXPECT_EQ(work.run(*model.engine(o), true), alone) << "together";
  for (PreemptionMode mode : {PreemptionMode::swap, PreemptionMode::recompute}) {
    FixtureOptions tight = o;
    tight.blocks = 20;
    tight.max_context = 100;
    tight.max_chunk = mode == PreemptionMode::swap ? 5 : 0;
    tight.preemption = mode;
    EXPECT_EQ(work.run(*model.engine(tight), true), alone) << "preempted";
    FixtureOptions forced = o;
    forced.before_schedule = preempt_at_random(mode, 6, 1);
    const auto disturbed = model.engine(forced);
    EXPECT_EQ(work.run(*disturbed, true), alone) << "preempted at random steps";
    EXPECT_GT(disturbed->stats().preemptions_swap + disturbed->stats().preemptions_recompute, 0u);
  }
}

// A prompt that the largest chunk doesn't hold, beside short ones.
TEST_P(OnBackend, TheRealModelSaysTheSameInChunksOf1To512) {
  if (!full()) GTEST_SKIP() << "set QUIRE_FULL=1";
  if (!fs::exists(real_model())) GTEST_SKIP() << real_model() << " is not there";
  const ModelOn model(GetParam(), real_model());
  if (!model.available()) GTEST_SKIP() << model.why();
  Workload work(model.vocab_size());
  work.requests.resize(3);
  work.requests.push_back(greedy(random_prompt(530, 3, model.vocab_size()), 6));
  FixtureOptions o = plenty();
  o.max_context = 600;
  o.max_batched_tokens = 640;
  o.prefix_cache = false;
  const auto alone = work.run(*model.engine(o), false);
  for (const uint32_t chunk : {512u, 128u, 17u}) {
    FixtureOptions cut = o;
    cut.max_chunk = chunk;
    EXPECT_EQ(work.run(*model.engine(cut), true), alone) << "chunks of " << chunk;
  }
  work.requests.pop_back(); // token by token it would take minutes
  FixtureOptions cut = o;
  cut.max_chunk = 1;
  EXPECT_EQ(work.run(*model.engine(cut), true), std::vector(alone.begin(), alone.end() - 1)) << "chunks of 1";
}

// A second request with the same 1,000 tokens before its own: it pays for what is its own. The best of three pairs, as
// whatever else runs on the machine only adds time.
TEST(Models, ACachedPrefixCostsItsUncachedShareAlone) {
  if (!full()) GTEST_SKIP() << "set QUIRE_FULL=1";
  if (!fs::exists(real_model())) GTEST_SKIP() << real_model() << " is not there";
  EngineOptions o;
  o.model = real_model().string();
  o.backend = "vulkan";
  o.kv_memory_bytes = 256u << 20;
  std::unique_ptr<Engine> engine;
  try {
    engine = std::make_unique<Engine>(o);
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  const boost::json::object result = bench::bench_prefix(*engine, {});
  EXPECT_EQ(result.at("cached_tokens").to_number<int>(), 992); // whole blocks of 16
  EXPECT_LE(result.at("ratio").to_number<double>(), result.at("uncached_share").to_number<double>() + 0.03)
      << boost::json::serialize(result);
}

INSTANTIATE_TEST_SUITE_P(Backends, OnBackend, testing::Values("reference", "vulkan"),
                         [](const auto& backend) { return std::string(backend.param); });

} // namespace
} // namespace quire::test
