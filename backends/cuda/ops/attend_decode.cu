// attend_decode: one query token a sequence, bound by reading its keys and values once.
//
// Shapes: q [T, heads, kHead], cache [block, kv_head, token in block, kHead] for K and V, out [T, heads, kHead]. Bytes:
// K and V of every listed position, 4 * kHead a position and KV head, 2 * kHead of E4M3.
//
// A fixed persistent grid goes through the list of items, a task being an item and a KV head; odd rounds are dealt in
// the opposite order, so that a block with a long task gets a short one next. The query heads that share the KV head
// are the rows of the tensor cores' tile. A block's warps take turns at tiles of 16 positions; each has a ring of
// cp.async stages and a softmax of its own, and they meet only at the task's end, in the order of the warps. Where a
// sequence is cut, each part leaves its largest score, its sum and its values in float32, and the part that finishes
// last adds them up in the order of the positions: which one that is does not change the result. Positions that earlier
// steps stored are fetched before the kernel in front has ended.
//
// With fresh tokens it does the work of rope and kv_store too: a block rotates the queries of its KV head, and the one
// whose part ends with the token's own position rotates its key, stores key and value, and takes them from shared
// memory.
#include "attend_decode.cuh"

#include <cassert>

namespace quire::cuda {
namespace {

// Behind it, with fresh tokens, is a Fresh.
template <class Element, int kHead> struct Shared {
  alignas(128) unsigned char ring[kWarps<kHead>][kStages<Element, kHead>][2][kPlaneBytes<Element, kHead>]; // K, V
  float largest[kWarps<kHead>][16], sum[kWarps<kHead>][16];
  uint32_t is_last;
};

// kRows: 8 where the group has at most 8 heads (the lower half of each tile is then empty), else 16.
template <class Element, int kHead, int kRows, bool kSoftcap>
__global__ void __launch_bounds__(kWarps<kHead> * 32, 2)
    attend_decode_kernel(const uint32_t* num_items, const DecodeItem* items, AttendArgs a) {
#if QUIRE_SM >= 800 // before, attend_any does it all
  // At once: the next one takes the multiprocessors that the kernel in front leaves, and fetches its weights.
  let_next_kernel_begin();
  auto& shared = *reinterpret_cast<Shared<Element, kHead>*>(dynamic_shared());
  constexpr uint32_t kThreads = kWarps<kHead> * 32;
  constexpr int kHalves = kRows / 8, kNumStages = kStages<Element, kHead>;
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const uint32_t kv_heads = a.kv.kv_heads, group = a.q.heads / kv_heads, block_size = a.kv.block_size;
  const uint32_t shift = static_cast<uint32_t>(__ffs(static_cast<int>(block_size)) - 1);
  // The lists come with the step, not from a kernel: they are read before the kernels in front have ended. The first
  // item is read along with their number, not after it: what lies behind the list is the step's, too.
  const uint32_t num_tasks = *num_items * kv_heads;
  const DecodeItem first_item = items[blockIdx.x / kv_heads];
  const bool has_fresh = a.fresh.k.data != nullptr;
  auto& fresh = *reinterpret_cast<Fresh<kHead>*>(dynamic_shared() + sizeof(Shared<Element, kHead>));
  const uint32_t turns = a.fresh.rotary_dim / 2;
  float frequency = 0; // of the turn that this thread forms; heads of 256 have no register for it
  if (kHead <= 128 && threadIdx.x < turns) frequency = a.fresh.frequencies[threadIdx.x];
  bool waited = false;
  for (uint32_t round = 0; round * gridDim.x < num_tasks; ++round) {
    const uint32_t task = round * gridDim.x + (round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
    if (task >= num_tasks) continue;
    const DecodeItem item = kHead <= 128 && round == 0 ? first_item : items[task / kv_heads];
    const uint32_t kv_head = task % kv_heads;
    // What the cache has of the item; with the token's own position it ends, in the part that comes last.
    const uint32_t cached = has_fresh ? min(item.end, item.stored) : item.end;
    const WarpTiles<kWarps<kHead>> tiles(item, warp);
    // The blocks of 16 of the warp's tiles, one a lane: of their first eight positions, then of their second; and of
    // the 16 behind them. Outside the item there may be none.
    const auto find_blocks = [&](int from) {
      const int own = from + static_cast<int>(lane % 16);
      if (own >= tiles.own) return 0u;
      const uint32_t first = tiles.position(own) + lane / 16 * 8;
      return a.table[item.table + (min(max(first, item.begin), item.end - 1) >> shift)];
    };
    uint32_t blocks = find_blocks(0), next_blocks = find_blocks(16);
    const uint32_t head_bytes = kv_head * block_size * kRowBytes<Element, kHead>;
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
        auto& ring = shared.ring[warp][own % kNumStages];
        fetch_tile<Element, kHead>(ring, a.kv, halves, head_bytes, first, item.begin, cached);
      }
      copy_async_commit(); // an empty group keeps the count
    };
#pragma unroll
    for (int s = 0; s < kNumStages - 1; ++s) fetch(s);
    for (uint32_t i = threadIdx.x; i < turns; i += kThreads)
      fresh.turns[i] = turn_of(item.stored, kHead <= 128 ? frequency : a.fresh.frequencies[i], a.fresh.magnitude);
    if (!waited) wait_for_previous_kernels();
    waited = true;

    const __half* q_row =
        static_cast<const __half*>(a.q.data) + size_t{item.token} * a.q.stride + kv_head * group * kHead;
    if (has_fresh) {
      __syncthreads(); // the turns
      const auto* k_row = static_cast<const __half*>(a.fresh.k.data) + size_t{item.token} * a.fresh.k.stride;
      const auto* v_row = static_cast<const __half*>(a.fresh.v.data) + size_t{item.token} * a.fresh.v.stride;
      // Pairs of elements: of the queries, of k, of v.
      const uint32_t rows = cached < item.end ? group + 2 : group;
      for (uint32_t i = threadIdx.x; i < rows * (kHead / 2); i += kThreads) {
        const auto pair = pair_of<kHead>(i, group, turns, a.fresh.interleaved);
        const __half* from =
            pair.row < group ? q_row + pair.row * kHead : (pair.row == group ? k_row : v_row) + kv_head * kHead;
        put_pair<Element>(fresh, pair, group, from[pair.first], from[pair.second]);
      }
      q_row = fresh.q[0];
      __syncthreads();
      if (cached < item.end) { // for the steps to come
        const uint32_t block = a.table[item.table + (item.stored >> shift)];
        store_fresh<Element, kHead>(fresh, a.kv, block, head_bytes, item.stored, threadIdx.x, kThreads);
      }
    }
    uint32_t q[kHead / 16][4];
    load_queries<Element, kHead>(q, [&](uint32_t r) { return r < group ? q_row + r * kHead : nullptr; });

    float sums[kHead / 8][4] = {}; // [16 rows, kHead]
    float largest[kHalves], sum[kHalves];
#pragma unroll
    for (int h = 0; h < kHalves; ++h) largest[h] = -kInfinity, sum[h] = 0;

    for (int own = 0; own < tiles.own; ++own) {
      copy_async_wait<kNumStages - 2>();
      __syncwarp();
      fetch(own + kNumStages - 1);
      auto& ring = shared.ring[warp][own % kNumStages];
      const uint32_t first = tiles.position(own);
      if (cached < item.end && first + kTile > cached) {
        put_fresh<Element, kHead>(ring, fresh, cached - first);
        __syncwarp();
      }
      attend_tile<Element, kHead, kRows, kSoftcap>(sums, largest, sum, q, ring, first, item, a);
    }
    order_sums<Element>(sums);

    // The warps' results together, in the order of the warps.
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      sum[h] += __shfl_xor_sync(kAllLanes, sum[h], 1);
      sum[h] += __shfl_xor_sync(kAllLanes, sum[h], 2);
      if (t == 0) shared.largest[warp][g + 8 * h] = largest[h], shared.sum[warp][g + 8 * h] = sum[h];
    }
    copy_async_wait<0>();
    __syncthreads(); // also: every ring is idle, its memory free
    auto* const merged = reinterpret_cast<float*>(&shared.ring[0][0][0][0]); // [warp, kRows, kHead]
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const uint32_t row = g + 8 * h;
      if (row >= group) continue;
      float m = shared.largest[0][row];
#pragma unroll
      for (uint32_t w = 1; w < kWarps<kHead>; ++w) m = fmaxf(m, shared.largest[w][row]);
      const float factor = exp2_fast(largest[h] - finite_or_zero(m));
#pragma unroll
      for (int d = 0; d < kHead / 8; ++d)
        *reinterpret_cast<float2*>(merged + (warp * kRows + row) * kHead + d * 8 + 2 * t) =
            make_float2(sums[d][2 * h] * factor, sums[d][2 * h + 1] * factor);
    }
    __syncthreads();

