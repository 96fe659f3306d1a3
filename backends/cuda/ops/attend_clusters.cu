// attend_clusters: attend_decode for steps of few sequences, where not bytes but latency is what it costs.
//
// Shapes and bytes as of attend_decode. A cluster of 16 or 8 blocks has one sequence and KV head; block r of it takes
// part r of the positions, the planner having cut every sequence into as many parts (some may be empty). Within a block
// it is attend_decode: the warps take turns at tiles of 16 positions. Then the parts aren't left in memory for whoever
// ends last: each block sends every other its share of the elements (cluster.cuh), four at a time with the part's
// largest score and its sum, and adds up, in the order of a butterfly over the parts, the share that it was sent. A
// block waits for bytes, not for blocks, and none is read from, so that each leaves as soon as its share is written.
//
// From the block's begin to its first keys there are two trips to memory: an item is 128 bytes, a word a lane, and
// names the blocks of the cache too. Nothing that is needed later waits for its own trip: sinks, frequencies and the
// place of the new token are fetched along with it, and the queries while the keys are on their way.
#include "attend_decode.cuh"
#include "cluster.cuh"

#include <algorithm>
#include <bit>
#include <cassert>

namespace quire::cuda {
namespace {

[[maybe_unused]] constexpr uint32_t kItemWords = sizeof(DecodeItem) / 4;

// How the group's outputs are shared out, in quads (four elements each): a block of the cluster adds up a power of two
// of them, or the rest, or none. Numbers that the kernel would divide for. And what else a launch is told.
struct Shares {
  uint16_t group; // heads
  uint16_t shift; // log2 of the quads of a block
  bool keys_first;
};
Shares share_quads(uint32_t group, uint32_t head_dim, uint32_t cluster, bool keys_first) {
  const auto shift = std::bit_width((group * head_dim / 4 + cluster - 1) / cluster - 1);
  return {static_cast<uint16_t>(group), static_cast<uint16_t>(shift), keys_first};
}

// Warps of a block: twice as many where it has a multiprocessor to itself, so that more of what it reads is on its way
// at once. For the usual shapes: each of these kernels is code that is shipped.
template <int kHead, bool kApart> constexpr uint32_t kBlockWarps = kWarps<kHead>*(kApart ? 2 : 1);
template <class Element, int kHead> constexpr bool kHasApart = sizeof(Element) == 2 && (kHead == 64 || kHead == 128);

template <class Element, int kHead, int kRows, bool kApart> struct Shared {
  static constexpr uint32_t kOf = kBlockWarps<kHead, kApart>;
  alignas(128) Stage<Element, kHead> ring[kOf][kStages<Element, kHead>];
  float largest[kOf][16], sum[kOf][16];
  float sinks[16];
  // What this block is sent: its share of the quads, times the blocks of the cluster.
  static constexpr uint32_t kMostSent = std::bit_ceil(kRows * kHead / 4u);
  alignas(16) float4 values[kMostSent];
  float2 weights[kMostSent]; // of their parts: largest, sum
  Mailbox sent;
  Fresh<kHead> fresh;
};

// Floats from row to row where a warp leaves its sums: stores of eight rows at once meet no bank twice.
template <int kHead> constexpr uint32_t kSumPitch = kHead + 8;

template <class Element, int kHead, int kRows, bool kSoftcap, bool kApart>
__global__ void __launch_bounds__(kBlockWarps<kHead, kApart> * 32)
    attend_clusters_kernel(const ClusterItem* items, Shares shares, const __grid_constant__ AttendArgs a) {
#if QUIRE_SM >= 900
  const ParametersAhead<kBlockWarps<kHead, kApart> * 32, AttendArgs> parameters(a);
  if (!shares.keys_first) let_next_kernel_begin();
  auto& shared = *reinterpret_cast<Shared<Element, kHead, kRows, kApart>*>(dynamic_shared());
  static_assert(16 * kSumPitch<kHead> * 4 <= sizeof shared.ring[0], "a warp's sums are left in its ring");
  constexpr uint32_t kOf = kBlockWarps<kHead, kApart>, kThreads = kOf * 32, kQuads = kHead / 4;
  constexpr int kHalves = kRows / 8, kNumStages = kStages<Element, kHead>;
  // The list comes with the step, not from a kernel: it is read before the kernels in front have ended.
  const uint32_t word =
      __ldg(reinterpret_cast<const uint32_t*>(items + blockIdx.z * gridDim.x + blockIdx.x) + threadIdx.x % 32);
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t cluster = gridDim.x, rank = blockIdx.x, kv_head = blockIdx.y;
  const uint32_t group = shares.group, block_size = a.kv.block_size;
  const uint32_t shift = static_cast<uint32_t>(__ffs(static_cast<int>(block_size)) - 1);
  const bool has_fresh = a.fresh.k.data != nullptr;
  const uint32_t turns = a.fresh.rotary_dim / 2;
  constexpr uint32_t kTurns = (kHead / 2 + kThreads - 1) / kThreads; // that a thread forms
  float frequencies[kTurns];
#pragma unroll
  for (uint32_t i = 0; i < kTurns; ++i)
    frequencies[i] = threadIdx.x + i * kThreads < turns ? __ldg(a.fresh.frequencies + threadIdx.x + i * kThreads) : 0;
  float sink = 0;
  if (a.sinks != nullptr && threadIdx.x < group) sink = __ldg(a.sinks + kv_head * group + threadIdx.x);
  if (threadIdx.x == 0) mailbox_init(shared.sent);
  cluster_arrive();

  const auto word_of = [&](uint32_t from) { return __shfl_sync(kAllLanes, word, static_cast<int>(from)); };
  const DecodeItem item{word_of(0), word_of(1), word_of(2), word_of(3), word_of(4), word_of(5), word_of(6), word_of(7)};
  if (item.parts == 0) { // padding
    let_next_kernel_begin();
    cluster_wait();
    wait_for_previous_kernels();
    return;
  }
  // What the cache has of the item; with the token's own position it ends, in the part that comes last.
  const uint32_t cached = has_fresh ? min(item.end, item.stored) : item.end;
  const WarpTiles<kOf> tiles(item, warp);
  const uint32_t first_block = item.begin >> shift;
  // The block of a position: by the item where it is among its first.
  const auto block_of = [&](uint32_t position, bool is_wanted) {
    const uint32_t index = (position >> shift) - first_block;
    const uint32_t near = word_of(kItemWords + min(index, kClusterBlocks - 1));
    return index < kClusterBlocks || !is_wanted ? near : a.table[item.table + first_block + index];
  };
  // The blocks of 16 of the warp's tiles, one a lane: of their first eight positions, then of their second; and of the
  // 16 behind them. Outside the item there may be none.
  const auto find_blocks = [&](int from) {
    const int own = from + static_cast<int>(lane % 16);
    const uint32_t first = tiles.position(own) + lane / 16 * 8;
    return block_of(min(max(first, item.begin), item.end - 1), own < tiles.own);
  };
  uint32_t blocks = find_blocks(0), next_blocks = 0;
  const uint32_t head_bytes = kv_head * block_size * kRowBytes<Element, kHead>;
  bool waited = false;
  const auto fetch = [&](int own) {
    if (own < tiles.own) {
      const uint32_t first = tiles.position(own);
      if (!waited && !has_fresh && first + kTile > item.stored) {
        wait_for_previous_kernels();
        waited = true;
      }
      if (own != 0 && own % 16 == 0) blocks = next_blocks, next_blocks = find_blocks(own + 16);
      const uint32_t halves[2] = {__shfl_sync(kAllLanes, blocks, own % 16),
                                  __shfl_sync(kAllLanes, blocks, own % 16 + 16)};
      fetch_tile<Element, kHead>(shared.ring[warp][own % kNumStages], a.kv, halves, head_bytes, first, item.begin,
                                 cached);
    }
    copy_async_commit(); // an empty group keeps the count
  };
#pragma unroll
  for (int s = 0; s < kNumStages; ++s) fetch(s);
  if (shares.keys_first) let_next_kernel_begin();
  parameters.need_not_come_before(&shared.largest[warp][0]);
  if (tiles.own > 16) next_blocks = find_blocks(16);
  const bool has_own = cached < item.end; // the token's own position
  const uint32_t own_block = block_of(item.stored, has_own);
  // This block's share of the quads, and what it is sent of them.
  const uint32_t quads = group * kQuads, first_quad = rank << shares.shift;
  const uint32_t own_quads = first_quad < quads ? min(1u << shares.shift, quads - first_quad) : 0;
  if (threadIdx.x == 0)
    mailbox_expect(shared.sent, own_quads * item.parts * static_cast<uint32_t>(sizeof(float4) + sizeof(float2)));
  if (a.sinks != nullptr && threadIdx.x < group) shared.sinks[threadIdx.x] = sink;
  if (!waited) wait_for_previous_kernels();

  const __half* q_row =
      static_cast<const __half*>(a.q.data) + size_t{item.token} * a.q.stride + kv_head * group * kHead;
  if (has_fresh && tiles.all > 0) {
    Fresh<kHead>& fresh = shared.fresh;
    const auto* k_row = static_cast<const __half*>(a.fresh.k.data) + size_t{item.token} * a.fresh.k.stride;
    const auto* v_row = static_cast<const __half*>(a.fresh.v.data) + size_t{item.token} * a.fresh.v.stride;
    const uint32_t pairs = (has_own ? group + 2 : group) * (kHead / 2);
    constexpr uint32_t kAtOnce = 4;
    for (uint32_t from = 0; from < pairs; from += kAtOnce * kThreads) {
      __half first[kAtOnce], second[kAtOnce];
#pragma unroll
      for (uint32_t i = 0; i < kAtOnce; ++i) {
        const uint32_t index = min(from + i * kThreads + threadIdx.x, pairs - 1);
        const FreshPair pair = pair_of<kHead>(index, group, turns, a.fresh.interleaved);
        const __half* row =
            pair.row < group ? q_row + pair.row * kHead : (pair.row == group ? k_row : v_row) + kv_head * kHead;
        first[i] = row[pair.first], second[i] = row[pair.second];
      }
      if (from == 0) { // the turns, while the first are on their way
#pragma unroll
        for (uint32_t i = 0; i < kTurns; ++i)
          if (threadIdx.x + i * kThreads < turns)
            fresh.turns[threadIdx.x + i * kThreads] = turn_of(item.stored, frequencies[i], a.fresh.magnitude);
        __syncthreads();
      }
#pragma unroll
      for (uint32_t i = 0; i < kAtOnce; ++i) {
        const uint32_t index = from + i * kThreads + threadIdx.x;
        if (index < pairs)
          put_pair<Element>(fresh, pair_of<kHead>(index, group, turns, a.fresh.interleaved), group, first[i],
                            second[i]);
      }
    }
    q_row = fresh.q[0];
    __syncthreads();
    if (has_own) // by the threads that have the least to do
      store_fresh<Element, kHead>(fresh, a.kv, own_block, head_bytes, item.stored, kThreads - 1 - threadIdx.x,
                                  kThreads);
  }

  float largest[kHalves], sum[kHalves];
#pragma unroll
  for (int h = 0; h < kHalves; ++h) largest[h] = -kInfinity, sum[h] = 0;
  auto* const own_sums = reinterpret_cast<float*>(&shared.ring[warp][0]); // [row]
  if (tiles.own > 0) {
    uint32_t q[kHead / 16][4];
    // Rows beyond the group repeat its last: nobody asks what comes of them.
    load_queries<Element, kHead>(q, [&](uint32_t r) { return q_row + min(r, group - 1) * kHead; });
    float sums[kHead / 8][4] = {}; // [16 rows, kHead]
    for (int own = 0; own < tiles.own; ++own) {
      copy_async_wait<kNumStages - 1>();
      __syncwarp();
      auto& ring = shared.ring[warp][own % kNumStages];
      const uint32_t first = tiles.position(own);
      if (has_own && first + kTile > cached) {
        put_fresh<Element, kHead>(ring, shared.fresh, cached - first);
        __syncwarp();
      }
      attend_tile<Element, kHead, kRows, kSoftcap>(sums, largest, sum, q, ring, first, item, a);
      __syncwarp(); // before the stage is written again
      fetch(own + kNumStages);
    }
    order_sums<Element>(sums);
    __syncwarp(); // the ring is idle
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      sum[h] += __shfl_xor_sync(kAllLanes, sum[h], 1);
      sum[h] += __shfl_xor_sync(kAllLanes, sum[h], 2);
      if (g + 8 * h >= group) continue;
#pragma unroll
      for (int d = 0; d < kHead / 8; ++d)
        *reinterpret_cast<float2*>(own_sums + (g + 8 * h) * kSumPitch<kHead> + d * 8 + 2 * t) =
            make_float2(sums[d][2 * h], sums[d][2 * h + 1]);
    }
  }
  copy_async_wait<0>();
#pragma unroll
  for (int h = 0; h < kHalves; ++h)
    if (t == 0) shared.largest[warp][g + 8 * h] = largest[h], shared.sum[warp][g + 8 * h] = sum[h];
  __syncthreads();
  cluster_wait(); // every mailbox is ready; long since

