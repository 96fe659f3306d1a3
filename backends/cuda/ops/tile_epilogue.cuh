// How the tile kernels hand their sums over: through shared memory, so that a row's outputs leave in 16-byte pieces.
#pragma once

#include "linear.cuh"

namespace quire::cuda {

inline constexpr uint32_t kTileOutputs = 128; // rows of W a block
inline constexpr uint32_t kOutputPitch = kTileOutputs + 4;

// sums: of a warp with 32 rows of W (from 32 * warp) and kRows rows of activations, C fragments. staging: kRows *
// kOutputPitch floats that no thread uses any more. Every thread of the block (128) calls it. first_row: of
// activations; splits > 1: this block's part of K is `split`, and the sums go to the workspace.
template <int kRows>
__device__ __forceinline__ void hand_over(const LinearArgs& a, const PartTile<kTileOutputs>& place, uint32_t first_row,
                                          uint32_t rows, uint32_t split, uint32_t splits, float* staging,
                                          const float (&sums)[2][kRows / 8][4]) {
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 2; ++i)
#pragma unroll
    for (int j = 0; j < kRows / 8; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        staging[(8 * j + 2 * t + c % 2) * kOutputPitch + warp * 32 + 16 * i + g + 8 * (c / 2)] = sums[i][j][c];
  __syncthreads();
  const LinearPart& part = a.parts[place.part];
  const uint32_t first_n = place.tile * kTileOutputs;
  constexpr uint32_t kPieces = kTileOutputs / 8;
  for (uint32_t piece = threadIdx.x; piece < kRows * kPieces; piece += blockDim.x) {
    const uint32_t row = first_row + piece / kPieces, n = first_n + piece % kPieces * 8;
    if (row >= rows || n >= part.weight.rows) continue;
    const float* from = staging + (piece / kPieces) * kOutputPitch + piece % kPieces * 8;
    const uint32_t count = min(8u, part.weight.rows - n);
    if (splits > 1) {
      float* to = a.workspace + (size_t{split} * rows + row) * a.out.dim + part.first_col + n;
      for (uint32_t i = 0; i < count; ++i) to[i] = from[i];
      continue;
    }
    const size_t at = size_t{row} * a.out.stride + part.first_col + n;
    if (count == 8 && at % 8 == 0 && a.out.type == Type::f16 && !a.residual) {
      float y[8];
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) y[i] = finish(a, part, n + i, from[i]);
      *reinterpret_cast<uint4*>(static_cast<__half*>(a.out.data) + at) =
          make_uint4(pack_half2(y[0], y[1]), pack_half2(y[2], y[3]), pack_half2(y[4], y[5]), pack_half2(y[6], y[7]));
    } else {
      for (uint32_t i = 0; i < count; ++i) put(a, row, part.first_col + n + i, finish(a, part, n + i, from[i]));
    }
  }
}

// How many pieces K is split into where few rows would leave the chip idle: a function of the shape, bounded by the
// workspace.
inline uint32_t splits_for(const LinearArgs& a, uint32_t rows, uint32_t blocks, uint32_t units, uint32_t least_units) {
  if (a.fixed_order || blocks >= 200) return 1;
  uint32_t splits = (264 + blocks - 1) / blocks;
  splits = splits < units / least_units ? splits : units / least_units;
  const uint64_t bytes = uint64_t{rows} * a.out.dim * 4;
  while (splits > 1 && splits * bytes > a.workspace_bytes) --splits;
  return splits == 0 ? 1 : splits;
}

} // namespace quire::cuda
