// expert_linear: out [T, k, N] = in [T, K] or [T, k, K] times the experts [experts, N, K] that ids [T, k] chose; with
// mix, out [T, N] is their weighted sum, added in rising order of the expert's id.
//
// Bytes: the chosen experts' weights once a tile of 8 slots. `plan` groups the slots by expert, in the order of the
// tokens; then each block multiplies 16 rows of one expert by up to 8 slots of it, as linear_small does: a warp a slice
// of K. With mix, slots' results meet in the workspace.
#include "expert_linear.hpp"

#include "linear_unit.cuh"

#include <algorithm>
#include <cassert>

namespace quire::cuda {
namespace {

constexpr uint32_t kSlots = 8; // a tile
constexpr uint32_t kPlanThreads = 512, kMaxWarps = 16;
// Blocks a multiprocessor that the compiler makes room for; 0: as it thinks best, which spills elsewhere.
constexpr uint32_t kLeastBlocks = QUIRE_SM == 900 ? 0 : 2;
constexpr uint64_t kMixBytes = 64ull << 20; // of slots' results at a time

struct SlotTile {
  uint32_t expert, first, count, reserved;
};

// What lies in the workspace.
struct Places {
  uint32_t* num_tiles;
  SlotTile* tiles; // [most_tiles]
  uint32_t* order; // [T * k] slots (token * k + i), grouped by expert
  float* results;  // [T * k, N] with mix
};

uint32_t most_tiles(uint64_t slots, uint32_t experts) {
  return static_cast<uint32_t>(std::min<uint64_t>(slots, experts) + slots / kSlots);
}

uint64_t align_up(uint64_t bytes) { return (bytes + 255) / 256 * 256; }

uint64_t plan_bytes(uint64_t slots, uint32_t experts) {
  return 256 + align_up(most_tiles(slots, experts) * sizeof(SlotTile)) + align_up(slots * 4);
}

Places places_in(std::byte* workspace, uint64_t slots, uint32_t experts) {
  Places places{};
  places.num_tiles = reinterpret_cast<uint32_t*>(workspace);
  places.tiles = reinterpret_cast<SlotTile*>(workspace + 256);
  places.order = reinterpret_cast<uint32_t*>(workspace + 256 + align_up(most_tiles(slots, experts) * sizeof(SlotTile)));
  places.results = reinterpret_cast<float*>(workspace + plan_bytes(slots, experts));
  return places;
}

// One block. A warp an expert: it counts the expert's slots, and once all are counted, writes their list.
__global__ void __launch_bounds__(kPlanThreads)
    plan_kernel(uint32_t slots, uint32_t experts, uint32_t top_k, Tensor ids, Places places) {
  uint32_t* starts = reinterpret_cast<uint32_t*>(dynamic_shared()); // [experts + 1] of slots
  uint32_t* tile_starts = starts + experts + 1;                     // [experts + 1]
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto expert_of = [&](uint32_t slot) {
    return static_cast<uint32_t>(
        static_cast<const int32_t*>(ids.data)[size_t{slot / top_k} * ids.stride + slot % top_k]);
  };
  for (uint32_t e = warp; e < experts; e += kPlanThreads / 32) {
    uint32_t count = 0;
    for (uint32_t base = 0; base < slots; base += 32)
      count +=
          static_cast<uint32_t>(__popc(__ballot_sync(kAllLanes, base + lane < slots && expert_of(base + lane) == e)));
    if (lane == 0) starts[e] = count;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    uint32_t slot = 0, tile = 0;
    for (uint32_t e = 0; e < experts; ++e) {
      const uint32_t count = starts[e];
      starts[e] = slot, tile_starts[e] = tile;
      slot += count, tile += (count + kSlots - 1) / kSlots;
    }
    starts[experts] = slot, tile_starts[experts] = tile;
    *places.num_tiles = tile;
  }
  __syncthreads();
  for (uint32_t e = warp; e < experts; e += kPlanThreads / 32) {
    const uint32_t first = starts[e], count = starts[e + 1] - first, first_tile = tile_starts[e];
    for (uint32_t i = lane; i < (count + kSlots - 1) / kSlots; i += 32)
      places.tiles[first_tile + i] = {e, first + i * kSlots, min(kSlots, count - i * kSlots), 0};
    uint32_t at = first;
    for (uint32_t base = 0; base < slots && count != 0; base += 32) {
      const bool mine = base + lane < slots && expert_of(base + lane) == e;
      const unsigned all = __ballot_sync(kAllLanes, mine);
      if (mine) places.order[at + static_cast<uint32_t>(__popc(all & ((1u << lane) - 1)))] = base + lane;
      at += static_cast<uint32_t>(__popc(all));
    }
  }
}

__device__ __forceinline__ void put_slot(const ExpertLinearArgs& a, const Places& places, uint32_t slot, uint32_t n,
                                         float value) {
  if (a.mix.data != nullptr)
    places.results[size_t{slot} * a.weight.rows + n] = value;
  else
    store<1>(a.out, slot / a.top_k, slot % a.top_k * a.weight.rows + n, {value});
}

template <uint32_t kFormat>
__global__ void __launch_bounds__(kMaxWarps * 32, kLeastBlocks)
    expert_linear_kernel(ExpertLinearArgs a, Places places) {
  using U = UnitOf<kFormat>;
  let_next_kernel_begin();
  wait_for_previous_kernels();
  if (blockIdx.y >= *places.num_tiles) return;
  const SlotTile tile = places.tiles[blockIdx.y];
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, slices = blockDim.x / 32;
  const uint32_t cols = a.weight.cols, units = (cols + U::kColumns - 1) / U::kColumns;
  uint32_t unit = warp, end = units, step = slices;
  if (a.fixed_order) {
    unit = static_cast<uint32_t>(uint64_t{units} * warp / slices);
    end = static_cast<uint32_t>(uint64_t{units} * (warp + 1) / slices);
    step = 1;
  }
  // The expert's own matrix.
  Weight w = a.weight;
  uint32_t row_tile = blockIdx.x;
  if constexpr (kFormat == QUIRE_F16)
    w.data += size_t{tile.expert} * w.rows * w.stride * 2;
  else
    row_tile += tile.expert * w.tiles;
  const uint32_t slot = g < tile.count ? places.order[tile.first + g] : 0;
  const __half* x = static_cast<const __half*>(a.in.data) + size_t{slot / a.top_k} * a.in.stride +
                    (a.per_slot ? size_t{slot % a.top_k} * cols : 0);
  float sums[4] = {};
  for (; unit < end; unit += step) {
    U current;
    current.load(w, row_tile, unit, lane);
#pragma unroll
    for (uint32_t block = 0; block < U::kBlocks; ++block) {
      uint32_t b[2][2], f[2][4];
      U::activations(x, g < tile.count, unit * U::kColumns + 32 * block, cols, t, b);
      current.fragments(static_cast<int>(block), f);
      matrix_multiply<__half>(sums, f[0], b[0]);
      matrix_multiply<__half>(sums, f[1], b[1]);
    }
  }
  constexpr uint32_t kPitch = kSlots + 1;
  float* shared = reinterpret_cast<float*>(dynamic_shared()); // [slice][row of W][slot]
#pragma unroll
  for (int c = 0; c < 4; ++c) shared[(warp * 16 + g + 8 * (c / 2)) * kPitch + 2 * t + c % 2] = sums[c];
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < 16 * tile.count; i += blockDim.x) {
    const uint32_t in_tile = i % 16, which = i / 16, n = blockIdx.x * 16 + in_tile;
    if (n >= a.weight.rows) continue;
    float sum = shared[in_tile * kPitch + which];
    for (uint32_t s = 1; s < slices; ++s) sum += shared[(s * 16 + in_tile) * kPitch + which];
    if (a.bias != nullptr) sum += a.bias[size_t{tile.expert} * a.weight.rows + n];
    put_slot(a, places, places.order[tile.first + which], n, sum);
  }
}

// Any shape: a warp an output of a slot.
__global__ void __launch_bounds__(256) expert_any_kernel(uint32_t slots, ExpertLinearArgs a, Places places) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, slot = blockIdx.y, n = blockIdx.x * 8 + warp;
  if (slot >= slots || n >= a.weight.rows) return;
  const auto expert = static_cast<uint32_t>(
      static_cast<const int32_t*>(a.ids.data)[size_t{slot / a.top_k} * a.ids.stride + slot % a.top_k]);
  Weight w = a.weight;
  uint32_t row = n;
  if (w.format == QUIRE_F16)
    w.data += size_t{expert} * w.rows * w.stride * 2;
  else
    row += expert * w.tiles * 16;
  float sum = 0;
  for (uint32_t k = lane; k < w.cols; k += 32)
    sum +=
        load<1>(a.in, slot / a.top_k, (a.per_slot ? slot % a.top_k * w.cols : 0) + k).x[0] * weight_element(w, row, k);
  sum = warp_sum(sum);
  if (a.bias != nullptr) sum += a.bias[size_t{expert} * a.weight.rows + n];
  if (lane == 0) put_slot(a, places, slot, n, sum);
}