  // The warps' results together, in the order of the warps, a quad a thread, and on to whose share it is of.
  if (tiles.all > 0) {
    for (uint32_t i = threadIdx.x; i < quads; i += kThreads) {
      const uint32_t row = i / kQuads, col = i % kQuads * 4;
      float2 weight = make_float2(-kInfinity, 0);
#pragma unroll
      for (uint32_t w = 0; w < kOf; ++w) weight.x = fmaxf(weight.x, shared.largest[w][row]);
      float4 value = make_float4(0, 0, 0, 0);
#pragma unroll
      for (uint32_t w = 0; w < kOf; ++w) {
        if (w >= static_cast<uint32_t>(tiles.all)) continue; // it had none
        const float factor = exp2_fast(shared.largest[w][row] - finite_or_zero(weight.x));
        weight.y = __fmaf_rn(shared.sum[w][row], factor, weight.y);
        const auto* sums = reinterpret_cast<const float*>(&shared.ring[w][0]) + row * kSumPitch<kHead> + col;
        add_to(value, factor, *reinterpret_cast<const float4*>(sums));
      }
      const uint32_t owner = i >> shares.shift, slot = (i - (owner << shares.shift)) * cluster + item.part;
      send(shared.values + slot, value, shared.sent, owner);
      send(shared.weights + slot, weight, shared.sent, owner);
    }
  }

