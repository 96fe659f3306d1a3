#include "attend_plan.hpp"

#include <algorithm>
#include <cassert>

namespace quire::cuda {
namespace {

uint32_t first_unit(const AttendSequence& s, uint32_t window) { return first_seen(s.length - 1, window) / kKvUnit; }
uint32_t end_unit(const AttendSequence& s) { return (s.length + kKvUnit - 1) / kKvUnit; }

// Workers' stretches of the sequences with one query token.
void plan_decode(std::span<const AttendSequence> sequences, const AttendShape& shape, AttendPlan& plan) {
  uint64_t total = 0;
  for (const AttendSequence& s : sequences)
    if (s.queries == 1) total += end_unit(s) - first_unit(s, shape.window);
  uint64_t done = 0; // units before the sequence
  uint32_t worker = 0;
  plan.worker_start.assign(shape.workers + 1, 0);
  const auto start_of = [&](uint64_t w) { return total * w / shape.workers; };
  for (uint32_t index = 0; index < sequences.size(); ++index) {
    const AttendSequence& s = sequences[index];
    if (s.queries != 1) continue;
    const uint32_t first = first_unit(s, shape.window), units = end_unit(s) - first;
    const size_t first_item = plan.decode.size();
    for (uint32_t unit = 0; unit < units;) {
      while (start_of(worker + 1) <= done + unit)
        plan.worker_start[++worker] = static_cast<uint32_t>(plan.decode.size());
      const auto end = static_cast<uint32_t>(std::min<uint64_t>(units, start_of(worker + 1) - done));
      DecodeItem item{};
      item.token = s.token;
      item.begin = std::max((first + unit) * kKvUnit, first_seen(s.length - 1, shape.window));
      item.end = std::min((first + end) * kKvUnit, s.length);
      item.table = s.table;
      item.part = static_cast<uint32_t>(plan.decode.size() - first_item);
      item.sequence = index;
      plan.decode.push_back(item);
      unit = end;
    }
    const auto parts = static_cast<uint32_t>(plan.decode.size() - first_item);
    for (size_t i = first_item; i < plan.decode.size(); ++i) {
      plan.decode[i].parts = parts;
      plan.decode[i].partial = plan.decode_partials;
    }
    if (parts > 1) plan.decode_partials += parts;
    done += units;
  }
  while (worker < shape.workers) plan.worker_start[++worker] = static_cast<uint32_t>(plan.decode.size());
}

void plan_prefill(const AttendSequence& s, uint32_t group, AttendPlan& plan) {
  const uint32_t rows = s.queries * group;
  for (uint32_t row = 0; row < rows; row += kPrefillRows)
    plan.prefill.push_back({s.token, row, rows, s.length - s.queries, s.table, 0, 0, 1});
}

// Chunks at fixed positions, if the partial results have room.
bool plan_parts(const AttendSequence& s, const AttendShape& shape, AttendPlan& plan) {
  const uint32_t parts = (s.length + kKvChunk - 1) / kKvChunk, rows = s.queries * shape.group;
  if (rows > 16 || plan.part_partials + uint64_t{s.queries} * parts > shape.max_partials) return false;
  PrefillItem item{s.token, 0, rows, s.length - s.queries, s.table, 0, plan.part_partials, parts};
  plan.first_parts.push_back(item);
  for (item.chunk = first_seen(item.position, shape.window) / kKvChunk; item.chunk < parts; ++item.chunk)
    plan.parts.push_back(item);
  plan.part_partials += s.queries * parts;
  return true;
}

} // namespace

void AttendPlan::clear() {
  decode.clear();
  worker_start.clear();
  prefill.clear();
  parts.clear();
  first_parts.clear();
  decode_partials = part_partials = 0;
}

void plan_attend(std::span<const AttendSequence> sequences, const AttendShape& shape, AttendPlan& plan) {
  assert(shape.workers >= 1 && shape.group >= 1);
  plan.clear();
  if (shape.fixed_order) {
    for (const AttendSequence& s : sequences)
      if (!plan_parts(s, shape, plan)) plan_prefill(s, shape.group, plan);
  } else {
    plan_decode(sequences, shape, plan);
    for (const AttendSequence& s : sequences)
      if (s.queries != 1) plan_prefill(s, shape.group, plan);
  }
  // The blocks that see most positions first: the last to finish are short.
  std::stable_sort(plan.prefill.begin(), plan.prefill.end(), [&](const PrefillItem& a, const PrefillItem& b) {
    return a.position + a.first_row / shape.group > b.position + b.first_row / shape.group;
  });
}

} // namespace quire::cuda
