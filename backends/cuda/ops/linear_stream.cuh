// How linear_chain's warps bring weights through shared memory and multiply them: one Stream a kind of layout.
//
// A stage is 16 rows of W by 64 columns (fp16) or up to 256 (block formats), copied by one warp for itself; stages lie
// in a ring of the warp. From compute capability 9.0 on one lane asks for the bulk of a stage by few large copies,
// which a barrier of the stage counts (each costs some 50 cycles, however small); the rest comes by cp.async. x is the
// rows of activations as fp16 in shared memory (or integers, see below): a block of 32 columns is 64 bytes, of which
// lane 4 g + t reads piece t of 16 bytes, the elements that belong to its fragments.
#pragma once

#include "linear.cuh"
#include "linear_chain.hpp"

#include <type_traits>

#if QUIRE_SM >= 900 && !defined(QUIRE_CUDA_EMULATED)
#define QUIRE_CHAIN_BULK
#endif
#ifndef QUIRE_CUDA_EMULATED
#include "hopper.cuh"
#endif

namespace quire::cuda {

__device__ __forceinline__ uint4 read16(const unsigned char* p) { return *reinterpret_cast<const uint4*>(p); }

// fp16 rows. Up to 8 rows of activations: the columns of the B operand. A tile is two halves of 8 rows of W; a stage
// has one or two units of 64 columns of it, each half and unit as a tensor map with 128-byte swizzle brings it: 16-byte
// piece c of row r at c ^ r. Row g of the fragments is row row_of(g) of a half, so that eight lanes that read at once
// meet different banks.
struct PlainStream {
  static constexpr uint32_t kColumns = 64, kUnitBytes = 8 * 128, kHalfBytes = 2 * kUnitBytes;
  static constexpr uint32_t kStageBytes = 2 * kHalfBytes, kArrivals = 1;

  static __device__ __forceinline__ uint32_t row_of(uint32_t g) { return g / 2 + g % 2 * 4; }

  // sums: rows of W row_of(g) of both halves by rows of activations 2t, 2t + 1.
  static __device__ __forceinline__ void consume(const unsigned char* from, const unsigned char* x, uint32_t pitch,
                                                 uint32_t rows, uint32_t unit, uint32_t count, uint32_t lane,
                                                 float (&sums)[4]) {
    const uint32_t g = lane / 4, t = lane % 4, r = row_of(g);
#pragma unroll
    for (uint32_t c = 0; c < 4; ++c) {
      if (c == 2 && count == 1) break;
      const unsigned char* piece = from + c / 2 * kUnitBytes + r * 128 + ((4 * (c % 2) + t) ^ r) * 16;
      const uint4 top = read16(piece), bottom = read16(piece + kHalfBytes);
      const uint4 b = g < rows ? read16(x + g * pitch + (2 * unit + c) * 64 + t * 16) : make_uint4(0, 0, 0, 0);
      matrix_multiply<__half>(sums, {top.x, bottom.x, top.y, bottom.y}, {b.x, b.y});
      matrix_multiply<__half>(sums, {top.z, bottom.z, top.w, bottom.w}, {b.z, b.w});
    }
  }
};

// What a warp copies of fp16 rows: of each half the first row, from the arena on.
struct PlainPlace {
  uint32_t halves, row[2];

  __device__ __forceinline__ void issue(const ChainMap* maps, const ChainPhase& phase, uint32_t unit, unsigned char* to,
                                        [[maybe_unused]] uint64_t* full, uint32_t lane) const {
#ifdef QUIRE_CHAIN_BULK
    if (!hopper::elected()) return;
    const auto* map = reinterpret_cast<const CUtensorMap*>(maps + phase.map);
    hopper::barrier_expect(full, halves * PlainStream::kHalfBytes);
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h)
      if (h < halves)
        hopper::copy_3d(to + h * PlainStream::kHalfBytes, map, full, 0, static_cast<int>(row[h]),
                        static_cast<int>(unit), hopper::kReadOnce);
#else
    const uint32_t cols = phase.linear.parts[0].weight.cols, stride = phase.linear.parts[0].weight.stride;
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t h = i / 4, r = lane / 8 + i % 2 * 4, piece = lane % 8, next = i / 2 % 2;
      const uint32_t col = (unit + next) * PlainStream::kColumns;
      const bool copies = h < halves && col + piece * 8 < cols && row[h] + r < phase.arena_rows;
      const auto* from = reinterpret_cast<const __half*>(phase.arena);
      copy_async16(to + h * PlainStream::kHalfBytes + next * PlainStream::kUnitBytes + r * 128 + (piece ^ r) * 16,
                   copies ? from + size_t{row[h] + r} * stride + col + piece * 8 : from, copies);
    }
#endif
  }
};

// Where a tile's planes begin, in registers: what a warp copies is asked for all the time.
struct TilePlanes {
  const std::byte *first, *second; // of quants: q4 or q8 or q2, then q2 or q1
  const std::byte *scales, *super;
  uint32_t units, format;

