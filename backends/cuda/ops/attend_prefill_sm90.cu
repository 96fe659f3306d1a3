// attend_prefill_sm90: chunks of many query tokens over the paged cache for Hopper (compute capability 9.0a): the
// tensor cores' asynchronous products (wgmma), fed by copies by tensor map (TMA).
//
// Shapes: q, out [T, heads, kDim] fp16; K, V in blocks [kv_head, token in block, kDim] fp16 or bf16; kDim 64 or 128.
// Operations: 4 * kDim a query, head and position seen. Bytes: q and out once; K and V once a block from the L2 (the
// heads of a group and the tiles of a sequence run side by side).
//
// A block takes 128 tokens of one sequence and one query head. After Shah et al., «FlashAttention-3» (2024): three
// warpgroups. One warp of the first issues the copies: 128 positions of K or V a stage, through the block table, with
// the 128-byte swizzle that wgmma reads. The other two hold 64 query rows each: S = q k^T of the next tile and O += P v
// of the current one are under way while the exponentials of the next are taken. The two take turns at the tensor
// cores, so that one takes exponentials while the other multiplies. The tiles run from the last (masked) to the first.
#include "attend.cuh"

#include <cassert>
#include <cstring>

#ifndef QUIRE_CUDA_EMULATED
#include "hopper.cuh"
#include "tensor_map.cuh"
#endif

namespace quire::cuda {

#ifdef QUIRE_CUDA_EMULATED // has none of these instructions

bool attend_wide(const quire_kv_layer&, uint32_t, int) { return false; }
WideMaps map_wide(const AttendArgs&, uint32_t, uint32_t) { return {}; }
void attend_prefill_sm90(const Queue&, uint32_t, const WideItem*, const WideMaps&, const AttendArgs&) { assert(false); }

#else

namespace {

constexpr int kRows = 128; // query tokens a block
constexpr int kKeys = 128; // positions a tile
constexpr int kStages = 2;
constexpr int kThreads = 384; // producer warpgroup, two consumers
static_assert(kRows == kWideTokens);

// Rows of a cache block that one copy brings.
__host__ __device__ constexpr uint32_t box_rows_of(uint32_t block_size) {
  return block_size < kKeys ? block_size : kKeys;
}

template <class Element, int kDim> struct Shared {
  // Tiles of 64 columns (128 bytes) a row, swizzled; [half][row][64].
  alignas(1024) Element q[kDim / 64][kRows][64];
  alignas(1024) Element k[kStages][kDim / 64][kKeys][64];
  alignas(1024) Element v[kStages][kDim / 64][kKeys][64];
  alignas(8) uint64_t q_full, k_full[kStages], k_empty[kStages], v_full[kStages], v_empty[kStages];
};

template <class Element, int kDim, bool kSoftcap>
__global__ void __launch_bounds__(kThreads, 1)
    attend_prefill_sm90_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap k_map,
                               const __grid_constant__ CUtensorMap v_map, const WideItem* items, const AttendArgs a) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using namespace hopper;
  auto& shared = *reinterpret_cast<Shared<Element, kDim>*>((reinterpret_cast<uintptr_t>(dynamic_shared()) + 1023) &
                                                           ~uintptr_t{1023});
  constexpr int kHalves = kDim / 64;
  let_next_kernel_begin();
  wait_for_previous_kernels();

  const WideItem work = items[blockIdx.y];
  const uint32_t window = a.kv.window, block_size = a.kv.block_size, box_rows = box_rows_of(block_size);
  const uint32_t head = blockIdx.x; // heads first: the longest work of all heads starts before any shorter one
  const uint32_t kv_head = head / (a.q.heads / a.kv.kv_heads);
  // Positions that any row sees: [first_key, last_key].
  const uint32_t last_key = work.position + work.tokens - 1;
  const uint32_t first_key = window && work.position + 1 > window ? work.position + 1 - window : 0;
  const int last_tile = static_cast<int>(last_key / kKeys), first_tile = static_cast<int>(first_key / kKeys);

