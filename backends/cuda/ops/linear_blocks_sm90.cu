// linear_blocks_sm90: many rows of activations, weights in block formats, for Hopper (compute capability 9.0a): out^T =
// W in^T by the tensor cores' asynchronous products (wgmma), W being the left operand, dequantised in registers, and in
// the right one, in shared memory.
//
// Shapes: in [rows, K] fp16, W [N, K], out [rows, sum N]. Bytes: W once a tile of kTokens rows, in once a 128 rows of
// W, both mostly from the L2. Order of summation: K upwards by 16 columns (and as the tensor cores add these); where K
// is split, the pieces are added upwards.
//
// One block stays on each multiprocessor and takes tile after tile. A thread of its first warpgroup brings in through
// stages of shared memory, 64 columns at a time, by tensor map. Two warpgroups have 64 rows of W each (a warp 16, which
// are one tile of weight.hpp in fragment order) by kTokens rows of in. A unit's words of W go from memory into
// registers one or two units of 128 columns ahead, also across tiles; 32 columns (narrow tiles: 64) are dequantised
// while those before them are multiplied, which hides all of it behind the products of 256 rows and less behind fewer.
#include "linear.cuh"

#include <cassert>

#ifndef QUIRE_CUDA_EMULATED
#include "hopper.cuh"
#include "tensor_map.cuh"
#endif

namespace quire::cuda {

#ifdef QUIRE_CUDA_EMULATED // has none of these instructions

bool linear_blocks_wide(int) { return false; }
void linear_blocks_sm90(const Queue&, uint32_t, const LinearArgs&) { assert(false); }

#else

namespace {

constexpr uint32_t kBoxColumns = 64;                 // of in, a stage
[[maybe_unused]] constexpr uint32_t kTokenTiles = 8; // that pass over the same rows of W before the next ones do
constexpr uint32_t kStagingPitch = 68;               // floats

constexpr uint32_t kWarpgroups = 2; // that multiply
constexpr uint32_t kThreads = 128 * (kWarpgroups + 1);
[[maybe_unused]] constexpr int kRegisters = 240; // a thread of theirs

template <uint32_t kTokens> struct Shared {
  static constexpr uint32_t kStages = kTokens == 256 ? 6 : kTokens == 128 ? 10 : 16;
  alignas(1024) __half in[kStages][kTokens][kBoxColumns];      // swizzled
  alignas(128) float staging[kWarpgroups][32 * kStagingPitch]; // or [64 tokens][64 outputs] fp16, swizzled
  alignas(8) uint64_t full[kStages], empty[kStages];
};

// What there is to do: tiles of W by tiles of in by pieces of K, an item each.
struct Grid {
  uint32_t row_tiles, token_tiles, splits;
};

template <uint32_t kTokens> struct Work {
  uint32_t part, first_tile;               // of the warpgroup: 16 rows each
  uint32_t first_token, split, begin, end; // units of K

  __device__ __forceinline__ Work(const LinearArgs& a, const Grid& grid, uint32_t item, uint32_t warpgroup) {
    const uint32_t all = grid.row_tiles * grid.token_tiles;
    split = item / all, item %= all;
    const uint32_t first = item / (grid.row_tiles * kTokenTiles) * kTokenTiles;
    item -= grid.row_tiles * first;
    const uint32_t width = min(kTokenTiles, grid.token_tiles - first);
    first_token = (first + item % width) * kTokens;
    const PartTile<64 * kWarpgroups> place(a, item / width);
    part = place.part, first_tile = (place.tile * kWarpgroups + warpgroup) * (64 / kTileRows);
    const uint32_t units = (a.in.dim + kUnitColumns - 1) / kUnitColumns;
    begin = static_cast<uint32_t>(uint64_t{units} * split / grid.splits);
    end = static_cast<uint32_t>(uint64_t{units} * (split + 1) / grid.splits);
  }
};

// sums: of a warpgroup, [64 rows of W from first_n, kTokens], each thread rows g, g + 8 of its warp's 16. Only fp16
// outputs that nothing but a bias and a scale is applied to leave in wide pieces.
template <uint32_t kTokens>
__device__ __forceinline__ void hand_over_wide(const LinearArgs& a, const LinearPart& part, uint32_t first_n,
                                               uint32_t first_token, uint32_t rows, uint32_t split, uint32_t splits,
                                               float* staging, int barrier, const float (&sums)[kTokens / 2]) {
  using namespace hopper;
  const uint32_t thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32, g = lane / 4, t = lane % 4;
  const uint32_t outputs = part.weight.rows;
  const bool packed = splits == 1 && a.out.type == Type::f16 && !a.residual && a.activation == QUIRE_ACT_NONE &&
                      a.softcap == 0.f && (a.out.stride | part.first_col) % 8 == 0 &&
                      reinterpret_cast<uintptr_t>(a.out.data) % 16 == 0;
  if (packed) {
    auto* const tile = reinterpret_cast<unsigned char*>(staging); // [64 tokens][128 bytes], pieces of 16 swizzled
    float bias[2] = {};
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
      const uint32_t n = first_n + warp * 16 + g + 8 * h;
      if (part.bias != nullptr && n < outputs) bias[h] = part.bias[n];
    }
    auto* const out = static_cast<__half*>(a.out.data) + part.first_col;
#pragma unroll
    for (uint32_t chunk = 0; chunk < kTokens / 64; ++chunk) {
      if (first_token + chunk * 64 >= rows) break;
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) { // 16 tokens
        uint32_t r[4];
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) {
          const uint32_t at = chunk * 32 + j * 8 + 2 * i;
          r[i] = pack_half2((sums[at] + bias[i % 2]) * a.scale, (sums[at + 1] + bias[i % 2]) * a.scale);
        }
        const uint32_t token = 16 * j + lane / 16 * 8 + lane % 8, piece = 2 * warp + lane / 8 % 2;
        store_matrix_transposed(tile + token * 128 + (piece ^ token % 8) * 16, r);
      }
      named_wait_of<128>(barrier);
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t token = 16 * i + thread / 8, piece = thread % 8;
        const uint32_t row = first_token + chunk * 64 + token, n = first_n + piece * 8;
        if (row >= rows || n >= outputs) continue;
        const unsigned char* const from = tile + token * 128 + (piece ^ token % 8) * 16;
        __half* const to = out + size_t{row} * a.out.stride + n;
        if (n + 8 <= outputs)
          *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(from);
        else
          for (uint32_t k = 0; k < outputs - n; ++k) to[k] = reinterpret_cast<const __half*>(from)[k];
      }
      named_wait_of<128>(barrier);
    }
    return;
  }
  if (splits > 1) {
    const uint32_t n = first_n + warp * 16 + g;
    float* const to = a.workspace + size_t{split} * rows * a.out.dim + part.first_col + n;
#pragma unroll
    for (uint32_t i = 0; i < kTokens / 2; ++i) {
      const uint32_t row = first_token + i / 4 * 8 + 2 * t + i % 2, below = i / 2 % 2 * 8;
      if (row < rows && n + below < outputs) to[size_t{row} * a.out.dim + below] = sums[i];
    }
    return;
  }
