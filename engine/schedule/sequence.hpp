// A sequence: token ids, how far its KV has come, and where it stands with the scheduler. A group: the sequences of one
// request.
//
// Lengths, all in tokens: tokens.size() are known; num_pending more were sampled by a step in flight and are still on
// the device; length() is both. num_computed have their KV written by submitted steps, num_settled of these by steps
// that were committed:
//   num_settled <= num_computed <= length(), num_settled <= tokens.size().
// A sequence is caught up when num_computed == length(); the step that catches it up samples its next token.
// Owned by the engine thread.
#pragma once

#include "decode/sampling_state.hpp"
#include "kv/kv_manager.hpp"

#include <cstdint>
#include <memory>
#include <vector>

namespace quire {

enum class SequenceState : uint8_t {
  dormant,  // a choice that waits for its sibling's prompt
  waiting,  // holds no blocks
  swapped,  // waits; its blocks are in host slots
  running,  // holds blocks
  finished, // holds no blocks; steps in flight may still name it
};

struct SequenceGroup;

// What a step touches comes first, in two cache lines: a step over a thousand sequences is bound by the lines it needs.
struct alignas(64) Sequence {
  SequenceGroup* group = nullptr;
  KvSeq kv = kNoSeq;
  uint32_t num_computed = 0, num_settled = 0;
  uint32_t num_pending = 0; // 0 to 2
  uint32_t pending_row = 0; // 1-based row of the newest step that sampled the last of them
  uint32_t num_prompt = 0;  // tokens of the prompt: the rest are output
  uint32_t max_length = 0;  // tokens, prompt and output: at this length it has all it may have
  uint32_t epoch = 0;       // rises when its blocks are given up: a chunk of an older epoch settles nothing
  Ticket part_in = 0;       // the KV manager's ticket of the newest step that it takes part in
  uint32_t before_part = 0; // num_computed before that step
  uint32_t in_flight = 0;   // submitted steps that name it
  SequenceState state = SequenceState::dormant;
  bool host_chosen = false; // its tokens come from append(), not from the device
  bool awaiting = false;    // host_chosen: its row was submitted and its token has not come
  bool leads = false;       // others of its group may sleep until its prompt is computed
  uint32_t starved = 0;     // steps in a row that had no budget left for it
  std::vector<int32_t> tokens;
  double logprob_sum = 0;  // of the output
  void* owner = nullptr;   // the engine's record of this choice
  SamplingState sampling;  // of which a row without penalties needs the beginning
  uint32_t choice = 0;     // index within the request
  uint32_t num_cached = 0; // tokens of the prompt that the prefix cache had at the first admission

  uint32_t length() const { return static_cast<uint32_t>(tokens.size()) + num_pending; }
  uint32_t num_output() const { return static_cast<uint32_t>(tokens.size()) - num_prompt; }
};

struct SequenceGroup {
  uint64_t id = 0;
  int32_t priority = 0;  // lower first
  uint64_t arrival = 0;  // rising
  bool urgent = false;   // has been overtaken often enough: goes before every priority
  bool gang = false;     // beams: run and are preempted together, and share what they have in common
  bool admitted = false; // once
  uint32_t num_dormant = 0;
  std::string salt;                                 // of the prefix cache
  void* owner = nullptr;                            // the engine's record of the request
  std::vector<std::unique_ptr<Sequence>> sequences; // [0] computes the prompt
};

// The order in which sequences are served: who comes first is admitted first and preempted last.
inline bool ranks_before(const Sequence& a, const Sequence& b) {
  const SequenceGroup &x = *a.group, &y = *b.group;
  if (x.urgent != y.urgent) return x.urgent;
  if (x.priority != y.priority) return x.priority < y.priority;
  if (x.arrival != y.arrival) return x.arrival < y.arrival;
  return a.choice < b.choice;
}

} // namespace quire
