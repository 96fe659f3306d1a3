// linear_tile: more rows of activations than linear_small takes, fp16 weights, on mma.sync: the fallback of the
// library's product.
//
// Shapes: in [rows, K] fp16, W [N, K], out [rows, sum N]. Bytes: W once a tile of kRows rows, in once a 128 rows of W.
// A block makes 128 outputs of kRows rows; its four warps have 32 rows of W each. W and in pass through three stages of
// shared memory, 64 columns at a time, laid out [32 columns][row][64 bytes], so that a fragment pair is one
// conflict-free 16-byte read a lane: columns are permuted alike in A and B, and as in linear_small.
#include "tile_epilogue.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kThreads = 128, kColumns = 64, kStages = 3;
constexpr uint32_t kPad = 64; // bytes between the 32-column halves: their banks differ

template <int kRows> constexpr uint32_t kStageBytes = 2 * (kTileOutputs * 64 + kPad) + 2 * (kRows * 64 + kPad);

template <int kRows>
constexpr size_t kSharedBytes = [] {
  const size_t stages = size_t{kStages} * kStageBytes<kRows>, staging = size_t{kRows} * kOutputPitch * 4;
  return stages > staging ? stages : staging;
}();

template <int kRows, bool kFixedOrder>
__global__ void __launch_bounds__(kThreads, kFixedOrder&& kRows == 128 ? 1 : 2)
    linear_tile_kernel(uint32_t rows, uint32_t splits, LinearArgs a) {
  unsigned char* shared = dynamic_shared();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const PartTile<kTileOutputs> place(a, blockIdx.x);
  const Weight& w = a.parts[place.part].weight;
  const uint32_t first_row = blockIdx.y * kRows, first_n = place.tile * kTileOutputs;
  const uint32_t cols = a.in.dim, units = (cols + kColumns - 1) / kColumns, split = blockIdx.z;
  const auto begin = static_cast<uint32_t>(uint64_t{units} * split / splits),
             end = static_cast<uint32_t>(uint64_t{units} * (split + 1) / splits);
  const auto* weights = reinterpret_cast<const __half*>(w.data);
  const auto* activations = static_cast<const __half*>(a.in.data);

  const auto stage_weights = [&](uint32_t unit, uint32_t stage) {
    unsigned char* to = shared + stage * kStageBytes<kRows>;
#pragma unroll
    for (uint32_t i = 0; i < kTileOutputs * 8 / kThreads; ++i) {
      const uint32_t piece = i * kThreads + threadIdx.x, row = piece / 8, part = piece % 8;
      const uint32_t n = first_n + row, col = unit * kColumns + part * 8;
      const bool valid = n < w.rows && col < cols;
      copy_async16(to + part / 4 * (kTileOutputs * 64 + kPad) + row * 64 + part % 4 * 16,
                   weights + (valid ? size_t{n} * w.stride + col : 0), valid);
    }
  };
  const auto stage_activations = [&](uint32_t unit, uint32_t stage) {
    unsigned char* to = shared + stage * kStageBytes<kRows> + 2 * (kTileOutputs * 64 + kPad);
#pragma unroll
    for (uint32_t i = 0; i < kRows * 8 / kThreads; ++i) {
      const uint32_t piece = i * kThreads + threadIdx.x, row = piece / 8, part = piece % 8;
      const uint32_t t = first_row + row, col = unit * kColumns + part * 8;
      const bool valid = t < rows && col < cols;
      copy_async16(to + part / 4 * (kRows * 64 + kPad) + row * 64 + part % 4 * 16,
                   activations + (valid ? size_t{t} * a.in.stride + col : 0), valid);
    }
  };

  for (uint32_t i = 0; i < kStages - 1; ++i)
    if (begin + i < end) stage_weights(begin + i, i);
  let_next_kernel_begin();
  wait_for_previous_kernels();
  // The first group holds all the weights above: they were issued before the wait.
  for (uint32_t i = 0; i < kStages - 1; ++i) {
    if (begin + i < end) stage_activations(begin + i, i);
    copy_async_commit();
  }

  float sums[2][kRows / 8][4] = {};
  float totals[kFixedOrder ? 2 : 1][kFixedOrder ? kRows / 8 : 1][4] = {};
  uint32_t slice = 0;
  for (uint32_t unit = begin, stage = 0; unit < end; ++unit, stage = stage + 1 == kStages ? 0 : stage + 1) {
    copy_async_wait<kStages - 2>();
    __syncthreads();
    {
      const uint32_t ahead = unit + kStages - 1, into = stage == 0 ? kStages - 1 : stage - 1;
      if (ahead < end) {
        stage_weights(ahead, into);
        stage_activations(ahead, into);
      }
      copy_async_commit();
    }
    if constexpr (kFixedOrder) {
      // The slices of linear_small: each summed on its own, then added upwards.
      while (unit == static_cast<uint32_t>(uint64_t{units} * (slice + 1) / a.slices)) {
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
          for (int j = 0; j < kRows / 8; ++j)
#pragma unroll
            for (int c = 0; c < 4; ++c) {
              totals[i][j][c] = slice == 0 ? sums[i][j][c] : totals[i][j][c] + sums[i][j][c];
              sums[i][j][c] = 0;
            }
        ++slice;
      }
    }
    const unsigned char* from = shared + stage * kStageBytes<kRows>;
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      const unsigned char* a_rows = from + half * (kTileOutputs * 64 + kPad) + warp * 32 * 64 + lane * 16;
      const unsigned char* b_rows = from + 2 * (kTileOutputs * 64 + kPad) + half * (kRows * 64 + kPad) + lane * 16;
      uint4 top[2], bottom[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        top[i] = *reinterpret_cast<const uint4*>(a_rows + i * 1024);
        bottom[i] = *reinterpret_cast<const uint4*>(a_rows + i * 1024 + 512);
      }
#pragma unroll
      for (int j = 0; j < kRows / 8; ++j) {
        const uint4 x = *reinterpret_cast<const uint4*>(b_rows + j * 512);
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          matrix_multiply<__half>(sums[i][j], {top[i].x, bottom[i].x, top[i].y, bottom[i].y}, {x.x, x.y});
          matrix_multiply<__half>(sums[i][j], {top[i].z, bottom[i].z, top[i].w, bottom[i].w}, {x.z, x.w});
        }
      }
    }
  }
  copy_async_wait<0>();
  __syncthreads();
  if constexpr (kFixedOrder) {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int j = 0; j < kRows / 8; ++j)
