// linear_blocks: more rows of activations than linear_small takes, weights in block formats, on mma.sync.
//
// Shapes: in [rows, K] fp16, W [N, K], out [rows, sum N]. Bytes: W once a tile of kRows rows, in once a 128 rows of W.
// A block makes 128 outputs of kRows rows; its four warps have 32 rows of W each, whose blocks go from memory into
// registers in fragment order and are dequantised there, a unit of 128 columns ahead. in passes through stages of
// shared memory, 128 columns at a time, [32 columns][row][64 bytes], 16-byte pieces swizzled so that ldmatrix meets no
// bank twice.
#include "tile_epilogue.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kThreads = 128, kStages = 3;

template <int kRows>
constexpr size_t kSharedBytes = [] {
  const size_t stages = size_t{kStages} * kRows * 256, staging = size_t{kRows} * kOutputPitch * 4;
  return stages > staging ? stages : staging;
}();

template <uint32_t kFormat, int kRows, bool kFixedOrder>
__global__ void __launch_bounds__(kThreads, 2) linear_blocks_kernel(uint32_t rows, uint32_t splits, LinearArgs a) {
  unsigned char* shared = dynamic_shared();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const PartTile<kTileOutputs> place(a, blockIdx.x);
  const Weight& w = a.parts[place.part].weight;
  const uint32_t first_row = blockIdx.y * kRows, cols = a.in.dim, units = (cols + 127) / 128, split = blockIdx.z;
  const auto begin = static_cast<uint32_t>(uint64_t{units} * split / splits),
             end = static_cast<uint32_t>(uint64_t{units} * (split + 1) / splits);
  const auto* activations = static_cast<const __half*>(a.in.data);

  const auto stage_activations = [&](uint32_t unit, uint32_t stage) {
    unsigned char* to = shared + stage * kRows * 256;
#pragma unroll
    for (uint32_t i = 0; i < kRows * 16 / kThreads; ++i) {
      const uint32_t piece = i * kThreads + threadIdx.x, row = piece / 16, part = piece % 16;
      const uint32_t t = first_row + row, col = unit * 128 + part * 8;
      const bool valid = t < rows && col < cols;
      copy_async16(to + part / 4 * (kRows * 64) + row * 64 + ((part % 4) ^ (row / 2 % 4)) * 16,
                   activations + (valid ? size_t{t} * a.in.stride + col : 0), valid);
    }
  };
  Unit<kFormat> current[2];
  const auto fetch = [&](Unit<kFormat>(&into)[2], uint32_t unit) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t tile = place.tile * 8 + warp * 2 + i;
      into[i].load(w, tile < w.tiles ? tile : 0, unit, lane);
    }
  };
  if (begin < end) fetch(current, begin);
  let_next_kernel_begin();
  wait_for_previous_kernels();
  for (uint32_t i = 0; i < kStages - 1; ++i) {
    if (begin + i < end) stage_activations(begin + i, i);
    copy_async_commit();
  }

  float sums[2][kRows / 8][4] = {};
  float totals[kFixedOrder ? 2 : 1][kFixedOrder ? kRows / 8 : 1][4] = {};
  uint32_t slice = 0;
  for (uint32_t unit = begin, stage = 0; unit < end; ++unit, stage = stage + 1 == kStages ? 0 : stage + 1) {
    Unit<kFormat> next[2];
    if (unit + 1 < end) fetch(next, unit + 1);
    copy_async_wait<kStages - 2>();
    __syncthreads();
    if (unit + kStages - 1 < end) stage_activations(unit + kStages - 1, stage == 0 ? kStages - 1 : stage - 1);
    copy_async_commit();
    if constexpr (kFixedOrder) {
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
    // ldmatrix: lane 8 m + r reads row r of activations, columns 8 m to 8 m + 7 of the 32.
    const uint32_t m = lane / 8, r = lane % 8;
    const unsigned char* from = shared + stage * kRows * 256 + r * 64 + (m ^ (r / 2)) * 16;
#pragma unroll
    for (int block = 0; block < 4; ++block) {
      uint32_t f[2][2][4]; // [tile][step]
      current[0].fragments(block, f[0]);
      current[1].fragments(block, f[1]);
#pragma unroll
      for (int j = 0; j < kRows / 8; ++j) {
        uint32_t x[4];
        load_matrix(x, from + block * (kRows * 64) + j * 512);
#pragma unroll
        for (int step = 0; step < 2; ++step)
#pragma unroll
          for (int i = 0; i < 2; ++i) matrix_multiply<__half>(sums[i][j], f[i][step], {x[2 * step], x[2 * step + 1]});
      }
    }
    current[0] = next[0];
    current[1] = next[1];
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

template <uint32_t kFormat, int kRows, bool kFixedOrder>
void run(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  const uint32_t tiles = count_tiles<kTileOutputs>(a), row_tiles = (rows + kRows - 1) / kRows;
  const uint32_t splits = splits_for(a, rows, tiles * row_tiles, (a.in.dim + 127) / 128, 4);
  launch("linear_blocks", linear_blocks_kernel<kFormat, kRows, kFixedOrder>, dim3(tiles, row_tiles, splits), kThreads,
         kSharedBytes<kRows>, queue, rows, splits, a);
  if (splits > 1) linear_reduce(queue, rows, splits, a);
}

template <uint32_t kFormat> void run(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  if (a.fixed_order) return run<kFormat, 32, true>(queue, rows, a);
  rows <= 32 ? run<kFormat, 32, false>(queue, rows, a) : run<kFormat, 64, false>(queue, rows, a);
}

} // namespace

void linear_blocks(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  for_block_format("linear_blocks", a.parts[0].weight.format, [&](auto format) { run<format>(queue, rows, a); });
}

} // namespace quire::cuda
