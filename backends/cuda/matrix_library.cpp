#include "matrix_library.hpp"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <cassert>
#include <cstring>

namespace quire::cuda {
namespace {

constexpr uint64_t kWorkspaceBytes = 32ull << 20;

} // namespace

// The functions in use, by the names that the library exports. The library stays loaded as long as the process.
struct MatrixLibrary::Functions {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetVersion) version;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoCheck) check;
  decltype(&cublasLtMatmul) matmul;

  // Whether all are there.
  bool load(void* library) {
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
      return function != nullptr;
    };
    return find(create, "cublasLtCreate") && find(destroy, "cublasLtDestroy") && find(version, "cublasLtGetVersion") &&
           find(desc_create, "cublasLtMatmulDescCreate") && find(desc_destroy, "cublasLtMatmulDescDestroy") &&
           find(desc_set, "cublasLtMatmulDescSetAttribute") && find(layout_create, "cublasLtMatrixLayoutCreate") &&
           find(layout_destroy, "cublasLtMatrixLayoutDestroy") &&
           find(preference_create, "cublasLtMatmulPreferenceCreate") &&
           find(preference_destroy, "cublasLtMatmulPreferenceDestroy") &&
           find(preference_set, "cublasLtMatmulPreferenceSetAttribute") &&
           find(heuristic, "cublasLtMatmulAlgoGetHeuristic") && find(check, "cublasLtMatmulAlgoCheck") &&
           find(matmul, "cublasLtMatmul");
  }
};

struct MatrixLibrary::Plan {
  const Functions& f;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  bool settled = false;
  std::optional<LibraryAlgorithm> wanted; // that `algorithm` was settled for
  cublasLtMatmulAlgo_t algorithm{};

  explicit Plan(const Functions& functions) : f(functions) {}
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;
  ~Plan() {
    if (a != nullptr) f.layout_destroy(a);
    if (b != nullptr) f.layout_destroy(b);
    if (c != nullptr) f.layout_destroy(c);
    if (desc != nullptr) f.desc_destroy(desc);
  }
};

namespace {

void check_library(cublasStatus_t status, const char* doing) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  const quire_code code = status == CUBLAS_STATUS_ALLOC_FAILED       ? QUIRE_OUT_OF_MEMORY
                          : status == CUBLAS_STATUS_EXECUTION_FAILED ? QUIRE_DEVICE_LOST
                                                                     : QUIRE_FAILED;
  throw Failure(code,
                std::string("cuBLASLt: ") + doing + " failed with status " + std::to_string(static_cast<int>(status)));
}

static_assert(sizeof(LibraryAlgorithm) == sizeof(cublasLtMatmulAlgo_t));

cublasLtMatmulAlgo_t to_library(const LibraryAlgorithm& algorithm) {
  cublasLtMatmulAlgo_t result;
  std::memcpy(&result, algorithm.data(), sizeof result);
  return result;
}

LibraryAlgorithm from_library(const cublasLtMatmulAlgo_t& algorithm) {
  LibraryAlgorithm result;
  std::memcpy(result.data(), &algorithm, sizeof result);
  return result;
}

} // namespace

MatrixLibrary::MatrixLibrary() {
  void* library = nullptr;
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"})
    if (library = dlopen(name, RTLD_NOW | RTLD_LOCAL); library != nullptr) break;
  if (library == nullptr) {
    description_ = "cuBLASLt was not found (install CUDA's run-time libraries, or add them to LD_LIBRARY_PATH)";
    return;
  }
  auto functions = std::make_unique<Functions>();
  cublasLtHandle_t handle = nullptr;
  if (!functions->load(library)) {
    description_ = "cuBLASLt lacks a function: it is too old";
    return;
  }
  if (const cublasStatus_t status = functions->create(&handle); status != CUBLAS_STATUS_SUCCESS) {
    description_ = "cuBLASLt could not start (status " + std::to_string(static_cast<int>(status)) + ")";
    return;
  }
  version_ = functions->version();
  description_ = "cuBLASLt " + std::to_string(version_ / 10000) + "." + std::to_string(version_ / 100 % 100) + "." +
                 std::to_string(version_ % 100);
  workspace_ = DeviceBuffer(kWorkspaceBytes, "cuBLASLt's workspace");
  handle_ = handle;
  functions_ = std::move(functions);
}

MatrixLibrary::~MatrixLibrary() {
  plans_.clear();
  if (handle_ != nullptr) functions_->destroy(static_cast<cublasLtHandle_t>(handle_));
}

