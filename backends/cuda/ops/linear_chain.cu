// linear_chain: see linear_chain.hpp; bound by reading the weights of all phases once.
//
// Shapes: in [rows, K], W [N, K], out [rows, sum N], of each phase; rows up to kChainRows with fp16 weights, one with
// block formats. Bytes: every W once; in (and the norm's inputs) once a block, from the L2. Each block has as many
// tiles of 16 rows of W as any other; its warps take them at once, sharing K in contiguous slices where there are fewer
// tiles than warps, and each streams what it has through a ring of its own in shared memory. A warp's copies run ahead
// of its products across tiles and phases, so that the memory works on while blocks wait for the next input and
// normalise it (each block for itself).
//
// Order without barriers: a block that makes anything in a phase has read all of that phase's input, hence every block
// that made some of it had read the inputs of the phase before. So the place of an input may be written two phases on.
#include "linear_chain.hpp"
#include "linear_stream.cuh"

#include <algorithm>
#include <cassert>
#include <utility>

namespace quire::cuda {
namespace {

constexpr uint32_t kWarps = 16, kThreads = kWarps * 32;
constexpr uint32_t kRingBytes = 10240; // of a warp, at most

template <uint32_t kFirst, uint32_t kSecond> struct Ring {
  static constexpr bool kPlain = kFirst == QUIRE_F16;
  static constexpr uint32_t kColumns = kPlain ? PlainStream::kColumns : 256;
  static constexpr uint32_t kStageBytes = [] {
    if constexpr (kPlain) return PlainStream::kStageBytes;
    const uint32_t a = 2 * block_format(kFirst).unit_bytes(), b = 2 * block_format(kSecond).unit_bytes();
    return a > b ? a : b;
  }();
  static constexpr uint32_t kStages = kRingBytes / kStageBytes < 4 ? kRingBytes / kStageBytes : 4;
  static constexpr uint32_t kBytes = kWarps * kStages * kStageBytes;
  static constexpr uint32_t kWidth = kPlain ? kChainRows : 1; // rows of activations at most
  static constexpr uint32_t kPitch = kPlain ? kChainRows + 1 : 1;
  static constexpr uint32_t kSubs = kPlain ? 1 : 2; // tiles of 16 rows that glu takes together
  static constexpr uint32_t kPartialBytes = 2 * kWarps * kSubs * 16 * kPitch * 4;
};

// Bytes of a row of x: rows follow each other in the other half of the banks.
__host__ __device__ constexpr uint32_t x_pitch(uint32_t cols) { return (cols + 255) / 256 * 512 + 64; }
// Floats of the sums of x: of each 32 columns, then of each 16.
__host__ __device__ constexpr uint32_t x_sums_of_32(uint32_t cols) { return (cols + 255) / 256 * 8; }
__host__ __device__ constexpr uint32_t x_sums(uint32_t cols) { return 3 * x_sums_of_32(cols); }

__host__ __device__ inline uint32_t tiles_of(const LinearArgs& a, bool plain) {
  if (a.glu) return (a.parts[0].weight.rows + (plain ? 7 : 15)) / (plain ? 8 : 16);
  uint32_t tiles = 0;
  for (uint32_t p = 0; p < a.num_parts; ++p) tiles += (a.parts[p].weight.rows + 15) / 16;
  return tiles;
}

// What a block and a warp of it have of a phase: tiles first to last - 1, `together` of them at a time, each by
// `slices` warps that share K. As many together as the block has, so that warps seldom wait for one another.
struct Share {
  uint32_t first, last, together, slices;
  uint32_t tile;       // the warp's, of those that go together
  uint32_t begin, end; // units of K; none for a warp too many

