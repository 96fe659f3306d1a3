// attend_decode: one query token a sequence, bound by reading its keys and values once.
//
// Shapes: q [T, heads, kHead], cache [block, kv_head, token in block, kHead] for K and V, out [T, heads, kHead]. Bytes:
// K and V of every listed position, 4 * kHead a position and KV head. The query heads that share a KV head are the rows
// of the tensor cores' tile. A block is one worker for one KV head: it goes through its items, four warps taking every
// fourth tile of 16 positions; each warp has its own stages of cp.async, which run across the items, and its own
// softmax; at an item's end the four are merged in shared memory. Items are planned so that all workers have the same
// number of positions.
#include "attend.cuh"

#include <cassert>

namespace quire::cuda {
namespace {

constexpr uint32_t kWarps = 4, kThreads = kWarps * 32, kTile = 16;

template <int kHead> constexpr uint32_t kStages = kHead <= 128 ? 3 : 2;
template <int kHead> constexpr uint32_t kStageBytes = 2 * kTile* kPitch<kHead>;

template <int kHead> size_t shared_bytes(uint32_t group) {
  return size_t{kWarps} * kStages<kHead> * kStageBytes<kHead> + size_t{kWarps} * group * (kHead + 2) * 4;
}

// The tiles that a warp will load: all items of the worker, one after another.
struct Cursor {
  uint32_t item, last_item;
  uint32_t position = 0, begin = 0, end = 0, table = 0;

  __device__ __forceinline__ void open(const DecodeItem* items, uint32_t warp) {
    while (item < last_item) {
      const DecodeItem& now = items[item];
      begin = now.begin, end = now.end, table = now.table;
      position = begin / kKvUnit * kKvUnit + warp * kTile;
      if (position + kTile <= begin) position += kKvUnit; // a window begins inside the unit
      if (position < end) return;
      ++item;
    }
  }
  __device__ __forceinline__ bool valid() const { return item < last_item; }
  __device__ __forceinline__ void next(const DecodeItem* items, uint32_t warp) {
    position += kKvUnit;
    if (position >= end) {
      ++item;
      open(items, warp);
    }
  }
};

template <class Element, int kHead, bool kEightRows>
__global__ void __launch_bounds__(kThreads, 2)
    attend_decode_kernel(const DecodeItem* items, const uint32_t* worker_start, AttendArgs a) {
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t kv_heads = a.kv.kv_heads, group = a.q.heads / kv_heads;
  const uint32_t worker = blockIdx.x / kv_heads, kv_head = blockIdx.x % kv_heads;
  unsigned char* stages = dynamic_shared() + warp * (kStages<kHead> * kStageBytes<kHead>);
  float* merged = reinterpret_cast<float*>(dynamic_shared() +
                                           kWarps * kStages<kHead> * kStageBytes<kHead>); // [warp][group](sums, m, l)
  let_next_kernel_begin();
  wait_for_previous_kernels();

  const uint32_t first = worker_start[worker], last = worker_start[worker + 1];
  if (first == last) return;
  constexpr uint32_t kPieces = kHead / 8, kCopies = kTile * kPieces / 32;
  static_assert(kTile * kPieces % 32 == 0);
  Cursor cursor{first, last};
  cursor.open(items, warp);
  const uint32_t shift = static_cast<uint32_t>(__ffs(static_cast<int>(a.kv.block_size)) - 1);
  uint32_t blocks[2]; // of the first and second eight positions of the cursor's tile
  const auto find_blocks = [&] {
    if (!cursor.valid()) return;
    // Blocks behind a window may be gone from the table: their positions are not read.
    blocks[0] = a.table[cursor.table + (cursor.position >> shift)];
    blocks[1] = a.kv.block_size >= kTile           ? blocks[0]
                : cursor.position + 8 < cursor.end ? a.table[cursor.table + ((cursor.position + 8) >> shift)]
                                                   : 0;
  };
  find_blocks();
  const uint32_t head_bytes = kv_head * a.kv.block_size * (kHead * 2);
  const auto issue = [&](uint32_t stage) {
    if (cursor.valid()) {
      unsigned char* keys = stages + stage * kStageBytes<kHead>;
      unsigned char* values = keys + kTile * kPitch<kHead>;
#pragma unroll
      for (uint32_t i = 0; i < kCopies; ++i) {
        const uint32_t index = i * 32 + lane, row = index / kPieces, piece = index % kPieces,
                       position = cursor.position + row;
        const bool valid = position >= cursor.begin && position < cursor.end;
        const uint32_t in_block = position & (a.kv.block_size - 1);
        const std::byte* block = a.kv.base + uint64_t{valid ? blocks[row / 8] : 0} * a.kv.block_bytes + head_bytes +
                                 in_block * (kHead * 2) + piece * 16;
        copy_async16(keys + piece_at<kHead>(row, piece), block + a.kv.k_offset, valid);
        copy_async16(values + piece_at<kHead>(row, piece), block + a.kv.v_offset, valid);
      }
      cursor.next(items, warp);
      find_blocks();
    }
    copy_async_commit();
  };
#pragma unroll
  for (uint32_t i = 0; i < kStages<kHead> - 1; ++i) issue(i);

  uint32_t stage = 0;
  for (uint32_t index = first; index < last; ++index) {
    const DecodeItem item = items[index];
    const __half* q_row =
        static_cast<const __half*>(a.q.data) + size_t{item.token} * a.q.stride + kv_head * group * kHead;
    uint32_t q[kHead / 16][4];
    load_queries<Element, kHead>(q, [&](uint32_t r) { return r < group ? q_row + r * kHead : nullptr; });
    RowState state[2];
    float sums[kHead / 8][4] = {};

    uint32_t position = item.begin / kKvUnit * kKvUnit + warp * kTile;
    if (position + kTile <= item.begin) position += kKvUnit;
    for (; position < item.end; position += kKvUnit) {
      copy_async_wait<kStages<kHead> - 2>();
      __syncwarp();
      issue(stage == 0 ? kStages<kHead> - 1 : stage - 1);
      const unsigned char* keys = stages + stage * kStageBytes<kHead>;
      stage = stage + 1 == kStages<kHead> ? 0 : stage + 1;
      float scores[2][4] = {};
      multiply_keys<Element, kHead, kTile>(scores, q, keys, 0);
      const bool whole = position >= item.begin && position + kTile <= item.end;
      constexpr int kHalves = kEightRows ? 1 : 2; // rows g, and g + 8
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        float largest = state[h].largest;
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float& s = scores[n][2 * h + c];
            s = in_base2(s, a.scale, a.softcap);
            if (!whole) {
              const uint32_t at = position + 8 * n + 2 * t + c;
              if (at < item.begin || at >= item.end) s = -kInfinity;
            }
            largest = fmaxf(largest, s);
          }
        largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
        const float safe = finite_or_zero(largest);
        float sum = 0;
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float& s = scores[n][2 * h + c];
            s = exp2_fast(s - safe);
            sum += s;
          }
        const float keep = exp2_fast(state[h].largest - safe);
        state[h].sum = state[h].sum * keep + sum;
        if (__any_sync(kAllLanes, largest != state[h].largest)) {
#pragma unroll
          for (int d = 0; d < kHead / 8; ++d) {
            sums[d][2 * h] *= keep;
            sums[d][2 * h + 1] *= keep;
          }
        }
        state[h].largest = largest;
      }
      if constexpr (kEightRows) {
#pragma unroll
        for (int n = 0; n < 2; ++n) scores[n][2] = scores[n][3] = 0.f;
      }
      multiply_values<Element, kHead, kTile>(sums, scores, keys + kTile * kPitch<kHead>, 0);
    }

