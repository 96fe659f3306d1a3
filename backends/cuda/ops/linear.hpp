// linear: out [rows, sum N] = softcap(scale * act(in [rows, K] W^T + bias)), W in row-concatenated parts of one format.
//
// Which kernel: few rows (up to kSmallRows) → linear_small: a warp multiplies 16 rows of W by a slice of K, weights
// straight from memory to the tensor cores; more → linear_tile (fp16 through shared memory) or, block formats
// dequantised in registers, linear_blocks and on compute capability 9.0 from kWideRows on linear_blocks_sm90; shapes
// that none of them takes → linear_any. The library's product (matrix_library.hpp) is the caller's choice. Order of
// summation: K is cut into `slices` contiguous pieces, fixed by (N, K); each is summed upwards, and the slices are
// added upwards. With fixed_order every kernel keeps to it; without it, small interleaves the slices and tile and
// blocks split K as the number of rows asks. Fusions: residual: the result, rounded to fp16, is added to a float32 row
// instead of stored; glu (small and any): parts 0 and 1 are gate and up, and act(gate) * up, [rows, N], is stored.
#pragma once

#include "ops.hpp"

namespace quire::cuda {

struct LinearPart {
  Weight weight;               // [N, K]
  const float* bias = nullptr; // [N]
  uint32_t first_col = 0;      // of out
};

struct LinearArgs {
  Tensor in;  // [rows, K] fp16
  Tensor out; // [rows, sum N] fp16 or float32
  LinearPart parts[QUIRE_MAX_PARTS];
  uint32_t num_parts = 0;
  uint32_t slices = 1;
  bool fixed_order = false;
  uint32_t activation = QUIRE_ACT_NONE;
  float scale = 1;
  float softcap = 0;
  bool residual = false; // out is float32 and is added to
  bool glu = false;
  uint32_t glu_activation = QUIRE_ACT_NONE;
  uint32_t wide_blocks = 0;   // multiprocessors, where linear_blocks_sm90 may run; else 0
  float* workspace = nullptr; // of workspace_bytes, for split sums
  uint64_t workspace_bytes = 0;
};

inline constexpr uint32_t kSmallRows = 16;
inline constexpr uint32_t kFusedGluRows = 8;
inline constexpr uint32_t kWideRows = 33; // and more, to linear_blocks_sm90

// Slices of K for a weight of N rows in all: as many as fill the chip with few rows. Depends on nothing else.
uint32_t slices_of(uint32_t format, uint64_t rows, uint64_t cols);

// What ran, for the profile.
enum class LinearKernel : uint32_t { any, small, tile, blocks, blocks_sm90 };
const char* name_of(LinearKernel kernel);
LinearKernel choose_linear(uint32_t rows, const LinearArgs&);

void linear(const Queue&, uint32_t rows, const LinearArgs&);

// Whether this build has linear_blocks_sm90 for a device of this compute capability.
bool linear_blocks_wide(int compute_capability);

// Each kernel; linear() chooses.
void linear_any(const Queue&, uint32_t rows, const LinearArgs&);
void linear_small(const Queue&, uint32_t rows, const LinearArgs&);
void linear_tile(const Queue&, uint32_t rows, const LinearArgs&);
void linear_blocks(const Queue&, uint32_t rows, const LinearArgs&);
void linear_blocks_sm90(const Queue&, uint32_t rows, const LinearArgs&);
// in place on sums that the library left in out: bias, activation, scale, softcap.
void linear_finish(const Queue&, uint32_t rows, const LinearArgs&);
// out from `splits` partial sums [split, rows, sum N] in the workspace, added upwards.
void linear_reduce(const Queue&, uint32_t rows, uint32_t splits, const LinearArgs&);

} // namespace quire::cuda
