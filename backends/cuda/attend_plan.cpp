#include "attend_plan.hpp"

#include <array>
#include <cassert>

namespace quire::cuda {
namespace {

// In positions: what a task costs besides its own, and what adding up parts costs.
constexpr uint32_t kTaskCost = 128, kFoldCost = 64;
constexpr uint32_t kLeastChunk = 64;

uint32_t round_up(uint64_t n, uint32_t to) { return static_cast<uint32_t>((n + to - 1) / to * to); }

// Positions that a sequence of one token reads, from a multiple of the tile.
uint32_t decode_origin(const AttendSequence& s, uint32_t window) {
  return first_seen(s.length - 1, window) / kDecodeTile * kDecodeTile;
}

struct DecodeLoad {
  uint64_t total = 0; // positions
  uint32_t longest = 0;
  uint32_t sequences = 0;
};

// What the busiest block has to do if sequences are cut into chunks, in positions; nothing if that makes too many
// items. Blocks take their tasks in rounds, every other round in the opposite order: attend_decode.
uint64_t cost_of_chunk(std::span<const AttendSequence> sequences, const AttendShape& shape, const DecodeLoad& load,
                       uint32_t chunk, uint32_t max_items) {
  std::array<uint32_t, 65> rests{}; // how many remainders of k/64 of a chunk
  uint32_t whole = 0, items = 0;
  for (const AttendSequence& s : sequences) {
    if (s.queries != 1) continue;
    const uint32_t n = s.length - decode_origin(s, shape.window), full = n / chunk, rest = n % chunk;
    whole += full;
    items += full + (rest != 0);
    if (rest != 0) ++rests[(uint64_t{rest} * 64 + chunk - 1) / chunk];
  }
  if (items > max_items) return UINT64_MAX;
  // The length of the item of task `index`, longest first; indices rise within each of the four cursors.
  struct Cursor {
    uint32_t bin = 65, before = 0;
  };
  const auto length = [&](Cursor& at, uint64_t task) -> uint64_t {
    const auto index = static_cast<uint32_t>(task / shape.kv_heads);
    if (index >= items) return 0;
    if (index < whole) return chunk + kTaskCost;
    if (at.bin == 65) at.before = whole, at.bin = 64;
    while (index >= at.before + rests[at.bin]) at.before += rests[at.bin--];
    return uint64_t{chunk} * at.bin / 64 + kTaskCost;
  };
  Cursor first, last;
  uint64_t low = 0, high = 0; // of the blocks at the two ends of the grid
  for (uint64_t task = 0, round = 0; task < uint64_t{items} * shape.kv_heads; task += shape.blocks, ++round) {
    const uint64_t a = length(first, task), b = length(last, task + shape.blocks - 1);
    low += round % 2 == 0 ? a : b;
    high += round % 2 == 0 ? b : a;
  }
  return std::max(low, high) + (items > load.sequences ? kFoldCost : 0);
}

uint32_t choose_chunk(std::span<const AttendSequence> sequences, const AttendShape& shape, const DecodeLoad& load,
                      uint32_t max_items) {
  const uint32_t whole = round_up(load.longest, kDecodeTile);
  const uint32_t least =
      std::max(kLeastChunk, round_up((load.longest + kMaxDecodeParts - 2) / (kMaxDecodeParts - 1), kDecodeTile));
  uint32_t best = std::max(whole, least);
  uint64_t best_cost = cost_of_chunk(sequences, shape, load, best, max_items);
  const auto consider = [&](uint64_t chunk) {
    if (chunk < least || chunk >= whole) return;
    const uint64_t cost = cost_of_chunk(sequences, shape, load, static_cast<uint32_t>(chunk), max_items);
    if (cost < best_cost) best = static_cast<uint32_t>(chunk), best_cost = cost;
  };
  for (uint32_t chunk = 64; chunk <= 4096; chunk *= 2) consider(chunk);
  for (uint32_t rounds = 1; rounds <= 3; ++rounds) {
    const uint64_t tasks = uint64_t{shape.blocks} * rounds;
    const uint32_t fit = round_up((load.total * shape.kv_heads + tasks - 1) / tasks, kDecodeTile);
    for (const uint32_t chunk : {fit, fit + kDecodeTile, fit + 2 * kDecodeTile}) consider(chunk);
  }
  return best;
}

void plan_decode(std::span<const AttendSequence> sequences, const AttendShape& shape, AttendPlan& plan) {
  DecodeLoad load;
  for (const AttendSequence& s : sequences) {
    if (s.queries != 1) continue;
    const uint32_t n = s.length - decode_origin(s, shape.window);
    load.total += n;
    load.longest = std::max(load.longest, n);
    ++load.sequences;
  }
  if (load.sequences == 0) return;
  const uint32_t max_items = max_decode_items(load.sequences, shape.blocks, shape.kv_heads);
  const uint32_t chunk = choose_chunk(sequences, shape, load, max_items);
  for (const AttendSequence& s : sequences) {
    if (s.queries != 1) continue;
    const uint32_t seen = first_seen(s.length - 1, shape.window), origin = decode_origin(s, shape.window);
    const uint32_t parts = (s.length - origin + chunk - 1) / chunk;
    for (uint32_t part = 0; part < parts; ++part) {
      const uint32_t begin = origin + part * chunk;
      plan.decode.push_back({s.token, std::max(begin, seen), std::min(begin + chunk, s.length), s.table, part, parts,
                             plan.decode_partials, s.length - 1});
    }
    if (parts > 1) plan.decode_partials += parts;
  }
  std::stable_sort(plan.decode.begin(), plan.decode.end(),
                   [](const DecodeItem& a, const DecodeItem& b) { return a.end - a.begin > b.end - b.begin; });
  assert(plan.decode.size() <= max_items);
}

void plan_prefill(const AttendSequence& s, const AttendShape& shape, AttendPlan& plan) {
  const uint32_t before = s.length - s.queries;
  if (shape.wide && s.queries >= kLeastWideTokens) {
    for (uint32_t i = 0; i < s.queries; i += kWideTokens)
      plan.wide.push_back({s.token + i, std::min(kWideTokens, s.queries - i), before + i, s.table, s.length});
    return;
  }
  const uint32_t rows = s.queries * shape.group;
  for (uint32_t row = 0; row < rows; row += shape.prefill_rows)
    plan.prefill.push_back({s.token, row, rows, before, s.table, 0, 0, 1});
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
  prefill.clear();
  wide.clear();
  parts.clear();
  first_parts.clear();
  decode_partials = part_partials = 0;
}

void plan_attend(std::span<const AttendSequence> sequences, const AttendShape& shape, AttendPlan& plan) {
  assert(shape.blocks >= 1 && shape.group >= 1 && shape.kv_heads >= 1);
  plan.clear();
  if (shape.fixed_order) {
    for (const AttendSequence& s : sequences)
      if (!plan_parts(s, shape, plan)) plan_prefill(s, shape, plan);
  } else {
    plan_decode(sequences, shape, plan);
    for (const AttendSequence& s : sequences)
      if (s.queries != 1) plan_prefill(s, shape, plan);
  }
  // The blocks that see most positions first: the last to finish are short.
  std::stable_sort(plan.prefill.begin(), plan.prefill.end(), [&](const PrefillItem& a, const PrefillItem& b) {
    return a.position + a.first_row / shape.group > b.position + b.first_row / shape.group;
  });
  std::stable_sort(plan.wide.begin(), plan.wide.end(),
                   [](const WideItem& a, const WideItem& b) { return a.position > b.position; });
}

} // namespace quire::cuda
