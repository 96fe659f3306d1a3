// Which part of a chain's weights each block and warp has, and in which order a warp copies its own.
//
// A phase's items (16 rows of W; fp16: 8, which go by two, or gate's with up's) are handed out to the blocks in equal
// contiguous shares. Each warp of a block multiplies all the block's tiles by its own contiguous slice of K, so that it
// needs no other part of the input. Where K has fewer units than there are warps, groups of warps take turns at tiles.
// A block has the phases in shared memory.
#pragma once

#include "linear_stream.cuh"

namespace quire::cuda {

inline constexpr uint32_t kChainWarps = 16, kChainThreads = kChainWarps * 32;

// What a block keeps in shared memory of the chain: parameters are slow to come to where they are used seldom.
struct ChainFrame {
  alignas(16) unsigned char phases[kMaxPhases][sizeof(ChainPhase)];

  __device__ __forceinline__ const ChainPhase& operator[](uint32_t phase) const {
    return *reinterpret_cast<const ChainPhase*>(phases[phase]);
  }
  // By the whole block; what comes next needs a barrier. meanwhile(): done while the phases are on their way.
  template <class Meanwhile> __device__ __forceinline__ void fill(const ChainArgs& a, const Meanwhile& meanwhile) {
    static_assert(sizeof(ChainPhase) % 4 == 0);
    constexpr uint32_t kWords = sizeof phases / 4, kEach = (kWords + kChainThreads - 1) / kChainThreads;
    const uint32_t words = a.shape.num_phases * (sizeof(ChainPhase) / 4);
    uint32_t got[kEach] = {};
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i)
      if (const uint32_t at = threadIdx.x + i * kChainThreads; at < words)
        got[i] = __ldg(reinterpret_cast<const uint32_t*>(a.phases) + at);
    meanwhile();
#pragma unroll
    for (uint32_t i = 0; i < kEach; ++i)
      if (const uint32_t at = threadIdx.x + i * kChainThreads; at < words)
        reinterpret_cast<uint32_t*>(phases)[at] = got[i];
  }
};

template <uint32_t kFirst, uint32_t kSecond> struct Ring {
  static constexpr bool kPlain = kFirst == QUIRE_F16;
  static constexpr uint32_t kColumns = kPlain ? PlainStream::kColumns : 128; // of a unit
  static constexpr uint32_t kSpan = 2;                                       // units of a stage
  static constexpr uint32_t stages_of(uint32_t units) { return (units + kSpan - 1) / kSpan; }
  static constexpr uint32_t kStageBytes = [] {
    if constexpr (kPlain) return PlainStream::kStageBytes;
    if constexpr (!kPlain) {
      constexpr uint32_t a = BlockStream<kFirst>::kStageBytes, b = BlockStream<kSecond>::kStageBytes;
      return a > b ? a : b;
    }
  }();
  static constexpr uint32_t kStages = 10240 / kStageBytes < 4 ? 10240 / kStageBytes : 4;
  static constexpr uint32_t kArrivals = [] {
    if constexpr (kPlain) return PlainStream::kArrivals;
    if constexpr (!kPlain) return BlockStream<kFirst>::kArrivals;
  }();
  static constexpr uint32_t kBytes = kChainWarps * kStages * kStageBytes;
  static constexpr uint32_t kAlign = kPlain ? 1024 : 128;     // tensor maps swizzle by the address, with this period
  static constexpr uint32_t kWidth = kPlain ? kChainRows : 1; // rows of activations at most
  static constexpr uint32_t kSubs = kPlain ? 1 : 2;           // tiles of 16 rows that glu takes together
  static constexpr bool kIntegers = [] {                      // x as integers, for either
    if constexpr (kPlain) return false;
    if constexpr (!kPlain) return BlockStream<kFirst>::kIntegers || BlockStream<kSecond>::kIntegers;
  }();
  static constexpr bool kHalves = [] { // x as fp16, for either
    if constexpr (kPlain) return true;
    if constexpr (!kPlain) return !BlockStream<kFirst>::kIntegers || !BlockStream<kSecond>::kIntegers;
  }();
  static constexpr bool kPairs = [] { // of units, which share a scale: K has whole ones
    if constexpr (kPlain) return false;
    if constexpr (!kPlain)
      return BlockStream<kFirst>::kPlanes.super_bytes + BlockStream<kSecond>::kPlanes.super_bytes != 0;
  }();
};

