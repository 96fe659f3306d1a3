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
#include "chain_clock.cuh"
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

// Nobody waits for it before it is used; of what the compiler loads for all lanes at once it makes uniform registers,
// and would wait at once.
[[maybe_unused]] __device__ __forceinline__ ChainRecord read_record(const ChainRecord* at) {
#ifdef QUIRE_CUDA_EMULATED
  return *at;
#else
  ChainRecord record;
  asm volatile("ld.global.cg.v2.u32 {%0, %1}, [%2];" : "=r"(record.launches), "=r"(record.handed_bytes) : "l"(at));
  return record;
#endif
}

// Once all warps have left their sums, the finished sums of `count` tiles from `tile` on, of the slices upwards. to:
// where what is handed over goes; null for the chain's last output.
template <class R>
__device__ __forceinline__ void finish_round(const ChainPhase& phase, const Share<R>& share, uint32_t tile,
                                             uint32_t count, uint32_t rows, __half* to, const float* partial) {
  const LinearArgs& a = phase.linear;
  const uint32_t pitch = sums_pitch(rows), of_slice = 16 * pitch, of_slot = share.slices * of_slice + 16;
  const uint32_t width = a.glu && R::kPlain ? 8 : 16, lane = threadIdx.x % 32, outputs = count * width * rows;
  struct Output {
    bool valid;
    uint32_t row, slot, in_tile; // of the sums
    uint32_t part, n, col;
    size_t place; // among what is handed over
    float bias, bias_of_up;
  };
  const auto output_of = [&](uint32_t i) {
    Output o;
    o.in_tile = i % width;
    const uint32_t of_tile = width == 8 ? i / 8 : i / 16, at = rows == 1 ? of_tile : of_tile / rows;
    o.row = rows == 1 ? 0 : of_tile % rows;
    o.slot = R::kPlain || !a.glu ? at : 2 * at;
    const uint32_t item = share.item(a, tile + at) + (R::kPlain && !a.glu ? o.in_tile / 8 : 0);
    const bool inside = i < outputs && item < share.last;
    o.part = 0, o.n = item * width + o.in_tile;
    if (!a.glu) {
      const PartItem place(phase, inside ? item : 0);
      o.part = place.part, o.n = R::kPlain ? place.item * 8 + o.in_tile % 8 : place.item * 16 + o.in_tile;
    }
    o.valid = inside && o.n < a.parts[o.part].weight.rows;
    o.col = a.parts[o.part].first_col + o.n;
    o.place = size_t{o.row} * phase.out_width + o.col;
    o.bias = o.valid ? bias_of(a.parts[o.part], o.n) : 0;
    o.bias_of_up = o.valid && a.glu ? bias_of(a.parts[1], o.n) : 0;
    return o;
  };
  // All that can be known before the last warp is done.
  Output o = output_of(threadIdx.x);
  const Finish finish_sum(a);
  const bool glu = a.glu;
  const uint32_t glu_activation = a.glu_activation;
  __syncthreads();
  for (uint32_t i = threadIdx.x; i - lane < outputs; i += kThreads) { // whole warps
    if (i != threadIdx.x) o = output_of(i);
    const auto total = [&](uint32_t slot, uint32_t row_of_w) {
      const float* from = partial + slot * of_slot + row_of_w * pitch + o.row;
      float of[kWarps], sum = 0;
#pragma unroll
      for (uint32_t s = 0; s < kWarps; ++s) of[s] = s < share.slices ? from[s * of_slice] : 0.f;
#pragma unroll
      for (uint32_t s = 0; s < kWarps; ++s) sum += of[s];
      return sum;
    };
    float value = 0;
    if (o.valid) {
      value = finish_sum(total(o.slot, o.in_tile), o.bias);
      if (glu) {
        const float up = R::kPlain ? total(o.slot, 8 + o.in_tile) : total(o.slot + 1, o.in_tile);
        value = gated(glu_activation, value, finish_sum(up, o.bias_of_up));
      }
    }
    if (to != nullptr) {
      const float next = __shfl_xor_sync(kAllLanes, value, 1);
      if (o.valid && lane % 2 == 0) hand_over(to + o.place, pack_half2(value, next));
    } else if (o.valid) {
      put(a, o.row, o.col, value);
    }
  }
}

