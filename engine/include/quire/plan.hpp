// The buffer plan: where each activation of a program lies in one scratch buffer, so that values that are never needed
// at the same time share memory.
//
// Shapes: a root value [rows, heads, dim] is stored as rows of heads * dim elements without padding; a view lies inside
// its parent and has the parent's row stride. rows is at most max_tokens, max_sequences or max_rows of the limits.
// Units: bytes, offsets from the start of the scratch buffer. Liveness is counted in launches: a launch is one op, or
// what a backend fuses into one (PlanOptions::launch_of_op). The plan supposes that a launch sees all that
// lower-numbered ones wrote, and that none starts before every lower-numbered one whose memory it takes over has ended.
// Errors: none; the program must have passed the host's validation (asserts). Sizes past 2^64 saturate, so that
// allocating them fails. Threads: pure functions. Header only and free of the engine, so that every backend shares it.
#pragma once

#include <quire/plugin.h>

#include <algorithm>
#include <cassert>
#include <cstdint>
#include <limits>
#include <numeric>
#include <span>
#include <vector>

namespace quire {

struct PlanOptions {
  uint64_t alignment = 256; // of every root value, bytes, a power of two
  uint32_t real_bytes = 4;  // of an element of QUIRE_REAL
  std::span<const uint8_t>
      value_bytes; // [num_values] bytes an element where not 0; empty = real_bytes, and 4 for QUIRE_INT32
  std::span<const uint32_t> launch_of_op; // [num_ops] the launch that does the op; any numbering that respects the data
                                          // flow; empty = each op is a launch of its own
  std::span<const uint8_t>
      unstored; // [num_values] 1: never in memory, as a fused launch hands it on in registers; empty = none

  // Bit (1 << kind): out may take the place of an input that dies with the op. Only where the op is alone in its launch
  // and the input is a root of the same row length. What each kind asks of the kernel:
  //   add, mul, glu: element i of out depends on element i of each input alone: always safe, and the default;
  //   rope: both elements of a pair must be read before either is written (a thread a pair);
  //   norm: a row must have been read whole, and in[0] + in[1] kept, before any of it is written.
  // No other kind may run in place: each output element of theirs reads many input elements.
  uint32_t in_place = 1u << QUIRE_OP_ADD | 1u << QUIRE_OP_MUL | 1u << QUIRE_OP_GLU;
};

struct ValuePlace {
  uint64_t offset = 0;     // bytes; for a view, of its own first element
  uint64_t bytes = 0;      // of the root at the largest step; 0 = unstored
  uint32_t root = 0;       // value id: itself, or a view's parent
  uint32_t row_stride = 0; // elements from one row to the next
  uint32_t element_bytes = 0;
  uint32_t first_launch = 0; // that writes the root
  uint32_t last_launch = 0;  // that reads it; num_launches for an output, which must outlive them all
};

struct BufferPlan {
  std::vector<ValuePlace> places; // [num_values]; id i is places[i - 1]
  uint64_t peak_bytes = 0;        // of the scratch buffer
  uint64_t bound_bytes = 0;       // the most that is live in any launch: no plan can do with less
  uint32_t num_launches = 0;

  const ValuePlace& operator[](uint32_t value_id) const {
    assert(value_id >= 1 && value_id <= places.size());
    return places[value_id - 1];
  }
};

namespace plan_detail {

inline uint64_t saturating_mul(uint64_t a, uint64_t b) {
  constexpr uint64_t max = std::numeric_limits<uint64_t>::max();
  return b != 0 && a > max / b ? max : a * b;
}

inline uint64_t saturating_add(uint64_t a, uint64_t b) {
  constexpr uint64_t max = std::numeric_limits<uint64_t>::max();
  return a > max - b ? max : a + b;
}

inline uint64_t align_up(uint64_t bytes, uint64_t alignment) {
  const uint64_t raised = saturating_add(bytes, alignment - 1);
  return raised / alignment * alignment;
}

// One stretch of memory over one stretch of time: a root value, or a chain of them that pass it on in place.
struct Box {
  uint64_t bytes;
  uint32_t first_launch;
  uint32_t last_launch;
  uint64_t offset = 0;

