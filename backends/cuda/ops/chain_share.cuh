// Which part of a chain's weights each block and warp has, and in which order a warp copies its own.
//
// A phase's items (16 rows of W; fp16: 8, which go by two, or gate's with up's) are handed out to the blocks in equal
// contiguous shares. Each warp of a block multiplies all the block's tiles by its own contiguous slice of K, so that it
// needs no other part of the input. Where K has fewer units than there are warps, groups of warps take turns at tiles.
#pragma once

#include "linear_stream.cuh"

namespace quire::cuda {

inline constexpr uint32_t kChainWarps = 16, kChainThreads = kChainWarps * 32;

template <uint32_t kFirst, uint32_t kSecond> struct Ring {
  static constexpr bool kPlain = kFirst == QUIRE_F16;
  static constexpr uint32_t kColumns = kPlain ? PlainStream::kColumns : 128; // of a unit
  static constexpr uint32_t kSpan = 2;                                       // units of a stage
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
  static constexpr uint32_t kWidth = kPlain ? kChainRows : 1; // rows of activations at most
  static constexpr uint32_t kSubs = kPlain ? 1 : 2;           // tiles of 16 rows that glu takes together
};

template <bool kPlain> __host__ __device__ inline uint32_t items_of(const LinearArgs& a) {
  constexpr uint32_t kRows = kPlain ? 8 : 16;
  if (a.glu) return (a.parts[0].weight.rows + kRows - 1) / kRows;
  uint32_t items = 0;
  for (uint32_t p = 0; p < a.num_parts; ++p) items += (a.parts[p].weight.rows + kRows - 1) / kRows;
  return items;
}

__device__ __forceinline__ uint32_t first_item(uint32_t items, uint32_t block) {
  return (items * block + gridDim.x - 1) / gridDim.x;
}

// Sums that wait to be added up: [slot][slice][row of W][row of activations]; a slot is a tile of 16 rows, and slots
// begin in different banks.
inline constexpr uint32_t kSumsFloats = 16 * (16 * kChainWarps + 16);
__device__ __forceinline__ uint32_t sums_pitch(uint32_t rows) { return rows == 1 ? 1 : rows + 1; }
// Tiles that are multiplied before their sums are added up.
template <class R> __device__ __forceinline__ uint32_t tiles_of_round(const LinearArgs& a, uint32_t rows) {
  if constexpr (R::kPlain) return rows == 1 ? 16 : kSumsFloats / (16 * kChainWarps * sums_pitch(rows) + 16);
  return a.glu ? 8 : 16;
}

template <class R> struct Share {
  uint32_t first, last;                  // items of the block
  uint32_t tiles;                        // that it makes of them
  uint32_t groups, slices, group, slice; // the latter two of the warp
  uint32_t begin, end;                   // units of K; none for a warp too many

  __device__ __forceinline__ explicit Share(const LinearArgs& a) {
    const uint32_t items = items_of<R::kPlain>(a), warp = threadIdx.x / 32;
    const uint32_t units = (a.parts[0].weight.cols + R::kColumns - 1) / R::kColumns;
    first = first_item(items, blockIdx.x), last = first_item(items, blockIdx.x + 1);
    tiles = R::kPlain && !a.glu ? (last - first + 1) / 2 : last - first;
    groups = R::kPlain || units > 8 ? 1 : units > 4 ? 2 : 4;
    slices = kChainWarps / groups;
    group = warp / slices, slice = warp % slices;
    begin = units * slice / slices, end = units * (slice + 1) / slices;
  }
  __device__ __forceinline__ uint32_t item(const LinearArgs& a, uint32_t tile) const {
    return first + (R::kPlain && !a.glu ? 2 * tile : tile);
  }
};

// What a warp copies next. A round is `per_round` tiles, with glu gate's and then up's.
template <uint32_t kFirst, uint32_t kSecond> struct Cursor {
  using R = Ring<kFirst, kSecond>;
  uint32_t phase, last, tile, tiles, step, round_end, per_round, sub, unit, begin, end;
  uint32_t left; // tiles of the warp behind this one in the same part
  bool glu;
  PlainPlace plain;
  TilePlanes planes;

  __device__ __forceinline__ void start(const ChainPhase* phases, uint32_t rows, uint32_t first, uint32_t last_phase) {
    phase = first, last = last_phase;
    enter(phases, rows);
  }
  __device__ __forceinline__ bool done() const { return phase >= last; }
  // The warp's first tile of this phase, or of the first phase after it that has one for it.
  __device__ __forceinline__ void enter(const ChainPhase* phases, uint32_t rows) {
    for (; phase < last; ++phase) {
      const LinearArgs& linear = phases[phase].linear;
      const Share<R> share(linear);
      begin = share.begin, end = share.end, tiles = share.tiles, step = share.groups;
      tile = share.group, sub = 0, unit = begin, glu = linear.glu;
      per_round = tiles_of_round<R>(linear, rows), round_end = min(tiles, per_round);
      if (begin == end || tile >= tiles) continue;
      place(linear);
      return;
    }
  }
  __device__ __forceinline__ void place(const LinearArgs& a) {
    const uint32_t items = items_of<R::kPlain>(a), first = first_item(items, blockIdx.x);
    if constexpr (R::kPlain) {
      plain.place(a, first + (a.glu ? tile : 2 * tile), first_item(items, blockIdx.x + 1));
    } else {
      const PartTile<16> at(a, a.glu ? 0 : first + tile);
      const Weight& w = a.parts[a.glu ? sub : at.part].weight;
      const uint32_t from = a.glu ? first + tile : at.tile;
      planes.place(w, from);
      left = (w.tiles - 1 - from) / step;
    }
  }
  __device__ __forceinline__ void issue(const ChainArgs& a, const ChainPhase* phases, unsigned char* to, uint64_t* full,
                                        uint32_t lane) const {
    if constexpr (R::kPlain) {
      plain.issue(a.maps[phase], phases[phase].linear, unit, to, full, lane);
    } else {
      const uint32_t count = min(end - unit, R::kSpan);
      if (kFirst == kSecond || planes.format == kFirst)
        BlockStream<kFirst>::issue(planes, unit, count, to, full, lane);
      else
        BlockStream<kSecond>::issue(planes, unit, count, to, full, lane);
    }
  }
  __device__ __forceinline__ void next(const ChainPhase* phases, uint32_t rows) {
    unit += R::kSpan;
    if (unit < end) return;
    unit = begin;
    tile += step;
    if (tile < round_end) {
      if constexpr (R::kPlain) {
        if (plain.left != 0) return plain.advance(glu);
      } else if (left != 0) {
        --left;
        if (kFirst == kSecond || planes.format == kFirst)
          planes.template advance<kFirst>(step);
        else
          planes.template advance<kSecond>(step);
        return;
      }
      return place(phases[phase].linear);
    }
    if (!R::kPlain && glu && sub == 0) { // the same tiles of up
      sub = 1;
      tile = (round_end - 1) / per_round * per_round + tile % step;
      return place(phases[phase].linear);
    }
    if (round_end < tiles) {
      sub = 0, round_end = min(tiles, round_end + per_round);
      if (tile < round_end) return place(phases[phase].linear);
    }
    ++phase;
    enter(phases, rows);
  }
};

} // namespace quire::cuda
