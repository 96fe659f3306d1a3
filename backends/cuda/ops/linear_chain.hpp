// linear_chain: linears that follow one another, for a few rows of activations, as one launch that never stops reading.
//
// Each phase is out = linear(in) or linear(norm(in + residual)), with everything that linear.hpp's LinearArgs says but
// split sums. A block for every multiprocessor stays for all phases. What a phase makes for the next lies in memory as
// words of two fp16 elements and the number of the launch: whoever reads it waits for that number, so that the blocks
// need no barrier, and their copies of the next phase's weights are already under way meanwhile.
#pragma once

#include "linear.hpp"

namespace quire::cuda {

inline constexpr uint32_t kMaxPhases = 4;
inline constexpr uint32_t kChainRows = 8;
inline constexpr uint32_t kChainNormDim = 4096;

struct ChainPhase {
  // in: of the first phase, where it is not normed. out: of the last phase. Elsewhere both are words, [rows, N / 2] of
  // 8 bytes, stride in elements. glu: parts 0 and 1 are gate and up.
  LinearArgs linear;
  NormArgs norm; // in: of the first phase; out is not stored; heads 1
  bool normed = false;
  bool keeps_sum = false;     // in shared memory, for a later phase's residual or copy
  bool residual_kept = false; // the residual is the sum kept last
  Tensor copy_to;             // [rows, dim] float32: the sum kept last, once all blocks have read the phase before
};

struct ChainArgs {
  ChainPhase phases[kMaxPhases];
  uint32_t num_phases = 0;
  uint32_t* launches = nullptr; // [blocks] how many launches of chains each has seen
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
// Tiles that a phase hands out; one that keeps its sum needs as many as there are blocks.
uint32_t chain_items(const LinearArgs&);
// blocks: of which all must be on the device at once: one a multiprocessor.
void linear_chain(const Queue&, uint32_t blocks, uint32_t rows, const ChainArgs&);

} // namespace quire::cuda