std::unique_ptr<MatrixLibrary::Plan> MatrixLibrary::describe(const Product& p) const {
  // The library's matrices are column major: out^T [N, rows] = W^T' in^T, W^T [K, N] transposed.
  auto plan = std::make_unique<Plan>(*functions_);
  const Functions& f = *functions_;
  const cudaDataType_t out_type = p.out_type == Type::f16 ? CUDA_R_16F : CUDA_R_32F;
  check_library(f.desc_create(&plan->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing a product");
  const cublasOperation_t transposed = CUBLAS_OP_T, plain = CUBLAS_OP_N;
  check_library(f.desc_set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed),
                "describing a product");
  check_library(f.desc_set(plan->desc, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof plain), "describing a product");
  check_library(f.layout_create(&plan->a, CUDA_R_16F, p.cols, p.outputs, p.weight_stride), "describing a matrix");
  check_library(f.layout_create(&plan->b, CUDA_R_16F, p.cols, p.rows, p.in_stride), "describing a matrix");
  check_library(f.layout_create(&plan->c, out_type, p.outputs, p.rows, p.out_stride), "describing a matrix");
  return plan;
}

MatrixLibrary::Plan& MatrixLibrary::plan_for(const Product& product) {
  auto& slot = plans_[product];
  if (!slot) slot = describe(product);
  return *slot;
}

std::vector<LibraryAlgorithm> MatrixLibrary::ask(const Plan& plan, uint32_t most) const {
  const Functions& f = *functions_;
  cublasLtMatmulPreference_t preference = nullptr;
  check_library(f.preference_create(&preference), "asking for an algorithm");
  const size_t workspace = workspace_.bytes();
  std::vector<cublasLtMatmulHeuristicResult_t> found(most);
  int count = 0;
  cublasStatus_t status =
      f.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace);
  // The parts of a split K are added in float32, never in the output's fp16.
  const uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE, alignment = 16;
  if (status == CUBLAS_STATUS_SUCCESS)
    status = f.preference_set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions, sizeof reductions);
  for (const auto attribute : {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
    if (status == CUBLAS_STATUS_SUCCESS) status = f.preference_set(preference, attribute, &alignment, sizeof alignment);
  if (status == CUBLAS_STATUS_SUCCESS)
    status = f.heuristic(static_cast<cublasLtHandle_t>(handle_), plan.desc, plan.a, plan.b, plan.c, plan.c, preference,
                         static_cast<int>(most), found.data(), &count);
  f.preference_destroy(preference);
  check_library(status, "asking for an algorithm");
  std::vector<LibraryAlgorithm> algorithms;
  for (int i = 0; i < count; ++i)
    if (found[static_cast<size_t>(i)].state == CUBLAS_STATUS_SUCCESS)
      algorithms.push_back(from_library(found[static_cast<size_t>(i)].algo));
  return algorithms;
}

bool MatrixLibrary::check(const Plan& plan, const LibraryAlgorithm& algorithm) const {
  const cublasLtMatmulAlgo_t asked = to_library(algorithm);
  cublasLtMatmulHeuristicResult_t result{};
  return functions_->check(static_cast<cublasLtHandle_t>(handle_), plan.desc, plan.a, plan.b, plan.c, plan.c, &asked,
                           &result) == CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= workspace_.bytes();
}

void MatrixLibrary::settle(Plan& plan, const Product& product, const LibraryAlgorithm* wanted) {
  if (plan.settled && (wanted != nullptr ? plan.wanted == *wanted : !plan.wanted)) return;
  plan.wanted.reset();
  if (wanted != nullptr) plan.wanted = *wanted;
  if (wanted != nullptr && check(plan, *wanted)) {
    plan.algorithm = to_library(*wanted);
  } else {
    const std::vector<LibraryAlgorithm> first = ask(plan, 1);
    if (first.empty())
      throw Failure(QUIRE_FAILED, "cuBLASLt: no algorithm for a product of " + std::to_string(product.rows) + " rows");
    plan.algorithm = to_library(first[0]);
  }
  plan.settled = true;
}

std::vector<LibraryAlgorithm> MatrixLibrary::candidates(const Product& product, uint32_t most) {
  const Plan& plan = plan_for(product);
  std::vector<LibraryAlgorithm> found = ask(plan, most);
  for (const double factor : {2.0, 0.5, 4.0, 0.25, 8.0, 0.125}) {
    Product neighbour = product;
    neighbour.rows = static_cast<uint32_t>(product.rows * factor);
    if (neighbour.rows == 0) continue;
    for (const LibraryAlgorithm& algorithm : ask(*describe(neighbour), most))
      if (found.size() < most && std::find(found.begin(), found.end(), algorithm) == found.end() &&
          check(plan, algorithm))
        found.push_back(algorithm);
  }
  return found;
}

bool MatrixLibrary::accepts(const Product& product, const LibraryAlgorithm& algorithm) {
  return check(plan_for(product), algorithm);
}

void MatrixLibrary::multiply(cudaStream_t stream, const Product& product, const void* in, const void* weight, void* out,
                             const LibraryAlgorithm* wanted) {
  assert(available());
  Plan& plan = plan_for(product);
  settle(plan, product, wanted);
  const float one = 1, zero = 0;
  check_library(functions_->matmul(static_cast<cublasLtHandle_t>(handle_), plan.desc, &one, weight, plan.a, in, plan.b,
                                   &zero, out, plan.c, out, plan.c, &plan.algorithm, workspace_.data(),
                                   workspace_.bytes(), stream),
                "a product");
}

} // namespace quire::cuda
