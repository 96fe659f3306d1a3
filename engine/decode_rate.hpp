// How fast a backend would decode a program, measured on its first layers in a fraction of a second: what «auto» goes
// by where only CPUs are there to choose from.
//
// Units: tokens a second of one sequence with a short context. Errors: quire::Error with the backend's sentence.
// Threads: [load].
#pragma once

#include "quire/plugin.h"

#include <cstdint>
#include <string>
#include <vector>

namespace quire {

// The ops of a program up to the linear one with which some million weights were read, whose result takes the place of
// the logits: the vocabulary is as large as that is wide, and embedding tables are cut to it. Points into the program
// it was made from.
struct ProgramStart {
  explicit ProgramStart(const quire_program& whole);
  ProgramStart(const ProgramStart&) = delete;
  ProgramStart& operator=(const ProgramStart&) = delete;

  quire_program program{};
  double share = 1; // of the bytes of weights that the whole reads for a token; 0: there is nothing to measure
  std::vector<quire_weight> weights;
  std::vector<quire_value> values;
  std::vector<quire_op> ops;
  quire_output output{};
};

struct RateOptions {
  uint32_t device = 0;
  uint32_t num_threads = 0;
  std::string cache_dir; // empty: none
};
double measure_decode_rate(const quire_backend& backend, const quire_program& program, const RateOptions& options);

} // namespace quire
