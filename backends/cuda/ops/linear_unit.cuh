// A operands of a warp in either kind of layout, with the B fragments that match their order of columns.
#pragma once

#include "linear.cuh"

#include <type_traits>

namespace quire::cuda {

// fp16 rows: what a lane holds of a tile and 64 columns.
struct PlainUnit {
  static constexpr uint32_t kColumns = 64, kBlocks = 2;
  uint4 v[2][2]; // [half][32 columns]: columns 8t to 8t + 7 of each 32

  __device__ __forceinline__ void load(const Weight& w, uint32_t tile, uint32_t unit, uint32_t lane) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const uint32_t row = tile * 16 + 8 * h + lane / 4, col = unit * 64 + 32 * c + 8 * (lane % 4);
        v[h][c] = row < w.rows && col < w.cols
                      ? load_stream(reinterpret_cast<const __half*>(w.data) + size_t{row} * w.stride + col)
                      : make_uint4(0, 0, 0, 0);
      }
  }
  __device__ __forceinline__ void fragments(int block, uint32_t (&a)[2][4]) const {
    const uint4 top = v[0][block], bottom = v[1][block];
    a[0][0] = top.x, a[0][1] = bottom.x, a[0][2] = top.y, a[0][3] = bottom.y;
    a[1][0] = top.z, a[1][1] = bottom.z, a[1][2] = top.w, a[1][3] = bottom.w;
  }
  // B fragments of 32 columns from `col` of one row of activations.
  static __device__ __forceinline__ void activations(const __half* row, bool valid, uint32_t col, uint32_t cols,
                                                     uint32_t t, uint32_t (&b)[2][2]) {
    const uint32_t at = col + 8 * t;
    const uint4 x = valid && at < cols ? *reinterpret_cast<const uint4*>(row + at) : make_uint4(0, 0, 0, 0);
    b[0][0] = x.x, b[0][1] = x.y, b[1][0] = x.z, b[1][1] = x.w;
  }
};

template <uint32_t kFormat> struct BlockUnit : Unit<kFormat> {
  static constexpr uint32_t kColumns = 128, kBlocks = 4;
  static __device__ __forceinline__ void activations(const __half* row, bool valid, uint32_t col, uint32_t cols,
                                                     uint32_t t, uint32_t (&b)[2][2]) {
    valid = valid && col < cols;
#pragma unroll
    for (int step = 0; step < 2; ++step)
#pragma unroll
      for (int high = 0; high < 2; ++high)
        b[step][high] = valid ? *reinterpret_cast<const uint32_t*>(row + col + 16 * step + 8 * high + 2 * t) : 0;
  }
};

template <uint32_t kFormat> using UnitOf = std::conditional_t<kFormat == QUIRE_F16, PlainUnit, BlockUnit<kFormat>>;

} // namespace quire::cuda
