// linear_chain: see linear_chain.hpp; bound by reading the weights of all phases once.
//
// Shapes: in [rows, K], W [N, K], out [rows, sum N], of each phase; rows up to kChainRows with fp16 weights, one with
// block formats. Bytes: every W once; in (and the norm's inputs) once a block, from the L2. What a block and a warp
// have of W: chain_share.cuh. A warp streams what it has through a ring of its own in shared memory; its copies run
// ahead of its products across tiles and phases, so that the memory works on while blocks wait for the next input and
// normalise it (each block for itself, chain_input.cuh). Sums: a warp's slice of K upwards, then the slices upwards.
//
// Order without barriers: a block makes its part of a phase's output, and writes anything else of that phase, after all
// its warps have read the phase's input; so every block that made some of that input had read the inputs of the phase
// before. Hence the place of an input may be written two phases on.
#include "chain_input.cuh"
#include "linear_chain.hpp"
#ifndef QUIRE_CUDA_EMULATED
#include "tensor_map.cuh"
#endif

#include <algorithm>
#include <cassert>
#include <cstring>
#include <utility>

namespace quire::cuda {
namespace {

[[maybe_unused]] constexpr uint32_t kWarps = kChainWarps, kThreads = kChainThreads;

#ifdef QUIRE_CHAIN_TRACE
__device__ long long* chain_trace; // [block][phase][warp][8]
#define QUIRE_TRACE(at)                                                                                                \
  if (lane == 0 && chain_trace != nullptr)                                                                             \
  chain_trace[((blockIdx.x * kMaxPhases + p) * kWarps + warp) * 8 + (at)] = clock64()
#else
#define QUIRE_TRACE(at)
#endif

// The finished sums of `count` tiles from `tile` on, of the slices upwards. to: where what is handed over goes; null
// for the chain's last output.
template <class R>
__device__ __forceinline__ void finish_round(const LinearArgs& a, const Share<R>& share, uint32_t tile, uint32_t count,
                                             uint32_t rows, __half* to, const float* partial) {
  const uint32_t pitch = sums_pitch(rows), of_slice = 16 * pitch, of_slot = share.slices * of_slice + 16;
  const uint32_t width = a.glu && R::kPlain ? 8 : 16, lane = threadIdx.x % 32, outputs = count * width * rows;
  for (uint32_t i = threadIdx.x; i - lane < outputs; i += kThreads) { // whole warps
    const uint32_t in_tile = i % width, of_tile = width == 8 ? i / 8 : i / 16;
    const uint32_t row = rows == 1 ? 0 : of_tile % rows, at = rows == 1 ? of_tile : of_tile / rows;
    const auto total = [&](uint32_t slot, uint32_t row_of_w) {
      const float* from = partial + slot * of_slot + row_of_w * pitch + row;
      float of[kWarps], sum = 0;
#pragma unroll
      for (uint32_t s = 0; s < kWarps; ++s) of[s] = s < share.slices ? from[s * of_slice] : 0.f;
#pragma unroll
      for (uint32_t s = 0; s < kWarps; ++s) sum += of[s];
      return sum;
    };
    const bool inside = i < outputs;
    const uint32_t item = share.item(a, tile + at) + (R::kPlain && !a.glu ? in_tile / 8 : 0);
    uint32_t part_index = 0, n = item * width + in_tile;
    if (!a.glu) {
      const PartTile<(R::kPlain ? 8 : 16)> place(a, inside && item < share.last ? item : 0);
      part_index = place.part, n = R::kPlain ? place.tile * 8 + in_tile % 8 : place.tile * 16 + in_tile;
    }
    const LinearPart& part = a.parts[part_index];
    const bool valid = inside && item < share.last && n < part.weight.rows;
    float value = 0;
    if (valid) {
      const uint32_t slot = R::kPlain || !a.glu ? at : 2 * at;
      value = finish(a, part, n, total(slot, in_tile));
      if (a.glu)
        value =
            gated(a, value, finish(a, a.parts[1], n, R::kPlain ? total(slot, 8 + in_tile) : total(slot + 1, in_tile)));
    }
    const uint32_t col = part.first_col + n;
    if (to != nullptr) {
      const float next = __shfl_xor_sync(kAllLanes, value, 1);
      if (valid && lane % 2 == 0) hand_over(to + size_t{row} * a.out.stride + col, pack_half2(value, next));
    } else if (valid) {
      put(a, row, col, value);
    }
  }
}

template <uint32_t kFirst, uint32_t kSecond>
__global__ void __launch_bounds__(kThreads, 1)
    linear_chain_kernel(uint32_t rows, uint32_t first_phase, uint32_t last_phase, uint32_t x_bytes, uint32_t kept_at,
                        const __grid_constant__ ChainArgs a) {
#if QUIRE_SM == 0 || QUIRE_SM == 800 || QUIRE_SM == 870 ||                                                             \
    (QUIRE_SM >= 900 && QUIRE_SM < 1200) // elsewhere kLeastChainShared is not there
  using R = Ring<kFirst, kSecond>;
  // Tensor maps swizzle by the address: 1024 bytes are their period.
  unsigned char* shared = dynamic_shared();
  shared += (1024 - reinterpret_cast<uintptr_t>(shared) % 1024) % 1024;
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  unsigned char* ring = shared + warp * (R::kStages * R::kStageBytes);
  auto* partial = reinterpret_cast<float*>(shared + R::kBytes); // [kSumsFloats]
  unsigned char* x = shared + R::kBytes + kSumsFloats * 4;
  auto* sums32 = reinterpret_cast<float*>(x + x_bytes);
  float* kept = sums32 + kept_at;
#ifdef QUIRE_CUDA_EMULATED
  // A launch a phase: what a block keeps must outlive it.
  static thread_local float memory[8][kChainRows * kChainNormDim];
  assert(gridDim.x <= 8);
  kept = memory[blockIdx.x];
#endif
  __shared__ float scratch[2 * kWarps];
  __shared__ uint64_t barriers[kWarps][R::kStages];
  uint64_t* full = barriers[warp];

  // Parameters are slow to come to where they are used seldom.
  alignas(16) __shared__ unsigned char phase_bytes[sizeof a.phases];
  static_assert(sizeof a.phases % 4 == 0);
  for (uint32_t i = threadIdx.x; i < sizeof a.phases / 4; i += kThreads)
    reinterpret_cast<uint32_t*>(phase_bytes)[i] = reinterpret_cast<const uint32_t*>(a.phases)[i];
  const auto* phases = reinterpret_cast<const ChainPhase*>(phase_bytes);
  __syncthreads();

  Cursor<kFirst, kSecond> ahead;
  ahead.start(phases, rows, first_phase, last_phase);
  const auto issue = [&](uint32_t slot) {
    if (!ahead.done()) {
      ahead.issue(a, phases, ring + slot * R::kStageBytes, full + slot, lane);
      ahead.next(phases, rows);
    }
#ifndef QUIRE_CHAIN_BULK
    copy_async_commit();
#endif
  };
#ifdef QUIRE_CHAIN_BULK
  if (lane == 0) {
    for (uint32_t slot = 0; slot < R::kStages; ++slot) hopper::barrier_init(full + slot, R::kArrivals);
    hopper::fence_async_proxy();
  }
  __syncwarp();
#endif
  for (uint32_t slot = 0; slot < R::kStages; ++slot) issue(slot);
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint32_t launch = __ldcg(a.launches + blockIdx.x), handed = launch % 2 * a.handed_bytes;

  uint32_t slot = 0, parity = 0;
  for (uint32_t p = first_phase; p < last_phase; ++p) {
    const ChainPhase& phase = phases[p];
    const LinearArgs& linear = phase.linear;
    const uint32_t cols = linear.parts[0].weight.cols, pitch = x_pitch(cols);
    const Share<R> share(linear);
    if (share.first == share.last) continue; // where a sum is kept every block has a tile, block 0 always
    QUIRE_TRACE(0);
    fill_x<R>(phase, share, p != 0, handed, rows, x, sums32, kept, scratch);
    QUIRE_TRACE(1);
    const uint32_t subs = linear.glu ? R::kSubs : 1, per_round = tiles_of_round<R>(linear, rows);
    const uint32_t sums = sums_pitch(rows), of_slice = 16 * sums, of_slot = share.slices * of_slice + 16;
    for (uint32_t round = 0; round < share.tiles; round += per_round) {
      const uint32_t count = min(per_round, share.tiles - round);
      for (uint32_t sub = share.begin < share.end ? 0 : subs; sub < subs; ++sub)
        for (uint32_t tile = share.group; tile < count; tile += share.groups) {
          float c[4] = {};
          [[maybe_unused]] uint32_t format = 0;
          if constexpr (kFirst != kSecond) {
            const PartTile<16> at(linear, linear.glu ? 0 : share.first + round + tile);
            format = linear.parts[linear.glu ? sub : at.part].weight.format;
          }
          for (uint32_t unit = share.begin; unit < share.end; unit += R::kSpan) {
#ifdef QUIRE_CHAIN_BULK
            hopper::barrier_wait(full + slot, parity);
#else
            copy_async_wait<R::kStages - 1>();
            __syncwarp();
#endif
            const unsigned char* from = ring + slot * R::kStageBytes;
            const uint32_t units = min(share.end - unit, R::kSpan);
            if constexpr (R::kPlain)
              PlainStream::consume(from, x, pitch, rows, unit, units, lane, c);
            else if (kFirst == kSecond || format == kFirst)
              BlockStream<kFirst>::consume(from, x, sums32, sums32 + x_sums_of_32(cols), unit, units, lane, c);
            else
              BlockStream<kSecond>::consume(from, x, sums32, sums32 + x_sums_of_32(cols), unit, units, lane, c);
            __syncwarp(); // before the stage is written again
            issue(slot);
            if (++slot == R::kStages) slot = 0, parity ^= 1;
          }
          float* to = partial + (tile * subs + sub) * of_slot + share.slice * of_slice;
          const uint32_t g = lane / 4, t = lane % 4;
          if constexpr (R::kPlain) {
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
              const uint32_t row = 2 * t + i % 2;
              if (row < rows) to[(PlainStream::row_of(g) + 8 * (i / 2)) * sums + row] = c[i];
            }
          } else {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
              float sum = c[h];
              sum += __shfl_xor_sync(kAllLanes, sum, 1);
              sum += __shfl_xor_sync(kAllLanes, sum, 2);
              if (t == 0) to[g + 8 * h] = sum;
            }
          }
        }
      if (share.begin == share.end && share.group < share.groups) { // a slice of nothing
        for (uint32_t tile = share.group; tile < count; tile += share.groups)
          for (uint32_t i = lane; i < subs * of_slice; i += 32)
            partial[(tile * subs + i / of_slice) * of_slot + share.slice * of_slice + i % of_slice] = 0;
      }
      QUIRE_TRACE(2);
      __syncthreads();
      QUIRE_TRACE(3);
      finish_round<R>(
          linear, share, round, count, rows,
          p + 1 < a.num_phases ? reinterpret_cast<__half*>(static_cast<std::byte*>(linear.out.data) + handed) : nullptr,
          partial);
      __syncthreads(); // before the sums' places are written again
    }
    QUIRE_TRACE(4);
    if (blockIdx.x == 0) {
      if (phase.norm.sum.data != nullptr) write_kept<R>(phase.norm.sum, share, rows, cols, kept);
      if (phase.copy_to.data != nullptr)
        for (uint32_t i = threadIdx.x; i < rows * phase.copy_to.dim; i += kThreads) {
          const uint32_t dim = phase.copy_to.dim;
          static_cast<float*>(phase.copy_to.data)[size_t{i / dim} * phase.copy_to.stride + i % dim] = kept[i];
        }
    }
  }
#ifndef QUIRE_CHAIN_BULK
  copy_async_wait<0>();
#endif
  __syncthreads(); // before the count is changed that all have read
  if (last_phase != a.num_phases) return;
  if (threadIdx.x == 0) a.launches[blockIdx.x] = launch + 1;
  // The set of the next launch.
  for (uint32_t at = (blockIdx.x * kThreads + threadIdx.x) * 16; at < a.handed_bytes; at += gridDim.x * kThreads * 16)
    *reinterpret_cast<uint4*>(a.handed + (a.handed_bytes - handed) + at) = make_uint4(kEmpty, kEmpty, kEmpty, kEmpty);
#endif
}