    // Four elements a thread from here on.
    const size_t slot = size_t{item.partial + item.part} * kv_heads + kv_head;
    for (uint32_t i = threadIdx.x; i < group * (kHead / 4); i += kThreads) {
      const uint32_t row = i / (kHead / 4), col = i % (kHead / 4) * 4, head = kv_head * group + row;
      float m = shared.largest[0][row], total = 0;
      float4 value = make_float4(0, 0, 0, 0);
#pragma unroll
      for (uint32_t w = 1; w < kWarps<kHead>; ++w) m = fmaxf(m, shared.largest[w][row]);
#pragma unroll
      for (uint32_t w = 0; w < kWarps<kHead>; ++w) {
        total += shared.sum[w][row] * exp2_fast(shared.largest[w][row] - finite_or_zero(m));
        add_to(value, 1.0f, *reinterpret_cast<const float4*>(merged + (w * kRows + row) * kHead + col));
      }
      if (item.parts == 1) {
        store4(static_cast<__half*>(a.out.data) + size_t{item.token} * a.out.stride + head * kHead + col, value,
               normaliser(m, total, a.sinks, head));
      } else {
        __stcg(reinterpret_cast<float4*>(a.partials + (slot * group + row) * kHead + col), value);
        if (col == 0) __stcg(reinterpret_cast<float2*>(a.partial_sums) + slot * group + row, make_float2(m, total));
      }
    }
    if (item.parts > 1) {
      __syncthreads();
      if (threadIdx.x == 0) {
        uint32_t* const arrived = a.counters + size_t{item.partial} * kv_heads + kv_head;
        shared.is_last = add_in_order(arrived, 1) == item.parts - 1 ? 1u : 0u;
        if (shared.is_last != 0) *arrived = 0; // for the next launch
      }
      __syncthreads();
      if (shared.is_last != 0) {
        const size_t first = (size_t{item.partial} * kv_heads + kv_head) * group; // rows of part 0
        const size_t step = size_t{kv_heads} * group;                             // rows from part to part
        const uint32_t quads = group * (kHead / 4), pitch = (item.parts + 31) / 32 * 32;
        // What each part counts, over the row's total: [group, pitch]; behind it the values of as many parts as there
        // is room for, each thread's own: [room, kThreads] of 16 bytes.
        auto* const weights = reinterpret_cast<float*>(&shared.ring[0][0][0][0]);
        auto* const values = reinterpret_cast<float4*>(weights + group * pitch) + threadIdx.x;
        const uint32_t room = (sizeof shared.ring - group * pitch * 4) / (kThreads * 16);
        struct Cursor {
          uint32_t quad, part;
        };
        const auto advance = [&](Cursor& at, uint32_t parts) {
          at.part += parts;
          if (at.part == item.parts) at = {at.quad + kThreads, 0};
        };
        // Calls visit(quad, part, n, place) for the next `room` of the thread's values, in runs of n parts.
        const auto for_runs = [&](Cursor& at, const auto& visit) {
          for (uint32_t place = 0; place < room && at.quad < quads;) {
            const uint32_t n = min(item.parts - at.part, room - place);
            visit(at.quad, at.part, n, place);
            place += n;
            advance(at, n);
          }
        };
        Cursor fetched{threadIdx.x, 0}, added{threadIdx.x, 0};
        const auto fetch_values = [&] {
          for_runs(fetched, [&](uint32_t quad, uint32_t part, uint32_t n, uint32_t place) {
            const auto* const from = reinterpret_cast<const float4*>(a.partials) + first * (kHead / 4) + quad;
#pragma unroll 4
            for (uint32_t k = 0; k < n; ++k)
              copy_async16(values + (place + k) * kThreads, from + (part + k) * step * (kHead / 4), true);
          });
          copy_async_commit();
        };
        fetch_values(); // while the weights are found: a warp a row, a lane every 32nd part
        for (uint32_t row = warp; row < group; row += kWarps<kHead>) {
          float2 part[kMaxDecodeParts / 32];
          float m = -kInfinity, total = 0;
#pragma unroll
          for (uint32_t i = 0; i < kMaxDecodeParts / 32; ++i) {
            const uint32_t k = i * 32 + lane;
            part[i] = k < item.parts ? __ldcg(reinterpret_cast<const float2*>(a.partial_sums) + first + row + k * step)
                                     : make_float2(-kInfinity, 0);
            m = fmaxf(m, part[i].x);
          }
          m = warp_max(m);
#pragma unroll
          for (uint32_t i = 0; i < kMaxDecodeParts / 32; ++i) {
            part[i].x = exp2_fast(part[i].x - finite_or_zero(m));
            total += part[i].x * part[i].y;
          }
          total = warp_sum(total);
          const float scale = normaliser(m, total, a.sinks, kv_head * group + row);
#pragma unroll
          for (uint32_t i = 0; i < kMaxDecodeParts / 32; ++i)
            if (i * 32 + lane < item.parts) weights[row * pitch + i * 32 + lane] = part[i].x * scale;
        }
        __syncthreads();
        float4 value = make_float4(0, 0, 0, 0);
        while (added.quad < quads) {
          copy_async_wait<0>();
          for_runs(added, [&](uint32_t quad, uint32_t part, uint32_t n, uint32_t place) {
            const uint32_t row = quad / (kHead / 4), col = quad % (kHead / 4) * 4;
            const float* const weight = weights + row * pitch + part;
#pragma unroll 8
            for (uint32_t k = 0; k < n; ++k) add_to(value, weight[k], values[(place + k) * kThreads]);
            if (part + n < item.parts) return;
            store4(static_cast<__half*>(a.out.data) + size_t{item.token} * a.out.stride +
                       (kv_head * group + row) * kHead + col,
                   value, 1.0f);
            value = make_float4(0, 0, 0, 0);
          });
          if (fetched.quad < quads) fetch_values();
        }
      }
    }
    __syncthreads(); // shared memory is the next task's
  }
  // Else what depends on this kernel could begin before the one in front has ended.
  if (!waited) wait_for_previous_kernels();