// For a block that has nothing of the phase before: to the L2 the nibbles of some tiles behind those that the warp's
// ring holds. The memory rests then, and this phase will wait for it.
template <uint32_t kFirst, uint32_t kSecond>
__device__ __forceinline__ void bring_near([[maybe_unused]] const ChainPhase& phase, [[maybe_unused]] uint32_t warp) {
#ifdef QUIRE_CHAIN_BULK
  using R = Ring<kFirst, kSecond>;
  if constexpr (block_format(kFirst).q4_bytes != 0) {
    constexpr uint32_t kTiles = 3, kUnitBytes = block_format(kFirst).q4_bytes;
    static_assert(block_format(kSecond).q4_bytes == kUnitBytes);
    const Share<R> share(phase, warp);
    const uint32_t units = share.end - share.begin;
    const bool one_weight = phase.linear.glu || phase.linear.num_parts == 1; // or gate's, to begin with
    if (!one_weight || share.groups != 1 || units == 0 || !hopper::elected()) return;
    const Weight& w = phase.linear.parts[0].weight;
    const uint32_t held = R::kStages / R::stages_of(units);
#pragma unroll 1 // instructions are cold here
    for (uint32_t tile = held; tile < min(held + kTiles, share.tiles); ++tile) {
      const size_t first_unit = size_t{share.first + tile} * w.units + share.begin;
      hopper::prefetch_bulk(w.q4 + first_unit * kUnitBytes, units * kUnitBytes);
    }
  }
#endif
}

