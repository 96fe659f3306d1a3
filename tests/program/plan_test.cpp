// The buffer plan: a program carried out over the planned memory reads what it wrote, whatever the program.
#include "quire/plan.hpp"

#include "made_up.hpp"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <cstring>
#include <map>
#include <set>
#include <string>

namespace quire {
namespace {

const quire_limits limits = [] {
  quire_limits l{};
  l.struct_size = sizeof(l);
  l.max_tokens = 40, l.max_sequences = 7, l.max_rows = 3, l.max_context = 64, l.block_size = 16;
  return l;
}();

// A straight line of ops over random values, with the launches that do them.
struct RandomProgram {
  Program program;
  std::vector<uint32_t> launch_of_op;
  std::vector<uint8_t> unstored;
};

RandomProgram random_program() {
  RandomProgram random;
  Program& p = random.program;
  std::vector<uint32_t> readable; // values, views too
  const auto pick = [&](const std::vector<uint32_t>& from) { return from[*rc::gen::inRange<size_t>(0, from.size())]; };
  const auto add_value = [&](quire_value value) {
    value.name = "value";
    p.values.push_back(value);
    return static_cast<uint32_t>(p.values.size());
  };
  const uint32_t num_ops = *rc::gen::inRange(1u, 60u);
  uint32_t launch = 0;
  for (uint32_t i = 0; i < num_ops; ++i) {
    quire_op op;
    std::memset(&op, 0, sizeof(op));
    const uint32_t choice = *rc::gen::inRange(0u, 10u);
    uint32_t like = 0; // a value whose shape the result has
    if (i == 0 || choice == 0) {
      op.kind = QUIRE_OP_EMBED;
    } else if (choice < 4) {
      op.kind = choice == 1 ? QUIRE_OP_ADD : choice == 2 ? QUIRE_OP_GLU : QUIRE_OP_NORM;
      op.in[0] = like = pick(readable);
      std::vector<uint32_t> same;
      for (const uint32_t id : readable)
        if (p.value(id).rows == p.value(like).rows && p.value(id).dim == p.value(like).dim) same.push_back(id);
      op.in[1] = pick(same);
    } else if (choice == 4) {
      op.kind = QUIRE_OP_ROPE;
      op.in[0] = like = pick(readable);
    } else {
      op.kind = QUIRE_OP_LINEAR;
      op.in[0] = pick(readable);
    }
    quire_value out{};
    out.rows = like != 0 ? p.value(like).rows : *rc::gen::inRange<uint32_t>(0, 3);
    out.heads = 1;
    out.dim = like != 0 ? p.value(like).dim : *rc::gen::element<uint32_t>(1, 3, 16, 17, 48, 64, 200);
    op.out[0] = add_value(out);
    if (op.kind == QUIRE_OP_NORM && *rc::gen::arbitrary<bool>()) op.out[1] = add_value(out);
    for (const uint32_t id : op.out) {
      if (id == 0) continue;
      readable.push_back(id);
      if (out.dim > 1 && *rc::gen::inRange(0, 3) == 0) {
        quire_value view = out;
        view.parent = id;
        view.offset = *rc::gen::inRange(0u, out.dim);
        view.dim = *rc::gen::inRange(1u, out.dim - view.offset + 1);
        readable.push_back(add_value(view));
      }
    }
    p.ops.push_back(op);
    if (i != 0 && *rc::gen::inRange(0, 4) != 0) ++launch; // one in four joins its predecessor
    random.launch_of_op.push_back(launch);
  }
  const uint32_t num_outputs = *rc::gen::inRange(1u, 4u);
  for (uint32_t i = 0; i < num_outputs; ++i) p.outputs.push_back({"output", root_of(p.view(), pick(readable))});

  // A value that lives within one launch may have no memory at all.
  random.unstored.assign(p.values.size(), 0);
  for (uint32_t id = 1; id <= p.values.size(); ++id) {
    if (p.value(id).parent != 0) continue;
    std::set<uint32_t> launches;
    for (uint32_t i = 0; i < p.ops.size(); ++i)
      for (const uint32_t operand : {p.ops[i].in[0], p.ops[i].in[1], p.ops[i].out[0], p.ops[i].out[1]})
        if (operand != 0 && root_of(p.view(), operand) == id) launches.insert(random.launch_of_op[i]);
    bool is_output = false;
    for (const quire_output& output : p.outputs) is_output = is_output || output.value == id;
    if (launches.size() == 1 && !is_output) random.unstored[id - 1] = *rc::gen::inRange<uint8_t>(0, 2);
  }
  return random;
}

// The scratch buffer in its smallest units, each with the value that was written to it last.
class Memory {
 public:
  Memory(const BufferPlan& plan, uint64_t unit)
      : plan_(plan), unit_(unit), owner_((plan.peak_bytes + unit - 1) / unit, 0) {}
  void write(uint32_t root) {
    each(root, [&](uint32_t& owner) { owner = root; });
  }
  bool holds(uint32_t root) {
    bool whole = true;
    each(root, [&](uint32_t& owner) { whole = whole && owner == root; });
    return whole;
  }

