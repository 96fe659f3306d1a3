// `quire bench memory`: the study of paged memory, beside the figures of Kwon et al., «Efficient Memory Management for
// Large Language Model Serving with PagedAttention» (SOSP 2023). No device; some seconds; everything from one seed.
//
// Writes CSV and SVG files into a folder and prints each figure beside the paper's. docs/paged-memory.md is the page
// that explains them.
#pragma once

#include <cstdint>
#include <filesystem>

namespace quire::bench {

struct MemoryStudyOptions {
  std::filesystem::path out_dir = "docs/paged-memory"; // made where it is missing; empty: no files
  std::filesystem::path beam_traces;                   // bench/data/beams.txt; empty: the one that was built in
  std::uint64_t seed = 1;
  double minutes = 60; // of virtual time that the baselines' runs last, as the paper's; comparisons take a part of it
  bool json = false;   // print one JSON array of {study, what, unit, value, paper} instead of a table
};

// Prints to standard output; the exit code. Throws Error where a file can't be read or written.
int run_memory_study(const MemoryStudyOptions& options);

} // namespace quire::bench