  bool meets(const Box& other) const { return first_launch <= other.last_launch && other.first_launch <= last_launch; }
};

// Places boxes in the given order, each in the smallest gap that holds it among those it meets in time. Returns the
// peak.
inline uint64_t place_in_order(std::span<Box> boxes, std::span<const uint32_t> order) {
  uint64_t peak = 0;
  std::vector<uint32_t> placed; // by offset
  placed.reserve(boxes.size());
  for (const uint32_t index : order) {
    Box& box = boxes[index];
    uint64_t end = 0, best_offset = 0, best_gap = std::numeric_limits<uint64_t>::max();
    bool found = false;
    for (const uint32_t other_index : placed) {
      const Box& other = boxes[other_index];
      if (!box.meets(other)) continue;
      if (other.offset > end) {
        const uint64_t gap = other.offset - end;
        if (gap >= box.bytes && gap < best_gap) {
          best_gap = gap;
          best_offset = end;
          found = true;
        }
      }
      end = std::max(end, saturating_add(other.offset, other.bytes));
    }
    box.offset = found ? best_offset : end;
    peak = std::max(peak, saturating_add(box.offset, box.bytes));
    const auto at = std::upper_bound(placed.begin(), placed.end(), box.offset,
                                     [&](uint64_t offset, uint32_t i) { return offset < boxes[i].offset; });
    placed.insert(at, index);
  }
  return peak;
}

} // namespace plan_detail

// The root of a value: its parent where it is a view.
inline uint32_t root_of(const quire_program& program, uint32_t value_id) {
  const uint32_t parent = program.values[value_id - 1].parent;
  return parent != 0 ? parent : value_id;
}

// Rows that a leading dimension can have at most.
inline uint32_t max_rows_of(const quire_limits& limits, uint32_t rows) {
  return rows == QUIRE_TOKENS ? limits.max_tokens : rows == QUIRE_SEQUENCES ? limits.max_sequences : limits.max_rows;
}

inline BufferPlan plan_buffers(const quire_program& program, const quire_limits& limits,
                               const PlanOptions& options = {}) {
  using plan_detail::Box;
  assert(program.value_size == sizeof(quire_value) && program.op_size == sizeof(quire_op));
  assert(options.alignment != 0 && (options.alignment & (options.alignment - 1)) == 0);
  constexpr uint32_t never = std::numeric_limits<uint32_t>::max();

  const auto launch_of = [&](uint32_t op) { return options.launch_of_op.empty() ? op : options.launch_of_op[op]; };
  BufferPlan plan;
  for (uint32_t op = 0; op < program.num_ops; ++op) plan.num_launches = std::max(plan.num_launches, launch_of(op) + 1);
  std::vector<uint32_t> ops_in_launch(plan.num_launches, 0);
  for (uint32_t op = 0; op < program.num_ops; ++op) ++ops_in_launch[launch_of(op)];

  // Sizes and lives.
  plan.places.resize(program.num_values);
  for (uint32_t id = 1; id <= program.num_values; ++id) {
    const uint32_t root = root_of(program, id);
    const quire_value& root_value = program.values[root - 1];
    ValuePlace& place = plan.places[id - 1];
    place.root = root;
    place.row_stride = root_value.heads * root_value.dim;
    const uint8_t given = options.value_bytes.empty() ? uint8_t{0} : options.value_bytes[root - 1];
    place.element_bytes = given != 0 ? given : root_value.dtype == QUIRE_INT32 ? 4 : options.real_bytes;
    place.first_launch = never;
    const bool stored = options.unstored.empty() || options.unstored[root - 1] == 0;
    if (stored)
      place.bytes = plan_detail::saturating_mul(uint64_t{place.row_stride} * place.element_bytes,
                                                max_rows_of(limits, root_value.rows));
  }
  const auto touch = [&](uint32_t id, uint32_t launch) {
    if (id == 0) return;
    ValuePlace& root = plan.places[root_of(program, id) - 1];
    root.first_launch = std::min(root.first_launch, launch);
    root.last_launch = std::max(root.last_launch, launch);
  };
  for (uint32_t op = 0; op < program.num_ops; ++op) {
    for (const uint32_t id : program.ops[op].in) touch(id, launch_of(op));
    for (const uint32_t id : program.ops[op].out) touch(id, launch_of(op));
  }
  for (uint32_t output = 0; output < program.num_outputs; ++output) {
    const uint32_t root = root_of(program, program.outputs[output].value);
    plan.places[root - 1].last_launch = plan.num_launches;
  }

  // Boxes: a value of its own, or the one of an input that ends here.
  std::vector<Box> boxes;
  std::vector<uint32_t> box_of(program.num_values, never); // by root
  const auto may_take_over = [&](uint32_t in, uint32_t out, uint32_t launch) {
    if (in == 0 || out == 0 || program.values[in - 1].parent != 0 || box_of[in - 1] == never) return false;
    const ValuePlace &from = plan.places[in - 1], &to = plan.places[out - 1];
    return from.bytes != 0 && to.bytes != 0 && program.values[in - 1].rows == program.values[out - 1].rows &&
           from.row_stride == to.row_stride && from.element_bytes == to.element_bytes &&
           boxes[box_of[in - 1]].last_launch == launch;
  };
  for (uint32_t index = 0; index < program.num_ops; ++index) {
    const quire_op& op = program.ops[index];
    const uint32_t launch = launch_of(index);
    const bool in_place = (options.in_place >> op.kind & 1u) != 0 && ops_in_launch[launch] == 1;
    const uint32_t inputs = op.kind == QUIRE_OP_ROPE ? 1 : 2;
    uint32_t taken = never; // the box that this op's other output has taken over
    // A sum is the natural heir of the residual stream: norm's out[1] chooses first.
    for (const uint32_t out : {op.out[1], op.out[0]}) {
      if (out == 0 || plan.places[out - 1].bytes == 0) continue;
      const ValuePlace& place = plan.places[out - 1];
      for (uint32_t i = 0; in_place && i < inputs && box_of[out - 1] == never; ++i)
        if (may_take_over(op.in[i], out, launch) && box_of[op.in[i] - 1] != taken) {
          box_of[out - 1] = taken = box_of[op.in[i] - 1];
          boxes[taken].last_launch = place.last_launch;
        }
      if (box_of[out - 1] != never) continue;
      box_of[out - 1] = static_cast<uint32_t>(boxes.size());
      boxes.push_back({plan_detail::align_up(place.bytes, options.alignment), place.first_launch, place.last_launch});
    }
  }

  std::vector<uint64_t> live(plan.num_launches + 1, 0);
  for (const Box& box : boxes)
    for (uint32_t launch = box.first_launch; launch <= box.last_launch; ++launch)
      live[launch] = plan_detail::saturating_add(live[launch], box.bytes);
  for (const uint64_t bytes : live) plan.bound_bytes = std::max(plan.bound_bytes, bytes);

  // Largest first is near the optimum for the long, equal layers of a network; in order of time where it is not. The
  // better one wins.
  std::vector<uint32_t> by_size(boxes.size());
  std::iota(by_size.begin(), by_size.end(), 0u);
  std::vector<uint32_t> by_time = by_size;
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](uint32_t a, uint32_t b) { return boxes[a].bytes > boxes[b].bytes; });
  std::stable_sort(by_time.begin(), by_time.end(),
                   [&](uint32_t a, uint32_t b) { return boxes[a].first_launch < boxes[b].first_launch; });
  std::vector<Box> other = boxes;
  plan.peak_bytes = plan_detail::place_in_order(boxes, by_size);
  const uint64_t other_peak = plan_detail::place_in_order(other, by_time);
  if (other_peak < plan.peak_bytes) {
    plan.peak_bytes = other_peak;
    boxes.swap(other);
  }

  for (uint32_t id = 1; id <= program.num_values; ++id) {
    ValuePlace& place = plan.places[id - 1];
    const ValuePlace& root = plan.places[place.root - 1];
    place.first_launch = root.first_launch;
    place.last_launch = root.last_launch;
    if (place.bytes == 0) continue;
    assert(box_of[place.root - 1] != never && "a value that no op writes");
    place.offset = boxes[box_of[place.root - 1]].offset + uint64_t{program.values[id - 1].offset} * place.element_bytes;
  }
  return plan;
}

} // namespace quire