  if (threadIdx.x == 0) {
    barrier_init(&shared.q_full, 1);
    for (int s = 0; s < kStages; ++s) {
      barrier_init(&shared.k_full[s], 1);
      barrier_init(&shared.v_full[s], 1);
      barrier_init(&shared.k_empty[s], 2);
      barrier_init(&shared.v_empty[s], 2);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();

  const int warpgroup = threadIdx.x / 128;
  if (warpgroup == 0) {
    fewer_registers<32>();
    if (threadIdx.x >= 32) return;
    const int lane = threadIdx.x;
    if (lane == 0) {
      barrier_expect(&shared.q_full, sizeof shared.q);
      for (int h = 0; h < kHalves; ++h)
        copy_3d(&shared.q[h][0][0], &q_map, &shared.q_full, 64 * h, static_cast<int>(head),
                static_cast<int>(work.token));
    }
    // Lane (piece, half) copies one block's rows, or 128 of a larger block's.
    const uint32_t pieces = kKeys / box_rows;
    const uint32_t piece = static_cast<uint32_t>(lane) / kHalves;
    const int half_index = lane % kHalves;
    const uint32_t first_block = first_key / block_size, last_block = (work.end - 1) / block_size;
    constexpr uint32_t kTileBytes = 2 * kKeys * kDim;
    int stage = 0;
    uint32_t parity = 1; // of the first pass: the stages are empty
    for (int tile = last_tile; tile >= first_tile; --tile) {
      const uint32_t position = static_cast<uint32_t>(tile) * kKeys + piece * box_rows;
      // Positions before the window and behind the end are masked or zeroed by the readers; blocks that are there
      // stand in for theirs.
      const uint32_t wanted = position / block_size;
      const uint32_t block = piece < pieces ? a.table[work.table + min(max(wanted, first_block), last_block)] : 0;
      const int row = static_cast<int>(position % block_size);
      barrier_wait(&shared.k_empty[stage], parity);
      if (lane == 0) barrier_expect(&shared.k_full[stage], kTileBytes);
      __syncwarp();
      if (piece < pieces)
        copy_4d(&shared.k[stage][half_index][piece * box_rows][0], &k_map, &shared.k_full[stage], 64 * half_index, row,
                static_cast<int>(kv_head), static_cast<int>(block));
      barrier_wait(&shared.v_empty[stage], parity);
      if (lane == 0) barrier_expect(&shared.v_full[stage], kTileBytes);
      __syncwarp();
      if (piece < pieces)
        copy_4d(&shared.v[stage][half_index][piece * box_rows][0], &v_map, &shared.v_full[stage], 64 * half_index, row,
                static_cast<int>(kv_head), static_cast<int>(block));
      if (++stage == kStages) {
        stage = 0;
        parity ^= 1;
      }
    }
    return;
  }

  more_registers<232>();
  const int consumer = warpgroup - 1;
  const int lane = threadIdx.x % 32, warp = threadIdx.x % 128 / 32;
  const bool leader = threadIdx.x % 128 == 0;
  const int row = warp * 16 + lane / 4; // of the warpgroup's 64; the thread has this one and the one 8 below
  const int column = lane % 4 * 2;
  const uint32_t tile_row = consumer * 64 + row;
  const uint32_t position[2] = {work.position + tile_row, work.position + tile_row + 8};

  float o[kDim / 2] = {}; // [64, dim] over the warpgroup
  float s[64];            // [64, keys]
  uint32_t p[8][4];       // fp16 of exp(s), as wgmma's left operand: 8 pieces of 16 keys
  float row_max[2] = {-kInfinity, -kInfinity}, row_sum[2] = {0, 0};

  const auto multiply_qk = [&](int stage) {
    const uint32_t q0 = shared_address(&shared.q[0][consumer * 64][0]), k0 = shared_address(&shared.k[stage][0][0][0]);
    wgmma_fence();
#pragma unroll
    for (int h = 0; h < kHalves; ++h)
#pragma unroll
      for (int c = 0; c < 4; ++c)
        wgmma_ss<Element>(s, descriptor(q0 + h * sizeof shared.q[0] + c * 32, 16, 1024),
                          descriptor(k0 + h * sizeof shared.k[0][0] + c * 32, 16, 1024), h + c > 0);
    wgmma_commit();
  };
  const auto multiply_pv = [&](int stage) {
    const uint32_t v0 = shared_address(&shared.v[stage][0][0][0]);
    wgmma_fence();
#pragma unroll
    for (int c = 0; c < 8; ++c) wgmma_rs<Element>(o, p[c], descriptor(v0 + c * 16 * 128, sizeof shared.v[0][0], 1024));
    wgmma_commit();
  };
  // Scales, caps and masks s, takes exponentials in place and returns what the earlier sums must be multiplied with.
  const auto soften = [&](int tile, float(&factor)[2]) {
    const uint32_t key0 = static_cast<uint32_t>(tile) * kKeys;
    if constexpr (kSoftcap) {
#pragma unroll
      for (int i = 0; i < 64; ++i) s[i] = in_base2(s[i], a.scale, a.softcap);
    }
    const bool edge = key0 + kKeys - 1 > work.position + consumer * 64 || (window && key0 + window <= last_key);
    if (edge) {
#pragma unroll
      for (int i = 0; i < 64; ++i) {
        const uint32_t key = key0 + i / 4 * 8 + column + i % 2;
        const uint32_t own = position[i / 2 % 2];
        if (key > own || (window && key + window <= own)) s[i] = -kInfinity;
      }
    }
    const float unit = kSoftcap ? 1.0f : a.scale * kLog2e;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float m = row_max[r];
#pragma unroll
      for (int j = 0; j < 16; ++j) m = fmaxf(m, fmaxf(s[4 * j + 2 * r], s[4 * j + 2 * r + 1]));
      m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
      m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
      const float shift = m == -kInfinity ? 0.0f : m * unit; // a row that has seen nothing yet
      factor[r] = exp2_fast(row_max[r] * unit - shift);
      row_max[r] = m;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        float& a = s[4 * j + 2 * r];
        float& b = s[4 * j + 2 * r + 1];
        a = exp2_fast(fmaf(a, unit, -shift));
        b = exp2_fast(fmaf(b, unit, -shift));
        sum += a + b;
      }
      row_sum[r] = row_sum[r] * factor[r] + sum;
    }
  };
  const auto pack_p = [&] {
#pragma unroll
    for (int c = 0; c < 8; ++c)
#pragma unroll
      for (int i = 0; i < 4; ++i) p[c][i] = pack2<Element>(s[8 * c + 2 * i], s[8 * c + 2 * i + 1]);
  };
  const auto scale_o = [&](const float(&factor)[2]) {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) o[i] *= factor[i / 2 % 2];
  };
  // Slots behind the sequence's end may hold anything, NaN too, and zero times NaN is NaN: clear them in the tile.
  const auto clear_tail = [&](int stage, int tile) {
    const int written = static_cast<int>(work.end) - tile * kKeys;
    if (written >= kKeys) return;
    barrier_wait(&shared.v_full[stage], 0);
    uint4* const v = reinterpret_cast<uint4*>(&shared.v[stage][0][0][0]);
    for (int i = threadIdx.x - 128; i < kHalves * kKeys * 8; i += 256)
      if (i / 8 % kKeys >= written) v[i] = make_uint4(0, 0, 0, 0);
    fence_async_proxy();
    named_wait(3);
  };

  if (consumer == 1) named_arrive(1); // consumer 0 begins
  int stage = 0;
  uint32_t parity = 0;
  float factor[2];

  barrier_wait(&shared.q_full, 0);
  if constexpr (std::is_same_v<Element, __nv_bfloat16>) { // each warpgroup its own rows, wherever the swizzle put them
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      auto* const words = reinterpret_cast<uint32_t*>(&shared.q[h][consumer * 64][0]);
      for (int i = threadIdx.x % 128; i < 64 * 32; i += 128) {
        const float2 f = __half22float2(half2_of(words[i]));
        words[i] = pack_bfloat2(f.x, f.y);
      }
    }
    fence_async_proxy();
    named_wait_of<128>(4 + consumer);
  }
  barrier_wait(&shared.k_full[0], 0);
  named_wait(1 + consumer);
  multiply_qk(0);
  named_arrive(2 - consumer);
  wgmma_wait<0>();
  if (leader) barrier_arrive(&shared.k_empty[0]);
  soften(last_tile, factor);
  pack_p();
  clear_tail(0, last_tile); // here, where neither consumer holds the turn

  for (int tile = last_tile - 1; tile >= first_tile; --tile) {
    const int next = stage + 1 == kStages ? 0 : stage + 1;
    const uint32_t next_parity = next == 0 ? parity ^ 1 : parity;
    barrier_wait(&shared.k_full[next], next_parity);
    named_wait(1 + consumer);
    multiply_qk(next);
    barrier_wait(&shared.v_full[stage], parity);
    multiply_pv(stage);
    named_arrive(2 - consumer);
    wgmma_wait<1>();
    if (leader) barrier_arrive(&shared.k_empty[next]);
    soften(tile, factor);
    wgmma_wait<0>();
    if (leader) barrier_arrive(&shared.v_empty[stage]);
    scale_o(factor);
    pack_p();
    stage = next;
    parity = next_parity;
  }
  barrier_wait(&shared.v_full[stage], parity);
  multiply_pv(stage);
  wgmma_wait<0>();
  if (consumer == 0) named_wait(1); // what the other gave last

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = row_sum[r];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float inverse = normaliser(row_max[r] * (kSoftcap ? 1.0f : a.scale * kLog2e), sum, a.sinks, head);
    const uint32_t token = tile_row + 8 * r;
    if (token >= work.tokens) continue;
    __half* const out =
        static_cast<__half*>(a.out.data) + size_t{work.token + token} * a.out.stride + head * kDim + column;
