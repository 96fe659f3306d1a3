#include "linear_launch.hpp"

#include <cassert>
#include <utility>

namespace quire::cuda {
namespace {

// Its algorithms are asked for with 16-byte alignment.
bool is_aligned(const LinearArgs& a) {
  if (a.in.stride % 8 != 0 || a.in.dim % 8 != 0 || a.out.stride % 8 != 0) return false;
  for (uint32_t i = 0; i < a.num_parts; ++i)
    if (a.parts[i].first_col % 8 != 0 || a.parts[i].weight.stride % 8 != 0) return false;
  return true;
}

// Parts that lie behind each other on the device are one product: how many from `first` on, and their outputs.
uint32_t run_of_parts(const LinearArgs& a, uint32_t first, uint32_t& outputs) {
  const Weight& weight = a.parts[first].weight;
  outputs = weight.rows;
  uint32_t i = first + 1;
  while (i < a.num_parts && a.parts[i].weight.data == weight.data + uint64_t{outputs} * weight.stride * 2 &&
         a.parts[i].weight.stride == weight.stride)
    outputs += a.parts[i++].weight.rows;
  return i - first;
}

bool finishes(const LinearArgs& a) {
  bool some = a.activation != QUIRE_ACT_NONE || a.scale != 1.f || a.softcap != 0.f;
  for (uint32_t i = 0; i < a.num_parts; ++i) some = some || a.parts[i].bias != nullptr;
  return some;
}

bool library_takes(const MatrixLibrary& library, uint32_t rows, const LinearArgs& a) {
  return library.available() && !a.fixed_order && a.parts[0].weight.format == QUIRE_F16 &&
         choose_linear(rows, a) != LinearKernel::any && is_aligned(a);
}

Product product_of(const LinearArgs& a, const Weight& first, uint32_t outputs, uint32_t rows) {
  return {rows, outputs, a.in.dim, first.stride, a.in.stride, a.out.stride, a.out.type};
}

void multiply(MatrixLibrary& library, const Queue& queue, uint32_t rows, const LinearArgs& a,
              const LibraryAlgorithm* algorithm) {
  for (uint32_t i = 0; i < a.num_parts;) {
    const Weight& first = a.parts[i].weight;
    uint32_t outputs = 0;
    const uint32_t count = run_of_parts(a, i, outputs);
    std::byte* out = static_cast<std::byte*>(a.out.data) + uint64_t{a.parts[i].first_col} * bytes_of(a.out.type);
    library.multiply(queue.stream, product_of(a, first, outputs, rows), a.in.data, first.data, out, algorithm);
    i += count;
  }
  if (finishes(a)) linear_finish(queue, rows, a);
}

} // namespace

LinearLaunch::LinearLaunch(std::vector<LinearArgs> calls, std::optional<LinearGlu> glu)
    : calls_(std::move(calls)), glu_(std::move(glu)) {
  assert(!calls_.empty() && (!glu_ || calls_.size() == 1));
  if (glu_) {
    fused_ = calls_[0];
    fused_.glu = true;
    fused_.glu_activation = glu_->activation;
    fused_.out = glu_->out;
    fused_.out.heads = 1, fused_.out.dim = glu_->out.width();
  }
  const LinearArgs& a = calls_[0];
  uint32_t outputs = 0;
  if (calls_.size() == 1 && a.parts[0].weight.format == QUIRE_F16 && !a.fixed_order && is_aligned(a) &&
      run_of_parts(a, 0, outputs) == a.num_parts)
    shape_ = {outputs, a.in.dim, a.out.type,
              glu_          ? LinearTail::glu
              : finishes(a) ? LinearTail::finish
                            : LinearTail::none};
}

Product LinearLaunch::product(uint32_t rows) const {
  assert(shape_);
  return product_of(calls_[0], calls_[0].parts[0].weight, shape_->outputs, rows);
}

uint64_t LinearLaunch::weight_bytes() const {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < calls_[0].num_parts; ++i)
    bytes += uint64_t{calls_[0].parts[i].weight.rows} * calls_[0].parts[i].weight.stride * 2;
  return bytes;
}

bool LinearLaunch::is_own(const LinearChoices& choices, uint32_t rows, const LinearChoice*& choice) const {
  if (choice == nullptr && shape_) choice = choices.find(*shape_, rows);
  return choice != nullptr ? choice->own : rows <= kSmallRows;
}

void LinearLaunch::run(MatrixLibrary& library, const LinearChoices& choices, const Queue& queue, uint32_t rows,
                       const LinearMemory& memory, const LinearChoice* choice) const {
  const auto settled = [&](LinearArgs args) {
    args.in.data = memory.in;
    args.workspace = memory.workspace;
    args.workspace_bytes = memory.workspace_bytes;
    return args;
  };
  const bool own = is_own(choices, rows, choice);
  if (own && glu_ && rows <= kFusedGluRows) return linear(queue, rows, settled(fused_));
  for (const LinearArgs& call : calls_) {
    const LinearArgs args = settled(call);
    if (own || !library_takes(library, rows, args))
      linear(queue, rows, args);
    else
      multiply(library, queue, rows, args, choice != nullptr ? &choice->algorithm : nullptr);
  }
  if (glu_) glu(queue, rows, glu_->activation, glu_->gate, glu_->up, glu_->out);
}

std::string LinearLaunch::kernel(const MatrixLibrary& library, const LinearChoices& choices, uint32_t rows) const {
  const LinearChoice* choice = nullptr;
  const bool own = is_own(choices, rows, choice);
  if (own && glu_ && rows <= kFusedGluRows) return std::string(name_of(choose_linear(rows, fused_))) + "+glu";
  std::string kernel = name_of(choose_linear(rows, calls_[0]));
  if (!own && library_takes(library, rows, calls_[0])) kernel = choice == nullptr ? "cublaslt" : "cublaslt, timed";
  if (calls_.size() > 1) kernel += " x" + std::to_string(calls_.size());
  return kernel;
}

} // namespace quire::cuda
