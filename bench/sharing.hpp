// Blocks saved where the sequences of one request share: parallel samples, and beams that descend from each other as
// recorded.
//
// Each request runs alone on the real KV manager: a saving depends on the request's own sequences only. Saved = blocks
// saved / blocks without sharing, as the paper counts (section 6.3), summed over all steps of all requests.
#pragma once

#include "bench/workload.hpp"

#include <filesystem>
#include <string>
#include <vector>

namespace quire::bench {

// One recorded beam search: parents[step][beam] is the beam of the step before that it continues.
struct BeamTrace {
  std::string name;
  std::uint32_t width = 0, prompt_tokens = 0;
  std::vector<std::vector<std::uint8_t>> parents;
};
// Reads what bench/make_beam_trace.py wrote: from a file, or, where the path is empty, bench/data/beams.txt as it was
// built in. Throws Error, naming the line.
std::vector<BeamTrace> read_beam_traces(const std::filesystem::path& file);

struct Saving {
  double saved = 0;         // share of the blocks without sharing
  double copied_blocks = 0; // a step and sequence: what copy-on-write costs
};
Saving parallel_saving(const std::vector<Request>& requests, std::uint32_t samples, std::uint32_t block_size = 16);
// Each request follows one of the traces of that width, from its start; a longer request goes on with the trace from
// its middle.
Saving beam_saving(const std::vector<Request>& requests, std::uint32_t width, const std::vector<BeamTrace>& traces,
                   std::uint32_t block_size = 16);

} // namespace quire::bench
