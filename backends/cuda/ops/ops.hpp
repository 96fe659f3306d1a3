// What the kernels compute on, and the functions that launch them: one a kind of op, each in ops/<op>.cu.
//
// Shapes: an activation is a Tensor [rows, heads, dim]; rows are given at the launch. Pointers are device memory unless
// said otherwise. Errors: Failure from the launch. Threads: the backend's queue.
#pragma once

#include "queue.hpp"
#include "weight.hpp"

#include <quire/plugin.h>

#include <cstdint>

namespace quire::cuda {

// How an activation is stored. The residual stream, scores and logits are float32; what goes into a matrix product is
// fp16, clamped to its range (design note in docs/cuda.md).
enum class Type : uint32_t { f32, f16, i32 };

constexpr uint32_t bytes_of(Type type) { return type == Type::f16 ? 2 : 4; }

struct Tensor {
  void* data = nullptr;
  uint32_t stride = 0; // elements from row to row
  uint32_t heads = 1;
  uint32_t dim = 0;
  Type type = Type::f16;

  explicit operator bool() const { return data != nullptr; }
  constexpr uint32_t width() const { return heads * dim; }
};

// One layer's cache: K [block, kv_head, token in block, k_dim] and V alike inside each block, which holds all layers of
// its group. The order of E4M3's elements within a row is in kv_element.cuh.
struct KvLayer {
  std::byte* base = nullptr; // of block 0
  uint64_t block_bytes = 0;
  uint64_t k_offset = 0; // bytes from the block's start
  uint64_t v_offset = 0;
  uint32_t kv_heads = 0, k_dim = 0, v_dim = 0;
  uint32_t block_size = 0;
  uint32_t format = QUIRE_F16; // QUIRE_F16, QUIRE_BF16, QUIRE_F32, QUIRE_KV_E4M3
  uint32_t window = 0;         // positions a token sees, itself included; 0 = all
};

inline constexpr uint32_t kNoSlot = 0xffffffffu; // a padding token's: nothing is stored

// Arrays of the running step, on the device. Padding rows (up to the bucket) have token 0, position 0 and no slot.
struct StepArrays {
  const int32_t* tokens = nullptr;      // [T]
  const uint32_t* token_rows = nullptr; // [T] 1-based rows of `sampled`; 0 = take tokens
  const int32_t* sampled = nullptr;     // [max rows] of the ticket before
  const uint32_t* positions = nullptr;  // [T]
  const uint32_t* rows = nullptr;       // [R] token indices
};

// out [T, dim] float32 = scale * table[token] (+ learned positions).
void embed(const Queue&, const StepArrays&, uint32_t tokens, const Weight& table, const Weight* positions, float scale,
           const Tensor& out);

struct NormArgs {
  Tensor in, residual; // [rows, heads, dim]; residual may be absent
  Tensor out, sum;     // sum may be absent
  const float* weight; // [dim] or null
  const float* bias;   // [dim] or null
  float epsilon = 0, weight_offset = 0;
  bool layer = false; // subtract the mean
};
void norm(const Queue&, uint32_t rows, const NormArgs&);

// out = act(a) * b.
void glu(const Queue&, uint32_t rows, uint32_t activation, const Tensor& a, const Tensor& b, const Tensor& out);
void add(const Queue&, uint32_t rows, const Tensor& a, const Tensor& b, const Tensor& out);
// out = a * b, or a * vector [width], or a * vector[0] where vector_step is 0.
void mul(const Queue&, uint32_t rows, const Tensor& a, const Tensor& b, const float* vector, uint32_t vector_step,
         const Tensor& out);
// out row r = in row step.rows[r].
void gather_rows(const Queue&, const StepArrays&, uint32_t rows, const Tensor& in, const Tensor& out);
// The same numbers stored otherwise.
void convert(const Queue&, uint32_t rows, const Tensor& in, const Tensor& out);

// Rotation and storing into the cache, together or alone.
struct RopeArgs {
  Tensor q_in, q_out;                 // [T, heads, dim]; absent: no query
  Tensor k_in, k_out;                 // [T, kv_heads, k_dim]; k_out absent: only stored
  Tensor v_in;                        // [T, kv_heads, v_dim]; absent: nothing is stored
  const float* frequencies = nullptr; // [rotary_dim / 2], radians a position; null: q and k are not rotated
  uint32_t rotary_dim = 0;
  bool interleaved = false;
  float magnitude = 1;
  const KvLayer* kv = nullptr;     // where k and v are stored; null: nowhere
  const uint32_t* slots = nullptr; // [T] block * block_size + token in block
};
void rope(const Queue&, const StepArrays&, uint32_t tokens, const RopeArgs&);

struct RouteArgs {
  Tensor scores;               // [T, experts]
  Tensor weights, ids;         // [T, k] float32, int32
  const float* bias = nullptr; // [experts]
  quire_route op{};
};
void route(const Queue&, uint32_t tokens, const RouteArgs&);

} // namespace quire::cuda