uint32_t most_cols(const ChainArgs& a) {
  uint32_t cols = 0;
  for (uint32_t p = 0; p < a.num_phases; ++p) cols = std::max(cols, a.phases[p].linear.parts[0].weight.cols);
  return cols;
}
uint32_t x_bytes_of(uint32_t rows, const ChainArgs& a) { return rows * x_pitch(most_cols(a)); }

// Floats of the sum that a phase keeps, a row.
uint32_t kept_dim(const ChainArgs& a) {
  uint32_t dim = 0;
  for (uint32_t p = 0; p < a.num_phases; ++p)
    if (a.phases[p].keeps_sum || a.phases[p].norm.sum.data != nullptr)
      dim = std::max(dim, a.phases[p].linear.parts[0].weight.cols);
  return dim;
}

template <class R> uint32_t kept_at(uint32_t cols) { return R::kPlain ? 0 : x_sums(cols); }

template <uint32_t kFirst, uint32_t kSecond> uint64_t shared_bytes_of(uint32_t rows, const ChainArgs& a) {
  using R = Ring<kFirst, kSecond>;
  const uint32_t cols = most_cols(a);
  return 1024 + uint64_t{R::kBytes} + 4 * kSumsFloats + x_bytes_of(rows, a) + 4 * kept_at<R>(cols) +
         4 * rows * kept_dim(a);
}

