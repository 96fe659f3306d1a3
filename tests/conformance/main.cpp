// quire-tests: is a backend right? On any machine that has only a driver.
//
//   quire-tests conformance [--backend reference|vulkan|cuda] [--filter OP] [--seed S] [--gtest_...]
//       every op and verb against float64, over random shapes
//       --any-order: with the kernels that serve without --invariant; what asks for the same bits is skipped
//   quire-tests oracle [--backend ...] [--model FILE] [--goldens FILE] [--chunk N] [--batch N]
//       SmolLM2-135M-Instruct at Q4_1 against Hugging Face's logits and greedy tokens
//       --kv-format f8: what a cache in E4M3 costs
//       --brief: a selection that a change of the subgroup can break (ignored with --full)
//   quire-tests trials [--backend ...] [--steps N] [--model FILE|DIR] [--seed S]
//       a whole engine over N steps with random cancels, preemption, swap and fork: the right text, no block lost
//   quire-tests invariant [--backend ...] [--model FILE|DIR]
//       the same tokens alone, in a batch of 64, chunked, preempted, after a prefix hit
//   all: [--plugin FILE] [--device N] [--threads N] [--full] [--validate] [--cache-dir DIR]
//
// Exit codes: 0 passed, 1 failed, 2 wrong use, 77 the backend, its device or the model is not there (meson: skipped).
#include "conformance/harness.hpp"
#include "support/backend_session.hpp"
#include "support/oracle_check.hpp"
#include "trials/trials.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace quire::tests {

Options& options() {
  static Options options;
  return options;
}

const quire_plugin*& backend_plugin() {
  static const quire_plugin* plugin = nullptr;
  return plugin;
}

namespace {

[[noreturn]] void refuse(const std::string& what) {
  std::fprintf(
      stderr,
      "quire-tests: %s\n"
      "usage: quire-tests conformance [--filter OP] [--seed S] [--brief] [--any-order]\n"
      "       quire-tests oracle [--model FILE] [--goldens FILE] [--chunk N] [--batch N] [--kv-format F]\n"
      "       quire-tests trials [--steps N] [--model FILE|DIR] [--seed S]\n"
      "       quire-tests invariant [--model FILE|DIR]\n"
      "all:   [--backend NAME] [--plugin FILE] [--device N] [--threads N] [--full] [--validate] [--cache-dir DIR]\n",
      what.c_str());
  std::exit(2);
}

uint64_t number(const std::string& flag, const std::string& text) {
  char* end = nullptr;
  const uint64_t value = std::strtoull(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0') refuse(flag + " wants a number, not «" + text + "»");
  return value;
}

void parse(int argc, char** argv) {
  Options& o = options();
  if (const char* full = std::getenv("QUIRE_FULL")) o.full = std::strcmp(full, "1") == 0;
  const std::string command = argc < 2 ? "" : argv[1];
  if (command != "conformance" && command != "oracle" && command != "trials" && command != "invariant")
    refuse("the first word must be conformance, oracle, trials or invariant");
  o.command = command;
  for (int i = 2; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 >= argc) refuse(flag + " wants a value");
      return argv[++i];
    };
    if (flag == "--backend")
      o.backend = value();
    else if (flag == "--plugin")
      o.plugin = value();
    else if (flag == "--filter")
      o.filter = value();
    else if (flag == "--model")
      o.model = value();
    else if (flag == "--goldens")
      o.goldens = value();
    else if (flag == "--chunk")
      o.chunk = static_cast<uint32_t>(number(flag, value()));
    else if (flag == "--batch")
      o.batch = static_cast<uint32_t>(number(flag, value()));
    else if (flag == "--cache-dir")
      o.cache_dir = value();
    else if (flag == "--device")
      o.device = static_cast<uint32_t>(number(flag, value()));
    else if (flag == "--threads")
      o.threads = static_cast<uint32_t>(number(flag, value()));
    else if (flag == "--seed")
      o.seed = number(flag, value());
    else if (flag == "--steps")
      o.steps = number(flag, value());
    else if (flag == "--full")
      o.full = true;
    else if (flag == "--brief")
      o.brief = true;
    else if (flag == "--any-order")
      o.any_order = true;
    else if (flag == "--kv-format")
      o.kv_format = value();
    else if (flag == "--validate")
      o.validate = true;
    else
      refuse("unknown argument " + flag);
  }
}

