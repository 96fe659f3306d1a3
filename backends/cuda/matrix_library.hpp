// cuBLASLt, found at run time: fp16 products of many rows. Without it our own kernel runs.
//
// Shapes: out [rows, N] = in [rows, K] W^T, W [N, K]; in and W fp16, out fp16 or float32, sums in float32, those of a
// split K too. The algorithm of a shape is the caller's where the library can run it there, else the one that the
// library guesses to be the fastest; it is settled once and kept. Errors: the constructor never fails for want of a
// library (available() says); the others throw Failure. Threads: the backend's queue.
#pragma once

#include "memory.hpp"
#include "ops/ops.hpp"

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace quire::cuda {

// An algorithm as the library keeps it: opaque, and of the same meaning to the same version on the same chip.
using LibraryAlgorithm = std::array<uint64_t, 8>;

// A product as the library is asked for it; strides in elements.
struct Product {
  uint32_t rows = 0, outputs = 0, cols = 0;
  uint32_t weight_stride = 0, in_stride = 0, out_stride = 0;
  Type out_type = Type::f16;
  friend auto operator<=>(const Product&, const Product&) = default;
};

class MatrixLibrary {
 public:
  MatrixLibrary(); // looks for the library
  ~MatrixLibrary();
  MatrixLibrary(const MatrixLibrary&) = delete;
  MatrixLibrary& operator=(const MatrixLibrary&) = delete;

  bool available() const { return functions_ != nullptr; }
  // «cuBLASLt 13.1.0», or why there is none.
  const std::string& description() const { return description_; }
  // As the library gives it: 130100 is 13.1.0; 0 where there is none.
  uint64_t version() const { return version_; }
  // Device memory that its algorithms may use.
  uint64_t workspace_bytes() const { return workspace_.bytes(); }

  // wanted: null, or refused by the library for this product: its own first guess.
  void multiply(cudaStream_t stream, const Product& product, const void* in, const void* weight, void* out,
                const LibraryAlgorithm* wanted = nullptr);
  // Up to `most` algorithms that can run the product, the library's first guess first. It names some eight for a
  // product: those that it names for fewer and for more rows follow.
  std::vector<LibraryAlgorithm> candidates(const Product& product, uint32_t most);
  // Whether it can run the product within the workspace.
  bool accepts(const Product& product, const LibraryAlgorithm& algorithm);

 private:
  struct Functions;
  struct Plan;
  std::unique_ptr<Plan> describe(const Product& product) const;
  Plan& plan_for(const Product& product);
  void settle(Plan& plan, const Product& product, const LibraryAlgorithm* wanted);
  bool check(const Plan& plan, const LibraryAlgorithm& algorithm) const;
  std::vector<LibraryAlgorithm> ask(const Plan& plan, uint32_t most) const;

  std::unique_ptr<Functions> functions_;
  std::string description_;
  uint64_t version_ = 0;
  void* handle_ = nullptr;
  DeviceBuffer workspace_;
  std::map<Product, std::unique_ptr<Plan>> plans_;
};

} // namespace quire::cuda