template <uint32_t kFirst, uint32_t kSecond>
void run(const Queue& queue, uint32_t blocks, uint32_t rows, const ChainArgs& a) {
  const size_t shared = shared_bytes_of<kFirst, kSecond>(rows, a);
  const uint32_t kept = kept_at<Ring<kFirst, kSecond>>(most_cols(a));
#ifdef QUIRE_CUDA_EMULATED
  for (uint32_t p = 0; p < a.num_phases; ++p)
    launch("linear_chain", linear_chain_kernel<kFirst, kSecond>, blocks, kThreads, shared, queue, rows, p, p + 1,
           x_bytes_of(rows, a), kept, a);
#else
  launch("linear_chain", linear_chain_kernel<kFirst, kSecond>, blocks, kThreads, shared, queue, rows, 0, a.num_phases,
         x_bytes_of(rows, a), kept, a);
#endif
}

// Calls with<first, second>() for the formats of a chain; false where no kernel holds them.
template <class With> bool dispatch(uint32_t first, uint32_t second, const With& with) {
  const auto pair = [&](auto a, auto b) { return with(a, b); };
  const auto same = [&](auto a) { return with(a, a); };
#define QUIRE_FORMAT(name)                                                                                             \
  std::integral_constant<uint32_t, name> {}
  if (second == 0) second = first;
  if (first == QUIRE_Q6_K && second != first) std::swap(first, second);
  if (second == QUIRE_Q6_K && first == QUIRE_Q4_K)
    return pair(QUIRE_FORMAT(QUIRE_Q4_K), QUIRE_FORMAT(QUIRE_Q6_K)), true;
  if (second == QUIRE_Q6_K && first == QUIRE_Q5_K)
    return pair(QUIRE_FORMAT(QUIRE_Q5_K), QUIRE_FORMAT(QUIRE_Q6_K)), true;
  if (first != second) return false;
  switch (first) {
  case QUIRE_F16:
    return same(QUIRE_FORMAT(QUIRE_F16)), true;
  case QUIRE_Q4_0:
    return same(QUIRE_FORMAT(QUIRE_Q4_0)), true;
  case QUIRE_Q4_1:
    return same(QUIRE_FORMAT(QUIRE_Q4_1)), true;
  case QUIRE_Q5_0:
    return same(QUIRE_FORMAT(QUIRE_Q5_0)), true;
  case QUIRE_Q5_1:
    return same(QUIRE_FORMAT(QUIRE_Q5_1)), true;
  case QUIRE_Q8_0:
    return same(QUIRE_FORMAT(QUIRE_Q8_0)), true;
  case QUIRE_Q2_K:
    return same(QUIRE_FORMAT(QUIRE_Q2_K)), true;
  case QUIRE_Q3_K:
    return same(QUIRE_FORMAT(QUIRE_Q3_K)), true;
  case QUIRE_Q4_K:
    return same(QUIRE_FORMAT(QUIRE_Q4_K)), true;
  case QUIRE_Q5_K:
    return same(QUIRE_FORMAT(QUIRE_Q5_K)), true;
  case QUIRE_Q6_K:
    return same(QUIRE_FORMAT(QUIRE_Q6_K)), true;
  default:
    return false;
  }
#undef QUIRE_FORMAT
}

