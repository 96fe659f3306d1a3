// A request while the engine works on it: its sequences, and for each choice what stands between a sampled token and
// the client.
//
// Made on the caller's thread, then the engine thread's alone, until no step and no sampler names it any more.
#pragma once

#include "decode/beam_search.hpp"
#include "decode/chooser.hpp"
#include "decode/sampling_state.hpp"
#include "decode/stop_matcher.hpp"
#include "quire/engine.hpp"
#include "schedule/sequence.hpp"
#include "text/detokenizer.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace quire {

using EngineClock = std::chrono::steady_clock;

struct ActiveRequest;

// One sampled sequence of a request.
struct alignas(64) ChoiceRecord {
  // What most tokens touch comes first, in one cache line: hundreds of records are gone through a step.
  ActiveRequest* request = nullptr;
  Sequence* sequence = nullptr;
  EventSink* sink = nullptr; // the request's
  RequestId id = 0;
  uint32_t num_tokens = 0; // delivered
  int32_t logprobs = -1;   // alternatives a token
  bool plain = false;      // without a detokenizer, and its events aren't held
  bool started = false;    // its request has had its first token
  bool finished = false;

  std::optional<Detokenizer> detokenizer; // with stop strings only
  std::optional<StopMatcher> matcher;
  std::shared_ptr<SamplerState> sampler; // a choosing sampler's
  std::vector<TokenEvent> held;          // best_of: until the best are known
};

// The beams of a request, in the order of BeamSearch::beams().
struct BeamRecord {
  BeamSearch search;
  std::vector<Sequence*> sequences;
  std::vector<std::vector<quire_candidate>> rows; // [beams] what each has brought; empty = not yet
  uint32_t num_rows = 0;                          // that have come
  uint32_t num_settled = 0;                       // tokens that clients have
};

struct ActiveRequest {
  RequestId id = 0;
  Request request; // prompt has moved into the first sequence
  SequenceGroup group;
  uint64_t seed = 0;
  std::vector<std::unique_ptr<ChoiceRecord>> choices; // [best_of or n]; with beams none
  std::unique_ptr<BeamRecord> beams;
  uint32_t num_unfinished = 0;  // choices
  uint32_t num_outstanding = 0; // choices that the sampler pool has
  bool over = false;            // `finished` was sent
  bool holds_events = false;    // best_of > n
  Finished summary;
  EngineClock::time_point submitted, deadline; // deadline: of those that have one
  bool first_token = false;

  bool referenced() const { // by a step in flight or the sampler pool
    if (num_outstanding) return true;
    for (const auto& s : group.sequences)
      if (s->in_flight) return true;
    return false;
  }
};

} // namespace quire
