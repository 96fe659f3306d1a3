// Which block of the attention grids does what, planned on the host once a step for all layers of a shape.
//
// Decode: sequences of one token are cut into runs of positions, as long as lets every block of the grid have the same
// share, and listed longest first; where few of them get clusters, into a part for each block of one. Fixed order:
// chunks at fixed positions instead, whoever does them. Prefill: blocks of rows, or of tokens for attend_prefill_sm90,
// longest first. Threads: pure functions. Errors: none.
#pragma once

#include "ops/attend.hpp"

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

namespace quire::cuda {

// One sequence of the step, for one KV group.
struct AttendSequence {
  uint32_t token;   // index of its first token
  uint32_t queries; // tokens
  uint32_t length;  // positions, its last token included
  uint32_t table;   // index of its first entry in the group's table
};

struct AttendPlan {
  std::vector<DecodeItem> decode;
  uint32_t decode_partials = 0;
  std::vector<DecodeItem> clustered; // [padded sequences, cluster]: instead of `decode`, by sequence and part
  std::vector<PrefillItem> prefill;
  std::vector<WideItem> wide;
  std::vector<PrefillItem> parts;       // fixed order: chunks of sequences with few rows
  std::vector<PrefillItem> first_parts; // of each such sequence
  uint32_t part_partials = 0;

  void clear();

  // What planning works with, kept for its memory.
  struct Key {
    uint32_t shorter; // than the longest item, in positions
    uint32_t item;
  };
  struct Scratch {
    std::vector<uint32_t> positions; // that each sequence of one token reads
    std::vector<DecodeItem> items;   // in the order of the sequences
    std::vector<Key> keys, sorted;
  } scratch;
};

struct AttendShape {
  uint32_t group = 1; // query heads a KV head
  uint32_t kv_heads = 1;
  uint32_t window = 0;                  // positions; 0 = all
  uint32_t blocks = 1;                  // of the decode grid
  uint32_t cluster = 0;                 // blocks of a sequence's and KV head's cluster; 0: the decode grid has them all
  uint32_t padded_sequences = 0;        // with clusters, that the step is launched for
  uint32_t prefill_rows = kPrefillRows; // of a prefill item
  bool wide = false;                    // attend_prefill_sm90 takes long chunks
  bool fixed_order = false;
  uint32_t max_partials = 0; // of parts; sequences beyond it go to prefill, which gives the same bits
};

// Chunks of fewer tokens would leave too much of attend_prefill_sm90's tiles empty.
inline constexpr uint32_t kLeastWideTokens = 48;

// The first position that a token sees.
inline uint32_t first_seen(uint32_t position, uint32_t window) {
  return window != 0 && position + 1 > window ? position + 1 - window : 0;
}

// Keeps the plan's memory for the next step.
void plan_attend(std::span<const AttendSequence> sequences, const AttendShape& shape, AttendPlan& plan);

// The most decode items, and partial results, that a step of so many sequences can have.
inline uint32_t max_decode_items(uint32_t sequences, uint32_t blocks, uint32_t kv_heads) {
  return sequences + 4 * std::max(1u, blocks / kv_heads) + 4;
}

} // namespace quire::cuda