// The formats of all parts of all phases, at most two.
bool formats_of(const ChainArgs& a, uint32_t& first, uint32_t& second) {
  first = second = 0;
  for (uint32_t p = 0; p < a.num_phases; ++p)
    for (uint32_t i = 0; i < a.phases[p].linear.num_parts; ++i)
      if (!chain_holds(a.phases[p].linear.parts[i].weight.format, first, second)) return false;
  return true;
}

} // namespace

uint32_t chain_items(const LinearArgs& a) {
  return a.parts[0].weight.format == QUIRE_F16 ? items_of<true>(a) : items_of<false>(a);
}

bool chain_holds(uint32_t format, uint32_t& first, uint32_t& second) {
  uint32_t a = first, b = second;
  if (a == 0 || a == format)
    a = format;
  else if (b == 0 || b == format)
    b = format;
  else
    return false;
  if (!dispatch(a, b, [](auto, auto) {})) return false;
  first = a, second = b;
  return true;
}

uint32_t chain_rows(const ChainArgs& a, uint64_t shared_bytes) {
  uint32_t first = 0, second = 0, rows = 0;
  if (!formats_of(a, first, second)) return 0;
  dispatch(first, second, [&](auto f, auto s) {
    rows = Ring<f, s>::kWidth;
    while (rows > 0 && shared_bytes_of<f, s>(rows, a) + 1024 > shared_bytes) --rows;
  });
  return rows;
}

