// embed: out [T, dim] float32 = scale * table[token] (+ positions[position]).
//
// A token is the host's, or the one that was sampled in a row of the ticket before. Bytes: a row of the table and of
// out a token. One block a token and 256 columns, one a thread: a table's row is in no cache, so that its pieces are
// best asked for by all at once.
#include "block_format.cuh"
#include "ops.hpp"

namespace quire::cuda {
namespace {

constexpr uint32_t kThreads = 256;

__global__ void embed_kernel(StepArrays step, Weight table, Weight positions, float scale, Tensor out) {
  wait_for_previous_kernels();
  let_next_kernel_begin(); // in this order: see fetch_step.hpp
  const uint32_t t = blockIdx.x;
  const uint32_t row_of = step.token_rows[t];
  int32_t token = row_of != 0 ? step.sampled[row_of - 1] : step.tokens[t];
  // A row that could not be sampled (-1): the host ends its sequence, and what this step makes of it is dropped.
  if (token < 0 || static_cast<uint32_t>(token) >= table.rows) token = 0;
  const uint32_t position = step.positions[t];
  const uint32_t col = blockIdx.y * kThreads + threadIdx.x;
  if (col >= out.dim) return;
  float value = weight_element(table, static_cast<uint32_t>(token), col) * scale;
  if (positions.data != nullptr) value += weight_element(positions, position < positions.rows ? position : 0, col);
  static_cast<float*>(out.data)[size_t{t} * out.stride + col] = value;
}

} // namespace

void embed(const Queue& queue, const StepArrays& step, uint32_t tokens, const Weight& table, const Weight* positions,
           float scale, const Tensor& out) {
  launch("embed", embed_kernel, dim3(tokens, (out.width() + kThreads - 1) / kThreads), kThreads, 0, queue, step, table,
         positions != nullptr ? *positions : Weight{}, scale, Tensor{out.data, out.stride, 1, out.width(), out.type});
}

} // namespace quire::cuda