__global__ void __launch_bounds__(256) mix_kernel(uint32_t tokens, ExpertLinearArgs a, Places places) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint64_t index = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const auto token = static_cast<uint32_t>(index / a.weight.rows), n = static_cast<uint32_t>(index % a.weight.rows);
  if (token >= tokens) return;
  const int32_t* ids = static_cast<const int32_t*>(a.ids.data) + size_t{token} * a.ids.stride;
  float sum = 0;
  int32_t last = -1;
  for (uint32_t done = 0; done < a.top_k;) {
    int32_t expert = 0x7fffffff;
    for (uint32_t i = 0; i < a.top_k; ++i)
      if (ids[i] > last && ids[i] < expert) expert = ids[i];
    for (uint32_t i = 0; i < a.top_k; ++i)
      if (ids[i] == expert) {
        sum += load<1>(a.mix, token, i).x[0] * places.results[(size_t{token} * a.top_k + i) * a.weight.rows + n];
        ++done;
      }
    last = expert;
  }
  store<1>(a.out, token, n, {sum});
}

template <uint32_t kFormat>
void run(const Queue& queue, uint32_t tiles, const ExpertLinearArgs& a, const Places& places) {
  launch("expert_linear", expert_linear_kernel<kFormat>, dim3((a.weight.rows + 15) / 16, tiles), a.slices * 32,
         size_t{a.slices} * 16 * (kSlots + 1) * 4, queue, a, places);
}

