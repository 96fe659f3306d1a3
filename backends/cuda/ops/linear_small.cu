// linear_small: up to 16 rows of activations, whatever the format of the weights: bound by reading W once.
//
// Shapes: in [rows, K] fp16, W [N, K], out [rows, sum N]. Bytes: W, and in once a tile of rows of W (from the L2).
// A warp multiplies one or two tiles of 16 rows of W (the A operand: fp16 rows are read 16 bytes a lane, columns
// permuted alike in A and B within each 32; block formats arrive in fragment order) by a slice of K for 8 or 16 rows of
// activations (B). The block's warps hold the slices; their sums meet in shared memory and are added upwards. The first
// weights are on their way before the kernel waits for its input.
#include "linear_unit.cuh"

#include <cassert>

namespace quire::cuda {
namespace {

constexpr uint32_t kMaxWarps = 16;

template <uint32_t kFormat, int kTiles, int kGroups> // tiles of 16 rows of W, groups of 8 rows of activations
__global__ void __launch_bounds__(kMaxWarps * 32, 1) linear_small_kernel(uint32_t rows, LinearArgs a) {
  using U = UnitOf<kFormat>;
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, slices = blockDim.x / 32;
  const PartTile<16 * kTiles> place(a, a.glu ? 0 : blockIdx.x);
  // glu: tile blockIdx.x of gate and of up; else kTiles neighbours of one part.
  const auto part_of = [&](int tile) -> const LinearPart& { return a.glu ? a.parts[tile] : a.parts[place.part]; };
  const auto tile_of = [&](int tile) { return a.glu ? blockIdx.x : place.tile * kTiles + tile; };
  const uint32_t cols = a.in.dim;
  const uint32_t units = (cols + U::kColumns - 1) / U::kColumns;
  // Contiguous slices, upwards: the order of linear_tile and linear_blocks, and the memory's pages stay open longer
  // than if warps took turns.
  auto unit = static_cast<uint32_t>(uint64_t{units} * warp / slices);
  const auto end = static_cast<uint32_t>(uint64_t{units} * (warp + 1) / slices);
  // Units on their way to the registers: as many as these hold, so that the memory is never idle.
  constexpr int kAhead = kTiles * kGroups > 1 ? 2 : kFormat == QUIRE_F16 ? 4 : 3;
  U ring[kAhead][kTiles];
  const auto fetch = [&](U(&into)[kTiles], uint32_t which) {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const Weight& w = part_of(i).weight;
      // A part's last pair of tiles may lack the second: it reads the first again, and is not stored.
      const uint32_t tile = tile_of(i);
      into[i].load(w, tile * 16 < w.rows ? tile : 0, which, lane);
    }
  };
#pragma unroll
  for (uint32_t i = 0; i < kAhead; ++i)
    if (unit + i < end) fetch(ring[i], unit + i);
  let_next_kernel_begin();
  wait_for_previous_kernels();

  float sums[kTiles][kGroups][4] = {};
  const __half* x = static_cast<const __half*>(a.in.data);
  for (; unit < end; unit += kAhead) {
#pragma unroll
    for (uint32_t ahead = 0; ahead < kAhead; ++ahead) {
      const uint32_t now = unit + ahead;
      if (now >= end) break;
#pragma unroll
      for (uint32_t block = 0; block < U::kBlocks; ++block) {
        uint32_t b[kGroups][2][2];
#pragma unroll
        for (int i = 0; i < kGroups; ++i) {
          const uint32_t row = 8 * i + g;
          U::activations(x + size_t{row} * a.in.stride, row < rows, now * U::kColumns + 32 * block, cols, t, b[i]);
        }
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
          uint32_t w[2][4];
          ring[ahead][i].fragments(static_cast<int>(block), w);
#pragma unroll
          for (int s = 0; s < 2; ++s)
#pragma unroll
            for (int j = 0; j < kGroups; ++j) matrix_multiply<__half>(sums[i][j], w[s], b[j][s]);
        }
      }
      if (now + kAhead < end) fetch(ring[ahead], now + kAhead);
    }
  }

