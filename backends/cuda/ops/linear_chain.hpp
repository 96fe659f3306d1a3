// linear_chain: linears that follow one another, for a few rows of activations, as one launch that never stops reading.
//
// Each phase is out = linear(in) or linear(norm(in + residual)), with everything that linear.hpp's LinearArgs says but
// split sums. A block for every multiprocessor stays for all phases. What a phase makes for the next lies in memory as
// fp16 that is empty (all bits set, which no result is) until it is made: whoever reads it waits until it isn't, so
// that the blocks need no barrier, and their copies of the next phase's weights are already under way meanwhile. There
// are two sets of these places, used in turn; a launch empties the set of the next.
#pragma once

#include "chain_times.hpp"
#include "linear.hpp"

#include <span>

namespace quire::cuda {

inline constexpr uint32_t kMaxPhases = 4;
inline constexpr uint64_t kLeastChainShared = 160 << 10; // bytes of shared memory a block, for the warps' rings
inline constexpr uint32_t kChainRows = 8;
inline constexpr uint32_t kChainNormDim = 4096;

// Places handed over are given in bytes a row: one for all rows is so many times that behind the set's beginning.
struct ChainPhase {
  // in: of the first phase, where it is not normed. out: of the last phase. glu: parts 0 and 1 are gate and up.
  LinearArgs linear;
  NormArgs norm; // in: of the first phase; out is not stored; heads 1
  bool normed = false;
  bool keeps_sum = false;     // in shared memory, for a later phase's residual or copy
  bool residual_kept = false; // the residual is the sum kept last
  Tensor copy_to;             // [rows, dim] float32: the sum kept last, once all blocks have read the phase before
  // fp16: which tensor map is of rows of this length, and where each part begins, in such rows from the arena on.
  const std::byte* arena = nullptr;
  uint32_t map = 0, arena_rows = 0, part_row[QUIRE_MAX_PARTS] = {};
  // By split_phase: how many items each block has, how many of the first blocks have one more, and how many those from
  // `late_from` on have; units of K; the logarithm of how many groups of warps take turns at tiles; where each part's
  // items end, the last one's beyond all.
  uint32_t items_each = 0, items_more = 0, late_from = 0, items_late = 0;
  uint32_t units = 0, group_shift = 0, part_end[QUIRE_MAX_PARTS] = {};
  uint32_t takes = 0, gives = 0;        // places of the input and of the output, fp16 [rows, width]
  uint32_t in_width = 0, out_width = 0; // elements of a row of these
};

// A tensor map of all fp16 rows of one length, boxes of 8 rows by twice 64 columns: for compute capability 9.0 and
// later. One for all matrices, because the copy engine waits for the memory whenever it meets one that it doesn't know.
struct alignas(64) ChainMap {
  uint64_t words[16] = {};
};

// What launching a chain needs to know of its phases.
struct ChainShape {
  uint32_t num_phases = 0;
  uint32_t first_format = 0, second_format = 0; // second 0: there is one
  uint32_t most_cols = 0;                       // of a phase's input
  uint32_t kept_dim = 0;                        // of the sums that are kept; 0 = none
};

// How many launches of chains a block has seen, and bytes that the last one handed over.
struct ChainRecord {
  uint32_t launches = 0, handed_bytes = 0;
};

struct ChainArgs {
  const ChainPhase* phases = nullptr; // [num_phases] on the device
  const ChainPhase* next = nullptr;   // those of the chain that will be launched next, if any, which are brought near
  uint32_t num_next = 0;
  const ChainMap* maps = nullptr; // on the device
  ChainShape shape;
  ChainRecord* records = nullptr; // [blocks] on the device
  std::byte* handed = nullptr;    // [2][set_bytes] on the device: what phases hand over
  uint32_t set_bytes = 0;         // a multiple of 16
  uint32_t row_bytes = 0;         // of a set, that this chain uses for each row
  ChainTimes* times = nullptr;    // [kTracedLaunches][blocks] on the device; null: they are not wanted
};

// Whether the kernel takes a linear of this format, alone or with the one that came before (0: none did), and which
// formats it then holds.
bool chain_holds(uint32_t format, uint32_t& first, uint32_t& second);
ChainShape chain_shape(std::span<const ChainPhase>);
// Rows that a chain can take on a device with so much shared memory a block; 0 = none.
uint32_t chain_rows(const ChainShape&, uint64_t shared_bytes);
// Items that a phase hands out (16 rows of W; fp16: 8); one that keeps its sum needs as many as there are blocks.
uint32_t chain_items(const LinearArgs&);
// Fills what the phase says of blocks, warps and parts. late: so many of the last blocks begin late, where a kernel in
// front leaves; they have less of the phase, or nothing where the rings of the others hold all of it.
void split_phase(ChainPhase&, const ChainShape&, uint32_t blocks, uint32_t late);
// The tensor map of an arena's rows of so many fp16 elements. Errors: Failure from the driver.
ChainMap map_chain(const std::byte* arena, uint64_t bytes, uint32_t cols);
// blocks: those that the phases were split for; all must be on the device at once: one a multiprocessor.
void linear_chain(const Queue&, uint32_t blocks, uint32_t rows, const ChainArgs&);

} // namespace quire::cuda
