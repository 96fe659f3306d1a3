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

// Division by one divisor, thousands of times a step: n / d = floor(n * m / 2^64), m = floor(2^64 / d) + 1 (2^64 / d
// where d is a power of two). The error of m is at most d / 2^64, so that the product is off by less than 1 / d for
// every n below 2^32.
class Divider {
 public:
  explicit Divider(uint32_t divisor) : divisor_(divisor), factor_(UINT64_MAX / divisor + 1) { assert(divisor >= 2); }
  uint32_t quotient(uint32_t n) const { return static_cast<uint32_t>((Wide{n} * factor_) >> 64); }
  uint32_t divisor() const { return divisor_; }

 private:
  __extension__ using Wide = unsigned __int128;
  uint32_t divisor_;
  uint64_t factor_;
};

struct DecodeLoad {
  uint64_t total = 0; // positions
  uint32_t longest = 0;
};

// What the busiest block has to do if sequences of these positions are cut into chunks, in positions; nothing if that
// makes too many items. Blocks take their tasks in rounds, every other round in the opposite order: attend_decode.
uint64_t cost_of_chunk(std::span<const uint32_t> positions, const AttendShape& shape, const DecodeLoad& load,
                       uint32_t chunk, uint32_t max_items) {
  if (load.total > uint64_t{max_items} * chunk) return UINT64_MAX;
  std::array<uint32_t, 65> rests{}; // how many remainders of k/64 of a chunk
  uint32_t whole = 0;
  const Divider by_chunk(chunk);
  if (chunk <= UINT32_MAX / 65) {
    for (const uint32_t n : positions) {
      const uint32_t full = by_chunk.quotient(n), rest = n - full * chunk;
      whole += full;
      ++rests[by_chunk.quotient(rest * 64 + (chunk - 1))]; // rounded up; [0]: those without a remainder
    }
  } else {
    for (const uint32_t n : positions) {
      const uint32_t full = n / chunk, rest = n % chunk;
      whole += full;
      ++rests[(uint64_t{rest} * 64 + chunk - 1) / chunk];
    }
  }
  const uint32_t items = whole + static_cast<uint32_t>(positions.size()) - rests[0];
  rests[0] = 0;
  if (items > max_items) return UINT64_MAX;
  // The length of the item of task `index`, longest first; indices rise within each of the four cursors.
  struct Cursor {
    uint32_t bin = 65, before = 0;
  };
  const Divider by_heads(std::max(2u, shape.kv_heads));
  const auto length = [&](Cursor& at, uint32_t task) -> uint64_t {
    const uint32_t index = shape.kv_heads == 1 ? task : by_heads.quotient(task);
    if (index >= items) return 0;
    if (index < whole) return chunk + kTaskCost;
    if (at.bin == 65) at.before = whole, at.bin = 64;
    while (index >= at.before + rests[at.bin]) at.before += rests[at.bin--];
    return uint64_t{chunk} * at.bin / 64 + kTaskCost;
  };
  Cursor first, last;
  uint64_t low = 0, high = 0; // of the blocks at the two ends of the grid
  const uint64_t tasks = uint64_t{items} * shape.kv_heads;
  assert(tasks + shape.blocks <= UINT32_MAX);
  for (uint64_t task = 0, round = 0; task < tasks; task += shape.blocks, ++round) {
    const uint64_t a = length(first, static_cast<uint32_t>(task)),
                   b = length(last, static_cast<uint32_t>(task + shape.blocks - 1));
    low += round % 2 == 0 ? a : b;
    high += round % 2 == 0 ? b : a;
  }
  return std::max(low, high) + (items > positions.size() ? kFoldCost : 0);
}