#pragma unroll 1
  for (uint32_t chunk = 0; chunk < kTokens / 32; ++chunk) {
    if (first_token + chunk * 32 >= rows) break;
#pragma unroll
    for (uint32_t which = 0; which < kTokens / 32; ++which)
      if (chunk == which) {
#pragma unroll
        for (uint32_t i = 0; i < 16; ++i)
          staging[(i / 4 * 8 + 2 * t + i % 2) * kStagingPitch + warp * 16 + g + i / 2 % 2 * 8] = sums[which * 16 + i];
      }
    named_wait_of<128>(barrier);
    const uint32_t n = first_n + thread % 64;
    if (n < outputs) {
#pragma unroll 1
      for (uint32_t token = thread / 64; token < 32; token += 2) {
        const uint32_t row = first_token + chunk * 32 + token;
        if (row >= rows) break;
        const float sum = staging[token * kStagingPitch + thread % 64];
        put(a, row, part.first_col + n, finish(a, part, n, sum));
      }
    }
    named_wait_of<128>(barrier);
  }
}

template <uint32_t kFormat, uint32_t kTokens>
__global__ void __launch_bounds__(kThreads, 1)
    linear_blocks_sm90_kernel(const __grid_constant__ CUtensorMap in_map, uint32_t rows, Grid grid,
                              const __grid_constant__ LinearArgs a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using namespace hopper;
  using Item = Work<kTokens>;
  using Stages = Shared<kTokens>;
  constexpr uint32_t kStages = Stages::kStages;
  constexpr uint32_t kUnits = kTokens == 256 ? 2 : 3; // of W in registers
  constexpr uint32_t kBlocks = kTokens == 64 ? 2 : 1; // of 32 columns, issued and dequantised at a time
  static_assert(kStages % 2 == 0 && 2 % kBlocks == 0);
  auto& shared = *reinterpret_cast<Stages*>((reinterpret_cast<uintptr_t>(dynamic_shared()) + 1023) & ~uintptr_t{1023});
  let_next_kernel_begin();
  const uint32_t items = grid.row_tiles * grid.token_tiles * grid.splits;
  if (threadIdx.x == 0) {
    for (uint32_t s = 0; s < kStages; ++s) {
      barrier_init(&shared.full[s], 1);
      barrier_init(&shared.empty[s], kWarpgroups);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();

  if (threadIdx.x < 128) {
    fewer_registers<24>();
    if (threadIdx.x > 0) return;
    wait_for_previous_kernels();
    uint32_t stage = 0, parity = 1; // of the first pass: the stages are empty
    for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
      const Item work(a, grid, item, 0);
      for (uint32_t box = work.begin * 2; box < work.end * 2; ++box) {
        barrier_wait(&shared.empty[stage], parity);
        barrier_expect(&shared.full[stage], sizeof shared.in[stage]);
        copy_2d(shared.in[stage], &in_map, &shared.full[stage], static_cast<int>(box * kBoxColumns),
                static_cast<int>(work.first_token));
        if (++stage == kStages) stage = 0, parity ^= 1;
      }
    }
    return;
  }

  more_registers<kRegisters>();
  const uint32_t warpgroup = threadIdx.x / 128 - 1, warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
  // Where in the sequence of this block's units the next one is that is brought into registers.
  uint32_t ahead_item = blockIdx.x;
  Item ahead(a, grid, ahead_item, warpgroup);
  const auto bring = [&](Unit<kFormat>& into) {
    if (ahead_item >= items) return;
    const Weight& w = a.parts[ahead.part].weight;
    const uint32_t tile = ahead.first_tile + warp;
    into.load(w, tile < w.tiles ? tile : 0, ahead.begin, lane);
    if (++ahead.begin == ahead.end && (ahead_item += gridDim.x) < items) ahead = Item(a, grid, ahead_item, warpgroup);
  };
  const auto release = [&](uint32_t stage) {
    if (threadIdx.x % 128 == 0) barrier_arrive(&shared.empty[stage]);
  };
  Unit<kFormat> units[kUnits] = {}; // the one being multiplied, and those behind it
#pragma unroll
  for (uint32_t u = 0; u + 1 < kUnits; ++u) bring(units[u]);
  wait_for_previous_kernels();
  uint32_t f[2][kBlocks][2][4]; // [this group, the next][block][step of 16 columns]
#pragma unroll
  for (uint32_t b = 0; b < kBlocks; ++b) units[0].fragments(b, f[0][b]);

  uint32_t stage = 0, parity = 0;
  for (uint32_t item = blockIdx.x; item < items; item += gridDim.x) {
    const Item work(a, grid, item, warpgroup);
    float sums[kTokens / 2];
#pragma unroll
    for (uint32_t i = 0; i < kTokens / 2; ++i) sums[i] = 0;
    for (uint32_t unit = work.begin; unit < work.end; ++unit) {
      bring(units[kUnits - 1]);
#pragma unroll
      for (uint32_t block = 0; block < 4; block += kBlocks) {
        const uint32_t group = block / kBlocks % 2;
        if (block % 2 == 0) barrier_wait(&shared.full[stage + block / 2], parity);
        const uint32_t from = shared_address(shared.in[stage + block / 2]) + block % 2 * 64;
        wgmma_fence();
#pragma unroll
        for (uint32_t b = 0; b < kBlocks; ++b)
#pragma unroll
          for (uint32_t s = 0; s < 2; ++s)
            wgmma_rows(sums, f[group][b][s], descriptor(from + b * 64 + s * 32, 16, 1024));
        wgmma_commit();
        wgmma_wait<1>(); // for what was issued before this
        if (block == 0 && unit != work.begin) release((stage == 0 ? kStages : stage) - 1);
        if (block == 2) release(stage);
        if (block + kBlocks == 4)
#pragma unroll
          for (uint32_t u = 0; u + 1 < kUnits; ++u) units[u] = units[u + 1];
#pragma unroll
        for (uint32_t b = 0; b < kBlocks; ++b) units[0].fragments((block + kBlocks) % 4 + b, f[1 - group][b]);
      }
      stage += 2;
      if (stage == kStages) stage = 0, parity ^= 1;
    }
    wgmma_wait<0>();
    release((stage == 0 ? kStages : stage) - 1);
    hand_over_wide<kTokens>(a, a.parts[work.part], work.first_tile * kTileRows, work.first_token, rows, work.split,
                            grid.splits, shared.staging[warpgroup], 1 + static_cast<int>(warpgroup), sums);
  }
#endif
}

// How wide the tiles are and in how many pieces K is: what a multiprocessor is expected to need the fewest cycles for.
// The constants are what was measured on an H200 (Q4_K).
struct Plan {
  uint32_t tokens = 0, splits = 1;
  double cycles = 0;
};
Plan plan_for(uint32_t tokens, uint32_t rows, const LinearArgs& a) {
  const uint32_t tiles = count_tiles<128>(a) * ((rows + tokens - 1) / tokens), units = (a.in.dim + 127) / 128;
  const double unit_cycles = tokens == 256 ? 2400 : tokens == 128 ? 1800 : 1700, tile_cycles = 1500 + 12. * tokens;
  const uint64_t sum_bytes = uint64_t{rows} * a.out.dim * 4;
  Plan best{tokens, 1, 0};
  for (uint32_t splits = 1; splits == 1 || (splits <= units / 4 && splits * sum_bytes <= a.workspace_bytes); ++splits) {
    const uint32_t rounds = (tiles * splits + a.wide_blocks - 1) / a.wide_blocks;
    double cycles = rounds * ((units + splits - 1) / splits * unit_cycles + tile_cycles);
    if (splits > 1) cycles += rounds * 25. * tokens + 6000 + static_cast<double>(splits * sum_bytes) / 1500;
    if (splits == 1 || cycles < best.cycles) best = {tokens, splits, cycles};
  }
  return best;
}

template <uint32_t kFormat, uint32_t kTokens>
void run(const Queue& queue, uint32_t rows, const LinearArgs& a, uint32_t splits) {
  const cuuint64_t cols = a.in.dim;
  const CUtensorMap map = tensor_map<2>(CU_TENSOR_MAP_DATA_TYPE_FLOAT16, a.in.data, {cols, rows},
                                        {cuuint64_t{a.in.stride} * 2}, {kBoxColumns, kTokens});
  const Grid grid{count_tiles<64 * kWarpgroups>(a), (rows + kTokens - 1) / kTokens, splits};
  const uint32_t items = grid.row_tiles * grid.token_tiles * splits;
  launch("linear_blocks_sm90", linear_blocks_sm90_kernel<kFormat, kTokens>,
         dim3(items < a.wide_blocks ? items : a.wide_blocks), kThreads, sizeof(Shared<kTokens>) + 1024, queue, map,
         rows, grid, a);
  if (splits > 1) linear_reduce(queue, rows, splits, a);
}

template <uint32_t kFormat> void run(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  Plan best = plan_for(256, rows, a);
  for (const uint32_t tokens : {128u, 64u})
    if (const Plan plan = plan_for(tokens, rows, a); plan.cycles < best.cycles) best = plan;
  if (best.tokens == 64) return run<kFormat, 64>(queue, rows, a, best.splits);
  if (best.tokens == 128) return run<kFormat, 128>(queue, rows, a, best.splits);
  run<kFormat, 256>(queue, rows, a, best.splits);
}

} // namespace

bool linear_blocks_wide([[maybe_unused]] int compute_capability) {
#ifdef QUIRE_CUDA_90A
  return compute_capability == 90;
#else
  return false;
#endif
}

void linear_blocks_sm90(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  for_block_format("linear_blocks_sm90", a.parts[0].weight.format, [&](auto format) { run<format>(queue, rows, a); });
}

#endif

} // namespace quire::cuda