  __device__ __forceinline__ Share(const LinearArgs& a, bool plain, uint32_t columns) {
    const uint32_t tiles = tiles_of(a, plain), blocks = gridDim.x, warp = threadIdx.x / 32;
    const uint32_t units = (a.parts[0].weight.cols + columns - 1) / columns;
    first = (tiles * blockIdx.x + blocks - 1) / blocks, last = (tiles * (blockIdx.x + 1) + blocks - 1) / blocks;
    const uint32_t most = (tiles + blocks - 1) / blocks, rounds = (most + kWarps - 1) / kWarps;
    together = plain ? 1 : (most + rounds - 1) / rounds;
    slices = kWarps / together;
    tile = warp / slices;
    begin = units * (warp % slices) / slices, end = units * (warp % slices + 1) / slices;
    if (tile >= together) end = begin;
  }
};

// What a warp copies next.
template <class R> struct Cursor {
  uint32_t phase, last, item, last_item, step, sub, unit, begin, end;
  PlainStream plain;
  TilePlanes planes;

  __device__ __forceinline__ void start(const ChainArgs& a, uint32_t first, uint32_t last_phase) {
    phase = first, last = last_phase;
    enter(a);
  }
  __device__ __forceinline__ bool done() const { return phase >= last; }
  // The block's first tile of this phase, or of the first phase after it that has one for it.
  __device__ __forceinline__ void enter(const ChainArgs& a) {
    for (; phase < last; ++phase) {
      const LinearArgs& linear = a.phases[phase].linear;
      const Share share(linear, R::kPlain, R::kColumns);
      begin = share.begin, end = share.end, last_item = share.last, step = share.together;
      item = share.first + share.tile, sub = 0, unit = begin;
      if (begin == end || item >= last_item) continue;
      place(linear);
      return;
    }
  }
  __device__ __forceinline__ void place(const LinearArgs& a) {
    if constexpr (R::kPlain) {
      plain.place(a, item, threadIdx.x % 32);
    } else {
      const PartTile<16> at(a, a.glu ? 0 : item);
      planes.place(a.parts[a.glu ? sub : at.part].weight, a.glu ? item : at.tile);
    }
  }
  __device__ __forceinline__ void next(const ChainArgs& a) {
    if (++unit != end) return;
    unit = begin;
    const LinearArgs& linear = a.phases[phase].linear;
    if (!R::kPlain && linear.glu && sub == 0) {
      sub = 1;
      return place(linear);
    }
    sub = 0;
    item += step;
    if (item < last_item) return place(linear);
    ++phase;
    enter(a);
  }
};

// Two fp16 elements and the launch that made them. 8 bytes are written and read as one.
__device__ __forceinline__ void put_word(void* words, size_t element, uint32_t halves, uint32_t launch) {
  auto* to = reinterpret_cast<uint2*>(words) + element / 2;
#ifdef QUIRE_CUDA_EMULATED
  *to = make_uint2(halves, launch);
#else
  asm volatile("st.volatile.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(halves), "r"(launch) : "memory");
#endif
}
__device__ __forceinline__ uint4 look_at(const uint4* words) {
#ifdef QUIRE_CUDA_EMULATED
  return *words;
#else
  uint4 v;
  asm volatile("ld.volatile.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(words)
               : "memory");
  return v;
#endif
}

struct Eight {
  float x[8];
};
__device__ __forceinline__ Eight eight_at(const float* p) {
  const float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
// Eight elements of a row of activations that other blocks may just have written.
__device__ __forceinline__ Eight load_eight(const Tensor& tensor, uint32_t row, uint32_t col) {
  Eight e;
  const size_t at = size_t{row} * tensor.stride + col;
  if (tensor.type == Type::f16) {
    const uint4 v = __ldcg(reinterpret_cast<const uint4*>(static_cast<const __half*>(tensor.data) + at));
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 f = __half22float2(half2_of(words[i]));
      e.x[2 * i] = f.x, e.x[2 * i + 1] = f.y;
    }
  } else {
    const auto* from = reinterpret_cast<const float4*>(static_cast<const float*>(tensor.data) + at);
    const float4 a = __ldcg(from), b = __ldcg(from + 1);
    e.x[0] = a.x, e.x[1] = a.y, e.x[2] = a.z, e.x[3] = a.w, e.x[4] = b.x, e.x[5] = b.y, e.x[6] = b.z, e.x[7] = b.w;
  }
  return e;
}

// Eight elements as four words.
struct Words {
  uint4 v[2];
};
__device__ __forceinline__ Eight eight_of(const Words& words) {
  Eight e;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const float2 a = __half22float2(half2_of(words.v[h].x)), b = __half22float2(half2_of(words.v[h].z));
    e.x[4 * h] = a.x, e.x[4 * h + 1] = a.y, e.x[4 * h + 2] = b.x, e.x[4 * h + 3] = b.y;
  }
  return e;
}

// Columns first, first + kThreads * 8, ... of a row (eight each, below cols) that other blocks make in this launch:
// waits for them.
template <uint32_t kPieces>
__device__ __forceinline__ void await_words(const Tensor& tensor, uint32_t row, uint32_t first, uint32_t cols,
                                            uint32_t launch, Words (&words)[kPieces]) {
  const auto* from = reinterpret_cast<const uint4*>(tensor.data) + (size_t{row} * tensor.stride + first) / 4;
  for (bool ready = false; !ready;) {
    ready = true;
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i)
      if (first + i * (kThreads * 8) < cols)
#pragma unroll
        for (int h = 0; h < 2; ++h) words[i].v[h] = look_at(from + i * (kThreads * 2) + h);
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i)
      if (first + i * (kThreads * 8) < cols)
#pragma unroll
        for (int h = 0; h < 2; ++h) ready = ready && words[i].v[h].y == launch && words[i].v[h].w == launch;
    if (!ready) __nanosleep(40); // those that make them need the L2 too
  }
}