#pragma unroll
    for (int j = 0; j < kDim / 8; ++j)
      *reinterpret_cast<uint32_t*>(out + 8 * j) =
          pack_half2(o[4 * j + 2 * r] * inverse, o[4 * j + 2 * r + 1] * inverse);
  }
#endif
}

void keep(uint64_t (&to)[16], const CUtensorMap& map) {
  static_assert(sizeof map == sizeof to);
  std::memcpy(to, &map, sizeof map);
}

template <class Element, int kDim>
void run(const Queue& queue, uint32_t num_items, const WideItem* items, const WideMaps& maps, const AttendArgs& a) {
  CUtensorMap map[3];
  std::memcpy(&map[0], maps.q, sizeof map[0]);
  std::memcpy(&map[1], maps.k, sizeof map[0]);
  std::memcpy(&map[2], maps.v, sizeof map[0]);
  launch("attend_prefill_sm90",
         a.softcap != 0 ? attend_prefill_sm90_kernel<Element, kDim, true>
                        : attend_prefill_sm90_kernel<Element, kDim, false>,
         dim3(a.q.heads, num_items), kThreads, sizeof(Shared<Element, kDim>) + 1024, queue, map[0], map[1], map[2],
         items, a);
}

} // namespace

bool attend_wide(const quire_kv_layer& layer, uint32_t format, int compute_capability) {
#ifdef QUIRE_CUDA_90A
  constexpr bool kBuilt = true;
#else
  constexpr bool kBuilt = false;
#endif
  return kBuilt && compute_capability == 90 && layer.k_dim == layer.v_dim &&
         (layer.k_dim == 64 || layer.k_dim == 128) && (format == QUIRE_F16 || format == QUIRE_BF16);
}

