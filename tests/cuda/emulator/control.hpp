// What the emulated device shows, and which of its calls fail.
#pragma once

#include <cstdint>

namespace quire::cuda::emulator {

struct Control {
  bool no_driver = false;
  bool lost = false; // every call fails as after an illegal address
  int compute_capability = 80;
  int multiprocessors = 4;
  uint64_t allocations = 0;     // so far, device and pinned
  uint64_t fail_allocation = 0; // the one that fails, counted from 1; 0 = none
  int64_t live = 0;             // allocations not released
  uint64_t graph_launches = 0;
  bool idle = false;         // nothing is computed, memory begins as zeros: for timing the host's side
  uint64_t cooled_bytes = 0; // whoever waits for an event finds so much else in the caches, as after a real step
};

// QUIRE_EMULATED_DEVICE=idle in the environment: an idle device with as many multiprocessors as an H200; cool or
// cold: one that leaves nothing in a core's own caches, or in any.
Control& control();

} // namespace quire::cuda::emulator