  // A weight of kFormat. (By the weight's own format it would be a jump through a table in constant memory, which is
  // cold wherever a phase begins.)
  template <uint32_t kFormat> __device__ __forceinline__ void place(const Weight& w, uint32_t tile) {
    constexpr BlockFormat kPlanes = block_format(kFormat);
    first = kPlanes.q4_bytes != 0 ? w.q4 : kPlanes.q8_bytes != 0 ? w.q8 : w.q2;
    second = kPlanes.q4_bytes != 0 && kPlanes.q2_bytes != 0 ? w.q2 : w.q1;
    scales = w.scales, super = w.super;
    units = w.units, format = w.format;
    advance<kFormat>(tile);
  }
  // So many tiles further within the same weight.
  template <uint32_t kFormat> __device__ __forceinline__ void advance(uint32_t tiles) {
    constexpr BlockFormat kPlanes = block_format(kFormat);
    constexpr uint32_t kFirst = kPlanes.q4_bytes != 0   ? kPlanes.q4_bytes
                                : kPlanes.q8_bytes != 0 ? kPlanes.q8_bytes
                                                        : kPlanes.q2_bytes;
    constexpr uint32_t kSecond = kPlanes.q4_bytes != 0 && kPlanes.q2_bytes != 0 ? kPlanes.q2_bytes : kPlanes.q1_bytes;
    const uint32_t further = tiles * units;
    first += size_t{further} * kFirst;
    if constexpr (kSecond != 0) second += size_t{further} * kSecond;
    scales += size_t{further} * kPlanes.scale_bytes;
    if constexpr (kPlanes.super_bytes != 0) super += size_t{further / 2} * kPlanes.super_bytes;
  }
};

// Where the row of activations of block formats lies in shared memory.
struct BlockInput {
  unsigned char* halves = nullptr;            // fp16, see above
  float *sums32 = nullptr, *sums16 = nullptr; // of x, of each 32 and of each 16 columns
  unsigned char* bytes = nullptr;             // as 16-bit integers, 256 bytes a unit, see consume_integers
  float2* groups = nullptr;                   // of each 32: what an integer stands for, over 16; the sum of x
};

// What a lane holds of x as integers for a stage (BlockStream::consume_integers). Where a warp's slice of K is one
// stage it stays for all tiles.
struct HeldInput {
  static constexpr uint32_t kNothing = 0xffffffffu;
  uint32_t unit = kNothing;               // the stage's first
  uint32_t of_lower[2][2], of_both[2][2]; // [unit][half of B]: for lower nibbles alone, for whole bytes
  float each[2][2], sum[2]; // [unit][even or odd group]: what the lane's sums, of h or of l, stand for; [unit] the sum
                            // of x in group t
};

