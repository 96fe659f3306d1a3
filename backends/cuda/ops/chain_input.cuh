// A phase's input: each warp waits for its own slice of K, adds the residual, normalises, and leaves fp16 or integers
// in shared memory in the order of the streams' fragments.
#pragma once

#include "chain_share.cuh"

namespace quire::cuda {

// Bytes of a row of x: rows follow each other in the other half of the banks. With block formats there is one row, as
// fp16 and then as integers, where either is wanted.
__host__ __device__ constexpr uint32_t x_pitch(uint32_t cols) { return (cols + 255) / 256 * 512 + 64; }
template <class R> __host__ __device__ constexpr uint32_t x_row_bytes(uint32_t cols) {
  return x_pitch(cols) * ((R::kHalves ? 1 : 0) + (R::kIntegers ? 1 : 0));
}
// Floats of what is known of its groups: sums of each 32 columns, and of each 16; two floats of each 32.
__host__ __device__ constexpr uint32_t x_sums_of_32(uint32_t cols) { return (cols + 255) / 256 * 8; }
template <class R> __host__ __device__ constexpr uint32_t x_sums(uint32_t cols) {
  return x_sums_of_32(cols) * ((R::kHalves ? 3 : 0) + (R::kIntegers ? 2 : 0));
}
template <class R> __device__ __forceinline__ BlockInput block_input(unsigned char* x, float* sums, uint32_t cols) {
  BlockInput in;
  if constexpr (R::kHalves) {
    in.halves = x, in.sums32 = sums, in.sums16 = sums + x_sums_of_32(cols);
    x += x_pitch(cols), sums += 3 * x_sums_of_32(cols);
  }
  if constexpr (R::kIntegers) in.bytes = x, in.groups = reinterpret_cast<float2*>(sums);
  return in;
}

// Two fp16 elements that are not made yet.
inline constexpr uint32_t kEmpty = 0xffffffffu;

// Relaxed, at the device's scope: each word is its own flag, and nothing else is ordered by it.
__device__ __forceinline__ void hand_over(__half* to, uint32_t halves) {
  if (halves == kEmpty) halves = 0x7fff7fffu; // NaNs of another kind
#ifdef QUIRE_CUDA_EMULATED
  *reinterpret_cast<uint32_t*>(to) = halves;
#else
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(to), "r"(halves) : "memory");
#endif
}
__device__ __forceinline__ uint4 look_at(const __half* from) {
#ifdef QUIRE_CUDA_EMULATED
  return *reinterpret_cast<const uint4*>(from);
#else
  uint4 v;
  asm volatile("ld.relaxed.gpu.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from)
               : "memory");
  return v;
#endif
}
__device__ __forceinline__ bool made(const uint4& v) {
  return v.x != kEmpty && v.y != kEmpty && v.z != kEmpty && v.w != kEmpty;
}

struct Eight {
  float x[8];
};
__device__ __forceinline__ Eight eight_of(const uint4& v) {
  Eight e;
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 f = __half22float2(half2_of(words[i]));
    e.x[2 * i] = f.x, e.x[2 * i + 1] = f.y;
  }
  return e;
}
__device__ __forceinline__ Eight eight_at(const float* p) {
  const float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
__device__ __forceinline__ void put_eight(float* p, const Eight& e) {
  reinterpret_cast<float4*>(p)[0] = make_float4(e.x[0], e.x[1], e.x[2], e.x[3]);
  reinterpret_cast<float4*>(p)[1] = make_float4(e.x[4], e.x[5], e.x[6], e.x[7]);
}
// Eight elements of a row of activations that other blocks may just have written.
__device__ __forceinline__ Eight load_eight(const Tensor& tensor, uint32_t row, uint32_t col) {
  const size_t at = size_t{row} * tensor.stride + col;
  if (tensor.type == Type::f16)
    return eight_of(__ldcg(reinterpret_cast<const uint4*>(static_cast<const __half*>(tensor.data) + at)));
  const auto* from = reinterpret_cast<const float4*>(static_cast<const float*>(tensor.data) + at);
  const float4 a = __ldcg(from), b = __ldcg(from + 1);
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

// What a group of 32 columns makes of x as integers (BlockStream::consume_integers), for four lanes with eight of its
// columns each. A group with an infinity or NaN makes NaNs.
constexpr float kMostInteger = 32512.f; // 127 * 256: both bytes keep a sign
__device__ __forceinline__ void put_integers(unsigned char* bytes, float2* groups, uint32_t col, bool here,
                                             const Eight& e) {
  const uint32_t eighth = col % 32 / 8;
  // Of the first eight of each 16 columns less a sixteenth of those 8 further.
  const float of_next = eighth % 2 == 0 ? -1.f / 16 : 0.f;
  float v[8], most = 0, sum = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) v[i] = fmaf(__shfl_xor_sync(kAllLanes, e.x[i], 1), of_next, e.x[i]);
#pragma unroll
  for (int i = 0; i < 8; ++i) most = fmaxf(most, fabsf(v[i])), sum += e.x[i];
#pragma unroll
  for (int mask = 1; mask < 4; mask *= 2) {
    most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, mask));
    sum += __shfl_xor_sync(kAllLanes, sum, mask);
  }
  const float each = most * (1.f / kMostInteger), inverse = each > 1e-35f ? reciprocal_fast(each) : 0.f;
  uint32_t mine[4], theirs[4]; // of columns 2t and 2t + 1 of the eight, in bytes 0 and 2: the one kept, the one given