  // The parts of this block's share, one a lane.
  if (own_quads == 0) return;
  mailbox_wait(shared.sent);
  for (uint32_t from = 0; from < own_quads * cluster; from += kThreads) {
    const uint32_t i = from + threadIdx.x, part = i & (cluster - 1), own_quad = cluster == 16 ? i / 16 : i / 8;
    const bool is_sent = own_quad < own_quads && part < item.parts;
    float2 weight = is_sent ? shared.weights[i] : make_float2(-kInfinity, 0);
    float4 value = is_sent ? shared.values[i] : make_float4(0, 0, 0, 0);
    float m = weight.x;
    if (cluster == 16) m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, 8));
#pragma unroll
    for (int mask = 4; mask > 0; mask /= 2) m = fmaxf(m, __shfl_xor_sync(kAllLanes, m, mask));
    const float factor = exp2_fast(weight.x - finite_or_zero(m));
    weight.y *= factor;
    value = make_float4(value.x * factor, value.y * factor, value.z * factor, value.w * factor);
    const auto add_from = [&](int mask) {
      weight.y += __shfl_xor_sync(kAllLanes, weight.y, mask);
      value.x += __shfl_xor_sync(kAllLanes, value.x, mask);
      value.y += __shfl_xor_sync(kAllLanes, value.y, mask);
      value.z += __shfl_xor_sync(kAllLanes, value.z, mask);
      value.w += __shfl_xor_sync(kAllLanes, value.w, mask);
    };
    if (cluster == 16) add_from(8);
#pragma unroll
    for (int mask = 4; mask > 0; mask /= 2) add_from(mask);
    if (part != 0 || own_quad >= own_quads) continue;
    const uint32_t quad = first_quad + own_quad, row = quad / kQuads;
    store4(static_cast<__half*>(a.out.data) + size_t{item.token} * a.out.stride + (kv_head * group) * kHead + quad * 4,
           value, normaliser(m, weight.y, a.sinks != nullptr ? shared.sinks : nullptr, row));
  }
