// norm: out = (x - mean) / sqrt(var + eps) * (weight + offset) + bias over each head of x = in + residual; sum = x.
//
// Shapes: all [rows, heads, dim]; weight, bias [dim]. Bytes: in, residual read once, out and sum written once.
// Sources: Ba et al. 2016 (layer), Zhang and Sennrich 2019 (rms). A warp a head up to 1,024 elements, else a block; the
// order of the sums depends on dim alone. x is kept in shared memory between the passes.
#include "elements.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kWarps = 8;

template <int kWidth, bool kBlock> __global__ void norm_kernel(uint32_t rows, NormArgs a) {
  float* cache = reinterpret_cast<float*>(dynamic_shared());
  __shared__ float partial[32];
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const uint64_t item = kBlock ? blockIdx.x : uint64_t{blockIdx.x} * warps + warp;
  const uint32_t heads = a.in.heads, dim = a.in.dim;
  const auto row = static_cast<uint32_t>(item / heads), first = static_cast<uint32_t>(item % heads) * dim;
  if (!kBlock && row >= rows) return; // a whole warp
  float* x = cache + (kBlock ? 0 : size_t{warp} * dim);
  const uint32_t start = (kBlock ? threadIdx.x : lane) * kWidth, step = (kBlock ? blockDim.x : 32) * kWidth;

  const auto total = [&](float value) {
    value = warp_sum(value);
    if constexpr (kBlock) {
      __syncthreads();
      if (lane == 0) partial[warp] = value;
      __syncthreads();
      value = 0;
      for (uint32_t w = 0; w < warps; ++w) value += partial[w];
    }
    return value;
  };

  float sum = 0, squares = 0;
  for (uint32_t i = start; i < dim; i += step) {
    Elements<kWidth> e = load<kWidth>(a.in, row, first + i);
    if (a.residual.data != nullptr) {
      const Elements<kWidth> r = load<kWidth>(a.residual, row, first + i);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) e.x[j] += r.x[j];
    }
    if (a.sum.data != nullptr) store<kWidth>(a.sum, row, first + i, e);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      x[i + j] = e.x[j];
      sum += e.x[j];
      squares += e.x[j] * e.x[j];
    }
  }
  float mean = 0;
  if (a.layer) {
    mean = total(sum) / static_cast<float>(dim);
    squares = 0; // of the distances from the mean: the difference of two large sums would lose them
    for (uint32_t i = start; i < dim; i += step)
#pragma unroll
      for (int j = 0; j < kWidth; ++j) squares += (x[i + j] - mean) * (x[i + j] - mean);
  }
  const float inverse = rsqrtf(total(squares) / static_cast<float>(dim) + a.epsilon);
  for (uint32_t i = start; i < dim; i += step) {
    Elements<kWidth> e;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      e.x[j] = (x[i + j] - mean) * inverse;
      if (a.weight != nullptr) e.x[j] *= a.weight[i + j] + a.weight_offset;
      if (a.bias != nullptr) e.x[j] += a.bias[i + j];
    }
    store<kWidth>(a.out, row, first + i, e);
  }
}

} // namespace

void norm(const Queue& queue, uint32_t rows, const NormArgs& a) {
  const bool four = wide(a.in) && wide(a.residual) && wide(a.out) && wide(a.sum);
  const uint64_t items = uint64_t{rows} * a.in.heads;
  const uint32_t dim = a.in.dim;
  if (dim > 1024) {
    const uint32_t threads = dim >= 4096 ? 512 : 256;
    const size_t shared = size_t{dim} * 4;
    if (four)
      launch("norm", norm_kernel<4, true>, static_cast<uint32_t>(items), threads, shared, queue, rows, a);
    else
      launch("norm", norm_kernel<1, true>, static_cast<uint32_t>(items), threads, shared, queue, rows, a);
  } else {
    const auto blocks = static_cast<uint32_t>((items + kWarps - 1) / kWarps);
    const size_t shared = size_t{kWarps} * dim * 4;
    if (four)
      launch("norm", norm_kernel<4, false>, blocks, kWarps * 32, shared, queue, rows, a);
    else
      launch("norm", norm_kernel<1, false>, blocks, kWarps * 32, shared, queue, rows, a);
  }
}

} // namespace quire::cuda