// Sums that wait to be added up: [slot][slice][row of W][row of activations]; a slot is a tile of 16 rows, and slots
// begin in different banks.
inline constexpr uint32_t kSumsFloats = 16 * (16 * kChainWarps + 16);
__device__ __forceinline__ uint32_t sums_pitch(uint32_t rows) { return rows == 1 ? 1 : rows + 1; }
// Tiles that are multiplied before their sums are added up.
template <class R> __device__ __forceinline__ uint32_t tiles_of_round(const LinearArgs& a, uint32_t rows) {
  if constexpr (!R::kPlain) return a.glu ? 8 : 16;
  constexpr uint32_t kByRows = [] { // four bits for each count from 2 on
    uint32_t all = 0;
    for (uint32_t n = 2; n <= kChainRows; ++n) all |= kSumsFloats / (16 * kChainWarps * (n + 1) + 16) << 4 * (n - 2);
    return all;
  }();
  return rows == 1 ? 16 : kByRows >> 4 * (rows - 2) & 15;
}

// Which part an item is of, and which of that part's items it is.
struct PartItem {
  uint32_t part, item;

  __device__ __forceinline__ PartItem(const ChainPhase& phase, uint32_t index) : part(0), item(index) {
    uint32_t begin = 0;
#pragma unroll
    for (uint32_t p = 0; p + 1 < QUIRE_MAX_PARTS; ++p)
      if (index >= phase.part_end[p]) part = p + 1, begin = phase.part_end[p];
    item -= begin;
  }
};

template <class R> struct Share {
  uint32_t first, last;                  // items of the block
  uint32_t tiles;                        // that it makes of them
  uint32_t groups, slices, group, slice; // the latter two of the warp
  uint32_t begin, end;                   // units of K; none for a warp too many

  __device__ __forceinline__ Share(const ChainPhase& phase, uint32_t warp) {
    static_assert(kChainWarps == 16);
    const uint32_t units = phase.units, slices_shift = 4 - phase.group_shift;
    const uint32_t late_from = phase.late_from, in_time = min(blockIdx.x, late_from);
    first = in_time * phase.items_each + min(in_time, phase.items_more) + (blockIdx.x - in_time) * phase.items_late;
    last = first +
           (blockIdx.x >= late_from ? phase.items_late : phase.items_each + (blockIdx.x < phase.items_more ? 1 : 0));
    tiles = R::kPlain && !phase.linear.glu ? (last - first + 1) / 2 : last - first;
    groups = 1u << phase.group_shift, slices = 1u << slices_shift;
    group = warp >> slices_shift, slice = warp & (slices - 1);
    // Two units that share a scale stay together, but where each warp has one at most.
    const uint32_t shift = R::kPairs && units > slices ? 1 : 0, count = units >> shift;
    begin = count * slice >> slices_shift << shift, end = count * (slice + 1) >> slices_shift << shift;
  }
  __device__ __forceinline__ uint32_t item(const LinearArgs& a, uint32_t tile) const {
    return first + (R::kPlain && !a.glu ? 2 * tile : tile);
  }
};