WideMaps map_wide(const AttendArgs& a, uint32_t tokens, uint32_t num_blocks) {
  WideMaps maps;
  const cuuint64_t dim = a.kv.k_dim, size = a.kv.block_size;
  keep(maps.q, tensor_map<3>(CU_TENSOR_MAP_DATA_TYPE_FLOAT16, a.q.data, {dim, a.q.heads, tokens},
                             {dim * 2, cuuint64_t{a.q.stride} * 2}, {64, 1, kRows}));
  const auto type = a.kv.format == QUIRE_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  for (const bool values : {false, true})
    keep(values ? maps.v : maps.k,
         tensor_map<4>(type, a.kv.base + (values ? a.kv.v_offset : a.kv.k_offset),
                       {dim, size, a.kv.kv_heads, num_blocks}, {dim * 2, size * dim * 2, a.kv.block_bytes},
                       {64, box_rows_of(a.kv.block_size), 1, 1}));
  return maps;
}

void attend_prefill_sm90(const Queue& queue, uint32_t num_items, const WideItem* items, const WideMaps& maps,
                         const AttendArgs& a) {
  const bool bf16 = a.kv.format == QUIRE_BF16;
  if (a.kv.k_dim == 128)
    bf16 ? run<__nv_bfloat16, 128>(queue, num_items, items, maps, a)
         : run<__half, 128>(queue, num_items, items, maps, a);
  else
    bf16 ? run<__nv_bfloat16, 64>(queue, num_items, items, maps, a) : run<__half, 64>(queue, num_items, items, maps, a);
}

#endif

} // namespace quire::cuda
