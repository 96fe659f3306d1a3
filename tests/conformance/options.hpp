// What `quire-tests` was asked for.
#pragma once

#include "quire/plugin.h"

#include <cstdint>
#include <string>

namespace quire::tests {

struct Options {
  std::string backend = "reference";
  std::string plugin; // a library; empty = where plugins are found
  std::string filter; // an op's word, or any part of a test's name
  std::string cache_dir;
  uint32_t device = 0;
  uint32_t threads = 0;
  std::string command;           // conformance, oracle, trials or invariant
  uint64_t steps = 10000;        // of trials
  std::string model;             // of oracle, trials and invariant
  std::string goldens;           // of oracle
  uint32_t chunk = 0, batch = 0; // likewise; 0 = as usual
  bool full = false;
  bool brief = false;
  bool validate = false;
  bool any_order = false; // conformance: the kernels of a server without --invariant
  std::string kv_format;  // of oracle; empty = as usual
  uint64_t seed = 1;
};

// Set once by main, before any test.
Options& options();
const quire_plugin*& backend_plugin();

} // namespace quire::tests