#pragma unroll
  for (uint32_t t = 0; t < 4; ++t) {
    // The integer is what is left of 1.5 * 2^23 + X below bit 22; to convert it would take longer.
    const uint32_t first = __float_as_uint(fmaf(v[2 * t], inverse, 12582912.f));
    const uint32_t second = __float_as_uint(fmaf(v[2 * t + 1], inverse, 12582912.f));
    // Lower bytes have a sign of their own, so the upper ones are rounded to the nearest.
    const uint32_t lower = __byte_perm(first, second, 0x0400) & 0x00ff00ffu;
    const uint32_t upper = __byte_perm(first + 128, second + 128, 0x0501) & 0x00ff00ffu;
    mine[t] = eighth < 2 ? upper : lower, theirs[t] = eighth < 2 ? lower : upper;
  }
#pragma unroll
  for (uint32_t t = 0; t < 4; ++t) {
    const uint32_t got = __shfl_xor_sync(kAllLanes, theirs[t], 2); // of 16 columns before or behind
    const uint32_t word = eighth < 2 ? mine[t] | got << 8 : got | mine[t] << 8;
    if (here) *reinterpret_cast<uint32_t*>(bytes + col / 32 * 64 + eighth / 2 * 32 + t * 8 + eighth % 2 * 4) = word;
  }
  if (here && eighth == 0) groups[col / 32] = make_float2(each * (1.f / 16) + (sum - sum), sum);
}

// Columns col to col + 7 of a row into x, where the lane has any; for block formats what is known of groups too. Every
// lane of the warp calls it; eight columns a lane, one after another. cols: of the whole row.
template <class R>
__device__ __forceinline__ void put_x(unsigned char* x, float* sums, uint32_t cols, uint32_t col, bool here,
                                      const Eight& e) {
  const BlockInput to = block_input<R>(x, sums, cols);
  if constexpr (R::kIntegers) put_integers(to.bytes, to.groups, col, here, e);
  [[maybe_unused]] const uint32_t w[4] = {pack_half2(e.x[0], e.x[1]), pack_half2(e.x[2], e.x[3]),
                                          pack_half2(e.x[4], e.x[5]), pack_half2(e.x[6], e.x[7])};
  if constexpr (R::kPlain) {
    if (here) *reinterpret_cast<uint4*>(to.halves + col * 2) = make_uint4(w[0], w[1], w[2], w[3]);
  } else if constexpr (R::kHalves) {
    float sum = 0;
#pragma unroll
    for (uint32_t t = 0; t < 4; ++t) {
      const float2 f = __half22float2(half2_of(w[t]));
      sum += f.x + f.y;
    }
    if (here) {
      unsigned char* block = to.halves + col / 32 * 64 + col % 32 / 8 * 4; // pair col / 8 of the block, of each lane t
#pragma unroll
      for (uint32_t t = 0; t < 4; ++t) *reinterpret_cast<uint32_t*>(block + t * 16) = w[t];
    }
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    if (here && col % 16 == 0) to.sums16[col / 16] = sum;
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    if (here && col % 32 == 0) to.sums32[col / 32] = sum;
  }
}