// Columns col to col + 7 of a row into x, in the order of the stream's fragments; group sums for block formats. Every
// lane of the warp calls it; eight columns a lane, one after another.
template <class R>
__device__ __forceinline__ void put_x(unsigned char* x, float* sums32, float* sums16, uint32_t col, const Eight& e) {
  const uint32_t w[4] = {pack_half2(e.x[0], e.x[1]), pack_half2(e.x[2], e.x[3]), pack_half2(e.x[4], e.x[5]),
                         pack_half2(e.x[6], e.x[7])};
  if constexpr (R::kPlain) {
    *reinterpret_cast<uint4*>(x + col * 2) = make_uint4(w[0], w[1], w[2], w[3]);
  } else {
    unsigned char* block = x + col / 32 * 64 + col % 32 / 8 * 4; // pair col / 8 of the block, of each lane t
#pragma unroll
    for (uint32_t t = 0; t < 4; ++t) *reinterpret_cast<uint32_t*>(block + t * 16) = w[t];
    float sum = 0;
#pragma unroll
    for (uint32_t t = 0; t < 4; ++t) {
      const float2 f = __half22float2(half2_of(w[t]));
      sum += f.x + f.y;
    }
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    if (col % 16 == 0) sums16[col / 16] = sum;
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    if (col % 32 == 0) sums32[col / 32] = sum;
  }
}

// The phase's input into shared memory, padded with zeros to a whole stage. words: it is made in this launch. kept:
// [rows][dim] the sum of the norm, each element the same thread's in every phase.
template <class R>
__device__ __forceinline__ void fill_x(const ChainPhase& phase, bool words, uint32_t launch, uint32_t rows,
                                       unsigned char* x, float* sums32, float* kept, float* scratch) {
  const uint32_t cols = phase.linear.parts[0].weight.cols, padded = (cols + 255) / 256 * 256;
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, mine = threadIdx.x * 8;
  float* sums16 = sums32 + x_sums_of_32(cols);
  constexpr uint32_t kPass = kThreads * 8;
  const auto total = [&](float value) {
    value = warp_sum(value);
    __syncthreads();
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    value = 0;
#pragma unroll
    for (uint32_t w = 0; w < kWarps; ++w) value += scratch[w];
    return value;
  };
  for (uint32_t row = 0; row < rows; ++row) {
    unsigned char* to = x + row * x_pitch(cols);
    if (!phase.normed) {
      constexpr uint32_t kPieces = 2;
      for (uint32_t first = 0; first < padded; first += kPieces * kPass) {
        Words got[kPieces];
        if (words) await_words(phase.linear.in, row, first + mine, cols, launch, got);
#pragma unroll
        for (uint32_t i = 0; i < kPieces; ++i) {
          const uint32_t col = first + i * kPass + mine;
          if (first + i * kPass + warp * 256 >= padded) break; // the whole warp
          put_x<R>(to, sums32, sums16, col,
                   col >= cols ? Eight{}
                   : words     ? eight_of(got[i])
                               : load_eight(phase.linear.in, row, col));
        }
      }
      continue;
    }
    const NormArgs& norm = phase.norm;
    constexpr uint32_t kPieces = kChainNormDim / kPass;
    Eight e[kPieces], factor[kPieces], residual[kPieces];
    float* mine_kept = kept + size_t{row} * cols;
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i) {
      const uint32_t col = i * kPass + mine;
      if (norm.weight != nullptr && col < cols) {
        factor[i] = eight_at(norm.weight + col);
      }
    }
    // What can be had before the input: the waiting hides it.
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i) {
      const uint32_t col = i * kPass + mine;
      residual[i] = {};
      if (col >= cols) continue;
      if (phase.residual_kept)
        residual[i] = eight_at(mine_kept + col);
      else if (norm.residual.data != nullptr)
        residual[i] = load_eight(norm.residual, row, col);
    }
    Words got[kPieces];
    if (words) await_words(norm.in, row, mine, cols, launch, got);
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i) {
      const uint32_t col = i * kPass + mine;
      e[i] = col >= cols ? Eight{} : words ? eight_of(got[i]) : load_eight(norm.in, row, col);
    }
    float sum = 0, squares = 0;
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i) {
      const uint32_t col = i * kPass + mine;
      if (col >= cols) continue;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        e[i].x[j] += residual[i].x[j];
        sum += e[i].x[j];
        squares += e[i].x[j] * e[i].x[j];
      }
    }
    if (phase.keeps_sum)