#endif
}

constexpr size_t kMoreThanHalf = 116 << 10; // of a multiprocessor's shared memory, from compute capability 9.0 on

// Calls take(kernel, threads, bytes of shared memory) with what runs the shape. apart: no two blocks fit a
// multiprocessor.
template <class Element, int kHead, int kRows, class Take> auto with_kernel(bool capped, bool apart, const Take& take) {
  const auto room = [&](size_t bytes) { return apart ? std::max(bytes, kMoreThanHalf) : bytes; };
  if constexpr (kHasApart<Element, kHead>)
    if (apart && !capped)
      return take(attend_clusters_kernel<Element, kHead, kRows, false, true>, kBlockWarps<kHead, true> * 32,
                  room(sizeof(Shared<Element, kHead, kRows, true>)));
  return take(capped ? attend_clusters_kernel<Element, kHead, kRows, true, false>
                     : attend_clusters_kernel<Element, kHead, kRows, false, false>,
              kBlockWarps<kHead, false> * 32, room(sizeof(Shared<Element, kHead, kRows, false>)));
}
template <class Element, int kHead, class Take>
auto with_kernel(uint32_t group, bool capped, bool apart, const Take& take) {
  return group <= 8 ? with_kernel<Element, kHead, 8>(capped, apart, take)
                    : with_kernel<Element, kHead, 16>(capped, apart, take);
}
template <class Element, class Take> auto with_kernel(const ClusterShape& shape, bool apart, const Take& take) {
  switch (shape.head_dim) {
  case 64:
    return with_kernel<Element, 64>(shape.group, shape.capped, apart, take);
  case 80:
    return with_kernel<Element, 80>(shape.group, shape.capped, apart, take);
  case 96:
    return with_kernel<Element, 96>(shape.group, shape.capped, apart, take);
  case 128:
    return with_kernel<Element, 128>(shape.group, shape.capped, apart, take);
  default:
    return with_kernel<Element, 256>(shape.group, shape.capped, apart, take);
  }
}
template <class Take> auto with_kernel(const ClusterShape& shape, bool apart, const Take& take) {
  if (shape.format == QUIRE_BF16) return with_kernel<__nv_bfloat16>(shape, apart, take);
  if (shape.format == QUIRE_KV_E4M3) return with_kernel<E4m3>(shape, apart, take);
  return with_kernel<__half>(shape, apart, take);
}