  // [slice][row of W][row of activations]
  constexpr uint32_t kWidth = 8 * kGroups, kPitch = kWidth + 1;
  float* shared = reinterpret_cast<float*>(dynamic_shared());
#pragma unroll
  for (int i = 0; i < kTiles; ++i)
#pragma unroll
    for (int j = 0; j < kGroups; ++j)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        shared[(warp * 16 * kTiles + 16 * i + g + 8 * (c / 2)) * kPitch + 8 * j + 2 * t + c % 2] = sums[i][j][c];
  __syncthreads();
  const auto total = [&](uint32_t row_of_w, uint32_t row) {
    float sum = shared[row_of_w * kPitch + row];
    for (uint32_t s = 1; s < slices; ++s) sum += shared[(s * 16 * kTiles + row_of_w) * kPitch + row];
    return sum;
  };
  const uint32_t rows_of_w = a.glu ? 16 : 16 * kTiles;
  for (uint32_t i = threadIdx.x; i < rows_of_w * rows; i += blockDim.x) {
    const uint32_t in_tile = i % rows_of_w, row = i / rows_of_w;
    if (a.glu) {
      const uint32_t n = blockIdx.x * 16 + in_tile;
      if (n >= a.parts[0].weight.rows) continue;
      const float gate = finish(a, a.parts[0], n, total(in_tile, row)),
                  up = finish(a, a.parts[1], n, total(16 + in_tile, row));
      put(a, row, n, gated(a.glu_activation, gate, up));
    } else {
      const LinearPart& part = a.parts[place.part];
      const uint32_t n = place.tile * 16 * kTiles + in_tile;
      if (n >= part.weight.rows) continue;
      put(a, row, part.first_col + n, finish(a, part, n, total(in_tile, row)));
    }
  }
}

template <uint32_t kFormat, int kTiles, int kGroups> void run(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  const uint32_t blocks = a.glu ? (a.parts[0].weight.rows + 15) / 16 : count_tiles<16 * kTiles>(a);
  const size_t shared = size_t{a.slices} * 16 * kTiles * (8 * kGroups + 1) * 4;
  launch("linear_small", linear_small_kernel<kFormat, kTiles, kGroups>, blocks, a.slices * 32, shared, queue, rows, a);
}

template <uint32_t kFormat> void run(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  // Two tiles a warp: gate and up, or a weight so tall that half the blocks still fill the chip.
  uint64_t all_rows = 0;
  for (uint32_t p = 0; p < a.num_parts; ++p) all_rows += a.parts[p].weight.rows;
  const bool two = a.glu || (kFormat == QUIRE_F16 && all_rows >= 16384);
  if (rows <= 8) return two ? run<kFormat, 2, 1>(queue, rows, a) : run<kFormat, 1, 1>(queue, rows, a);
  assert(!a.glu && "gate and up are fused for up to 8 rows");
  if constexpr (kFormat == QUIRE_F16)
    if (two) return run<kFormat, 2, 2>(queue, rows, a);
  run<kFormat, 1, 2>(queue, rows, a);
}

} // namespace

uint32_t slices_of(uint32_t format, uint64_t rows, uint64_t cols) {
  const uint64_t units = (cols + (format == QUIRE_F16 ? 63 : 127)) / (format == QUIRE_F16 ? 64 : 128);
  const uint64_t tiles = (rows + 15) / 16;
  uint32_t slices = 4;
  while (slices < kMaxWarps && tiles * slices * 32 < 132 * 512) slices *= 2;
  while (slices > 1 && slices > units) slices /= 2;
  return slices;
}

void linear_small(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  if (a.parts[0].weight.format == QUIRE_F16) return run<QUIRE_F16>(queue, rows, a);
  for_block_format("linear_small", a.parts[0].weight.format, [&](auto format) { run<format>(queue, rows, a); });
}

} // namespace quire::cuda
