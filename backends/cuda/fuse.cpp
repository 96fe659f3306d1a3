#include "fuse.hpp"

#include <quire/plan.hpp>

#include <algorithm>
#include <cstring>

namespace quire::cuda {
namespace {

constexpr uint32_t kNone = UINT32_MAX;

class Fuser {
 public:
  explicit Fuser(const quire_program& program)
      : program_(program), group_of_(program.num_ops, kNone), readers_(program.num_values) {
    writer_.assign(program.num_values, kNone);
    for (uint32_t i = 0; i < program.num_ops; ++i) {
      for (const uint32_t id : program.ops[i].in)
        if (id != 0) readers_[id - 1].push_back(i);
      for (const uint32_t id : program.ops[i].out)
        if (id != 0) writer_[id - 1] = i;
    }
  }

  FusionPlan run() {
    std::vector<LaunchGroup> groups;
    for (uint32_t i = 0; i < program_.num_ops; ++i) {
      LaunchGroup group;
      if (program_.ops[i].kind == QUIRE_OP_KV_STORE) group = rope_store(i);
      if (program_.ops[i].kind == QUIRE_OP_LINEAR) group = linear_glu(i);
      if (group.ops.empty() || !may_wait(group)) continue;
      for (const uint32_t op : group.ops) group_of_[op] = static_cast<uint32_t>(groups.size());
      groups.push_back(std::move(group));
    }
    FusionPlan plan;
    plan.launch_of_op.assign(program_.num_ops, 0);
    plan.unstored.assign(program_.num_values, 0);
    for (uint32_t i = 0; i < program_.num_ops; ++i) {
      if (group_of_[i] == kNone) {
        plan.groups.push_back({});
        plan.groups.back().ops = {i};
        if (program_.ops[i].kind == QUIRE_OP_KV_STORE) plan.groups.back().store = i;
      } else if (groups[group_of_[i]].ops.back() == i) {
        plan.groups.push_back(groups[group_of_[i]]);
      } else {
        continue;
      }
      const LaunchGroup& group = plan.groups.back();
      for (const uint32_t op : group.ops) plan.launch_of_op[op] = static_cast<uint32_t>(plan.groups.size() - 1);
      if (group.rope_k != kNone && !group.keep_k) plan.unstored[program_.ops[group.rope_k].out[0] - 1] = 1;
    }
    plan.lives = plan.launch_of_op;
    for (uint32_t i = 0; i + 1 < plan.groups.size(); ++i) {
      LaunchGroup& group = plan.groups[i];
      if (!leads_to_attend(group, plan.groups[i + 1])) continue;
      group.attend = plan.groups[i + 1].ops[0];
      for (const uint32_t op : group.ops) plan.lives[op] = i + 1;
    }
    return plan;
  }

 private:
  bool leads_to_attend(const LaunchGroup& group, const LaunchGroup& next) const {
    if (group.kind != GroupKind::rope_store || group.rope_q == kNone || group.keep_k) return false;
    const quire_op& attend = program_.ops[next.ops[0]];
    const uint32_t q = program_.ops[group.rope_q].out[0];
    return attend.kind == QUIRE_OP_ATTEND && attend.in[0] == q && all_readers(q).size() == 1 && !is_output(q) &&
           attend.u.attend.kv_layer == program_.ops[group.store].u.kv_store.kv_layer;
  }

  bool is_output(uint32_t value) const {
    for (uint32_t i = 0; i < program_.num_outputs; ++i)
      if (root_of(program_, program_.outputs[i].value) == root_of(program_, value)) return true;
    return false;
  }
  // Ops that read the value or a view of it.
  std::vector<uint32_t> all_readers(uint32_t value) const {
    std::vector<uint32_t> ops = readers_[value - 1];
    for (uint32_t id = 1; id <= program_.num_values; ++id)
      if (program_.values[id - 1].parent == value)
        ops.insert(ops.end(), readers_[id - 1].begin(), readers_[id - 1].end());
    std::sort(ops.begin(), ops.end());
    ops.erase(std::unique(ops.begin(), ops.end()), ops.end());
    return ops;
  }

