// glu, add, mul, gather_rows, convert: each output element from the same element of one or two inputs.
//
// Shapes: all [rows, width]. Bytes: each input read once, the output written once (gather_rows: of the input only the
// rows asked for). One thread makes four elements where rows are aligned for it, else one.
#include "elements.cuh"

namespace quire::cuda {
namespace {

constexpr uint32_t kThreads = 256;

// combine(row, col, a, b) over [rows, width]; a comes from row source(row).
template <int kWidth, class Combine>
__device__ __forceinline__ void for_elements(uint32_t rows, uint32_t width, const Tensor& out, const Combine& combine) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint32_t per_row = width / kWidth;
  const uint64_t index = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const auto row = static_cast<uint32_t>(index / per_row);
  if (row >= rows) return;
  const auto col = static_cast<uint32_t>(index % per_row) * kWidth;
  store<kWidth>(out, row, col, combine(row, col));
}

template <int kWidth> __global__ void glu_kernel(uint32_t rows, uint32_t activation, Tensor a, Tensor b, Tensor out) {
  for_elements<kWidth>(rows, out.width(), out, [&](uint32_t row, uint32_t col) {
    Elements<kWidth> x = load<kWidth>(a, row, col);
    const Elements<kWidth> y = load<kWidth>(b, row, col);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) x.x[i] = activate(activation, x.x[i]) * y.x[i];
    return x;
  });
}

template <int kWidth> __global__ void add_kernel(uint32_t rows, Tensor a, Tensor b, Tensor out) {
  for_elements<kWidth>(rows, out.width(), out, [&](uint32_t row, uint32_t col) {
    Elements<kWidth> x = load<kWidth>(a, row, col);
    const Elements<kWidth> y = load<kWidth>(b, row, col);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) x.x[i] += y.x[i];
    return x;
  });
}

template <int kWidth>
__global__ void mul_kernel(uint32_t rows, Tensor a, Tensor b, const float* vector, uint32_t vector_step, Tensor out) {
  for_elements<kWidth>(rows, out.width(), out, [&](uint32_t row, uint32_t col) {
    Elements<kWidth> x = load<kWidth>(a, row, col);
    if (b.data != nullptr) {
      const Elements<kWidth> y = load<kWidth>(b, row, col);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) x.x[i] *= y.x[i];
    } else {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) x.x[i] *= vector[(col + i) * vector_step];
    }
    return x;
  });
}

template <int kWidth> __global__ void gather_rows_kernel(uint32_t rows, const uint32_t* tokens, Tensor in, Tensor out) {
  for_elements<kWidth>(rows, out.width(), out,
                       [&](uint32_t row, uint32_t col) { return load<kWidth>(in, tokens[row], col); });
}

template <int kWidth> __global__ void convert_kernel(uint32_t rows, Tensor in, Tensor out) {
  for_elements<kWidth>(rows, out.width(), out, [&](uint32_t row, uint32_t col) { return load<kWidth>(in, row, col); });
}

__global__ void copy_ids(uint32_t rows, const uint32_t* tokens, Tensor in, Tensor out) {
  let_next_kernel_begin();
  wait_for_previous_kernels();
  const uint64_t index = uint64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const auto row = static_cast<uint32_t>(index / out.width());
  if (row >= rows) return;
  const auto col = static_cast<uint32_t>(index % out.width());
  static_cast<int32_t*>(out.data)[size_t{row} * out.stride + col] =
      static_cast<const int32_t*>(in.data)[size_t{tokens != nullptr ? tokens[row] : row} * in.stride + col];
}

uint32_t blocks_for(uint32_t rows, uint32_t width, uint32_t elements) {
  return static_cast<uint32_t>((uint64_t{rows} * (width / elements) + kThreads - 1) / kThreads);
}

} // namespace

void glu(const Queue& queue, uint32_t rows, uint32_t activation, const Tensor& a, const Tensor& b, const Tensor& out) {
  if (wide(a) && wide(b) && wide(out))
    launch("glu", glu_kernel<4>, blocks_for(rows, out.width(), 4), kThreads, 0, queue, rows, activation, a, b, out);
  else
    launch("glu", glu_kernel<1>, blocks_for(rows, out.width(), 1), kThreads, 0, queue, rows, activation, a, b, out);
}

void add(const Queue& queue, uint32_t rows, const Tensor& a, const Tensor& b, const Tensor& out) {
  if (wide(a) && wide(b) && wide(out))
    launch("add", add_kernel<4>, blocks_for(rows, out.width(), 4), kThreads, 0, queue, rows, a, b, out);
  else
    launch("add", add_kernel<1>, blocks_for(rows, out.width(), 1), kThreads, 0, queue, rows, a, b, out);
}

void mul(const Queue& queue, uint32_t rows, const Tensor& a, const Tensor& b, const float* vector, uint32_t vector_step,
         const Tensor& out) {
  if (wide(a) && wide(b) && wide(out))
    launch("mul", mul_kernel<4>, blocks_for(rows, out.width(), 4), kThreads, 0, queue, rows, a, b, vector, vector_step,
           out);
  else
    launch("mul", mul_kernel<1>, blocks_for(rows, out.width(), 1), kThreads, 0, queue, rows, a, b, vector, vector_step,
           out);
}

void gather_rows(const Queue& queue, const StepArrays& step, uint32_t rows, const Tensor& in, const Tensor& out) {
  if (in.type == Type::i32)
    launch("gather_rows", copy_ids, blocks_for(rows, out.width(), 1), kThreads, 0, queue, rows, step.rows, in, out);
  else if (wide(in) && wide(out))
    launch("gather_rows", gather_rows_kernel<4>, blocks_for(rows, out.width(), 4), kThreads, 0, queue, rows, step.rows,
           in, out);
  else
    launch("gather_rows", gather_rows_kernel<1>, blocks_for(rows, out.width(), 1), kThreads, 0, queue, rows, step.rows,
           in, out);
}

void convert(const Queue& queue, uint32_t rows, const Tensor& in, const Tensor& out) {
  if (in.type == Type::i32)
    launch("convert", copy_ids, blocks_for(rows, out.width(), 1), kThreads, 0, queue, rows,
           static_cast<const uint32_t*>(nullptr), in, out);
  else if (wide(in) && wide(out))
    launch("convert", convert_kernel<4>, blocks_for(rows, out.width(), 4), kThreads, 0, queue, rows, in, out);
  else
    launch("convert", convert_kernel<1>, blocks_for(rows, out.width(), 1), kThreads, 0, queue, rows, in, out);
}

} // namespace quire::cuda