// What a warp copies next. A round is `per_round` tiles, with glu gate's and then up's.
template <uint32_t kFirst, uint32_t kSecond> struct Cursor {
  using R = Ring<kFirst, kSecond>;
  uint32_t phase, last, tile, tiles, step, round_begin, round_end, per_round, sub, unit, begin, end;
  uint32_t left;          // tiles of the warp behind this one that lie as far behind in memory
  uint32_t first, behind; // items of the block
  uint32_t warp;
  bool glu;
  PlainPlace plain;
  TilePlanes planes;

  __device__ __forceinline__ void start(const ChainFrame& phases, uint32_t rows, uint32_t first, uint32_t last_phase,
                                        uint32_t of_warp) {
    phase = first, last = last_phase, warp = of_warp;
    enter(phases, rows);
  }
  __device__ __forceinline__ bool done() const { return phase >= last; }
  // The warp's first tile of this phase, or of the first phase after it that has one for it.
  __device__ __forceinline__ void enter(const ChainFrame& phases, uint32_t rows) {
    for (; phase < last; ++phase) {
      const LinearArgs& linear = phases[phase].linear;
      const Share<R> share(phases[phase], warp);
      first = share.first, behind = share.last;
      begin = share.begin, end = share.end, tiles = share.tiles, step = share.groups;
      tile = share.group, sub = 0, unit = begin, glu = linear.glu;
      per_round = tiles_of_round<R>(linear, rows), round_begin = 0, round_end = min(tiles, per_round);
      if (begin == end || tile >= tiles) continue;
      place(phases[phase]);
      return;
    }
  }
  __device__ __forceinline__ void place(const ChainPhase& from) {
    if constexpr (R::kPlain) {
      if (glu) { // one item of gate above the same of up
        plain.halves = 2;
        plain.row[0] = from.part_row[0] + (first + tile) * 8, plain.row[1] = from.part_row[1] + (first + tile) * 8;
        left = behind - (first + tile) - 1;
        return;
      }
      const uint32_t item = first + 2 * tile; // and the one behind it, if there is one
      const PartItem at(from, item), next(from, min(item + 1, behind - 1));
      plain.halves = min(behind - item, 2u);
      plain.row[0] = from.part_row[at.part] + at.item * 8, plain.row[1] = from.part_row[next.part] + next.item * 8;
      left = plain.halves == 2 && at.part == next.part ? (min(behind, from.part_end[at.part]) - item) / 2 : 1;
      --left;
    } else {
      const PartItem at(from, glu ? 0 : first + tile);
      const Weight& w = from.linear.parts[glu ? sub : at.part].weight;
      const uint32_t of_part = glu ? first + tile : at.item;
      if (kFirst == kSecond || w.format == kFirst)
        planes.template place<kFirst>(w, of_part);
      else
        planes.template place<kSecond>(w, of_part);
      left = (w.tiles - 1 - of_part) >> (__ffs(static_cast<int>(step)) - 1);
    }
  }
  __device__ __forceinline__ void issue(const ChainMap* maps, const ChainFrame& phases, unsigned char* to,
                                        uint64_t* full, uint32_t lane) const {
    if constexpr (R::kPlain) {
      plain.issue(maps, phases[phase], unit, to, full, lane);
    } else {
      const uint32_t count = min(end - unit, R::kSpan);
      if (kFirst == kSecond || planes.format == kFirst)
        BlockStream<kFirst>::issue(planes, unit, count, to, full, lane);
      else
        BlockStream<kSecond>::issue(planes, unit, count, to, full, lane);
    }
  }
  __device__ __forceinline__ void next(const ChainFrame& phases, uint32_t rows) {
    unit += R::kSpan;
    if (unit < end) return;
    unit = begin;
    tile += step;
    if (tile < round_end) {
      if (left == 0) return place(phases[phase]);
      --left;
      if constexpr (R::kPlain) {
        plain.row[0] += glu ? 8 : 16, plain.row[1] += glu ? 8 : 16;
      } else {
        if (kFirst == kSecond || planes.format == kFirst)
          planes.template advance<kFirst>(step);
        else
          planes.template advance<kSecond>(step);
      }
      return;
    }
    if (!R::kPlain && glu && sub == 0) { // the same tiles of up
      sub = 1;
      tile = round_begin + (tile & (step - 1));
      return place(phases[phase]);
    }
    if (round_end < tiles) {
      sub = 0, round_begin = round_end, round_end = min(tiles, round_end + per_round);
      if (tile < round_end) return place(phases[phase]);
    }
    ++phase;
    enter(phases, rows);
  }
};

} // namespace quire::cuda
