#include "step_buffer.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <string>

#include <quire/plugin.hpp>

namespace quire::cuda {
namespace {

uint64_t align_up(uint64_t bytes) { return (bytes + 127) / 128 * 128; }

uint32_t entries_of(const quire_step& step) {
  return step.table_start != nullptr ? step.table_start[step.num_sequences] : 0;
}

[[noreturn]] void refuse(const std::string& what) { throw Failure(QUIRE_INVALID, "CUDA: the step " + what); }

} // namespace

StepLayout lay_out_step(const StepShape& shape, uint32_t groups, const std::vector<AttendClass>& classes) {
  StepLayout layout;
  uint64_t at = 0;
  const auto take = [&](uint64_t bytes) {
    const uint64_t offset = at;
    at += align_up(bytes);
    return offset;
  };
  layout.tokens = take(4ull * shape.tokens);
  layout.token_rows = take(4ull * shape.tokens);
  layout.positions = take(4ull * shape.tokens);
  layout.rows = take(4ull * shape.rows);
  layout.sampling = take(sizeof(SampleRow) * uint64_t{shape.sampling_rows});
  for (uint32_t g = 0; g < groups; ++g) {
    layout.slots.push_back(take(4ull * shape.tokens));
    layout.token_tables.push_back(take(4ull * shape.tokens));
  }
  for (uint32_t c = 0; c < classes.size(); ++c) {
    StepLayout::Class places;
    if (classes[c].fast) {
      places.header = take(sizeof(ListHeader));
      places.decode = take(sizeof(DecodeItem) * uint64_t{shape.decode_items[c]});
      places.clusters = take(sizeof(ClusterItem) * uint64_t{shape.cluster_items[c]});
      places.prefill = take(sizeof(PrefillItem) * uint64_t{shape.prefill_items[c]});
      places.wide = take(sizeof(WideItem) * uint64_t{shape.wide_items[c]});
      places.first_parts = take(sizeof(PrefillItem) * uint64_t{shape.first_parts[c]});
    }
    layout.classes.push_back(places);
  }
  layout.tables = at;
  return layout;
}

namespace {

// What tells that something is wrong, of thousands of numbers a step: the loops have no branch, so that they run on
// vectors. What is wrong is looked for only then.
constexpr uint32_t kWrong = 0x80000000u;

// 0 where every block is one of `count`, at most 2^31.
uint32_t blocks_beyond(const uint32_t* blocks, uint64_t num, uint32_t count) {
  uint32_t wrong = 0;
  for (uint64_t i = 0; i < num; ++i) wrong |= (count - 1 - blocks[i]) | blocks[i];
  return wrong & kWrong;
}

bool divides_its_tokens(const quire_step& step) {
  uint32_t wrong = step.query_start[0] ^ 0;
  for (uint32_t s = 0; s < step.num_sequences; ++s)
    wrong |= static_cast<uint32_t>(step.query_start[s + 1] <= step.query_start[s]);
  return wrong == 0 && step.query_start[step.num_sequences] == step.num_tokens;
}

bool lengths_fit(const quire_step& step, const StepTraits& traits) {
  uint32_t wrong = 0;
  for (uint32_t s = 0; s < step.num_sequences; ++s) {
    const uint32_t length = step.seq_len[s], queries = step.query_start[s + 1] - step.query_start[s];
    wrong |= static_cast<uint32_t>(length < queries) | static_cast<uint32_t>(length > traits.limits.max_context);
  }
  if (traits.groups != 0)
    for (uint32_t s = 0; s < step.num_sequences; ++s)
      wrong |= static_cast<uint32_t>(uint64_t{step.table_start[s + 1] - step.table_start[s]} * traits.block_size <
                                     step.seq_len[s]);
  return wrong == 0;
}

bool tokens_fit(const quire_step& step, const StepTraits& traits) {
  uint32_t wrong = 0;
  if (step.token_rows == nullptr) {
    for (uint32_t t = 0; t < step.num_tokens; ++t)
      wrong |= static_cast<uint32_t>(static_cast<uint32_t>(step.tokens[t]) >= traits.vocab);
  } else {
    for (uint32_t t = 0; t < step.num_tokens; ++t) {
      const uint32_t row = step.token_rows[t];
      wrong |= static_cast<uint32_t>(row > traits.limits.max_rows) |
               (static_cast<uint32_t>(row == 0) &
                static_cast<uint32_t>(static_cast<uint32_t>(step.tokens[t]) >= traits.vocab));
    }
  }
  for (uint32_t r = 0; r < step.num_rows; ++r) wrong |= static_cast<uint32_t>(step.rows[r] >= step.num_tokens);
  return wrong == 0;
}

[[noreturn]] void refuse_lengths(const quire_step& step, const StepTraits& traits) {
  for (uint32_t s = 0; s < step.num_sequences; ++s) {
    if (step.seq_len[s] < step.query_start[s + 1] - step.query_start[s]) refuse("has a sequence without tokens");
    if (step.seq_len[s] > traits.limits.max_context) refuse("has a sequence beyond the context of the limits");
  }
  refuse("has a block table shorter than its sequence");
}

[[noreturn]] void refuse_tokens(const quire_step& step, const StepTraits& traits) {
  for (uint32_t r = 0; r < step.num_rows; ++r)
    if (step.rows[r] >= step.num_tokens) refuse("wants the output of a token that it doesn't have");
  for (uint32_t t = 0; t < step.num_tokens; ++t) {
    const uint32_t row = step.token_rows != nullptr ? step.token_rows[t] : 0;
    if (row > traits.limits.max_rows) refuse("takes a token from a row beyond the limits");
    if (row == 0 && static_cast<uint32_t>(step.tokens[t]) >= traits.vocab)
      refuse("has token " + std::to_string(step.tokens[t]) + ", the vocabulary has " + std::to_string(traits.vocab));
  }
  refuse("has a token that it can't have");
}

// The blocks that the step will touch; what a table holds before and behind them may be anything.
void check_blocks(const quire_step& step, const StepTraits& traits, uint32_t group, uint32_t num_blocks) {
  if (blocks_beyond(step.tables[group], entries_of(step), num_blocks) == 0) return; // most steps: all are good
  for (uint32_t s = 0; s < step.num_sequences; ++s) {
    const uint32_t before = step.seq_len[s] - (step.query_start[s + 1] - step.query_start[s]);
    uint32_t first = before;
    for (const AttendClass& c : traits.classes)
      if (c.group == group) first = std::min(first, first_seen(before, c.window));
    const uint32_t* table = step.tables[group] + step.table_start[s];
    for (uint32_t b = first / traits.block_size; b <= (step.seq_len[s] - 1) / traits.block_size; ++b)
      if (table[b] >= num_blocks)
        refuse("names block " + std::to_string(table[b]) + " of " + std::to_string(num_blocks));
  }
}

} // namespace

void check_step(const quire_step& step, const StepTraits& traits, std::span<const uint32_t> num_blocks) {
  const quire_limits& limits = traits.limits;
  if (step.num_tokens == 0 || step.num_sequences == 0) refuse("has no tokens");
  if (step.num_tokens > limits.max_tokens || step.num_sequences > limits.max_sequences ||
      step.num_rows > limits.max_rows)
    refuse("has " + std::to_string(step.num_tokens) + " tokens, " + std::to_string(step.num_sequences) +
           " sequences and " + std::to_string(step.num_rows) + " rows: more than the limits");
  if (!divides_its_tokens(step)) refuse("divides its tokens wrongly");
  if (!lengths_fit(step, traits)) refuse_lengths(step, traits);
  for (uint32_t g = 0; g < traits.groups; ++g) check_blocks(step, traits, g, num_blocks[g]);
  if (!tokens_fit(step, traits)) refuse_tokens(step, traits);
}

bool is_decode(const quire_step& step) {
  return step.num_tokens == step.num_sequences; // check_step has seen to it that each has at least one
}

bool rows_in_order(const quire_step& step) {
  if (step.num_rows != step.num_tokens) return false;
  bool in_order = true;
  for (uint32_t i = 0; i < step.num_rows; ++i) in_order &= step.rows[i] == i;
  return in_order;
}

Clusters clusters_for(const quire_step& step, const StepTraits& traits) {
  Clusters clusters = Clusters::none;
  for (const AttendClass& kind : traits.classes) {
    if (cluster_of(kind, Clusters::plain, step.num_tokens, step.num_sequences) == 0) continue;
    uint64_t positions = 0;
    for (uint32_t s = 0; s < step.num_sequences; ++s)
      positions += step.seq_len[s] - first_seen(step.seq_len[s] - 1, kind.window);
    if (positions * kind.kv_heads > kClusterReads) return Clusters::none;
    const bool keys_first = positions * kind.position_bytes >= kKeysFirstBytes;
    clusters = std::max(clusters, keys_first ? Clusters::keys_first : Clusters::plain);
  }
  return clusters;
}

std::vector<Clusters> clusters_of_bucket(uint32_t bucket, const StepTraits& traits) {
  bool has_clusters = false, keys_first = false;
  for (const AttendClass& kind : traits.classes) {
    if (cluster_of(kind, Clusters::plain, bucket, bucket) == 0) continue;
    has_clusters = true;
    const uint64_t positions = std::min(kClusterReads / kind.kv_heads, uint64_t{bucket} * traits.limits.max_context);
    keys_first = keys_first || positions * kind.position_bytes >= kKeysFirstBytes;
  }
  if (!has_clusters) return {};
  return keys_first ? std::vector{Clusters::plain, Clusters::keys_first} : std::vector{Clusters::plain};
}

void plan_step(const quire_step& step, const StepTraits& traits, StepPlans& plans, Clusters clusters, uint32_t bucket) {
  plans.classes.resize(traits.classes.size());
  plans.has_prefill = false;
  std::vector<AttendSequence>& sequences = plans.sequences;
  sequences.resize(step.num_sequences);
  const uint32_t padded_tokens = bucket != 0 ? bucket : step.num_tokens;
  const uint32_t padded_sequences = bucket != 0 ? bucket : step.num_sequences;
  const uint32_t entries = entries_of(step);
  for (uint32_t c = 0; c < traits.classes.size(); ++c) {
    const AttendClass& kind = traits.classes[c];
    plans.classes[c].clear();
    if (!kind.fast) continue;
    for (uint32_t s = 0; s < step.num_sequences; ++s)
      sequences[s] = {step.query_start[s], step.query_start[s + 1] - step.query_start[s], step.seq_len[s],
                      kind.group * entries + step.table_start[s]};
    AttendShape shape;
    shape.group = kind.heads / kind.kv_heads, shape.kv_heads = kind.kv_heads, shape.window = kind.window;
    shape.blocks = kind.blocks, shape.prefill_rows = kind.prefill_rows, shape.wide = kind.wide;
    shape.cluster = cluster_of(kind, clusters, padded_tokens, padded_sequences);
    shape.padded_sequences = padded_sequences;
    shape.fixed_order = traits.fixed_order, shape.max_partials = traits.max_partials;
    plan_attend(sequences, shape, plans.classes[c]);
    plans.has_prefill = plans.has_prefill || !plans.classes[c].prefill.empty() || !plans.classes[c].wide.empty();
  }
}

StepShape exact_shape(const quire_step& step, const StepPlans& plans) {
  StepShape shape;
  shape.tokens = step.num_tokens;
  shape.rows = step.num_rows;
  for (const AttendPlan& plan : plans.classes) {
    shape.decode_items.push_back(static_cast<uint32_t>(plan.decode.size()));
    shape.cluster_items.push_back(static_cast<uint32_t>(plan.clustered.size()));
    shape.prefill_items.push_back(static_cast<uint32_t>(plan.prefill.size()));
    shape.wide_items.push_back(static_cast<uint32_t>(plan.wide.size()));
    shape.first_parts.push_back(static_cast<uint32_t>(plan.first_parts.size()));
  }
  return shape;
}

StepShape bucket_shape(uint32_t bucket, Clusters clusters, const StepTraits& traits) {
  StepShape shape;
  shape.tokens = shape.rows = shape.sampling_rows = bucket;
  for (const AttendClass& kind : traits.classes) {
    const uint32_t cluster = cluster_of(kind, clusters, bucket, bucket);
    shape.decode_items.push_back(
        traits.fixed_order || cluster != 0 ? 0 : max_decode_items(bucket, kind.blocks, kind.kv_heads));
    shape.cluster_items.push_back(cluster * bucket);
    shape.prefill_items.push_back(0);
    shape.wide_items.push_back(0);
    shape.first_parts.push_back(traits.fixed_order ? bucket : 0);
  }
  return shape;
}

namespace {

// What a step has by token. Steps of one token a sequence are the most: their loops have no other within.
struct TokenArrays {
  int32_t* __restrict tokens;
  uint32_t* __restrict token_rows, * __restrict positions;
};

void write_tokens(const quire_step& step, uint32_t row_base, const TokenArrays& to) {
  if (step.token_rows == nullptr) {
    std::copy_n(step.tokens, step.num_tokens, to.tokens);
    std::fill_n(to.token_rows, step.num_tokens, 0u);
  } else {
    for (uint32_t t = 0; t < step.num_tokens; ++t) {
      const uint32_t row = step.token_rows[t];
      to.tokens[t] = row == 0 ? step.tokens[t] : 0;
      to.token_rows[t] = row == 0 ? 0 : row + row_base;
    }
  }
  if (is_decode(step)) {
    for (uint32_t s = 0; s < step.num_sequences; ++s) to.positions[s] = step.seq_len[s] - 1;
  } else {
    for (uint32_t s = 0; s < step.num_sequences; ++s) {
      const uint32_t end = step.query_start[s + 1], to_end = step.seq_len[s] - end;
      for (uint32_t t = step.query_start[s]; t < end; ++t) to.positions[t] = to_end + t;
    }
  }
}

// slots, token_tables: [T] of one KV group, whose tables begin at entry `first_entry` of all groups'.
void write_places(const quire_step& step, uint32_t block_size, const uint32_t* table, uint32_t first_entry,
                  const uint32_t* __restrict positions, uint32_t* __restrict slots, uint32_t* __restrict token_tables) {
  const auto shift = static_cast<uint32_t>(std::countr_zero(block_size)); // a power of two: check_limits
  const auto slot = [&](const uint32_t* own, uint32_t position) {
    return (own[position >> shift] << shift) | (position & (block_size - 1));
  };
  if (is_decode(step)) {
    for (uint32_t s = 0; s < step.num_sequences; ++s) {
      slots[s] = slot(table + step.table_start[s], positions[s]);
      token_tables[s] = first_entry + step.table_start[s];
    }
    return;
  }
  for (uint32_t s = 0; s < step.num_sequences; ++s)
    for (uint32_t t = step.query_start[s]; t < step.query_start[s + 1]; ++t) {
      slots[t] = slot(table + step.table_start[s], positions[t]);
      token_tables[t] = first_entry + step.table_start[s];
    }
}

// Items with the blocks that they begin with. table: the step's, of the items' KV group, whose first entry is number
// `first_entry` of all groups'.
void write_clusters(std::span<const DecodeItem> items, uint32_t block_size, const uint32_t* table, uint32_t first_entry,
                    std::byte* to) {
  const auto shift = static_cast<uint32_t>(std::countr_zero(block_size));
  for (const DecodeItem& item : items) {
    ClusterItem out{item, {}};
    if (item.begin < item.end) {
      const uint32_t first = item.begin >> shift, blocks = ((item.end - 1) >> shift) + 1 - first;
      std::copy_n(table + (item.table - first_entry) + first, std::min(blocks, kClusterBlocks), out.blocks);
    }
    std::memcpy(to, &out, sizeof out);
    to += sizeof out;
  }
}

} // namespace

uint64_t write_step(const quire_step& step, const StepTraits& traits, const StepPlans& plans, const StepShape& shape,
                    const StepLayout& layout, uint32_t row_base, std::span<std::byte> out) {
  const auto words = [&](uint64_t offset) { return reinterpret_cast<uint32_t*>(out.data() + offset); };
  const uint32_t entries = entries_of(step);
  const TokenArrays to{reinterpret_cast<int32_t*>(out.data() + layout.tokens), words(layout.token_rows),
                       words(layout.positions)};
  write_tokens(step, row_base, to);
  const uint32_t padding = shape.tokens - step.num_tokens;
  std::fill_n(to.tokens + step.num_tokens, padding, 0);
  std::fill_n(to.token_rows + step.num_tokens, padding, 0u);
  std::fill_n(to.positions + step.num_tokens, padding, 0u);
  for (uint32_t g = 0; g < traits.groups; ++g) {
    uint32_t *slots = words(layout.slots[g]), *token_tables = words(layout.token_tables[g]);
    write_places(step, traits.block_size, step.tables[g], g * entries, to.positions, slots, token_tables);
    std::fill_n(slots + step.num_tokens, padding, kNoSlot);
    std::fill_n(token_tables + step.num_tokens, padding, kNoSlot);
  }
  uint32_t* rows = words(layout.rows);
  std::copy_n(step.rows, step.num_rows, rows);
  std::fill(rows + step.num_rows, rows + shape.rows, 0u);

  uint64_t at = layout.tables;
  for (uint32_t g = 0; g < traits.groups; ++g) {
    std::memcpy(out.data() + at, step.tables[g], 4ull * entries);
    at += 4ull * entries;
  }
  at = align_up(at);
  const auto copy_items = [&](uint64_t offset, const auto& items) {
    if (!items.empty()) std::memcpy(out.data() + offset, items.data(), items.size() * sizeof(items[0]));
  };
  for (uint32_t c = 0; c < traits.classes.size(); ++c) {
    if (!traits.classes[c].fast) continue;
    const AttendPlan& plan = plans.classes[c];
    const StepLayout::Class& places = layout.classes[c];
    copy_items(places.decode, plan.decode);
    const uint32_t group = traits.classes[c].group;
    write_clusters(plan.clustered, traits.block_size, step.tables[group], group * entries,
                   out.data() + places.clusters);
    copy_items(places.prefill, plan.prefill);
    copy_items(places.wide, plan.wide);
    copy_items(places.first_parts, plan.first_parts);
    const ListHeader header{static_cast<uint32_t>(plan.decode.size()), static_cast<uint32_t>(at),
                            static_cast<uint32_t>(plan.parts.size()), static_cast<uint32_t>(plan.first_parts.size())};
    std::memcpy(out.data() + places.header, &header, sizeof header);
    copy_items(at, plan.parts);
    at = align_up(at + plan.parts.size() * sizeof(PrefillItem));
  }
  assert(at <= out.size());
  return at;
}

uint64_t most_step_bytes(const StepTraits& traits) {
  const quire_limits& limits = traits.limits;
  StepShape shape;
  shape.tokens = std::max(limits.max_tokens, limits.max_sequences) + 16;
  shape.rows = std::max(limits.max_rows, limits.max_sequences) + 16;
  shape.sampling_rows = limits.max_sequences + 16;
  uint64_t parts = 0;
  for (const AttendClass& kind : traits.classes) {
    const uint32_t group = std::max(1u, kind.heads / kind.kv_heads);
    shape.decode_items.push_back(max_decode_items(shape.tokens, kind.blocks, kind.kv_heads));
    shape.cluster_items.push_back(std::max(16 * kind.clusters.of_16, 8 * kind.clusters.of_8) / kind.kv_heads);
    shape.prefill_items.push_back(static_cast<uint32_t>(uint64_t{limits.max_tokens} * group / kind.prefill_rows) +
                                  limits.max_sequences + 1);
    shape.wide_items.push_back(kind.wide ? limits.max_tokens / kWideTokens + limits.max_sequences + 1 : 0);
    shape.first_parts.push_back(shape.tokens);
    if (traits.fixed_order)
      parts += align_up(sizeof(PrefillItem) * (uint64_t{traits.max_partials} + limits.max_sequences));
  }
  const StepLayout layout = lay_out_step(shape, traits.groups, traits.classes);
  const uint64_t blocks = (uint64_t{limits.max_context} + traits.block_size - 1) / traits.block_size;
  return layout.tables + align_up(4 * blocks * limits.max_sequences * traits.groups) + parts + 128;
}

} // namespace quire::cuda