    // The warps' results meet.
#pragma unroll
    for (int h = 0; h < (kEightRows ? 1 : 2); ++h) {
      state[h].sum += __shfl_xor_sync(kAllLanes, state[h].sum, 1);
      state[h].sum += __shfl_xor_sync(kAllLanes, state[h].sum, 2);
      const uint32_t row = g + 8 * h;
      if (row < group) {
        float* to = merged + (warp * group + row) * (kHead + 2);
#pragma unroll
        for (int d = 0; d < kHead / 8; ++d)
          *reinterpret_cast<float2*>(to + 8 * d + 2 * t) = make_float2(sums[d][2 * h], sums[d][2 * h + 1]);
        if (t == 0) to[kHead] = state[h].largest, to[kHead + 1] = state[h].sum;
      }
    }
    __syncthreads();
    const uint32_t pairs = group * (kHead / 2);
    for (uint32_t i = threadIdx.x; i < pairs; i += kThreads) {
      const uint32_t row = i / (kHead / 2), col = i % (kHead / 2) * 2;
      float m = -kInfinity, l = 0;
      float2 sum = make_float2(0, 0);
#pragma unroll
      for (uint32_t w = 0; w < kWarps; ++w) {
        const float* from = merged + (w * group + row) * (kHead + 2);
        float keep, take;
        fold_scales(m, from[kHead], keep, take);
        l = fold(l, keep, from[kHead + 1], take);
        const float2 v = *reinterpret_cast<const float2*>(from + col);
        sum = make_float2(fold(sum.x, keep, v.x, take), fold(sum.y, keep, v.y, take));
      }
      const uint32_t head = kv_head * group + row;
      if (item.parts == 1) {
        const float scale = normaliser(m, l, a.sinks, head);
        *reinterpret_cast<uint32_t*>(static_cast<__half*>(a.out.data) + size_t{item.token} * a.out.stride +
                                     head * kHead + col) = pack_half2(sum.x * scale, sum.y * scale);
      } else {
        float* to = a.partials + (size_t{item.partial + item.part} * a.q.heads + head) * (kHead + 2);
        __stcg(reinterpret_cast<float2*>(to + col), sum);
        if (col == 0) __stcg(reinterpret_cast<float2*>(to + kHead), make_float2(m, l));
      }
    }
    if (item.parts > 1) {
      __threadfence();
      __syncthreads();
      __shared__ uint32_t arrived;
      uint32_t* counter = a.counters + item.sequence * kv_heads + kv_head;
      if (threadIdx.x == 0) arrived = atomicAdd(counter, 1u);
      __syncthreads();
      if (arrived + 1 == item.parts) {
        __threadfence();
        if (threadIdx.x == 0) *counter = 0;
        for (uint32_t i = threadIdx.x; i < pairs; i += kThreads) {
          const uint32_t row = i / (kHead / 2), col = i % (kHead / 2) * 2, head = kv_head * group + row;
          float m = -kInfinity, l = 0;
          float2 sum = make_float2(0, 0);
          const float* from = a.partials + (size_t{item.partial} * a.q.heads + head) * (kHead + 2);
          const size_t stride = size_t{a.q.heads} * (kHead + 2);
#pragma unroll 4
          for (uint32_t p = 0; p < item.parts; ++p, from += stride) {
            const float2 ml = __ldcg(reinterpret_cast<const float2*>(from + kHead)),
                         v = __ldcg(reinterpret_cast<const float2*>(from + col));
            float keep, take;
            fold_scales(m, ml.x, keep, take);
            l = fold(l, keep, ml.y, take);
            sum = make_float2(fold(sum.x, keep, v.x, take), fold(sum.y, keep, v.y, take));
          }
          const float scale = normaliser(m, l, a.sinks, head);
          *reinterpret_cast<uint32_t*>(static_cast<__half*>(a.out.data) + size_t{item.token} * a.out.stride +
                                       head * kHead + col) = pack_half2(sum.x * scale, sum.y * scale);
        }
      }
    }
    __syncthreads(); // before `merged` is written again
  }
  copy_async_wait<0>();
}