// Block formats, one row of activations, in one of three ways: nibbles alone as integers (consume_integers), others
// with nibbles from compute capability 9.0 on (consume_nibbles), and else so: the eight columns of the B operand are
// eight groups of columns that share a scale (32 columns, or 16): in the product for group j only column j is not zero,
// so that one accumulator collects each group's sum of q * x apart, and scales are applied to those sums, not to the
// weights. q enters as it lies, as the subnormal fp16 number q * 2^-24: the tensor cores take these exactly. sum x of
// each group pays for offsets and minimums.
template <uint32_t kFormat> struct BlockStream {
  static constexpr BlockFormat kPlanes = block_format(kFormat);
  static constexpr uint32_t kColumns = 128; // of a unit; a stage has one or two
  static constexpr uint32_t kUnitBytes =
      kPlanes.q4_bytes + kPlanes.q8_bytes + kPlanes.q2_bytes + kPlanes.q1_bytes + kPlanes.scale_bytes;
  static constexpr uint32_t kStageBytes = 2 * kUnitBytes + (kPlanes.super_bytes + 127) / 128 * 128, kArrivals = 33;
  static constexpr bool kSixteen = kFormat == QUIRE_Q2_K || kFormat == QUIRE_Q3_K || kFormat == QUIRE_Q6_K;
  static constexpr bool kQ4 = kPlanes.q4_bytes != 0, kQ8 = kPlanes.q8_bytes != 0, kQ2 = kPlanes.q2_bytes != 0,
                        kQ1 = kPlanes.q1_bytes != 0;
  // Where the planes lie in a stage.
  static constexpr uint32_t kAt8 = 2 * kPlanes.q4_bytes, kAt2 = kAt8 + 2 * kPlanes.q8_bytes,
                            kAt1 = kAt2 + 2 * kPlanes.q2_bytes, kAtScales = kAt1 + 2 * kPlanes.q1_bytes,
                            kAtSuper = kAtScales + 2 * kPlanes.scale_bytes;

  // Units `unit` to unit + count - 1 of a tile, count 1 or 2; where two share a scale, 2 from an even one on.
  static __device__ __forceinline__ void issue(const TilePlanes& p, uint32_t unit, uint32_t count, unsigned char* to,
                                               [[maybe_unused]] uint64_t* full, uint32_t lane) {
    const auto large = [&](const auto& copy) {
      if constexpr (kQ4) copy(to, p.first + unit * kPlanes.q4_bytes, count * kPlanes.q4_bytes);
      if constexpr (kQ8) copy(to + kAt8, p.first + unit * kPlanes.q8_bytes, count * kPlanes.q8_bytes);
      if constexpr (kQ2)
        copy(to + kAt2, (kQ4 ? p.second : p.first) + unit * kPlanes.q2_bytes, count * kPlanes.q2_bytes);
    };
    // 512 bytes at most. No policy: ptxas 13.0 makes LDGSTS of impossible registers of them then ([R + UR0],
    // desc[UR1]).
    unsigned char* const own = to + lane * 16;
    const auto copy_small = [&](auto at, const std::byte* from, uint32_t bytes) {
      if (lane * 16 < bytes) copy_async16<at>(own, from + lane * 16, true);
    };
    if constexpr (kQ1)
      copy_small(std::integral_constant<uint32_t, kAt1>{}, p.second + unit * kPlanes.q1_bytes,
                 count * kPlanes.q1_bytes);
    copy_small(std::integral_constant<uint32_t, kAtScales>{}, p.scales + unit * kPlanes.scale_bytes,
               count * kPlanes.scale_bytes);
    if constexpr (kPlanes.super_bytes != 0)
      copy_small(std::integral_constant<uint32_t, kAtSuper>{}, p.super + unit / 2 * kPlanes.super_bytes,
                 kPlanes.super_bytes);
#ifdef QUIRE_CHAIN_BULK
    hopper::barrier_arrive_copied(full);
    if (!hopper::elected()) return;
    constexpr uint32_t kLargeBytes = kPlanes.q4_bytes + kPlanes.q8_bytes + kPlanes.q2_bytes; // of a unit
    hopper::barrier_expect(full, count * kLargeBytes);
    large([&](unsigned char* at, const std::byte* from, uint32_t bytes) {
      hopper::copy_bulk(at, from, bytes, full, hopper::kReadOnce);
    });
#else
    large([&](unsigned char* at, const std::byte* from, uint32_t bytes) {
      for (uint32_t i = lane * 16; i < bytes; i += 32 * 16) copy_async16(at + i, from + i, true);
    });
#endif
  }

  // What a lane holds of the quants of a unit and half.
  struct Quants {
    uint4 q4, q8[2];
    uint2 q2;
    uint32_t q1;
  };
  static __device__ __forceinline__ Quants quants(const unsigned char* from, uint32_t u, uint32_t h, uint32_t lane) {
    Quants q;
    if constexpr (kQ4) q.q4 = read16(from + u * kPlanes.q4_bytes + (h * 32 + lane) * 16);
    if constexpr (kQ8)
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j)
        q.q8[j] = read16(from + kAt8 + u * kPlanes.q8_bytes + ((h * 2 + j) * 32 + lane) * 16);
    if constexpr (kQ2) q.q2 = *reinterpret_cast<const uint2*>(from + kAt2 + u * kPlanes.q2_bytes + lane * 16 + h * 8);
    if constexpr (kQ1) q.q1 = *reinterpret_cast<const uint32_t*>(from + kAt1 + u * kPlanes.q1_bytes + lane * 8 + h * 4);
    return q;
  }
  // Pair `pair` of block `block` (constants after unrolling): q in both halves, times 16 where `sixteenfold`.
  static constexpr bool sixteenfold(int pair) { return !kSixteen && kQ4 && pair % 2 != 0; }
  static __device__ __forceinline__ uint32_t shifted(uint32_t word, int by) {
    return by >= 0 ? word >> by : word << -by;
  }
  static __device__ __forceinline__ uint32_t raw(const Quants& q, int block, int pair) {
    if constexpr (kQ8) {
      const uint4 v = q.q8[block / 2];
      const uint32_t word = block % 2 == 0 ? (pair < 2 ? v.x : v.y) : (pair < 2 ? v.z : v.w);
      return __byte_perm(word, 0, pair % 2 == 0 ? 0x4140 : 0x4342);
    } else {
      const int up = sixteenfold(pair) ? 4 : 0; // bits that this pair's q stays shifted up
      uint32_t bits = 0;
      if constexpr (kQ4) {
        const uint32_t word = block == 0 ? q.q4.x : block == 1 ? q.q4.y : block == 2 ? q.q4.z : q.q4.w;
        bits = shifted(word, 4 * pair - up) & (0x000f000fu << up);
      }
      if constexpr (kQ2) {
        const uint32_t word = block < 2 ? q.q2.x : q.q2.y;
        const int to = (kQ4 ? 4 : 0) + up;
        bits |= shifted(word, 2 * (4 * (block % 2) + pair) - to) & (0x00030003u << to);
      }
      if constexpr (kQ1) {
        const int to = (kQ4 ? 4 : 2) + up;
        bits |= shifted(q.q1, 4 * block + pair - to) & (0x00010001u << to);
      }
      return bits;
    }
  }

  static __device__ __forceinline__ float byte_of(uint32_t word, uint32_t index) { // 8388608 + byte, less 8388608
    return __uint_as_float(__byte_perm(word, 0x4b000000u, 0x7440u | index)) - 8388608.f;
  }

  // Nibbles alone: their products are of integers.
  static constexpr bool kIntegers = kQ4 && !kQ2 && !kQ1;

  // Adds to sums[0], [1] (rows g and g + 8) the lane's share of the sums over all groups. held: of this phase.
  static __device__ __forceinline__ void consume(const unsigned char* from, const BlockInput& x, uint32_t unit,
                                                 uint32_t count, uint32_t lane, [[maybe_unused]] HeldInput& held,
                                                 float (&sums)[4]) {
    const auto go = [&](auto units) {
      if constexpr (kIntegers)
        consume_integers<units>(from, x, unit, lane, held, sums);
      else if constexpr (kQ4 && QUIRE_SM >= 900) // elsewhere registers don't suffice
        consume_nibbles<units>(from, x.halves, kSixteen ? x.sums16 : x.sums32, unit, lane, sums);
      else
        consume_groups<units>(from, x.halves, x.sums32, x.sums16, unit, lane, sums);
    };
    if (count == 2)
      go(std::integral_constant<uint32_t, 2>{});
    else
      go(std::integral_constant<uint32_t, 1>{});
  }

 private:
  static constexpr float kUp = 16777216.f;                                                        // 2^24
  static constexpr uint32_t kTwoScales = kPlanes.super_bytes != 0 ? 2 : kPlanes.scale_bytes / 32; // bytes of them

  // Formats of nibbles alone. A byte of W is l + 16 u, of columns c and c + 8; its share of the sum is l (x[c] - y) +
  // (l + 16 u) y where y is x[c + 8] / 16, so that only lower nibbles need a mask. In c's place x has that difference.
  // It is X times what its group of 32 columns says, X = 256 h + l an integer of 16 bits. A product takes a row of all
  // four groups, half their columns. Rows g of A are of groups 0 and 2, rows 8 + g of 1 and 3; B's first half, for
  // groups 0 and 1, has their h in columns 0 and 1 and their l in columns 2 and 3, the second half those of groups 2
  // and 3 in the columns from 4 on. So a lane's first sum is of an even group, its last one of the odd one behind, both
  // of h or both of l, exact as integers; the other two mix one group's W with another's x and are left. In x's bytes a
  // unit has [group][h, l][t] 8: for lane 4 g + t of columns 2t, 2t + 16, 2t + 1, 2t + 17 of a group, then of those 8
  // further.
  template <uint32_t kCount>
  static __device__ __forceinline__ void consume_integers(const unsigned char* from, const BlockInput& x, uint32_t unit,
                                                          uint32_t lane, HeldInput& held, float (&sums)[4]) {
    if constexpr (kCount == 1) lane = not_kept(lane); // seldom
    const uint32_t g = lane / 4, t = lane % 4;
    if (held.unit != unit) {
      held.unit = unit;
      const uint32_t group = 2 * (g / 4) + g % 2, lower_byte = g / 2 % 2;
      const unsigned char* own = x.bytes + unit * 256 + group * 64 + lower_byte * 32 + t * 8;
      const float up = t % 2 == 0 ? 256.f : 1.f;
#pragma unroll
      for (uint32_t u = 0; u < kCount; ++u) {
        const uint2 b = *reinterpret_cast<const uint2*>(own + u * 256);
        held.of_lower[u][0] = g < 4 ? b.x : 0, held.of_lower[u][1] = g < 4 ? 0 : b.x;
        held.of_both[u][0] = g < 4 ? b.y : 0, held.of_both[u][1] = g < 4 ? 0 : b.y;
        const float4 two = *reinterpret_cast<const float4*>(x.groups + (unit + u) * 4 + t / 2 * 2);
        held.each[u][0] = two.x * up, held.each[u][1] = two.z * up;
        held.sum[u] = t % 2 == 0 ? two.y : two.w; // of group t
      }
    }
    [[maybe_unused]] float of_q[2] = {}, of_minimum[2] = {};
#pragma unroll
    for (uint32_t u = 0; u < kCount; ++u) {
      const unsigned char* scales = from + kAtScales + u * kPlanes.scale_bytes;
#pragma unroll
      for (uint32_t h = 0; h < 2; ++h) {
        const uint32_t row = 8 * h + g;
        const uint4 w = read16(from + u * kPlanes.q4_bytes + h * 512 + lane * 16);
        constexpr uint32_t kLower = 0x0f0f0f0fu;
        int lower[4] = {}, both[4] = {};
        matrix_multiply_bytes(lower, {w.x & kLower, w.y & kLower, w.z & kLower, w.w & kLower},
                              {held.of_lower[u][0], held.of_lower[u][1]});
        matrix_multiply_bytes(both, {w.x, w.y, w.z, w.w}, {held.of_both[u][0], held.of_both[u][1]});
        const int even = lower[0] * 16 + both[0], odd = lower[3] * 16 + both[3];
        if constexpr (kFormat == QUIRE_Q4_K) {
          const unsigned char *of_row = scales + row * 8, *two = of_row + t / 2 * 2;
          of_q[h] = fmaf(static_cast<float>(even * two[0]), held.each[u][0], of_q[h]);
          of_q[h] = fmaf(static_cast<float>(odd * two[1]), held.each[u][1], of_q[h]);
          of_minimum[h] = fmaf(static_cast<float>(of_row[4 + t]), held.sum[u], of_minimum[h]);
        } else {
          const float x_even = static_cast<float>(even) * held.each[u][0];
          const float x_odd = static_cast<float>(odd) * held.each[u][1];
          if constexpr (has_minimum(kFormat)) { // Q4_1: d and m of each group
            const uint2 two = *reinterpret_cast<const uint2*>(scales + row * 16 + t / 2 * 8);
            const float2 first = __half22float2(half2_of(two.x)), second = __half22float2(half2_of(two.y));
            const float minimum = t % 2 == 0 ? first.y : second.y;
            sums[h] = fmaf(first.x, x_even, fmaf(second.x, x_odd, fmaf(minimum, held.sum[u], sums[h])));
          } else { // Q4_0
            const float2 d = __half22float2(half2_of(read4(scales + row * 8 + t / 2 * 4)));
            const float of_t = t % 2 == 0 ? d.x : d.y, offset = static_cast<float>(offset_of(kFormat));
            sums[h] = fmaf(d.x, x_even, fmaf(d.y, x_odd, fmaf(of_t * -offset, held.sum[u], sums[h])));
          }
        }
      }
    }
    if constexpr (kPlanes.super_bytes != 0)
#pragma unroll
      for (uint32_t h = 0; h < 2; ++h) {
        const float2 d = __half22float2(half2_of(read4(from + kAtSuper + (8 * h + g) * 4)));
        sums[h] = fmaf(d.x, of_q[h], fmaf(-d.y, of_minimum[h], sums[h]));
      }
  }

  // Other formats with nibbles. A word of q has pairs 0 and 1 in its bytes 0 and 2, pairs 2 and 3 in the others: q + 16
  // q' in each byte. A product takes the two pairs of a step of 16 columns at once: first whole, times -x of q, then
  // without q, times x of either: an operation on bits for two weights. Of four groups of columns, column j of B is q's
  // of group j, column 4 + j is q''s; so the sums are -sum q x in column j and 16 sum q' x' in column 4 + j.
  // Groups whose sums are apart: as many as registers suffice for.
  static constexpr int kApart = kQ2 ? 1 : 2;
  struct Operand {
    uint32_t minus, x;
    __device__ __forceinline__ Operand(const unsigned char* pair, uint32_t lane)
        : minus((read4(pair) ^ 0x80008000u) & (lane / 16 - 1)), x(read4(pair)) {}
    // With blanks for the other groups whose products go to the same sums.
    __device__ __forceinline__ void blank(int group, uint32_t g) {
      const bool keeps = kApart == 2 ? g % 4 / 2 == group / 2u : g % 4 == static_cast<uint32_t>(group);
      minus = keeps ? minus : 0, x = keeps ? x : 0;
    }
  };
  static __device__ __forceinline__ void multiply(float (&sums)[4], uint32_t top, uint32_t bottom, uint32_t high,
                                                  const Operand& b) {
    matrix_multiply<__half>(sums, {top, bottom, top & high, bottom & high}, {b.minus, b.x});
  }
  static __device__ __forceinline__ uint32_t bytes02(uint32_t word) { return word & 0x00ff00ffu; }
  static __device__ __forceinline__ uint32_t bytes13(uint32_t word) { return __byte_perm(word, 0, 0x4341); }
  // The products of a step of a block: of its nibbles, and of its upper bits, to be multiplied by `up`. Those of Q6_K,
  // two, lie as four of q2 and in a second step times 16; that of Q5_K, Q5_0 and Q5_1 in odd blocks times 16.
  static __device__ __forceinline__ void multiply_step(float (&sums)[4], float (&upper)[4], const Quants& top,
                                                       const Quants& bottom, int block, int step, const Operand& b) {
    constexpr uint32_t kHigh = 0x00f000f0u;
    const auto word = [&](const uint4& v) { return block == 0 ? v.x : block == 1 ? v.y : block == 2 ? v.z : v.w; };
    const uint32_t first = word(top.q4), second = word(bottom.q4);
    if (step == 0)
      multiply(sums, bytes02(first), bytes02(second), kHigh, b);
    else
      multiply(sums, bytes13(first), bytes13(second), kHigh, b);
    uint32_t both, high, words[2];
    bool in_bytes13;
    if constexpr (kQ2) {
      both = 0x000f000fu << 4 * step, high = 0x000c000cu << 4 * step, in_bytes13 = block % 2 != 0;
      words[0] = block < 2 ? top.q2.x : top.q2.y, words[1] = block < 2 ? bottom.q2.x : bottom.q2.y;
    } else {
      both = 0x00030003u << 4 * (block % 2), high = 0x00020002u << 4 * (block % 2), in_bytes13 = block >= 2;
      words[0] = top.q1 >> 2 * step, words[1] = bottom.q1 >> 2 * step;
    }
    if (in_bytes13) words[0] = bytes13(words[0]), words[1] = bytes13(words[1]);
    multiply(upper, words[0] & both, words[1] & both, high, b);
  }
  template <uint32_t kCount>
  static __device__ __forceinline__ void consume_nibbles(const unsigned char* from, const unsigned char* x,
                                                         const float* x_sums, uint32_t unit, uint32_t lane,
                                                         float (&sums)[4]) {
    if constexpr (kCount == 1) lane = not_kept(lane); // seldom
    const uint32_t g = lane / 4, t = lane % 4;
    constexpr uint32_t kFours = kSixteen ? 2 : 1; // groups of a unit by four
    constexpr uint32_t kRowBytes = kPlanes.scale_bytes / 16;
    // What the sums of quants are to be multiplied by: quants enter times 2^-24, and so do the scales of Q5_K.
    const float lane_up = (t < 2 ? -kUp : kUp / 16) * (kPlanes.super_bytes != 0 && !kSixteen ? kUp : 1.f);
    const float up = t < 2 ? 16.f : kQ2 ? 64.f : 128.f; // of upper bits, in even groups
    float of_q[2] = {};                                 // of rows g and g + 8
#pragma unroll
    for (uint32_t u = 0; u < kCount; ++u) {
      const Quants top = quants(from, u, 0, lane), bottom = quants(from, u, 1, lane);
      const unsigned char* x_of_unit = x + (unit + u) * 256 + t * 16 + g / 4 * 4;
#pragma unroll
      for (uint32_t four = 0; four < kFours; ++four) {
        const Operand b0(x_of_unit + (kSixteen ? (2 * four + g % 4 / 2) * 64 + g % 2 * 8 : g % 4 * 64), lane);
        const Operand b1 = kSixteen ? b0 : Operand(x_of_unit + g % 4 * 64 + 8, lane);
        float c[kApart][4] = {}, upper[kApart][4] = {};
#pragma unroll
        for (int group = 0; group < 4; ++group)
#pragma unroll
          for (int step = 0; step < (kSixteen ? 1 : 2); ++step) {
            Operand b = step == 0 ? b0 : b1;
            b.blank(group, g);
            if constexpr (kSixteen)
              multiply_step(c[group % kApart], upper[group % kApart], top, bottom, 2 * four + group / 2, group % 2, b);
            else
              multiply_step(c[group % kApart], upper[group % kApart], top, bottom, group, step, b);
          }
        float of_group[2][2]; // [group][row g or g + 8] of groups 2 (t % 2) and the next
#pragma unroll
        for (int odd = 0; odd < 2; ++odd)
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            const int at = 2 * h + odd, apart = odd % kApart;
            of_group[odd][h] = fmaf(up, odd == 0 ? upper[apart][at] : upper[apart][at] * (1.f / 16), c[apart][at]);
          }
        const uint32_t first_group = 4 * kFours * u + 4 * four + 2 * (t % 2); // of the stage
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h)
          scale_groups(from + kAtScales + u * kPlanes.scale_bytes + (8 * h + g) * kRowBytes +
                           (four * 2 + t % 2) * kTwoScales,
                       x_sums + 4 * kFours * unit + first_group, t, of_group[0][h], of_group[1][h], of_q[h], sums[h]);
      }
    }
    if constexpr (kPlanes.super_bytes != 0) { // d and dmin of all
      lane = not_kept(lane);
      const uint32_t g = lane / 4, t = lane % 4;
      const unsigned char* super = from + kAtSuper + g * 4;
      float2 d[2];
#pragma unroll
      for (uint32_t h = 0; h < 2; ++h) {
        d[h] = __half22float2(half2_of(read4(super + h * 32)));
        sums[h] = fmaf(d[h].x * lane_up, of_q[h], sums[h]);
      }
      if (!kSixteen && t / 2 < kCount) { // minimums: blocks 2t and 2t + 1 of the stage's eight
        const float2 xs = *reinterpret_cast<const float2*>(x_sums + 4 * unit + 2 * t);
        const unsigned char* minimums = from + kAtScales + t / 2 * kPlanes.scale_bytes + g * 8 + 4 + t % 2 * 2;
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h) {
          const float2 m = bytes_of(minimums + h * 64);
          sums[h] = fmaf(d[h].y * -kUp, fmaf(m.x, xs.x, m.y * xs.y), sums[h]);
        }
      }
    }
    if constexpr (kPlanes.super_bytes == 0)
