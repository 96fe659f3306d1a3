// linear: the choice of kernel, and the plain ones: any shape, finishing the library's sums, adding split sums.
//
// linear_any, a warp an output: in [rows, K], W [N, K]; bytes: W and in once an output, from the caches; for shapes
// that are not aligned to 8 columns.
#include "linear.cuh"

#include <cassert>

namespace quire::cuda {
namespace {

constexpr uint32_t kWarps = 8;

__global__ void __launch_bounds__(kWarps * 32) linear_any_kernel(uint32_t rows, LinearArgs a) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const PartTile<kWarps> place(a, blockIdx.x);
  const LinearPart& part = a.parts[place.part];
  const uint32_t n = place.tile * kWarps + warp, row = blockIdx.y;
  if (n >= part.weight.rows) return;
  const auto sum_of = [&](const LinearPart& p) {
    float sum = 0;
    for (uint32_t k = lane; k < a.in.dim; k += 32) sum += load<1>(a.in, row, k).x[0] * weight_element(p.weight, n, k);
    return finish(a, p, n, warp_sum(sum));
  };
  float value = sum_of(part);
  if (a.glu) value = gated(a.glu_activation, value, sum_of(a.parts[1]));
  if (lane == 0) put(a, row, a.glu ? n : part.first_col + n, value);
}

// The columns of out that a call makes: its parts', which follow one another; other calls may make the others.
struct Columns {
  uint32_t first = 0, count = 0;

  __host__ __device__ explicit Columns(const LinearArgs& a) : first(a.parts[0].first_col) {
    for (uint32_t p = 0; p < a.num_parts; ++p) count += a.parts[p].weight.rows;
  }
};

// The row and column of a thread, and the part that the column is of.
struct Place {
  uint32_t row, col, part = 0;

  __device__ __forceinline__ Place(const LinearArgs& a, const Columns& columns) {
    const uint64_t index = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
    row = static_cast<uint32_t>(index / columns.count);
    col = columns.first + static_cast<uint32_t>(index % columns.count);
    while (part + 1 < a.num_parts && col >= a.parts[part + 1].first_col) ++part;
  }
};

__global__ void linear_finish_kernel(uint32_t rows, Columns columns, LinearArgs a) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const Place at(a, columns);
  if (at.row >= rows) return;
  const LinearPart& part = a.parts[at.part];
  store<1>(a.out, at.row, at.col, {finish(a, part, at.col - part.first_col, load<1>(a.out, at.row, at.col).x[0])});
}

__global__ void linear_reduce_kernel(uint32_t rows, uint32_t splits, Columns columns, LinearArgs a) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const Place at(a, columns);
  if (at.row >= rows) return;
  const LinearPart& part = a.parts[at.part];
  const float* from = a.workspace + size_t{at.row} * a.out.dim + at.col;
  float sum = *from;
  for (uint32_t split = 1; split < splits; ++split) sum += from[size_t{split} * rows * a.out.dim];
  put(a, at.row, at.col, finish(a, part, at.col - part.first_col, sum));
}

uint32_t blocks_for(const Columns& columns, uint32_t rows) {
  return static_cast<uint32_t>((uint64_t{rows} * columns.count + 255) / 256);
}

} // namespace

const char* name_of(LinearKernel kernel) {
  switch (kernel) {
  case LinearKernel::any:
    return "linear_any";
  case LinearKernel::small:
    return "linear_small";
  case LinearKernel::tile:
    return "linear_tile";
  case LinearKernel::blocks_sm90:
    return "linear_blocks_sm90";
  case LinearKernel::blocks:
    break;
  }
  return "linear_blocks";
}

LinearKernel choose_linear(uint32_t rows, const LinearArgs& a) {
  const uint32_t format = a.parts[0].weight.format;
  const bool aligned = reinterpret_cast<uintptr_t>(a.in.data) % 16 == 0 && a.in.stride % 8 == 0 &&
                       a.in.type == Type::f16 && a.in.dim % 8 == 0;
  if (!aligned) return LinearKernel::any;
  if (rows <= kSmallRows) return LinearKernel::small;
  if (format == QUIRE_F16) return LinearKernel::tile;
  if (a.wide_blocks != 0 && !a.fixed_order && rows >= kWideRows) return LinearKernel::blocks_sm90;
  return LinearKernel::blocks;
}

void linear(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  assert(a.num_parts >= 1 && a.slices >= 1);
  switch (choose_linear(rows, a)) {
  case LinearKernel::any:
    return linear_any(queue, rows, a);
  case LinearKernel::small:
    return linear_small(queue, rows, a);
  case LinearKernel::tile:
    return linear_tile(queue, rows, a);
  case LinearKernel::blocks:
    return linear_blocks(queue, rows, a);
  case LinearKernel::blocks_sm90:
    return linear_blocks_sm90(queue, rows, a);
  }
}

void linear_any(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  launch("linear_any", linear_any_kernel, dim3(count_tiles<kWarps>(a), rows), kWarps * 32, 0, queue, rows, a);
}

void linear_finish(const Queue& queue, uint32_t rows, const LinearArgs& a) {
  const Columns columns(a);
  launch("linear_finish", linear_finish_kernel, blocks_for(columns, rows), 256, 0, queue, rows, columns, a);
}

void linear_reduce(const Queue& queue, uint32_t rows, uint32_t splits, const LinearArgs& a) {
  const Columns columns(a);
  launch("linear_reduce", linear_reduce_kernel, blocks_for(columns, rows), 256, 0, queue, rows, splits, columns, a);
}

} // namespace quire::cuda