// «kv_store» finds the suite KvStore; any other text is matched as it is.
std::string gtest_filter(const std::string& word) {
  std::string camel;
  bool upper = true;
  for (const char c : word) {
    if (c != '_') camel += upper ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
    upper = c == '_';
  }
  return camel + ".*:*" + word + "*";
}

// What sums and hands values over subgroups, at its smallest.
constexpr const char* kBrief =
    "Linear.PartsOf*:Linear.OddInner*:ExpertLinear.*:Attend.ALargeStep:Attend.Layers*:Norm.*:Route.*:"
    "Rope.*:Sampling.*:Model.ABatch*:Model.Sampled*";

int run_conformance() {
  const int result = RUN_ALL_TESTS();
  std::printf("largest error of an element %.2f of %.0f allowed, of a row %.2f of %.0f (tests/support/tolerance.hpp)\n",
              worst().element, kElementMargin, worst().row, kRowMargin);
  const testing::UnitTest& tests = *testing::UnitTest::GetInstance();
  std::printf("%d passed, %d failed\n", tests.successful_test_count(), tests.failed_test_count());
  return result;
}

int run_oracle() {
  OracleOptions o = oracle_options(options().backend, options().full, options().kv_format);
  o.model = options().model.empty() ? find_test_model() : options().model;
  if (o.model.empty()) {
    std::fprintf(
        stderr,
        "quire-tests: skipped: no SmolLM2-135M-Instruct.Q4_1.gguf; run ./quickstart.sh, or name it by --model\n");
    return 77;
  }
  o.goldens = options().goldens;
  if (options().chunk) o.chunk = options().chunk;
  if (options().batch) o.batch = options().batch;
  o.session = session_options();
  const OracleResult r = check_oracle(*backend_plugin(), o);
  for (const std::string& problem : r.problems) std::printf("FAILED: %s\n", problem.c_str());
  std::printf("%s\n%d passed, %d failed\n", r.summary(o).c_str(), r.problems.empty() ? 1 : 0,
              r.problems.empty() ? 0 : 1);
  return r.problems.empty() ? 0 : 1;
}

int run_engine() {
  test::TrialOptions o;
  o.backend = options().backend;
  o.plugin = options().plugin;
  o.model = options().model;
  o.steps = options().steps;
  o.seed = options().seed;
  const uint32_t failures = options().command == "trials" ? test::run_trials(o) : test::run_invariant(o);
  std::printf("%d passed, %u failed\n", failures == 0 ? 1 : 0, failures);
  return failures == 0 ? 0 : 1;
}

} // namespace
} // namespace quire::tests

int main(int argc, char** argv) {
  using namespace quire::tests;
  testing::InitGoogleTest(&argc, argv);
  parse(argc, argv);
  if (!options().filter.empty())
    testing::GTEST_FLAG(filter) = gtest_filter(options().filter);
  else if (options().brief && !options().full)
    testing::GTEST_FLAG(filter) = kBrief;
  std::string why;
  bool absent = false;
  backend_plugin() = find_backend(options().backend, options().plugin, &why, &absent);
  if (!backend_plugin()) {
    std::fprintf(stderr, "quire-tests: %s%s\n", absent ? "skipped: " : "", why.c_str());
    return absent ? 77 : 1;
  }
  const auto& table = *static_cast<const quire_backend*>(backend_plugin()->table);
  quire_status status{};
  const uint32_t devices = table.device_count(table.self, &status);
  quire_device_info info{};
  if (status.code == QUIRE_OK && options().device < devices)
    table.device_info(table.self, options().device, &info, &status);
  if (status.code != QUIRE_OK || options().device >= devices || !info.usable) {
    std::fprintf(stderr, "quire-tests: skipped: %s has no usable device %u %s%s\n", options().backend.c_str(),
                 options().device, status.message, info.note);
    return 77;
  }
  std::printf("quire-tests: backend %s %s on %s (%s), seed %llu%s\n", backend_plugin()->id, backend_plugin()->version,
              info.name, info.driver, static_cast<unsigned long long>(options().seed), options().full ? ", full" : "");
  try {
    if (options().command == "oracle") return run_oracle();
    return options().command == "conformance" ? run_conformance() : run_engine();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "quire-tests: %s\n", error.what());
    return 1;
  }
}