#ifdef QUIRE_CUDA_EMULATED
void map_chain(ChainArgs&) {}
#else
void map_chain(ChainArgs& a) {
  for (uint32_t p = 0; p < a.num_phases; ++p)
    for (uint32_t i = 0; i < a.phases[p].linear.num_parts; ++i) {
      const Weight& w = a.phases[p].linear.parts[i].weight;
      if (w.format != QUIRE_F16) continue;
      assert(w.cols % PlainStream::kColumns == 0);
      const cuuint64_t dims[3] = {PlainStream::kColumns, w.rows, w.cols / PlainStream::kColumns};
      const cuuint64_t strides[2] = {uint64_t{w.stride} * 2, PlainStream::kColumns * 2};
      const cuuint32_t box[3] = {PlainStream::kColumns, 8, 2};
      const CUtensorMap map =
          tensor_map<3>(CU_TENSOR_MAP_DATA_TYPE_FLOAT16, const_cast<std::byte*>(w.data), dims, strides, box);
      static_assert(sizeof map == sizeof a.maps[p][i]);
      std::memcpy(a.maps[p][i].words, &map, sizeof map);
    }
}
#endif

void linear_chain(const Queue& queue, uint32_t blocks, uint32_t rows, const ChainArgs& a) {
  uint32_t first = 0, second = 0;
  [[maybe_unused]] const bool known = formats_of(a, first, second);
  assert(known && rows <= kChainRows && a.num_phases >= 1 && a.num_phases <= kMaxPhases);
  dispatch(first, second, [&](auto f, auto s) { run<f, s>(queue, blocks, rows, a); });
}

} // namespace quire::cuda