 private:
  template <class Body> void each(uint32_t root, Body body) {
    const ValuePlace& place = plan_[root];
    for (uint64_t at = place.offset / unit_; at * unit_ < place.offset + place.bytes; ++at) body(owner_.at(at));
  }
  const BufferPlan& plan_;
  uint64_t unit_;
  std::vector<uint32_t> owner_;
};

// Carries out the launches: each one's writes come first, as nothing orders them against its reads; only an op that may
// run in place reads before it writes.
void check_by_execution(const RandomProgram& random, const PlanOptions& options) {
  const quire_program view = random.program.view();
  const BufferPlan plan = plan_buffers(view, limits, options);
  RC_ASSERT(plan.bound_bytes <= plan.peak_bytes);
  uint64_t all = 0;
  for (uint32_t id = 1; id <= view.num_values; ++id) {
    const ValuePlace& place = plan[id];
    const quire_value& value = random.program.value(id);
    RC_ASSERT(place.root == root_of(view, id));
    if (value.parent != 0) {
      if (place.bytes != 0)
        RC_ASSERT(place.offset == plan[place.root].offset + uint64_t{value.offset} * place.element_bytes);
      continue;
    }
    RC_ASSERT(place.offset % options.alignment == 0);
    RC_ASSERT(place.bytes ==
              (options.unstored.empty() || options.unstored[id - 1] == 0
                   ? uint64_t{max_rows_of(limits, value.rows)} * value.heads * value.dim * options.real_bytes
                   : 0));
    RC_ASSERT(place.offset + place.bytes <= plan.peak_bytes || place.bytes == 0);
    all += (place.bytes + options.alignment - 1) / options.alignment * options.alignment;
  }
  RC_ASSERT(plan.peak_bytes <= all);

  Memory memory(plan, options.alignment);
  const auto launch_of = [&](uint32_t op) { return options.launch_of_op.empty() ? op : options.launch_of_op[op]; };
  for (uint32_t first = 0; first < view.num_ops;) {
    uint32_t end = first + 1;
    while (end < view.num_ops && launch_of(end) == launch_of(first)) ++end;
    const bool in_place = end - first == 1 && (options.in_place >> view.ops[first].kind & 1u) != 0;
    std::set<uint32_t> before, written;
    for (uint32_t i = first; i < end; ++i)
      for (const uint32_t id : view.ops[i].out)
        if (id != 0) written.insert(id);
    for (uint32_t i = first; i < end; ++i)
      for (const uint32_t id : view.ops[i].in)
        if (id != 0 && plan[id].bytes != 0 && written.count(plan[id].root) == 0) before.insert(plan[id].root);
    for (const uint32_t root : before) RC_ASSERT(memory.holds(root));
    for (const uint32_t id : written) memory.write(id);
    for (const uint32_t id : written) RC_ASSERT(memory.holds(id));
    for (const uint32_t root : before) {
      bool taken_over = false; // in place: exactly the same memory
      for (const uint32_t id : written)
        taken_over =
            taken_over || (in_place && plan[id].bytes == plan[root].bytes && plan[id].offset == plan[root].offset);
      if (!taken_over) RC_ASSERT(memory.holds(root));
    }
    first = end;
  }
  for (const quire_output& output : random.program.outputs) RC_ASSERT(memory.holds(output.value));
}

RC_GTEST_PROP(Plan, WhatIsReadIsWhatWasWritten, ()) {
  const RandomProgram random = random_program();
  PlanOptions options;
  options.alignment = *rc::gen::element<uint64_t>(1, 64, 256);
  options.in_place = *rc::gen::element<uint32_t>(0, options.in_place, ~0u);
  check_by_execution(random, options);
}

RC_GTEST_PROP(Plan, FusedLaunchesAndUnstoredValuesToo, ()) {
  const RandomProgram random = random_program();
  PlanOptions options;
  options.real_bytes = 2;
  options.launch_of_op = random.launch_of_op;
  options.unstored = random.unstored;
  options.in_place = *rc::gen::element<uint32_t>(0, options.in_place, ~0u);
  check_by_execution(random, options);
}

// Layers of one attention and one gated block, as the small network has.
Program layers(uint32_t count) {
  static test::MadeUpConfig config{{{"max_position_embeddings", int64_t{64}}}, {}, false};
  static test::MadeUpWeights weights;
  ProgramBuilder recorder(test::made_up_source(config, weights));
  Builder b(recorder.table());
  const Weight table = b.matrix("table", 64, 16), norm = b.vector("norm", 16);
  Value x = b.embed(table);
  for (uint32_t l = 0; l < count; ++l) {
    const Value h = b.norm(x, norm, 1e-5);
    const Value gate_up = b.linear(h, {b.matrix("gate", 48, 16), b.matrix("up", 48, 16)});
    const Value gate = b.view(gate_up, 0, 1, 48), up = b.view(gate_up, 48, 1, 48);
    x = b.add(x, b.linear(b.glu(gate, up, QUIRE_ACT_SILU), {b.matrix("down", 16, 48)}));
  }
  b.output("logits", b.linear(b.gather_rows(b.norm(x, norm, 1e-5)), {table}));
  return recorder.finish();
}

TEST(Plan, PeakOfManyLayersIsTheBoundOfOne) {
  const Program one = layers(1), many = layers(30);
  const BufferPlan small = plan_buffers(one.view(), limits), large = plan_buffers(many.view(), limits);
  EXPECT_EQ(large.peak_bytes, large.bound_bytes);
  EXPECT_EQ(large.peak_bytes, small.peak_bytes);
  // x, gate and up, and their product, at 40 tokens.
  EXPECT_EQ(large.peak_bytes, 40u * 4 * (16 + 96 + 48));
}

TEST(Plan, ASumTakesThePlaceOfAnInputThatDies) {
  const Program program = layers(2);
  const BufferPlan plan = plan_buffers(program.view(), limits);
  for (const quire_op& op : program.ops)
    if (op.kind == QUIRE_OP_ADD) {
      EXPECT_TRUE(plan[op.out[0]].offset == plan[op.in[0]].offset || plan[op.out[0]].offset == plan[op.in[1]].offset);
    }
  PlanOptions apart;
  apart.in_place = 0;
  const BufferPlan plain = plan_buffers(program.view(), limits, apart);
  for (const quire_op& op : program.ops)
    if (op.kind == QUIRE_OP_ADD) {
      EXPECT_TRUE(plain[op.out[0]].offset != plain[op.in[0]].offset &&
                  plain[op.out[0]].offset != plain[op.in[1]].offset);
    }
}

TEST(Plan, SizesBeyondMemorySaturateAndDoNotWrap) {
  Program program = layers(1);
  for (quire_value& value : program.values) value.dim = INT32_MAX, value.heads = 2, value.offset = 0;
  quire_limits huge = limits;
  huge.max_tokens = UINT32_MAX;
  const BufferPlan plan = plan_buffers(program.view(), huge);
  EXPECT_GT(plan.peak_bytes, UINT64_MAX / 2);
}

} // namespace
} // namespace quire
