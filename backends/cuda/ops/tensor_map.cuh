// Tensor maps (TMA's descriptors of a tensor in memory), made by the driver on the host: 64 fp16 or bf16 columns a box
// row, swizzled by 128 bytes as wgmma reads them; what lies outside the tensor arrives as zeros.
//
// Errors: Failure where the driver has no tensor maps or refuses the shape. Threads: any.
#pragma once

#include "../error.hpp"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <string>

namespace quire::cuda {

// dims, box: elements, innermost first; strides: bytes, of every dimension but the first, multiples of 16.
template <uint32_t kRank>
CUtensorMap tensor_map(CUtensorMapDataType type, void* base, const cuuint64_t (&dims)[kRank],
                       const cuuint64_t (&strides)[kRank - 1], const cuuint32_t (&box)[kRank]) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &result),
          "looking for the driver's tensor maps");
    if (result != cudaDriverEntryPointSuccess)
      throw Failure(QUIRE_UNSUPPORTED, "CUDA: the driver has no cuTensorMapEncodeTiled: install a newer one");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  const cuuint32_t steps[5] = {1, 1, 1, 1, 1};
  CUtensorMap map;
  const CUresult result =
      encode(&map, type, kRank, base, dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw Failure(QUIRE_UNSUPPORTED, "CUDA: cuTensorMapEncodeTiled failed with " + std::to_string(result));
  return map;
}

} // namespace quire::cuda
