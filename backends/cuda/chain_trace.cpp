#include "chain_trace.hpp"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <fstream>
#include <utility>
#include <vector>

namespace quire::cuda {

ChainTrace::ChainTrace(std::string path, uint32_t blocks)
    : path_(std::move(path)), blocks_(blocks),
      buffer_(uint64_t{kTracedLaunches} * blocks * sizeof(ChainTimes), "times of chains") {
  check(cudaMemsetAsync(buffer_.data(), 0, buffer_.bytes(), nullptr), "clearing the times of chains");
  check(cudaStreamSynchronize(nullptr), "clearing the times of chains");
}

ChainTrace::~ChainTrace() {
  std::vector<char> records(buffer_.bytes());
  const bool read =
      cudaDeviceSynchronize() == cudaSuccess &&
      cudaMemcpyAsync(records.data(), buffer_.data(), records.size(), cudaMemcpyDeviceToHost, nullptr) == cudaSuccess &&
      cudaStreamSynchronize(nullptr) == cudaSuccess;
  const uint32_t head[] = {0x31544351, kTracedLaunches, blocks_, sizeof(ChainTimes)}; // "QCT1"
  std::ofstream file(path_, std::ios::binary);
  file.write(reinterpret_cast<const char*>(head), sizeof head);
  file.write(records.data(), static_cast<std::streamsize>(records.size()));
  if (!read || !file.flush())
    std::fprintf(stderr, "QUIRE_CUDA_TRACE: the times of chains could not be %s %s\n",
                 read ? "written to" : "read from the device for", path_.c_str());
}

} // namespace quire::cuda