#endif
}

template <class Element, int kHead> constexpr size_t shared_bytes(bool has_fresh) {
  return sizeof(Shared<Element, kHead>) + (has_fresh ? sizeof(Fresh<kHead>) : 0);
}

template <class Element, int kHead>
void run(const Queue& queue, uint32_t blocks, const uint32_t* num_items, const DecodeItem* items, const AttendArgs& a) {
  const auto go = [&](auto* kernel) {
    launch("attend_decode", kernel, blocks, kWarps<kHead> * 32, shared_bytes<Element, kHead>(bool(a.fresh.k)), queue,
           num_items, items, a);
  };
  if (a.q.heads / a.kv.kv_heads <= 8)
    go(a.softcap != 0 ? attend_decode_kernel<Element, kHead, 8, true> : attend_decode_kernel<Element, kHead, 8, false>);
  else
    go(a.softcap != 0 ? attend_decode_kernel<Element, kHead, 16, true>
                      : attend_decode_kernel<Element, kHead, 16, false>);
}

template <class Element>
void run(const Queue& queue, uint32_t blocks, const uint32_t* num_items, const DecodeItem* items, const AttendArgs& a) {
  switch (a.kv.k_dim) {
  case 64:
    return run<Element, 64>(queue, blocks, num_items, items, a);
  case 80:
    return run<Element, 80>(queue, blocks, num_items, items, a);
  case 96:
    return run<Element, 96>(queue, blocks, num_items, items, a);
  case 128:
    return run<Element, 128>(queue, blocks, num_items, items, a);
  default:
    return run<Element, 256>(queue, blocks, num_items, items, a);
  }
}

} // namespace

