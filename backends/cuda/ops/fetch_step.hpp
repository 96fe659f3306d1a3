// A decode step, fetched out of the host's memory by the first node of its graph: neither side needs a copy's call.
//
// Threads: the backend's queue.
#pragma once

#include "queue.hpp"

#include <cstddef>
#include <cstdint>

namespace quire::cuda {

// Where the host writes steps, in turn. Which slot is next is counted on both sides: a launch takes one. The host
// writes into a slot again once the step that lay there was waited for; at most one is on its way meanwhile.
inline constexpr uint32_t kFetchSlots = 3;

// Before the step, in the host's memory alone.
struct alignas(16) FetchHeader {
  uint32_t bytes; // of the step, behind the header
  uint32_t reserved[3];
};

struct FetchArgs {
  const std::byte* slots; // [kFetchSlots, slot_bytes] pinned memory of the host: FetchHeader, then the step
  uint64_t slot_bytes;    // a multiple of 16
  std::byte* to;          // [slot_bytes - sizeof(FetchHeader)] the step buffer
  uint32_t* turn;         // [2] the slot of the next launch; blocks of this one that are done. Zero at first
};

// expected_bytes: of most steps; longer ones are fetched too. The launch behind it may begin early only if it waits
// before it lets the next one begin, as embed does: what reads the step before it waits counts on it being there.
void fetch_step(const Queue&, uint64_t expected_bytes, const FetchArgs&);

} // namespace quire::cuda