uint32_t choose_chunk(std::span<const uint32_t> positions, const AttendShape& shape, const DecodeLoad& load,
                      uint32_t max_items) {
  const uint32_t whole = round_up(load.longest, kDecodeTile);
  const uint32_t least =
      std::max(kLeastChunk, round_up((load.longest + kMaxDecodeParts - 2) / (kMaxDecodeParts - 1), kDecodeTile));
  uint32_t best = std::max(whole, least);
  uint64_t best_cost = cost_of_chunk(positions, shape, load, best, max_items);
  const auto consider = [&](uint64_t chunk) {
    if (chunk < least || chunk >= whole) return;
    const uint64_t cost = cost_of_chunk(positions, shape, load, static_cast<uint32_t>(chunk), max_items);
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

// The order of the items, longest first, those of one length in their order: sorted by the bytes of what they are
// shorter than the longest, lowest first.
void sort_longest_first(std::span<const DecodeItem> items, AttendPlan::Scratch& scratch) {
  uint32_t longest = 0, shortest = UINT32_MAX;
  scratch.keys.resize(items.size());
  scratch.sorted.resize(items.size());
  for (const DecodeItem& item : items) {
    longest = std::max(longest, item.end - item.begin);
    shortest = std::min(shortest, item.end - item.begin);
  }
  for (uint32_t i = 0; i < items.size(); ++i) scratch.keys[i] = {longest - (items[i].end - items[i].begin), i};
  for (uint32_t shift = 0; shift < 32 && (longest - shortest) >> shift != 0; shift += 8) {
    std::array<uint32_t, 257> starts{};
    for (const AttendPlan::Key& key : scratch.keys) ++starts[(key.shorter >> shift & 255) + 1];
    for (uint32_t digit = 1; digit < 256; ++digit) starts[digit] += starts[digit - 1];
    for (const AttendPlan::Key& key : scratch.keys) scratch.sorted[starts[key.shorter >> shift & 255]++] = key;
    scratch.keys.swap(scratch.sorted);
  }
}

void plan_decode(std::span<const AttendSequence> sequences, const AttendShape& shape, AttendPlan& plan) {
  AttendPlan::Scratch& scratch = plan.scratch;
  DecodeLoad load;
  scratch.positions.clear();
  for (const AttendSequence& s : sequences) {
    if (s.queries != 1) continue;
    const uint32_t n = s.length - decode_origin(s, shape.window);
    load.total += n;
    load.longest = std::max(load.longest, n);
    scratch.positions.push_back(n);
  }
  if (scratch.positions.empty()) return;
  const uint32_t max_items =
      max_decode_items(static_cast<uint32_t>(scratch.positions.size()), shape.blocks, shape.kv_heads);
  const uint32_t chunk = choose_chunk(scratch.positions, shape, load, max_items);
  const Divider by_chunk(chunk);
  scratch.items.clear();
  for (const AttendSequence& s : sequences) {
    if (s.queries != 1) continue;
    const uint32_t seen = first_seen(s.length - 1, shape.window), origin = decode_origin(s, shape.window);
    const uint32_t parts = by_chunk.quotient(s.length - origin - 1) + 1;
    for (uint32_t part = 0; part < parts; ++part) {
      const uint32_t begin = origin + part * chunk;
      scratch.items.push_back({s.token, std::max(begin, seen), std::min(begin + chunk, s.length), s.table, part, parts,
                               plan.decode_partials, s.length - 1});
    }
    if (parts > 1) plan.decode_partials += parts;
  }
  sort_longest_first(scratch.items, scratch);
  plan.decode.reserve(max_items);
  for (const AttendPlan::Key& key : scratch.keys) plan.decode.push_back(scratch.items[key.item]);
  assert(plan.decode.size() <= max_items);
}

// Parts for the blocks of clusters: all of as many tiles but the last (and, behind a window's beginning, the first).
void plan_clusters(std::span<const AttendSequence> sequences, const AttendShape& shape, AttendPlan& plan) {
  for (const AttendSequence& s : sequences) {
    assert(s.queries == 1);
    const uint32_t seen = first_seen(s.length - 1, shape.window), origin = decode_origin(s, shape.window);
    const uint32_t n = s.length - origin, chunk = round_up((n + shape.cluster - 1) / shape.cluster, kDecodeTile);
    const uint32_t parts = (n + chunk - 1) / chunk;
    for (uint32_t part = 0; part < shape.cluster; ++part) {
      DecodeItem item{s.token, 0, 0, s.table, part, parts, 0, s.length - 1};
      if (part < parts) {
        item.begin = std::max(origin + part * chunk, seen);
        item.end = std::min(origin + (part + 1) * chunk, s.length);
      }
      plan.clustered.push_back(item);
    }
  }
  const size_t padded = size_t{shape.padded_sequences} * shape.cluster;
  assert(plan.clustered.size() <= padded);
  plan.clustered.resize(padded); // without parts
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
  clustered.clear();
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
  } else if (shape.cluster != 0) {
    plan_clusters(sequences, shape, plan);
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