#pragma unroll
      for (int h = 0; h < 2; ++h) sums[h] = fmaf(lane_up, of_q[h], sums[h]);
  }
  // Of two groups that follow each other, whose sums of x lie at x_sums: their sums times the scales, to of_q; offsets,
  // and minimums that lie with the scales, by the lanes that have column j.
  static __device__ __forceinline__ void scale_groups(const unsigned char* scales, const float* x_sums, uint32_t t,
                                                      float first, float second, float& of_q,
                                                      [[maybe_unused]] float& sum) {
    if constexpr (kPlanes.super_bytes != 0 && !kSixteen) { // Q5_K
      const float2 d = bytes_of(scales);
      of_q = fmaf(d.x, first, fmaf(d.y, second, of_q));
      return;
    }
    const float2 xs = *reinterpret_cast<const float2*>(x_sums);
    if constexpr (has_minimum(kFormat)) { // Q5_1: d and m of each block
      const uint2 both = *reinterpret_cast<const uint2*>(scales);
      const float2 a = __half22float2(half2_of(both.x)), b = __half22float2(half2_of(both.y));
      of_q = fmaf(a.x, first, fmaf(b.x, second, of_q));
      if (t < 2) sum = fmaf(a.y, xs.x, fmaf(b.y, xs.y, sum));
    } else {
      float2 d;
      if constexpr (kSixteen) // 1024 + 128 + scale
        d = __half22float2(
            __hsub2(half2_of(__byte_perm(*reinterpret_cast<const uint16_t*>(scales), 0x64646464u, 0x4140)),
                    __float2half2_rn(1152.f)));
      else
        d = __half22float2(half2_of(read4(scales)));
      const float offset = t < 2 ? offset_of(kFormat) / kUp : 0;
      of_q = fmaf(d.x, fmaf(offset, xs.x, first), fmaf(d.y, fmaf(offset, xs.y, second), of_q));
    }
  }
  static __device__ __forceinline__ uint32_t read4(const unsigned char* p) {
    return *reinterpret_cast<const uint32_t*>(p);
  }
  // Two bytes times 2^-24.
  static __device__ __forceinline__ float2 bytes_of(const unsigned char* p) {
    return __half22float2(half2_of(__byte_perm(*reinterpret_cast<const uint16_t*>(p), 0, 0x4140)));
  }

  template <uint32_t kCount>
  static __device__ __forceinline__ void consume_groups(const unsigned char* from, const unsigned char* x,
                                                        const float* sums32, const float* sums16, uint32_t unit,
                                                        uint32_t lane, float (&sums)[4]) {
    const uint32_t g = lane / 4, t = lane % 4;
    float lo[2][4] = {};                 // [unit where groups are 16 columns, else 0 and 1: q and 16 q]
    uint4 mine = make_uint4(0, 0, 0, 0); // of the lane's group: 32 columns
    if constexpr (!kSixteen)
      if (g < 4 * kCount) mine = read16(x + (4 * unit + g) * 64 + t * 16);
#pragma unroll
    for (int u = 0; u < static_cast<int>(kCount); ++u) {
      const Quants top = quants(from, u, 0, lane), bottom = quants(from, u, 1, lane);
      if constexpr (kSixteen) {
        const uint2 half = *reinterpret_cast<const uint2*>(x + (4 * (unit + u) + g / 2) * 64 + t * 16 + g % 2 * 8);
        mine = make_uint4(half.x, half.y, half.x, half.y);
      }
#pragma unroll
      for (int block = 0; block < 4; ++block) {
        uint32_t a[4][2];
#pragma unroll
        for (int p = 0; p < 4; ++p) a[p][0] = raw(top, block, p), a[p][1] = raw(bottom, block, p);
        if constexpr (kSixteen) {
#pragma unroll
          for (int step = 0; step < 2; ++step) {
            const bool here = g == static_cast<uint32_t>(2 * block + step);
            const uint32_t b[2] = {here ? mine.x : 0, here ? mine.y : 0};
            matrix_multiply<__half>(lo[u], {a[2 * step][0], a[2 * step][1], a[2 * step + 1][0], a[2 * step + 1][1]}, b);
          }
        } else {
          const bool here = g == static_cast<uint32_t>(4 * u + block);
          const uint32_t b[4] = {here ? mine.x : 0, here ? mine.y : 0, here ? mine.z : 0, here ? mine.w : 0};
          // Pairs 0 and 2 together, and 1 and 3: these may be sixteenfold.
          matrix_multiply<__half>(lo[0], {a[0][0], a[0][1], a[2][0], a[2][1]}, {b[0], b[2]});
          matrix_multiply<__half>(lo[1], {a[1][0], a[1][1], a[3][0], a[3][1]}, {b[1], b[3]});
        }
      }
    }
    if constexpr (kSixteen) {
#pragma unroll
      for (uint32_t u = 0; u < kCount; ++u) {
        const unsigned char* super = from + kAtSuper;
#pragma unroll
        for (uint32_t h = 0; h < 2; ++h)
          scale16(from + u * kPlanes.scale_bytes, super, sums16 + 8 * (unit + u) + 2 * t, 8 * h + g, t,
                  lo[u][2 * h] * kUp, lo[u][2 * h + 1] * kUp, sums[h]);
      }
    } else if (t / 2 < kCount) {
      constexpr float kUpHigh = kUp / (sixteenfold(1) ? 16.f : 1.f);
      const unsigned char* super = from + kAtSuper;
#pragma unroll
      for (uint32_t h = 0; h < 2; ++h)
        scale32(from, super, sums32 + 4 * unit + 2 * t, 8 * h + g, t, fmaf(lo[1][2 * h], kUpHigh, lo[0][2 * h] * kUp),
                fmaf(lo[1][2 * h + 1], kUpHigh, lo[0][2 * h + 1] * kUp), sums[h]);
    }
  }

  // sum += w x over the blocks of 32 columns 2t and 2t + 1, given the sums of q x of both.
  static __device__ __forceinline__ void scale32(const unsigned char* from, [[maybe_unused]] const unsigned char* super,
                                                 const float* x_sums, uint32_t row, uint32_t t, float first,
                                                 float second, float& sum) {
    const float2 xs = *reinterpret_cast<const float2*>(x_sums);
    const unsigned char* scales = from + kAtScales + t / 2 * kPlanes.scale_bytes + row * (kPlanes.scale_bytes / 16);
    if constexpr (kPlanes.super_bytes != 0) { // Q5_K
      const uint2 bytes = *reinterpret_cast<const uint2*>(scales);
      const uint32_t at = t % 2 * 2;
      const float2 d = __half22float2(half2_of(*reinterpret_cast<const uint32_t*>(super + row * 4)));
      const float q = fmaf(byte_of(bytes.x, at), first, byte_of(bytes.x, at + 1) * second);
      const float m = fmaf(byte_of(bytes.y, at), xs.x, byte_of(bytes.y, at + 1) * xs.y);
      sum = fmaf(d.x, q, sum);
      sum = fmaf(-d.y, m, sum);
    } else if constexpr (kPlanes.scale_bytes == 256) { // d and m of each block
      const uint2 both = *reinterpret_cast<const uint2*>(scales + t % 2 * 8);
      const float2 a = __half22float2(half2_of(both.x)), b = __half22float2(half2_of(both.y));
      sum = fmaf(a.x, first, fmaf(b.x, second, sum));
      sum = fmaf(a.y, xs.x, fmaf(b.y, xs.y, sum));
    } else {
      const float2 d = __half22float2(half2_of(*reinterpret_cast<const uint32_t*>(scales + t % 2 * 4)));
      constexpr float kOffset = static_cast<float>(offset_of(kFormat));
      sum = fmaf(d.x, fmaf(-kOffset, xs.x, first), fmaf(d.y, fmaf(-kOffset, xs.y, second), sum));
    }
  }
  // The same of the groups of 16 columns 2t and 2t + 1 of the unit whose scales lie at from.
  static __device__ __forceinline__ void scale16(const unsigned char* from, const unsigned char* super,
                                                 const float* x_sums, uint32_t row, uint32_t t, float first,
                                                 float second, float& sum) {
    const float2 xs = *reinterpret_cast<const float2*>(x_sums);
    const uint32_t bytes = *reinterpret_cast<const uint16_t*>(from + kAtScales + row * 8 + 2 * t);
    const float2 d = __half22float2(half2_of(*reinterpret_cast<const uint32_t*>(super + row * 4)));
    if constexpr (kFormat == QUIRE_Q2_K) {
      const float q = fmaf(byte_of(bytes & 0x0f0fu, 0), first, byte_of(bytes & 0x0f0fu, 1) * second);
      const float m = fmaf(byte_of(bytes >> 4 & 0x0f0fu, 0), xs.x, byte_of(bytes >> 4 & 0x0f0fu, 1) * xs.y);
      sum = fmaf(d.x, q, sum);
      sum = fmaf(-d.y, m, sum);
    } else {
      constexpr float kOffset = static_cast<float>(offset_of(kFormat));
      const float q = fmaf(byte_of(bytes, 0) - 128.f, fmaf(-kOffset, xs.x, first),
                           (byte_of(bytes, 1) - 128.f) * fmaf(-kOffset, xs.y, second));
      sum = fmaf(d.x, q, sum);
    }
  }
};

} // namespace quire::cuda
