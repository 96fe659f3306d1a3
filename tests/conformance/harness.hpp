// Runs a program on the backend under test and in float64, and compares every output of every step.
//
// Every second case first lets the backend use idle time until it has nothing left to do: what it changes must be as
// right as what it was before. Before the steps, all activations and the KV pool are filled with NaN by a «poison» run,
// and the host's buffers with a pattern: an element that a backend does not write, or reads where it should not, shows.
// A test that fails names its seed: --seed repeats it. Threads: one.
#pragma once

#include "conformance/options.hpp"
#include "support/backend_session.hpp"
#include "support/float64_machine.hpp"
#include "support/logical_step.hpp"
#include "support/paged_steps.hpp"
#include "support/random.hpp"
#include "support/test_program.hpp"
#include "support/tolerance.hpp"

#include <cstdint>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace quire::tests {

BackendSession::Options session_options();
// Whether the backend must take a cache in E4M3; Vulkan refuses one.
inline bool takes_e4m3() { return options().backend != "vulkan"; }

// How the memory of a case is laid out.
struct Layout {
  uint32_t block_size = 16;
  uint32_t kv_format = QUIRE_F16;
  uint32_t max_context = 0; // 0 = what the steps need
  uint32_t num_blocks = 0;  // of each group; 0 = what the steps need and a few more
};

// The largest step among these, with the layout's memory.
quire_limits limits_for(const std::vector<LogicalStep>& steps, const Layout& layout);
// Blocks of each group that the steps need at most.
uint32_t blocks_for(const std::vector<LogicalStep>& steps, const Layout& layout);

// A compiled program with its cache, and steps that were run.
class Runner {
 public:
  Runner(BackendSession& session, const TestProgram& program, const quire_limits& limits, uint32_t num_blocks,
         Random& random, uint32_t host_blocks = 0);

  Pager& pager() { return pager_; }
  uint32_t program_id() const { return id_; }
  // Fills the activations and, as far as a few steps reach, the cache with NaN.
  void poison();
  // Submits and waits; sampling rows may be none.
  void run(const LogicalStep& step);
  // Output `index` of the last step: rows x width elements of 4 bytes. Fails the test where an element was not written.
  std::vector<float> read(uint32_t index, size_t rows);
  size_t output_rows(uint32_t index, const LogicalStep& step) const;

 private:
  BackendSession& session_;
  const TestProgram& program_;
  quire_limits limits_;
  uint32_t id_;
  Pager pager_;
};

// The backend under test for one gtest test; its cases share the instance.
class Harness {
 public:
  explicit Harness(const char* test);

  Random& random() { return random_; }
  BackendSession& session() { return *session_; }
  // How many of `few` cases to run: more under --full.
  int cases(int few) const { return options().full ? few * 8 : few; }
  Precision precision(uint32_t kv_format = QUIRE_F16) const;

  // The conformance of one case; `what` describes it for a failure.
  void check(const TestProgram& program, const std::vector<LogicalStep>& steps, const std::string& what,
             const Layout& layout = {});

 private:
  Random random_;
  std::unique_ptr<BackendSession> session_;
  uint32_t cases_ = 0; // checked
};

// The largest errors that any check has seen so far, in the units of tolerance.hpp.
struct Worst {
  double element = 0, row = 0;
};
Worst& worst();

// The parts as one text.
template <class... Parts> std::string describe(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// One sequence of T fresh tokens 0 .. T - 1 and `rows` of them wanted.
LogicalStep plain_step(uint32_t tokens, uint32_t rows, Random& random);

} // namespace quire::tests