bool attend_fast(uint32_t heads, const quire_kv_layer& layer, uint32_t format, int compute_capability) {
  const uint32_t k = layer.k_dim;
  if (k != layer.v_dim || heads % layer.kv_heads != 0 || heads / layer.kv_heads > 16) return false;
  if (k != 64 && k != 80 && k != 96 && k != 128 && k != 256) return false;
  return compute_capability >= 80 && format != QUIRE_F32;
}

bool attend_takes_fresh(uint32_t head_dim, uint64_t available) { // E4M3 needs less than fp16
  switch (head_dim) {
  case 64:
    return shared_bytes<__half, 64>(true) <= available;
  case 80:
    return shared_bytes<__half, 80>(true) <= available;
  case 96:
    return shared_bytes<__half, 96>(true) <= available;
  case 128:
    return shared_bytes<__half, 128>(true) <= available;
  default:
    return shared_bytes<__half, 256>(true) <= available;
  }
}

uint32_t decode_blocks(uint32_t multiprocessors) { return 2 * multiprocessors; }

void attend_decode(const Queue& queue, uint32_t blocks, const uint32_t* num_items, const DecodeItem* items,
                   const AttendArgs& a) {
  assert(a.kv.k_dim == a.kv.v_dim && a.q.heads / a.kv.kv_heads <= 16);
  if (a.kv.format == QUIRE_BF16)
    run<__nv_bfloat16>(queue, blocks, num_items, items, a);
  else if (a.kv.format == QUIRE_KV_E4M3)
    run<E4m3>(queue, blocks, num_items, items, a);
  else
    run<__half>(queue, blocks, num_items, items, a);
}

} // namespace quire::cuda
