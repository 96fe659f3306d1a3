// cuBLASLt, found at run time: fp16 products of many rows. Without it our own kernel runs.
//
// Shapes: out [rows, N] = in [rows, K] W^T, W [N, K]; in and W fp16, out fp16 or float32, sums in float32. The
// algorithm for a shape is asked of the library once and kept. Errors: open() never fails (available() says); multiply
// throws Failure. Threads: the backend's queue.
#pragma once

#include "memory.hpp"
#include "ops/ops.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <tuple>

namespace quire::cuda {

class MatrixLibrary {
 public:
  MatrixLibrary(); // looks for the library
  ~MatrixLibrary();
  MatrixLibrary(const MatrixLibrary&) = delete;
  MatrixLibrary& operator=(const MatrixLibrary&) = delete;

  bool available() const { return functions_ != nullptr; }
  // «cuBLASLt 13.1.0», or why there is none.
  const std::string& description() const { return description_; }
  // Device memory that its algorithms may use.
  uint64_t workspace_bytes() const { return workspace_.bytes(); }

  void multiply(cudaStream_t stream, uint32_t rows, const Tensor& in, const Weight& weight, uint32_t outputs,
                const Tensor& out);

 private:
  struct Functions;
  struct Plan;
  const Plan& plan_for(uint32_t rows, const Tensor& in, uint32_t outputs, uint32_t weight_stride, const Tensor& out);

  std::unique_ptr<Functions> functions_;
  std::string description_;
  void* handle_ = nullptr;
  DeviceBuffer workspace_;
  // rows, N, K, weight stride, in stride, out stride, out type
  std::map<std::tuple<uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>, std::unique_ptr<Plan>>
      plans_;
};

} // namespace quire::cuda
