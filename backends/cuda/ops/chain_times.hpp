// What a chain's launch leaves of its times in builds with -Dtrace_chains=true, for tools/chain_trace.py
// (docs/cuda.md).
#pragma once

#include <cstdint>

namespace quire::cuda {

#ifdef QUIRE_CUDA_TRACE
inline constexpr bool kChainTraced = true;
#else
inline constexpr bool kChainTraced = false;
#endif

inline constexpr uint32_t kTracedLaunches = 128; // the last ones are kept

// Of one block. Times are nanoseconds of the device's timer, the lower 32 bits.
struct ChainTimes {
  uint32_t launch = 0, num_phases = 0;  // launches of chains before this one
  uint32_t begun = 0, framed = 0;       // it has the phases in shared memory
  uint32_t asked = 0, released = 0;     // it has asked for its first weights; the kernel in front has ended
  struct Phase {                        // of one warp
    uint32_t input = 0, multiplied = 0; // its input is there (0: it has none of the phase); its products are done
    uint32_t handed = 0, waited = 0;    // the block has handed over; ns that the warp waited for weights
  } phases[16][4];                      // [warps][phases]
};

} // namespace quire::cuda
