// Which block of the attention grids does what, planned on the host once a step for all layers of a shape.
//
// Decode: the KV of all single-token sequences is one row of units of 64 positions; every worker gets an equal stretch
// of it, so that none waits for another however long the sequences are. Under fixed order stretches are chunks at fixed
// positions instead, whoever does them. Prefill: blocks of 128 rows, longest first. Threads: pure functions. Errors:
// none.
#pragma once

#include "ops/attend.hpp"

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
  std::vector<uint32_t> worker_start; // [workers + 1]
  uint32_t decode_partials = 0;
  std::vector<PrefillItem> prefill;
  std::vector<PrefillItem> parts;       // fixed order: chunks of sequences with few rows
  std::vector<PrefillItem> first_parts; // of each such sequence
  uint32_t part_partials = 0;

  void clear();
};

struct AttendShape {
  uint32_t group = 1;   // query heads a KV head
  uint32_t window = 0;  // positions; 0 = all
  uint32_t workers = 1; // of the decode grid
  bool fixed_order = false;
  uint32_t max_partials = 0; // of parts; sequences beyond it go to prefill, which gives the same bits
};

// The first position that a token sees.
inline uint32_t first_seen(uint32_t position, uint32_t window) {
  return window != 0 && position + 1 > window ? position + 1 - window : 0;
}

// Keeps the plan's memory for the next step.
void plan_attend(std::span<const AttendSequence> sequences, const AttendShape& shape, AttendPlan& plan);

// The most decode partials that a step of so many sequences can have.
inline uint32_t max_decode_partials(uint32_t sequences, uint32_t workers) { return sequences + workers; }

} // namespace quire::cuda