  LaunchGroup rope_store(uint32_t store) const {
    LaunchGroup group;
    const uint32_t key = program_.ops[store].in[0], layer = program_.ops[store].u.kv_store.kv_layer;
    const uint32_t rope_k = writer_[key - 1];
    if (rope_k == kNone || program_.ops[rope_k].kind != QUIRE_OP_ROPE) return group;
    group.kind = GroupKind::rope_store;
    group.rope_k = rope_k, group.store = store;
    group.keep_k = is_output(key) || all_readers(key).size() != 1;
    group.ops = {rope_k, store};
    // The queries that attend to this layer, rotated alike.
    for (uint32_t i = 0; i < program_.num_ops; ++i) {
      const quire_op& attend = program_.ops[i];
      if (attend.kind != QUIRE_OP_ATTEND || attend.u.attend.kv_layer != layer) continue;
      const uint32_t rope_q = writer_[attend.in[0] - 1];
      if (rope_q == kNone || program_.ops[rope_q].kind != QUIRE_OP_ROPE || rope_q == rope_k ||
          group_of_[rope_q] != kNone)
        continue;
      if (std::memcmp(&program_.ops[rope_q].u.rope, &program_.ops[rope_k].u.rope, sizeof(quire_rope)) != 0) continue;
      group.rope_q = rope_q;
      group.ops.push_back(rope_q);
      break;
    }
    std::sort(group.ops.begin(), group.ops.end());
    if (group.rope_q != kNone && !may_wait(group)) {
      group.ops = {rope_k, store};
      group.rope_q = kNone;
    }
    return group;
  }

  LaunchGroup linear_glu(uint32_t linear) const {
    LaunchGroup group;
    const quire_op& op = program_.ops[linear];
    const quire_linear& p = op.u.linear;
    if (p.weights[0] == 0 || p.weights[1] == 0 || p.weights[2] != 0) return group;
    const quire_weight &gate = program_.weights[p.weights[0] - 1], &up = program_.weights[p.weights[1] - 1];
    const bool plain = gate.format <= QUIRE_BF16 && up.format <= QUIRE_BF16; // all of them fp16 on the device
    if (gate.rows != up.rows || (gate.format != up.format && !plain) || is_output(op.out[0])) return group;
    const std::vector<uint32_t> readers = all_readers(op.out[0]);
    if (readers.size() != 1 || program_.ops[readers[0]].kind != QUIRE_OP_GLU) return group;
    const quire_op& glu = program_.ops[readers[0]];
    const quire_value &a = program_.values[glu.in[0] - 1], &b = program_.values[glu.in[1] - 1];
    if (a.parent != op.out[0] || b.parent != op.out[0] || a.offset != 0 || b.offset != gate.rows ||
        uint64_t{a.heads} * a.dim != gate.rows)
      return group;
    group.kind = GroupKind::linear_glu;
    group.ops = {linear, readers[0]};
    return group;
  }

  // Whether every op of the group can run in the place of its last: nobody between needs what the earlier ones make.
  bool may_wait(const LaunchGroup& group) const {
    for (uint32_t i = group.ops.front(); i < group.ops.back(); ++i) {
      if (std::find(group.ops.begin(), group.ops.end(), i) != group.ops.end()) continue;
      const quire_op& op = program_.ops[i];
      for (const uint32_t id : op.in)
        if (id != 0)
          for (const uint32_t member : group.ops)
            for (const uint32_t made : program_.ops[member].out)
              if (made != 0 && member < i && root_of(program_, made) == root_of(program_, id)) return false;
      if (op.kind == QUIRE_OP_ATTEND && group.store != kNone &&
          op.u.attend.kv_layer == program_.ops[group.store].u.kv_store.kv_layer)
        return false;
      // Another group may not be torn apart around this one.
      if (group_of_[i] != kNone) return false;
    }
    return true;
  }

  const quire_program& program_;
  std::vector<uint32_t> group_of_;
  std::vector<std::vector<uint32_t>> readers_; // [num_values] ops
  std::vector<uint32_t> writer_;               // [num_values]
};

} // namespace

FusionPlan plan_fusion(const quire_program& program) { return Fuser(program).run(); }

} // namespace quire::cuda