#ifndef QUIRE_CUDA_EMULATED

// Clusters that the device holds at once; none where it can't form them. The device may have fewer multiprocessors
// together than a cluster needs in some places, so that it is asked.
template <class... Parameters>
uint32_t active_clusters(void (*kernel)(Parameters...), uint32_t cluster, uint32_t threads, size_t bytes) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = cluster, config.blockDim = threads, config.dynamicSmemBytes = bytes;
  config.attrs = &attribute, config.numAttrs = 1;
  int clusters = 0;
  if (allow_clusters(kernel, cluster, bytes) != cudaSuccess ||
      cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    return 0;
  }
  return static_cast<uint32_t>(std::max(clusters, 0));
}
#endif

} // namespace

ClusterRoom cluster_room(const ClusterShape& shape, int compute_capability, uint32_t multiprocessors) {
#ifdef QUIRE_CUDA_EMULATED // not that it would matter there
  (void)shape, (void)compute_capability, (void)multiprocessors;
  return {1, 4, 9, 6};
#else
  if (compute_capability < 90) return {};
  ClusterRoom room;
  const auto clusters_of = [&](uint32_t cluster, bool apart) {
    return with_kernel(shape, apart, [&](auto* kernel, uint32_t threads, size_t bytes) {
      cudaFuncAttributes attributes{};
      if (cudaFuncGetAttributes(&attributes, kernel) == cudaSuccess && attributes.ptxVersion >= 90)
        return active_clusters(kernel, cluster, threads, bytes);
      static_cast<void>(cudaGetLastError());
      return 0u; // this build has no code for the device, or only that of an older one
    });
  };
  room.of_16 = clusters_of(16, true), room.of_8 = clusters_of(8, false), room.of_8_apart = clusters_of(8, true);
  if (room.of_8 != 0) room.least = (multiprocessors + 3 * 16 - 1) / (3 * 16);
  return room;
#endif
}

void attend_clusters(const Queue& queue, uint32_t cluster, bool apart, bool keys_first, uint32_t sequences,
                     const ClusterItem* items, const AttendArgs& a) {
  assert(cluster == 8 || cluster == 16);
  assert(a.kv.k_dim == a.kv.v_dim && a.q.heads / a.kv.kv_heads <= 16);
  with_kernel({a.q.heads / a.kv.kv_heads, a.kv.k_dim, a.kv.format, a.softcap != 0}, apart,
              [&](auto* kernel, uint32_t threads, size_t bytes) {
                const Shares shares = share_quads(a.q.heads / a.kv.kv_heads, a.kv.k_dim, cluster, keys_first);
                launch_clusters("attend_clusters", kernel, cluster, {cluster, a.kv.kv_heads, sequences}, threads, bytes,
                                queue, items, shares, a);
              });
}

} // namespace quire::cuda