template <class Element, int kHead>
void run(const Queue& queue, uint32_t workers, const DecodeItem* items, const uint32_t* start, const AttendArgs& a) {
  const uint32_t group = a.q.heads / a.kv.kv_heads, blocks = workers * a.kv.kv_heads;
  if (group <= 8)
    launch("attend_decode", attend_decode_kernel<Element, kHead, true>, blocks, kThreads, shared_bytes<kHead>(group),
           queue, items, start, a);
  else
    launch("attend_decode", attend_decode_kernel<Element, kHead, false>, blocks, kThreads, shared_bytes<kHead>(group),
           queue, items, start, a);
}

template <class Element>
void run(const Queue& queue, uint32_t workers, const DecodeItem* items, const uint32_t* start, const AttendArgs& a) {
  switch (a.kv.k_dim) {
  case 64:
    return run<Element, 64>(queue, workers, items, start, a);
  case 80:
    return run<Element, 80>(queue, workers, items, start, a);
  case 96:
    return run<Element, 96>(queue, workers, items, start, a);
  case 128:
    return run<Element, 128>(queue, workers, items, start, a);
  default:
    return run<Element, 256>(queue, workers, items, start, a);
  }
}

} // namespace

bool attend_fast(uint32_t heads, const quire_kv_layer& layer, uint32_t format, int compute_capability) {
  const uint32_t k = layer.k_dim;
  if (k != layer.v_dim || heads % layer.kv_heads != 0 || heads / layer.kv_heads > 16) return false;
  if (k != 64 && k != 80 && k != 96 && k != 128 && k != 256) return false;
  return compute_capability >= 80 && (format == QUIRE_F16 || format == QUIRE_BF16);
}

uint32_t decode_workers(uint32_t kv_heads, uint32_t multiprocessors) {
  const uint32_t blocks = 2 * multiprocessors;
  return blocks < kv_heads ? 1 : blocks / kv_heads;
}

void attend_decode(const Queue& queue, uint32_t workers, const DecodeItem* items, const uint32_t* worker_start,
                   const AttendArgs& a) {
  assert(a.kv.k_dim == a.kv.v_dim && a.q.heads / a.kv.kv_heads <= 16);
  if (a.kv.format == QUIRE_BF16)
    run<__nv_bfloat16>(queue, workers, items, worker_start, a);
  else
    run<__half>(queue, workers, items, worker_start, a);
}

} // namespace quire::cuda