#pragma unroll
      for (uint32_t i = 0; i < kPieces; ++i) {
        const uint32_t col = i * kPass + mine;
        if (col >= cols) continue;
        const float(&x)[8] = e[i].x;
        reinterpret_cast<float4*>(mine_kept + col)[0] = make_float4(x[0], x[1], x[2], x[3]);
        reinterpret_cast<float4*>(mine_kept + col)[1] = make_float4(x[4], x[5], x[6], x[7]);
      }
    if (norm.sum.data != nullptr && blockIdx.x == 0)
#pragma unroll
      for (uint32_t i = 0; i < kPieces; ++i) {
        const uint32_t col = i * kPass + mine;
        if (col >= cols) continue;
#pragma unroll
        for (int j = 0; j < 8; j += 4)
          store<4>(norm.sum, row, col + j, {e[i].x[j], e[i].x[j + 1], e[i].x[j + 2], e[i].x[j + 3]});
      }
    float mean = 0;
    if (norm.layer) {
      mean = total(sum) / static_cast<float>(cols);
      squares = 0;
#pragma unroll
      for (uint32_t i = 0; i < kPieces; ++i)
        if (i * kPass + mine < cols)
#pragma unroll
          for (int j = 0; j < 8; ++j) squares += (e[i].x[j] - mean) * (e[i].x[j] - mean);
    }
    const float inverse = rsqrtf(total(squares) / static_cast<float>(cols) + norm.epsilon);
#pragma unroll
    for (uint32_t i = 0; i < kPieces; ++i) {
      const uint32_t col = i * kPass + mine;
      if (i * kPass + warp * 256 >= padded) continue; // the whole warp
      if (col < cols)
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          float y = (e[i].x[j] - mean) * inverse;
          if (norm.weight != nullptr) y *= factor[i].x[j] + norm.weight_offset;
          if (norm.bias != nullptr) y += norm.bias[col + j];
          e[i].x[j] = y;
        }
      put_x<R>(to, sums32, sums16, col, e[i]);
    }
  }
  __syncthreads();
}

