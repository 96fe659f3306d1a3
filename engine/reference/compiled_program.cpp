#include "reference/compiled_program.hpp"

#include "program/validate.hpp"
#include "quire/error.hpp"
#include "quire/plugin_check.hpp"
#include "reference/ops.hpp"
#include "weights/formats.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace quire::reference {
namespace {

// Untouched pages cost nothing, so a buffer for the largest step is free until a step needs it.
void* allocate(uint64_t bytes, const char* what) {
  const uint64_t rounded = (std::max<uint64_t>(bytes, 1) + 63) / 64 * 64;
  void* p = rounded < bytes ? nullptr : std::aligned_alloc(64, rounded);
  if (!p)
    throw Failure(QUIRE_OUT_OF_MEMORY, "the reference backend can't get " + std::to_string(bytes) + " bytes for " +
                                           what + ": lower the step's limits");
  return p;
}

void check_limits(const quire_limits& limits, const std::string& program) {
  const auto fail = [&](const std::string& what) { throw Failure(QUIRE_INVALID, "program " + program + ": " + what); };
  if (limits.max_tokens == 0 || limits.max_sequences == 0)
    fail("limits.max_tokens and max_sequences must be at least 1");
  if (limits.block_size < 8 || limits.block_size > 256 || (limits.block_size & (limits.block_size - 1)) != 0)
    fail("limits.block_size " + std::to_string(limits.block_size) + " must be a power of two from 8 to 256");
  if (kv_element_bytes(limits.kv_format) == 0)
    fail("limits.kv_format " + std::to_string(limits.kv_format) + " must be F32, F16, BF16 or E4M3");
}

// The host's whole validation: what compiles here needs no further check in the ops.
const quire_program& checked(const quire_program& program) {
  try {
    validate(program);
  } catch (const Error& error) {
    throw Failure(QUIRE_INVALID, error.what());
  }
  return program;
}

} // namespace

Weight::Weight(const quire_weight& weight)
    : name_(weight.name ? weight.name : "?"), format_(weight.format),
      num_rows_(std::max<uint64_t>(weight.experts, 1) * weight.rows), cols_(weight.cols), row_bytes_(0),
      data_(static_cast<const std::byte*>(weight.planes[0].data)) {
  const BlockFormat& format = *block_format(format_);
  row_bytes_ = cols_ / format.block_elements * format.block_bytes;
  if (num_rows_ == 1) {
    vector_.resize(cols_);
    dequantize(format_, data_, cols_, vector_.data());
  }
}

const float* Weight::rows(uint64_t first, uint64_t count, float* scratch) const {
  const std::byte* from = data_ + first * row_bytes_;
  if (format_ == QUIRE_F32 && reinterpret_cast<uintptr_t>(from) % alignof(float) == 0)
    return reinterpret_cast<const float*>(from);
  dequantize(format_, from, count * cols_, scratch);
  return scratch;
}

CompiledProgram::CompiledProgram(const quire_program& program, const quire_limits& limits, unsigned num_workers)
    : limits_(limits), vocab_size_(checked(program).vocab_size),
      values_(program.values, program.values + program.num_values), ops_(program.ops, program.ops + program.num_ops),
      num_workers_(num_workers) {
  check_limits(limits, program.name ? program.name : "?");
  kv_layers_.assign(program.kv_layers, program.kv_layers + program.num_kv_layers);
  kv_groups_.assign(program.kv_groups, program.kv_groups + program.num_kv_groups);
  weights_.reserve(program.num_weights);
  for (uint32_t i = 0; i < program.num_weights; ++i) weights_.emplace_back(program.weights[i]);
  for (uint32_t i = 0; i < program.num_outputs; ++i) outputs_.push_back(program.outputs[i].value);
  for (quire_value& value : values_) value.name = nullptr; // the giver's, valid during compile only
  plan_ = plan_buffers(program, limits);
  worker_floats_ = (worker_floats_needed() + 15) / 16 * 16;
  scratch_.reset(static_cast<std::byte*>(allocate(plan_.peak_bytes, "activations")));
  worker_scratch_.reset(static_cast<float*>(allocate(worker_floats_ * num_workers * sizeof(float), "its threads")));
}

uint64_t CompiledProgram::worker_floats_needed() const {
  uint64_t floats = 0;
  for (const quire_op& op : ops_) {
    size_t needed = 0;
    switch (op.kind) {
    case QUIRE_OP_EMBED:
      needed = weight(op.u.embed.table)->cols();
      break;
    case QUIRE_OP_LINEAR:
      needed = linear_scratch_floats(*this, op);
      break;
    case QUIRE_OP_ATTEND:
      needed = attend_scratch_floats(*this, op);
      break;
    case QUIRE_OP_ROUTE:
      needed = route_scratch_floats(*this, op);
      break;
    case QUIRE_OP_EXPERT_LINEAR:
      needed = expert_linear_scratch_floats(*this, op);
      break;
    default:
      break;
    }
    floats = std::max<uint64_t>(floats, needed);
  }
  return floats;
}

uint64_t CompiledProgram::weights_bytes() const {
  uint64_t bytes = 0;
  for (const Weight& weight : weights_) bytes += weight.bytes();
  return bytes;
}

uint64_t CompiledProgram::scratch_bytes() const {
  return plan_.peak_bytes + worker_floats_ * num_workers_ * sizeof(float);
}

void CompiledProgram::Free::operator()(void* p) const { std::free(p); }

} // namespace quire::reference