// The warp's slice of the phase's input into shared memory, padded with zeros to whole units; the whole input where
// warps share slices. handed: the set in which it is handed over within this launch, null where it isn't. kept:
// [rows][cols] the sum of the norm, each element the same thread's in every phase. scratch: [2][warps].
template <class R>
__device__ __forceinline__ void fill_x(const ChainPhase& phase, const Share<R>& share, const std::byte* handed,
                                       uint32_t rows, unsigned char* x, float* sums, float* kept, float* scratch) {
  const bool made_here = handed != nullptr;
  const uint32_t cols = phase.linear.parts[0].weight.cols, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t first = share.begin * R::kColumns, end = share.group == 0 ? share.end * R::kColumns : first;
  const auto* input = reinterpret_cast<const __half*>(handed + size_t{phase.takes} * rows);
  const auto handed_at = [&](uint32_t row, uint32_t col) { return input + size_t{row} * phase.in_width + col; };
  uint32_t turn = 0;
  const auto total = [&](float value) {
    value = warp_sum(value);
    float* places = scratch + turn * kChainWarps;
    turn ^= 1;
    if (lane == 0) places[warp] = value;
    __syncthreads();
    value = 0;
#pragma unroll
    for (uint32_t w = 0; w < kChainWarps; ++w) value += places[w];
    return value;
  };
  for (uint32_t row = 0; row < rows; ++row) {
    unsigned char* to = x + row * x_pitch(cols);
    if (!phase.normed) {
      constexpr uint32_t kPieces = 4;
      const Tensor& in = phase.linear.in;
      if (!made_here) {
#pragma unroll 1
        for (uint32_t col = first + lane * 8; col - lane * 8 < end; col += 256)
          put_x<R>(to, sums, cols, col, col < end, col < min(cols, end) ? load_eight(in, row, col) : Eight{});
        continue;
      }
      for (uint32_t piece = first + lane * 8; piece - lane * 8 < end; piece += kPieces * 256) {
        // Each as soon as it is there: most of the blocks are done before the last.
        uint32_t left = (1u << min((end - (piece - lane * 8) + 255) / 256, kPieces)) - 1;
        uint4 got[kPieces] = {};
        while (left != 0) {
#pragma unroll
          for (uint32_t i = 0; i < kPieces; ++i)
            if ((left >> i & 1) != 0 && piece + i * 256 < min(cols, end))
              got[i] = look_at(handed_at(row, piece + i * 256));
#pragma unroll(R::kPlain ? kPieces : 1) // what put_x makes for blocks is long
          for (uint32_t i = 0; i < kPieces; ++i) {
            if ((left >> i & 1) != 0 && !__any_sync(kAllLanes, !made(got[0]))) {
              const uint32_t col = piece + i * 256;
              put_x<R>(to, sums, cols, col, col < end, col < min(cols, end) ? eight_of(got[0]) : Eight{});
              left ^= 1u << i;
            }
            const uint4 first = got[0]; // the next to the front
#pragma unroll
            for (uint32_t k = 0; k + 1 < kPieces; ++k) got[k] = got[k + 1];
            got[kPieces - 1] = first;
          }
        }
      }
      continue;
    }
    const NormArgs& norm = phase.norm;
    const uint32_t col = first + lane * 8; // a slice has 256 columns at most
    const bool here = col < min(cols, end);
    float* mine_kept = kept + size_t{row} * cols + col;
    // What can be had before the input: the waiting hides it.
    Eight e{}, factor{}, bias{};
    if (here) {
      if (norm.weight != nullptr) factor = eight_at(norm.weight + col);
      if (norm.bias != nullptr) bias = eight_at(norm.bias + col);
      if (phase.residual_kept)
        e = eight_at(mine_kept);
      else if (norm.residual.data != nullptr)
        e = load_eight(norm.residual, row, col);
      Eight in;
      if (made_here) {
        uint4 got = look_at(handed_at(row, col));
        while (!made(got)) {
          got = look_at(handed_at(row, col));
        }
        in = eight_of(got);
      } else {
        in = load_eight(norm.in, row, col);
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) e.x[j] += in.x[j];
      if (phase.keeps_sum || norm.sum.data != nullptr) put_eight(mine_kept, e);
    }
    __syncwarp();
    float mean = 0;
    if (norm.layer) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 8; ++j) sum += e.x[j];
      mean = total(sum) / static_cast<float>(cols);
    }
    float squares = 0;
    if (here)
#pragma unroll
      for (int j = 0; j < 8; ++j) squares += (e.x[j] - mean) * (e.x[j] - mean);
    const float inverse = rsqrtf(total(squares) / static_cast<float>(cols) + norm.epsilon);
    if (first == end) continue; // the whole warp
    const float offset = norm.weight != nullptr ? norm.weight_offset : 1.f;
    if (here)
#pragma unroll
      for (int j = 0; j < 8; ++j) e.x[j] = fmaf((e.x[j] - mean) * inverse, factor.x[j] + offset, bias.x[j]);
    put_x<R>(to, sums, cols, col, col < end, e);
  }
  if (share.groups > 1)
    __syncthreads();
  else
    __syncwarp();
}

// The kept sum of the warp's slice to a tensor: after the phase's barrier, when nobody reads any more what was read a
// phase before.
template <class R>
__device__ __forceinline__ void write_kept(const Tensor& to, const Share<R>& share, uint32_t rows, uint32_t cols,
                                           const float* kept) {
  const uint32_t end = min(cols, share.end * R::kColumns);
  if (share.group != 0) return;
  for (uint32_t row = 0; row < rows; ++row)
    for (uint32_t col = share.begin * R::kColumns + threadIdx.x % 32 * 8; col < end; col += 256) {
      const float* from = kept + size_t{row} * cols + col;
#pragma unroll
      for (uint32_t j = 0; j < 8; j += 4) store<4>(to, row, col + j, {from[j], from[j + 1], from[j + 2], from[j + 3]});
    }
}

} // namespace quire::cuda
