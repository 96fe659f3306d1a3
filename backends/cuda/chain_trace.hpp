// The times of a program's chains on the device, left in a file at the end: builds with -Dtrace_chains=true.
//
// Errors: Failure where there is no memory; a file that can't be written is said on the error stream. Threads: the
// backend's.
#pragma once

#include "memory.hpp"

#include "ops/chain_times.hpp"

#include <string>

namespace quire::cuda {

// The file: four words (the letters QCT1, launches kept, blocks, bytes of a block's record), then
// ChainTimes [launches kept][blocks], a launch at its number modulo the launches kept.
class ChainTrace {
 public:
  ChainTrace(std::string path, uint32_t blocks);
  ~ChainTrace();
  ChainTrace(const ChainTrace&) = delete;
  ChainTrace& operator=(const ChainTrace&) = delete;

  ChainTimes* times() const { return buffer_.as<ChainTimes>(); }

 private:
  std::string path_;
  uint32_t blocks_;
  DeviceBuffer buffer_;
};

} // namespace quire::cuda