// The finished sums of `count` tiles from `first` on: partial[warp][sub][row of W][row of activations], of the slices
// upwards.
template <class R>
__device__ __forceinline__ void finish_round(const LinearArgs& a, uint32_t first, uint32_t count, uint32_t slices,
                                             uint32_t rows, bool words, uint32_t launch, const float* partial) {
  constexpr uint32_t kOfWarp = R::kSubs * 16 * R::kPitch;
  const uint32_t width = a.glu && R::kPlain ? 8 : 16, lane = threadIdx.x % 32, outputs = count * width * rows;
  for (uint32_t i = threadIdx.x; i - lane < outputs; i += kThreads) { // whole warps
    const uint32_t in_tile = i % width, row = i / width % rows, tile = i / width / rows;
    const auto total = [&](uint32_t row_of_w) {
      const float* from = partial + tile * slices * kOfWarp + row_of_w * R::kPitch + row;
      float sum = from[0];
#pragma unroll 8
      for (uint32_t s = 1; s < slices; ++s) sum += from[s * kOfWarp];
      return sum;
    };
    const bool inside = i < outputs;
    const PartTile<16> place(a, a.glu || !inside ? 0 : first + tile);
    const LinearPart& part = a.parts[a.glu ? 0 : place.part];
    const uint32_t n = (a.glu ? (first + tile) * width : place.tile * 16) + in_tile;
    const bool valid = inside && n < part.weight.rows;
    float value = 0;
    if (valid) {
      value = finish(a, part, n, total(in_tile));
      if (a.glu) value = gated(a, value, finish(a, a.parts[1], n, total(width + in_tile)));
    }
    const uint32_t col = part.first_col + n;
    if (words) {
      const float next = __shfl_xor_sync(kAllLanes, value, 1);
      if (valid && lane % 2 == 0)
        put_word(a.out.data, size_t{row} * a.out.stride + col, pack_half2(value, next), launch);
    } else if (valid) {
      put(a, row, col, value);
    }
  }
}

