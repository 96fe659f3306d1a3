// linear_chain: linears that follow one another, for a few rows of activations, as one launch that never stops reading.
//
// Each phase is out = linear(in) or linear(norm(in + residual)), with everything that linear.hpp's LinearArgs says but
// split sums. A block for every multiprocessor stays for all phases; between two of them the blocks wait for one
// another, while their copies of the next phase's weights are already under way.
#pragma once

#include "linear.hpp"

namespace quire::cuda {

inline constexpr uint32_t kMaxPhases = 4;
inline constexpr uint32_t kChainRows = 8;
inline constexpr uint32_t kChainNormDim = 8192;

struct ChainPhase {
  LinearArgs linear; // in: absent where normed; glu: parts 0 and 1 are gate and up
  NormArgs norm;     // out is not stored; heads 1
  bool normed = false;
  // The sum of the phase before, where its place was still being read then: copied as this phase begins.
  Tensor copy_from, copy_to; // [rows, dim] float32
};

struct ChainArgs {
  ChainPhase phases[kMaxPhases];
  uint32_t num_phases = 0;
  unsigned long long* arrivals = nullptr; // this chain's own counter, 0 when it is first launched
  // What the next chain reads first: brought into the L2 while the last phase ends.
  struct Range {
    const std::byte* data = nullptr;
    uint64_t bytes = 0;
  } ahead[4];
};

// Whether the kernel takes a linear of this format, alone or with the one that came before (0: none did), and which
// formats it then holds.
bool chain_holds(uint32_t format, uint32_t& first, uint32_t& second);
// Rows that a chain can take on a device with so much shared memory a block; 0 = none.
uint32_t chain_rows(const ChainArgs&, uint64_t shared_bytes);
// blocks: of which all must be on the device at once: one a multiprocessor.
void linear_chain(const Queue&, uint32_t blocks, uint32_t rows, const ChainArgs&);

} // namespace quire::cuda
