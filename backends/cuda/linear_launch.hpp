// A linear as one launch of a step: the kernels that carry it out, by its rows and by what was timed.
//
// Shapes: as ops/linear.hpp. Errors: Failure. Threads: the backend's queue.
#pragma once

#include "linear_choice.hpp"
#include "matrix_library.hpp"
#include "ops/linear.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace quire::cuda {

// What a launch finds in memory.
struct LinearMemory {
  void* in = nullptr; // fp16
  float* workspace = nullptr;
  uint64_t workspace_bytes = 0;
};

// The glu that follows a linear of gate and up.
struct LinearGlu {
  Tensor gate, up, out; // views of the linear's output; [rows, N / 2]
  uint32_t activation = QUIRE_ACT_NONE;
};

class LinearLaunch {
 public:
  // calls: the linear's parts, one call for each run of parts of the same format; with a glu, one.
  LinearLaunch(std::vector<LinearArgs> calls, std::optional<LinearGlu> glu);

  // Our kernel or the library's: by choice, else by what is known of the shape, else our own for few rows.
  void run(MatrixLibrary& library, const LinearChoices& choices, const Queue& queue, uint32_t rows,
           const LinearMemory& memory, const LinearChoice* choice = nullptr) const;
  // What runs, for the profile.
  std::string kernel(const MatrixLibrary& library, const LinearChoices& choices, uint32_t rows) const;

  // That choices are looked up by; none where the library can't take it as one product.
  const std::optional<LinearShape>& shape() const { return shape_; }
  // The product that the library is asked for.
  Product product(uint32_t rows) const;
  const Tensor& in() const { return calls_[0].in; }
  const std::byte* weights() const { return calls_[0].parts[0].weight.data; }
  uint64_t weight_bytes() const;

 private:
  bool is_own(const LinearChoices& choices, uint32_t rows, const LinearChoice*& choice) const;

  std::vector<LinearArgs> calls_;
  std::optional<LinearGlu> glu_;
  LinearArgs fused_; // gate, up and glu at once
  std::optional<LinearShape> shape_;
};

// A launch whose kernel may be chosen by timing.
struct TunableLinear {
  const LinearLaunch* launch = nullptr; // the program's
  uint32_t rows_symbol = QUIRE_TOKENS;
  bool converted = false; // its input is converted to fp16 first, to its place in the workspace
};

} // namespace quire::cuda