#pragma unroll
        for (int c = 0; c < 4; ++c) sums[i][j][c] = slice == 0 ? sums[i][j][c] : totals[i][j][c] + sums[i][j][c];
  }
  hand_over<kRows>(a, place, first_row, rows, split, splits, reinterpret_cast<float*>(shared), sums);
}

template <int kRows, bool kFixedOrder> void run(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  const uint32_t tiles = count_tiles<kTileOutputs>(a), row_tiles = (rows + kRows - 1) / kRows;
  const uint32_t splits = splits_for(a, rows, tiles * row_tiles, (a.in.dim + kColumns - 1) / kColumns, 8);
  launch("linear_tile", linear_tile_kernel<kRows, kFixedOrder>, dim3(tiles, row_tiles, splits), kThreads,
         kSharedBytes<kRows>, queue, rows, splits, a);
  if (splits > 1) linear_reduce(queue, rows, splits, a);
}

} // namespace

void linear_tile(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  if (a.fixed_order)
    rows <= 64 ? run<32, true>(queue, rows, a) : run<64, true>(queue, rows, a);
  else
    rows <= 32   ? run<32, false>(queue, rows, a)
    : rows <= 64 ? run<64, false>(queue, rows, a)
                 : run<128, false>(queue, rows, a);
}

} // namespace quire::cuda
