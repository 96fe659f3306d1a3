// The parts of the memory study, each about one section of the paper. Internal to bench.
#pragma once

#include "bench/memory.hpp"
#include "bench/simulator.hpp"

#include <cmath>
#include <string>
#include <vector>

namespace quire::bench {

struct Figure {
  std::string study, what, unit;
  double value = 0;
  double paper = std::nan("");
};

void study_baselines(const MemoryStudyOptions& options, std::vector<Figure>& figures);       // figures 2 and 13
void study_sharing(const MemoryStudyOptions& options, std::vector<Figure>& figures);         // figure 15
void study_prefix_and_chat(const MemoryStudyOptions& options, std::vector<Figure>& figures); // figures 16 and 17
void study_block_size(const MemoryStudyOptions& options, std::vector<Figure>& figures);      // figure 18b
void study_preemption(const MemoryStudyOptions& options, std::vector<Figure>& figures);      // figure 19

// OPT-13B on an A100 of 40 GB (paper, table 1 and section 6.1): 12 GB of KV memory, 15.7K slots.
inline constexpr std::uint32_t kSlots = 15700;
inline constexpr double kKvBytesPerToken = 2.0 * 40 * 5120 * 2; // K and V, 40 layers, hidden size 5,120, float16
StepCosts opt13b_costs(std::uint32_t block_size);
ServeOptions opt13b(PolicyKind policy, const MemoryStudyOptions& options, std::uint32_t block_size = 16);

// Requests of a run as long as the options say, and enough of them.
std::vector<Request> requests_for(const Lengths& lengths, double rate_per_s, const MemoryStudyOptions& options);

} // namespace quire::bench
