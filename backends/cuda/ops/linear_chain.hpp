// linear_chain: linears that follow one another, for a few rows of activations, as one launch that never stops reading.
//
// Each phase is out = linear(in) or linear(norm(in + residual)), with everything that linear.hpp's LinearArgs says but
// split sums. A block for every multiprocessor stays for all phases. What a phase makes for the next lies in memory as
// fp16 that is empty (all bits set, which no result is) until it is made: whoever reads it waits until it isn't, so
// that the blocks need no barrier, and their copies of the next phase's weights are already under way meanwhile. There
// are two sets of these places, used in turn; a launch empties the set of the next.
#pragma once

#include "linear.hpp"

namespace quire::cuda {

inline constexpr uint32_t kMaxPhases = 4;
inline constexpr uint64_t kLeastChainShared = 160 << 10; // bytes of shared memory a block, for the warps' rings
inline constexpr uint32_t kChainRows = 8;
inline constexpr uint32_t kChainNormDim = 4096;

struct ChainPhase {
  // in: of the first phase, where it is not normed. out: of the last phase. Elsewhere both are places handed over, fp16
  // [rows, N], in the first set. glu: parts 0 and 1 are gate and up.
  LinearArgs linear;
  NormArgs norm; // in: of the first phase; out is not stored; heads 1
  bool normed = false;
  bool keeps_sum = false;     // in shared memory, for a later phase's residual or copy
  bool residual_kept = false; // the residual is the sum kept last
  Tensor copy_to;             // [rows, dim] float32: the sum kept last, once all blocks have read the phase before
};

struct ChainArgs {
  // A tensor map of each part's fp16 rows, boxes of 8 rows by twice 64 columns: for compute capability 9.0 and later.
  struct alignas(64) Map {
    uint64_t words[16] = {};
  } maps[kMaxPhases][QUIRE_MAX_PARTS];
  ChainPhase phases[kMaxPhases];
  uint32_t num_phases = 0;
  uint32_t* launches = nullptr; // [blocks] how many launches of chains each has seen
  std::byte* handed = nullptr;  // [2][handed_bytes] what phases hand over
  uint32_t handed_bytes = 0;    // a multiple of 16
};

// Whether the kernel takes a linear of this format, alone or with the one that came before (0: none did), and which
// formats it then holds.
bool chain_holds(uint32_t format, uint32_t& first, uint32_t& second);
// Rows that a chain can take on a device with so much shared memory a block; 0 = none.
uint32_t chain_rows(const ChainArgs&, uint64_t shared_bytes);
// Items that a phase hands out (16 rows of W; fp16: 8); one that keeps its sum needs as many as there are blocks.
uint32_t chain_items(const LinearArgs&);
// Fills the phases' tensor maps. Errors: Failure from the driver.
void map_chain(ChainArgs&);
// blocks: of which all must be on the device at once: one a multiprocessor.
void linear_chain(const Queue&, uint32_t blocks, uint32_t rows, const ChainArgs&);

} // namespace quire::cuda
