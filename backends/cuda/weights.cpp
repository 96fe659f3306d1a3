#include "weights.hpp"

#include "ops/repack.hpp"
#include "parallel_copy.hpp"

#include <cuda_fp16.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <deque>
#include <numeric>

namespace quire::cuda {
namespace {

constexpr uint64_t kAlignment = 256;
constexpr uint64_t kChunkBytes = 32ull << 20;
constexpr uint32_t kChunks = 4, kFilling = 2; // of them, being filled

uint64_t align_up(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::string quoted(const quire_weight& w) { return std::string("weight «") + (w.name != nullptr ? w.name : "") + "»"; }

// A row of fp16, bf16 or float32 as float32.
void to_float(uint32_t format, const void* from, uint64_t count, float* to, const quire_weight& weight) {
  if (format == QUIRE_F32) {
    std::memcpy(to, from, count * 4);
    return;
  }
  const auto* bits = static_cast<const uint16_t*>(from);
  for (uint64_t i = 0; i < count; ++i) {
    if (format == QUIRE_BF16) {
      const uint32_t word = uint32_t{bits[i]} << 16;
      std::memcpy(&to[i], &word, 4);
    } else if (format == QUIRE_F16) {
      to[i] = __half2float(__half(__half_raw{bits[i]}));
    } else {
      throw Failure(QUIRE_UNSUPPORTED, "CUDA: " + quoted(weight) + " is a vector in a block format");
    }
  }
}

class Planner {
 public:
  explicit Planner(const quire_program& program) : program_(program) {
    plan_.matrices.resize(program.num_weights);
    plan_.vector_offsets.assign(program.num_weights, WeightPlan::kNone);
  }

  // in_products: read by the tensor cores, so fp16 at most; else float32 stays.
  void matrix(uint32_t id, bool in_products) {
    if (id == 0 || plan_.matrices[id - 1]) return;
    const quire_weight& from = program_.weights[id - 1];
    const uint64_t experts = std::max<uint64_t>(from.experts, 1);
    const uint64_t row_bytes = file_row_bytes(from.format, from.cols);
    if (row_bytes == 0)
      throw Failure(QUIRE_UNSUPPORTED, "CUDA: " + quoted(from) + " has " + std::to_string(from.cols) +
                                           " columns, which its format can't hold");
    if (from.planes[0].data == nullptr || from.planes[0].bytes < row_bytes * from.rows * experts)
      throw Failure(QUIRE_INVALID, "CUDA: " + quoted(from) + " has " + std::to_string(from.planes[0].bytes) +
                                       " bytes, " + std::to_string(row_bytes * from.rows * experts) + " are needed");
    Weight to;
    to.rows = static_cast<uint32_t>(from.rows);
    to.cols = static_cast<uint32_t>(from.cols);
    to.experts = static_cast<uint32_t>(experts);
    if (from.format == QUIRE_F32 && !in_products) {
      to.format = QUIRE_F32;
      to.stride = to.cols;
      to.data = take(experts * from.rows * to.stride * 4);
    } else if (!is_block_format(from.format)) {
      to.format = QUIRE_F16;
      to.stride = (to.cols + 7) / 8 * 8;
      // At a multiple of its rows, so that one tensor map serves all matrices with rows of this length (chain.cpp).
      const uint64_t unit = std::lcm(kAlignment, uint64_t{to.stride} * 2);
      plan_.bytes = (plan_.bytes + unit - 1) / unit * unit;
      to.data = take(experts * from.rows * to.stride * 2);
    } else {
      to.format = from.format;
      const BlockFormat blocks = block_format(from.format);
      to.tiles = (to.rows + kTileRows - 1) / kTileRows;
      to.units = (to.cols + kUnitColumns - 1) / kUnitColumns;
      const uint64_t tile_units = experts * to.tiles * to.units;
      const auto plane = [&](uint32_t bytes) { return bytes == 0 ? nullptr : take(tile_units * bytes); };
      to.q4 = plane(blocks.q4_bytes), to.q8 = plane(blocks.q8_bytes), to.q2 = plane(blocks.q2_bytes),
      to.q1 = plane(blocks.q1_bytes);
      to.scales = plane(blocks.scale_bytes);
      if (blocks.super_bytes != 0) to.super = take(experts * to.tiles * (to.units / 2) * blocks.super_bytes);
      to.data = to.q4 != nullptr ? to.q4 : to.q8 != nullptr ? to.q8 : to.q2;
    }
    plan_.matrices[id - 1] = to;
  }

  void vector(uint32_t id) {
    if (id == 0 || plan_.vector_offsets[id - 1] != WeightPlan::kNone) return;
    const quire_weight& from = program_.weights[id - 1];
    plan_.vector_offsets[id - 1] = plan_.bytes;
    take(std::max<uint64_t>(from.experts, 1) * from.rows * from.cols * 4);
  }

  WeightPlan finish() { return std::move(plan_); }

 private:
  // An offset, one beyond so that it differs from null.
  const std::byte* take(uint64_t bytes) {
    const uint64_t offset = plan_.bytes;
    plan_.bytes += align_up(bytes);
    return reinterpret_cast<const std::byte*>(offset + 1);
  }

  const quire_program& program_;
  WeightPlan plan_;
};

// Copies rows in chunks that fit the staging: several threads fill two of them while two are on their way.
class Streamer {
 public:
  Streamer(cudaStream_t stream, uint64_t total_bytes, const Progress& progress)
      : queue_{stream, false}, progress_(progress), total_bytes_(total_bytes),
        chunk_bytes_(std::min(kChunkBytes, std::max<uint64_t>(align_up(total_bytes), 1 << 16))), flag_(4, "a flag") {
    check(cudaMemsetAsync(flag_.data(), 0, 4, stream), "clearing a flag");
    Event cleared; // the weights, too
    cleared.record(stream);
    follow(conversions_.get(), cleared);
    for (Slot& slot : slots_) {
      slot.pinned = PinnedBuffer(chunk_bytes_, "staging the weights");
      slot.device = DeviceBuffer(chunk_bytes_, "staging the weights");
    }
  }

  void matrix(const quire_weight& from, const Weight& to) {
    const uint64_t row_bytes = file_row_bytes(from.format, from.cols), rows = from.rows * to.experts;
    if (row_bytes > chunk_bytes_)
      throw Failure(QUIRE_UNSUPPORTED, "CUDA: " + quoted(from) + " has rows longer than 32 MiB");
    const auto* source = static_cast<const std::byte*>(from.planes[0].data);
    const bool as_it_is = from.format == to.format && to.stride == to.cols;
    const uint64_t chunk_rows = chunk_bytes_ / row_bytes;
    for (uint64_t row = 0; row < rows; row += chunk_rows) {
      const uint64_t count = std::min(chunk_rows, rows - row), bytes = count * row_bytes;
      Slot& slot = next_slot();
      const uint64_t job = copy_.start(slot.pinned.data(), source + row * row_bytes, bytes);
      filling_.push_back({&slot, &to, from.format, as_it_is, job, row, count, bytes});
      if (filling_.size() > kFilling) send();
    }
  }

  void vector(const quire_weight& from, float* to) {
    const uint64_t count = std::max<uint64_t>(from.experts, 1) * from.rows * from.cols;
    if (file_row_bytes(from.format, from.cols) == 0 || from.planes[0].bytes < file_row_bytes(from.format, count))
      throw Failure(QUIRE_INVALID, "CUDA: " + quoted(from) + " has fewer bytes than its shape needs");
    const uint64_t element = from.format == QUIRE_F32 ? 4 : 2;
    for (uint64_t first = 0; first < count; first += chunk_bytes_ / 4) {
      const uint64_t part = std::min(chunk_bytes_ / 4, count - first);
      Slot& slot = next_slot();
      to_float(from.format, static_cast<const std::byte*>(from.planes[0].data) + first * element, part,
               slot.pinned.as<float>(), from);
      check(cudaMemcpyAsync(to + first, slot.pinned.data(), part * 4, cudaMemcpyHostToDevice, queue_.stream),
            "copying weights to the device");
      slot.free.record(queue_.stream);
    }
  }

  // Waits for the device; whether an element was beyond fp16's range.
  bool finish() {
    while (!filling_.empty()) send();
    for (const Slot& slot : slots_) follow(queue_.stream, slot.converted);
    uint32_t flag = 0;
    check(cudaMemcpyAsync(slots_[0].pinned.data(), flag_.data(), 4, cudaMemcpyDeviceToHost, queue_.stream),
          "reading a flag");
    check(cudaStreamSynchronize(queue_.stream), "loading the weights");
    std::memcpy(&flag, slots_[0].pinned.data(), 4);
    return flag != 0;
  }

 private:
  struct Slot {
    PinnedBuffer pinned;
    DeviceBuffer device;
    Event free;      // pinned was read
    Event converted; // device was read
  };

  // Rows on their way into a slot.
  struct Filling {
    Slot* slot;
    const Weight* to;
    uint32_t format; // in the file
    bool as_it_is;
    uint64_t job, row, count, bytes;
  };

  // One that neither the host nor the device uses.
  Slot& next_slot() {
    Slot& slot = slots_[next_++ % kChunks];
    while (!filling_.empty() && filling_.front().slot == &slot) send(); // vectors have taken the slots between
    slot.free.wait();
    return slot;
  }
  // The oldest of what is being filled, to the device. Conversions have a stream of their own: the link never waits for
  // them.
  void send() {
    const Filling f = filling_.front();
    filling_.pop_front();
    copy_.wait(f.job);
    Slot& slot = *f.slot;
    std::byte* const in_place = const_cast<std::byte*>(f.to->data) + f.row * (f.bytes / f.count);
    if (!f.as_it_is) follow(queue_.stream, slot.converted);
    check(cudaMemcpyAsync(f.as_it_is ? in_place : slot.device.data(), slot.pinned.data(), f.bytes,
                          cudaMemcpyHostToDevice, queue_.stream),
          "copying weights to the device");
    slot.free.record(queue_.stream);
    if (!f.as_it_is) {
      follow(conversions_.get(), slot.free);
      repack({conversions_.get(), false}, f.format, slot.device.data(), f.row, f.count, *f.to, flag_.as<uint32_t>());
      slot.converted.record(conversions_.get());
    }
    done_bytes_ += f.bytes;
    if (progress_) progress_(done_bytes_, total_bytes_);
  }
  static void follow(cudaStream_t stream, const Event& event) {
    check(cudaStreamWaitEvent(stream, event.get(), 0), "ordering the copies of weights");
  }

  Queue queue_;
  const Progress& progress_;
  uint64_t total_bytes_, done_bytes_ = 0, chunk_bytes_;
  DeviceBuffer flag_;
  Slot slots_[kChunks];
  Stream conversions_;
  uint32_t next_ = 0;
  std::deque<Filling> filling_; // oldest first
  ParallelCopy copy_;
};

} // namespace

WeightPlan plan_weights(const quire_program& program) {
  Planner planner(program);
  for (uint32_t i = 0; i < program.num_ops; ++i) {
    const quire_op& op = program.ops[i];
    switch (op.kind) {
    case QUIRE_OP_NORM:
      planner.vector(op.u.norm.weight);
      planner.vector(op.u.norm.bias);
      break;
    case QUIRE_OP_LINEAR:
      for (const uint32_t id : op.u.linear.weights) planner.matrix(id, true);
      for (const uint32_t id : op.u.linear.biases) planner.vector(id);
      break;
    case QUIRE_OP_ROPE:
      planner.vector(op.u.rope.frequencies);
      break;
    case QUIRE_OP_ATTEND:
      planner.vector(op.u.attend.sinks);
      break;
    case QUIRE_OP_MUL:
      planner.vector(op.u.mul.weight);
      break;
    case QUIRE_OP_ROUTE:
      planner.vector(op.u.route.bias);
      break;
    case QUIRE_OP_EXPERT_LINEAR:
      planner.matrix(op.u.expert_linear.weight, true);
      planner.vector(op.u.expert_linear.bias);
      break;
    default:
      break;
    }
  }
  for (uint32_t i = 0; i < program.num_ops; ++i) // what a linear reads too is laid out for it
    if (program.ops[i].kind == QUIRE_OP_EMBED) {
      planner.matrix(program.ops[i].u.embed.table, false);
      planner.matrix(program.ops[i].u.embed.positions, false);
    }
  return planner.finish();
}

DeviceWeights load_weights(const quire_program& program, cudaStream_t stream, const Progress& progress) {
  WeightPlan plan = plan_weights(program);
  DeviceWeights weights;
  weights.arena = DeviceBuffer(plan.bytes, "the weights");
  weights.matrices = std::move(plan.matrices);
  weights.vectors.assign(program.num_weights, nullptr);
  if (plan.bytes == 0) return weights;
  const auto settle = [&](const std::byte*& plane) {
    if (plane != nullptr) plane = weights.arena.data() + (reinterpret_cast<uint64_t>(plane) - 1);
  };
  uint64_t total_bytes = 0;
  bool pads = false;
  for (uint32_t i = 0; i < program.num_weights; ++i) {
    if (plan.vector_offsets[i] != WeightPlan::kNone)
      weights.vectors[i] = weights.arena.as<float>(plan.vector_offsets[i]);
    if (!weights.matrices[i]) continue;
    Weight& to = *weights.matrices[i];
    for (const std::byte** plane : {&to.data, &to.q4, &to.q8, &to.q2, &to.q1, &to.scales, &to.super}) settle(*plane);
    total_bytes += file_row_bytes(program.weights[i].format, to.cols) * to.rows * to.experts;
    pads = pads || (is_block_format(to.format) && (to.rows % kTileRows != 0 || to.cols % kUnitColumns != 0));
  }
  // Rows and columns that only pad a tile are zeros.
  if (pads) check(cudaMemsetAsync(weights.arena.data(), 0, plan.bytes, stream), "clearing the weights");
  Streamer streamer(stream, total_bytes, progress);
  for (uint32_t i = 0; i < program.num_weights; ++i) {
    if (weights.vectors[i] != nullptr) streamer.vector(program.weights[i], const_cast<float*>(weights.vectors[i]));
    if (weights.matrices[i]) streamer.matrix(program.weights[i], *weights.matrices[i]);
  }
  weights.saturated = streamer.finish();
  return weights;
}

} // namespace quire::cuda