template <uint32_t kFirst, uint32_t kSecond>
__global__ void __launch_bounds__(kThreads, 1)
    linear_chain_kernel(uint32_t rows, uint32_t first_phase, uint32_t last_phase, uint32_t x_bytes, uint32_t kept_at,
                        const __grid_constant__ ChainArgs a) {
  using R = Ring<kFirst, kSecond>;
  unsigned char* shared = dynamic_shared();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  unsigned char* ring = shared + warp * (R::kStages * R::kStageBytes);
  float* partials = reinterpret_cast<float*>(shared + R::kBytes); // [2][warp][sub][row of W][row]
  unsigned char* x = shared + R::kBytes + R::kPartialBytes;
  auto* sums32 = reinterpret_cast<float*>(x + x_bytes);
  float* kept = sums32 + kept_at;
#ifdef QUIRE_CUDA_EMULATED
  // A launch a phase: what a block keeps must outlive it.
  static thread_local float memory[8][kChainRows * kChainNormDim];
  assert(gridDim.x <= 8);
  kept = memory[blockIdx.x];
#endif
  __shared__ float scratch[kWarps];

  Cursor<R> ahead;
  ahead.start(a, first_phase, last_phase);
  const auto issue = [&](uint32_t slot) {
    if (!ahead.done()) {
      unsigned char* to = ring + slot * R::kStageBytes;
      if constexpr (R::kPlain)
        ahead.plain.issue(a.phases[0].linear, ahead.unit, to, lane);
      else if (kFirst == kSecond || ahead.planes.format == kFirst)
        BlockStream<kFirst>::issue(ahead.planes, ahead.unit, to, lane);
      else
        BlockStream<kSecond>::issue(ahead.planes, ahead.unit, to, lane);
      ahead.next(a);
    }
    copy_async_commit();
  };
  for (uint32_t slot = 0; slot < R::kStages; ++slot) issue(slot);
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint32_t launch = __ldcg(a.launches + blockIdx.x) + 1;

  uint32_t slot = 0, buffer = 0;
  for (uint32_t p = first_phase; p < last_phase; ++p) {
    const ChainPhase& phase = a.phases[p];
    const LinearArgs& linear = phase.linear;
    const uint32_t cols = linear.parts[0].weight.cols, pitch = x_pitch(cols);
    const Share share(linear, R::kPlain, R::kColumns);
    if (share.first == share.last) continue; // where a sum is kept every block has a tile, block 0 always
    fill_x<R>(phase, p != 0, launch, rows, x, sums32, kept, scratch);
    if (phase.copy_to.data != nullptr && blockIdx.x == 0)
      for (uint32_t i = threadIdx.x; i < rows * phase.copy_to.dim; i += kThreads) {
        const uint32_t dim = phase.copy_to.dim;
        static_cast<float*>(phase.copy_to.data)[size_t{i / dim} * phase.copy_to.stride + i % dim] = kept[i];
      }
    for (uint32_t round = share.first; round < share.last; round += share.together) {
      const uint32_t item = round + share.tile;
      const uint32_t end = item < share.last ? share.end : share.begin;
      float* mine = partials + (buffer * kWarps + warp) * (R::kSubs * 16 * R::kPitch);
      for (uint32_t sub = 0; sub < (linear.glu ? R::kSubs : 1); ++sub) {
        float sums[4] = {};
        uint32_t format = 0;
        if constexpr (kFirst != kSecond) {
          const PartTile<16> at(linear, linear.glu || item >= share.last ? 0 : item);
          format = linear.parts[linear.glu ? sub : at.part].weight.format;
        }
        for (uint32_t unit = share.begin; unit < end; ++unit) {
          copy_async_wait<R::kStages - 1>();
          __syncwarp();
          const unsigned char* from = ring + slot * R::kStageBytes;
          if constexpr (R::kPlain)
            PlainStream::consume(from, x, pitch, rows, unit, lane, sums);
          else if (kFirst == kSecond || format == kFirst)
            BlockStream<kFirst>::consume(from, x, sums32, sums32 + x_sums_of_32(cols), unit, lane, sums);
          else
            BlockStream<kSecond>::consume(from, x, sums32, sums32 + x_sums_of_32(cols), unit, lane, sums);
          __syncwarp(); // before the stage is written again
          issue(slot);
          slot = slot + 1 == R::kStages ? 0 : slot + 1;
        }
        float* to = mine + sub * 16 * R::kPitch;
        const uint32_t g = lane / 4, t = lane % 4;
        if constexpr (R::kPlain) {
#pragma unroll
          for (int c = 0; c < 4; ++c) to[(g + 8 * (c / 2)) * R::kPitch + 2 * t + c % 2] = sums[c];
        } else {
#pragma unroll
          for (int h = 0; h < 2; ++h) {
            float sum = sums[h];
            sum += __shfl_xor_sync(kAllLanes, sum, 1);
            sum += __shfl_xor_sync(kAllLanes, sum, 2);
            if (t == 0) to[g + 8 * h] = sum;
          }
        }
      }
      __syncthreads();
      finish_round<R>(linear, round, min(share.together, share.last - round), share.slices, rows, p + 1 < a.num_phases,
                      launch, partials + buffer * (kWarps * R::kSubs * 16 * R::kPitch));
      buffer ^= 1; // written again only after the next round's barrier
    }
  }
  copy_async_wait<0>();
  __syncthreads(); // before the count is changed that all have read
  if (threadIdx.x == 0 && last_phase == a.num_phases) a.launches[blockIdx.x] = launch;
#ifndef QUIRE_CUDA_EMULATED
  const uint64_t stride = uint64_t{gridDim.x} * kThreads * 128;
  for (const ChainArgs::Range& range : a.ahead)
    for (uint64_t at = (uint64_t{blockIdx.x} * kThreads + threadIdx.x) * 128; at < range.bytes; at += stride)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(range.data + at));
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
    if (a.phases[p].keeps_sum) dim = std::max(dim, a.phases[p].linear.parts[0].weight.cols);
  return dim;
}

template <class R> uint32_t kept_at(uint32_t cols) { return R::kPlain ? 0 : x_sums(cols); }

template <uint32_t kFirst, uint32_t kSecond> uint64_t shared_bytes_of(uint32_t rows, const ChainArgs& a) {
  using R = Ring<kFirst, kSecond>;
  const uint32_t cols = most_cols(a);
  return uint64_t{R::kBytes} + R::kPartialBytes + x_bytes_of(rows, a) + 4 * kept_at<R>(cols) + 4 * rows * kept_dim(a);
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

uint32_t chain_items(const LinearArgs& a) { return tiles_of(a, a.parts[0].weight.format == QUIRE_F16); }

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

void linear_chain(const Queue& queue, uint32_t blocks, uint32_t rows, const ChainArgs& a) {
  uint32_t first = 0, second = 0;
  [[maybe_unused]] const bool known = formats_of(a, first, second);
  assert(known && rows <= kChainRows && a.num_phases >= 1 && a.num_phases <= kMaxPhases);
  dispatch(first, second, [&](auto f, auto s) { run<f, s>(queue, blocks, rows, a); });
}

} // namespace quire::cuda