template <uint32_t kFirst, uint32_t kSecond>
__global__ void __launch_bounds__(kThreads, 1)
    linear_chain_kernel(uint32_t num_rows, uint32_t first_phase, uint32_t last_phase, uint32_t x_bytes,
                        uint32_t kept_at, const __grid_constant__ ChainArgs a) {
#if QUIRE_SM == 0 || QUIRE_SM == 800 || QUIRE_SM == 870 ||                                                             \
    (QUIRE_SM >= 900 && QUIRE_SM < 1200) // elsewhere kLeastChainShared is not there
  using R = Ring<kFirst, kSecond>;
  const uint32_t rows = R::kPlain ? num_rows : 1; // with block formats the compiler knows it
  ChainClock<kChainTraced> clock;
  unsigned char* shared = dynamic_shared();
  shared += (R::kAlign - reinterpret_cast<uintptr_t>(shared) % R::kAlign) % R::kAlign;
  // The same in all lanes, and known to be: what is made of it needs no registers of the lanes'.
  const uint32_t warp = __shfl_sync(kAllLanes, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
  unsigned char* ring = shared + warp * (R::kStages * R::kStageBytes);
  auto* partial = reinterpret_cast<float*>(shared + R::kBytes); // [kSumsFloats]
  unsigned char* x = shared + R::kBytes + kSumsFloats * 4;
  auto* sums = reinterpret_cast<float*>(x + x_bytes);
  float* kept = sums + kept_at;
#ifdef QUIRE_CUDA_EMULATED
  // A launch a phase: what a block keeps must outlive it.
  static thread_local float memory[8][kChainRows * kChainNormDim];
  assert(gridDim.x <= 8);
  kept = memory[blockIdx.x];
#endif
  __shared__ float scratch[2 * kWarps];
  __shared__ uint64_t barriers[kWarps][R::kStages];
  __shared__ ChainFrame phases;
  uint64_t* const full = formed(barriers[warp]);
  phases.fill(a, [&] {
#ifdef QUIRE_CHAIN_BULK
    if (hopper::elected()) {
      for (uint32_t slot = 0; slot < R::kStages; ++slot) hopper::barrier_init(full + slot, R::kArrivals);
      hopper::fence_async_proxy();
    }
#endif
  });
  __syncthreads();
  clock.framed();

  Cursor<kFirst, kSecond> ahead;
  ahead.start(phases, rows, first_phase, last_phase, warp);
  const auto issue = [&](uint32_t slot) {
    if (!ahead.done()) {
      ahead.issue(a.maps, phases, ring + slot * R::kStageBytes, full + slot, lane);
      ahead.next(phases, rows);
    }
#ifndef QUIRE_CHAIN_BULK
    copy_async_commit();
#endif
  };
#pragma unroll(R::kPlain ? R::kStages : 1) // instructions are cold here, and those of blocks many
  for (uint32_t slot = 0; slot < R::kStages; ++slot) issue(slot);
  clock.asked();
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const ChainRecord record = read_record(a.records + blockIdx.x);
  clock.released(a, record.launches, warp);
  const auto handed = [&] { return a.handed + not_kept(record.launches) % 2 * a.set_bytes; };

  uint32_t slot = 0, parity = 0;
  for (uint32_t p = first_phase; p < last_phase; ++p) {
    const ChainPhase& phase = phases[p];
    const Share<R> share(phase, warp);
    const LinearArgs& linear = phase.linear;
    const uint32_t cols = linear.parts[0].weight.cols, pitch = x_pitch(cols);
    if (p + 1 == last_phase && blockIdx.x + 1 == gridDim.x) // a token's weights have displaced them from the L2
      for (uint32_t at = threadIdx.x * 128; at < a.num_next * sizeof(ChainPhase); at += kThreads * 128)
        prefetch_l2(reinterpret_cast<const std::byte*>(a.next) + at);
    if (share.first == share.last) { // where a sum is kept every block has an item, block 0 always
      clock.skipped(p);
      if (p == first_phase && p + 1 < last_phase) bring_near<kFirst, kSecond>(phases[p + 1], warp);
      continue;
    }
    fill_x<R>(phase, share, p == 0 ? nullptr : handed(), rows, x, sums, kept, scratch);
    clock.input(p);
    const uint32_t subs = linear.glu ? R::kSubs : 1, per_round = tiles_of_round<R>(linear, rows);
    [[maybe_unused]] HeldInput held;
    const uint32_t of_row = sums_pitch(rows), of_slice = 16 * of_row, of_slot = share.slices * of_slice + 16;
    for (uint32_t round = 0; round < share.tiles; round += per_round) {
      const uint32_t count = min(per_round, share.tiles - round);
      for (uint32_t sub = share.begin < share.end ? 0 : subs; sub < subs; ++sub)
        for (uint32_t tile = share.group; tile < count; tile += share.groups) {
          float c[4] = {};
          [[maybe_unused]] float others = 0;
          [[maybe_unused]] uint32_t format = 0;
          if constexpr (kFirst != kSecond) {
            const PartItem at(phase, linear.glu ? 0 : share.first + round + tile);
            format = linear.parts[linear.glu ? sub : at.part].weight.format;
          }
          for (uint32_t unit = share.begin; unit < share.end; unit += R::kSpan) {
#ifdef QUIRE_CHAIN_BULK
            clock.wait([&] { hopper::barrier_wait(full + slot, parity); });
#else
            copy_async_wait<R::kStages - 1>();
            __syncwarp();
#endif
            const unsigned char* from = ring + slot * R::kStageBytes;
            const uint32_t units = min(share.end - unit, R::kSpan);
            if constexpr (kFirst != kSecond) held.unit = HeldInput::kNothing; // two formats leave no registers for it
            // Found anew each time: there is no register to keep it in.
            [[maybe_unused]] const auto input = [&] { return block_input<R>(x, sums, not_kept(cols)); };
            if constexpr (R::kPlain)
              PlainStream::consume(from, x, pitch, rows, unit, units, lane, c);
            else if (kFirst == kSecond || format == kFirst)
              BlockStream<kFirst>::consume(from, input(), unit, units, lane, held, c);
            else
              BlockStream<kSecond>::consume(from, input(), unit, units, lane, held, c);
            __syncwarp(); // before the stage is written again
            // On its way while the next stage is asked for: of rows g and g + 8 what the neighbour adds up.
            if constexpr (!R::kPlain) others = __shfl_xor_sync(kAllLanes, lane % 2 != 0 ? c[0] : c[1], 1);
            issue(slot);
            if (++slot == R::kStages) slot = 0, parity ^= 1;
          }
          float* to = partial + (tile * subs + sub) * of_slot + share.slice * of_slice;
          const uint32_t g = lane / 4, t = lane % 4;
          if constexpr (R::kPlain) {
#pragma unroll
            for (uint32_t i = 0; i < 4; ++i) {
              const uint32_t row = 2 * t + i % 2;
              if (row < rows) to[(PlainStream::row_of(g) + 8 * (i / 2)) * of_row + row] = c[i];
            }
          } else { // rows g and g + 8, each over four lanes of which the odd ones add up the latter
            float sum = (t % 2 != 0 ? c[1] : c[0]) + others;
            sum += __shfl_xor_sync(kAllLanes, sum, 2);
            if (t < 2) to[g + 8 * t] = sum;
          }
        }
      if (share.begin == share.end && share.group < share.groups) { // a slice of nothing
        for (uint32_t tile = share.group; tile < count; tile += share.groups)
          for (uint32_t i = lane; i < subs * of_slice; i += 32)
            partial[(tile * subs + i / of_slice) * of_slot + share.slice * of_slice + i % of_slice] = 0;
      }
      clock.multiplied();
      finish_round<R>(phase, share, round, count, rows,
                      p + 1 < a.shape.num_phases ? reinterpret_cast<__half*>(handed() + size_t{phase.gives} * rows)
                                                 : nullptr,
                      partial);
      __syncthreads(); // before the sums' places are written again
    }
    clock.handed();
    if (blockIdx.x == 0) {
      if (phase.norm.sum.data != nullptr) write_kept<R>(phase.norm.sum, share, rows, cols, kept);
      if (phase.copy_to.data != nullptr) {
        for (uint32_t i = threadIdx.x; i < rows * phase.copy_to.dim; i += kThreads) {
          const uint32_t dim = phase.copy_to.dim;
          static_cast<float*>(phase.copy_to.data)[size_t{i / dim} * phase.copy_to.stride + i % dim] = kept[i];
        }
        __syncthreads(); // before another sum is kept
      }
    }
  }
#ifndef QUIRE_CHAIN_BULK
  copy_async_wait<0>();
#endif
  __syncthreads(); // before the record is changed that all have read
  if (last_phase != a.shape.num_phases) return;
  if (threadIdx.x == 0) a.records[blockIdx.x] = {record.launches + 1, rows * a.row_bytes};
  // The places of the next launch.
  std::byte* const next_set = a.handed + (record.launches + 1) % 2 * a.set_bytes;
  for (uint32_t at = (blockIdx.x * kThreads + threadIdx.x) * 16; at < record.handed_bytes;
       at += gridDim.x * kThreads * 16)
    *reinterpret_cast<uint4*>(next_set + at) = make_uint4(kEmpty, kEmpty, kEmpty, kEmpty);
#endif
}

template <class R> uint32_t x_bytes_of(uint32_t rows, const ChainShape& shape) {
  return rows * x_row_bytes<R>(shape.most_cols);
}

template <class R> uint32_t kept_at(uint32_t cols) { return R::kPlain ? 0 : x_sums<R>(cols); }

template <class R> uint64_t shared_bytes_of(uint32_t rows, const ChainShape& shape) {
  return R::kAlign + uint64_t{R::kBytes} + 4 * kSumsFloats + x_bytes_of<R>(rows, shape) +
         4 * kept_at<R>(shape.most_cols) + 4 * rows * shape.kept_dim;
}

constexpr uint64_t kStaticBytes = sizeof(ChainFrame) + 1024; // of shared memory, at most

template <uint32_t kFirst, uint32_t kSecond>
void run(const Queue& queue, uint32_t blocks, uint32_t rows, const ChainArgs& a) {
  using R = Ring<kFirst, kSecond>;
  assert(rows >= 1 && rows <= R::kWidth);
  const size_t shared = shared_bytes_of<R>(rows, a.shape);
  const uint32_t kept = kept_at<R>(a.shape.most_cols);
#ifdef QUIRE_CUDA_EMULATED
  for (uint32_t p = 0; p < a.shape.num_phases; ++p)
    launch("linear_chain", linear_chain_kernel<kFirst, kSecond>, blocks, kThreads, shared, queue, rows, p, p + 1,
           x_bytes_of<R>(rows, a.shape), kept, a);
#else
  launch("linear_chain", linear_chain_kernel<kFirst, kSecond>, blocks, kThreads, shared, queue, rows, 0,
         a.shape.num_phases, x_bytes_of<R>(rows, a.shape), kept, a);
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

} // namespace

uint32_t chain_items(const LinearArgs& a) {
  return a.parts[0].weight.format == QUIRE_F16 ? count_tiles<8>(a) : count_tiles<kTileRows>(a);
}

void split_phase(ChainPhase& phase, const ChainShape& shape, uint32_t blocks, uint32_t late) {
  const LinearArgs& linear = phase.linear;
  const bool plain = linear.parts[0].weight.format == QUIRE_F16;
  const uint32_t cols = plain ? PlainStream::kColumns : kUnitColumns, rows = plain ? 8 : kTileRows;
  phase.units = (linear.parts[0].weight.cols + cols - 1) / cols;
  phase.group_shift = plain || phase.units > 8 ? 0 : phase.units > 4 ? 1 : 2;
  uint32_t end = 0;
  for (uint32_t i = 0; i < QUIRE_MAX_PARTS; ++i) {
    end += (linear.parts[i].weight.rows + rows - 1) / rows;
    phase.part_end[i] = i + 1 < linear.num_parts && !linear.glu ? end : 0xffffffffu;
  }
  const uint32_t items = chain_items(linear);
  if (items < blocks || late >= blocks) late = 0;
  phase.late_from = blocks - late;
  // Whether the others' rings hold all of it, so that it is there when they may begin.
  const uint32_t each = (items + phase.late_from - 1) / phase.late_from;
  bool fits = false;
  dispatch(shape.first_format, shape.second_format, [&](auto first, auto second) {
    using R = Ring<first, second>;
    const uint32_t tiles = R::kPlain && !linear.glu ? (each + 1) / 2 : each;
    const uint32_t slices = kChainWarps >> phase.group_shift, of_slice = (phase.units + slices - 1) / slices;
    const uint32_t of_group = (tiles + (1u << phase.group_shift) - 1) >> phase.group_shift;
    const uint32_t of_warp = of_group * (linear.glu ? R::kSubs : 1);
    fits = of_warp * R::stages_of(of_slice) <= R::kStages;
  });
  phase.items_late = fits && !phase.keeps_sum ? 0 : items / blocks; // a sum is kept by every block
  const auto of_others = [&] { return items - late * phase.items_late; };
  // Where nearly all are late the others would be the last.
  if (!fits && of_others() > 2 * (phase.items_late + 1) * phase.late_from) late = 0, phase.late_from = blocks;
  phase.items_each = of_others() / phase.late_from, phase.items_more = of_others() % phase.late_from;
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

ChainShape chain_shape(std::span<const ChainPhase> phases) {
  ChainShape shape;
  shape.num_phases = static_cast<uint32_t>(phases.size());
  for (const ChainPhase& phase : phases) {
    for (uint32_t i = 0; i < phase.linear.num_parts; ++i) {
      [[maybe_unused]] const bool holds =
          chain_holds(phase.linear.parts[i].weight.format, shape.first_format, shape.second_format);
      assert(holds);
    }
    const uint32_t cols = phase.linear.parts[0].weight.cols;
    shape.most_cols = std::max(shape.most_cols, cols);
    if (phase.keeps_sum || phase.norm.sum) shape.kept_dim = std::max(shape.kept_dim, cols);
  }
  return shape;
}

uint32_t chain_rows(const ChainShape& shape, uint64_t shared_bytes) {
  uint32_t rows = 0;
  dispatch(shape.first_format, shape.second_format, [&](auto f, auto s) {
    using R = Ring<f, s>;
    rows = R::kWidth;
    while (rows > 0 && shared_bytes_of<R>(rows, shape) + kStaticBytes > shared_bytes) --rows;
  });
  return rows;
}

#ifdef QUIRE_CUDA_EMULATED
ChainMap map_chain(const std::byte*, uint64_t, uint32_t) { return {}; }
#else
ChainMap map_chain(const std::byte* arena, uint64_t bytes, uint32_t cols) {
  assert(cols % PlainStream::kColumns == 0);
  const cuuint64_t dims[3] = {PlainStream::kColumns, bytes / (2 * cols), cols / PlainStream::kColumns};
  const cuuint64_t strides[2] = {uint64_t{cols} * 2, PlainStream::kColumns * 2};
  const cuuint32_t box[3] = {PlainStream::kColumns, 8, 2};
  const CUtensorMap map =
      tensor_map<3>(CU_TENSOR_MAP_DATA_TYPE_FLOAT16, const_cast<std::byte*>(arena), dims, strides, box);
  ChainMap words;
  static_assert(sizeof map == sizeof words);
  std::memcpy(words.words, &map, sizeof map);
  return words;
}
#endif

void linear_chain(const Queue& queue, uint32_t blocks, uint32_t rows, const ChainArgs& a) {
  assert(rows <= kChainRows && a.shape.num_phases >= 1);
  dispatch(a.shape.first_format, a.shape.second_format, [&](auto f, auto s) { run<f, s>(queue, blocks, rows, a); });
}

} // namespace quire::cuda