void run_format(const Queue& queue, uint32_t tiles, const ExpertLinearArgs& a, const Places& places) {
  if (a.weight.format == QUIRE_F16) return run<QUIRE_F16>(queue, tiles, a, places);
  for_block_format("expert_linear", a.weight.format, [&](auto format) { run<format>(queue, tiles, a, places); });
}

} // namespace

uint32_t expert_pass_tokens(uint32_t max_tokens, uint32_t top_k, uint32_t outputs, bool mix) {
  if (!mix) return max_tokens;
  const uint64_t tokens = kMixBytes / (uint64_t{top_k} * outputs * 4);
  return static_cast<uint32_t>(std::clamp<uint64_t>(tokens, 1, max_tokens));
}

uint64_t expert_workspace_bytes(uint32_t max_tokens, uint32_t top_k, uint32_t experts, uint32_t outputs, bool mix) {
  const uint64_t slots = uint64_t{expert_pass_tokens(max_tokens, top_k, outputs, mix)} * top_k;
  return plan_bytes(slots, experts) + (mix ? slots * outputs * 4 : 0);
}

void expert_linear(const Queue& queue, uint32_t tokens, const ExpertLinearArgs& args) {
  const uint32_t pass = expert_pass_tokens(tokens, args.top_k, args.weight.rows, args.mix.data != nullptr);
  for (uint32_t first = 0; first < tokens; first += pass) {
    const uint32_t count = std::min(pass, tokens - first);
    ExpertLinearArgs a = args;
    const auto from_row = [&](Tensor& tensor) {
      if (tensor)
        tensor.data = static_cast<std::byte*>(tensor.data) + uint64_t{first} * tensor.stride * bytes_of(tensor.type);
    };
    from_row(a.in), from_row(a.ids), from_row(a.mix), from_row(a.out);
    const uint32_t slots = count * a.top_k, experts = a.weight.experts;
    const Places places = places_in(a.workspace, slots, experts);
    const bool aligned = reinterpret_cast<uintptr_t>(a.in.data) % 16 == 0 && a.in.stride % 8 == 0 &&
                         a.in.type == Type::f16 && a.weight.cols % 8 == 0;
    if (aligned) {
      launch("expert_plan", plan_kernel, 1, kPlanThreads, size_t{2 * (experts + 1)} * 4, queue, slots, experts, a.top_k,
             a.ids, places);
      run_format(queue, most_tiles(slots, experts), a, places);
    } else {
      launch("expert_any", expert_any_kernel, dim3((a.weight.rows + 7) / 8, slots), 256, 0, queue, slots, a, places);
    }
    if (a.mix) {
      const uint64_t elements = uint64_t{count} * a.weight.rows;
      launch("expert_mix", mix_kernel, static_cast<uint32_t>((elements + 255) / 256), 256, 0, queue, count, a, places);
    }
  }
}

} // namespace quire::cuda
