// Blocks → float32. Each product and sum is rounded by itself (the build forbids contraction to fused
// multiply-add, and AVX2 is asked for without FMA), so results are those of the layout's definition to the bit.
#include "weights/blocks.hpp"
#include "weights/formats.hpp"

#include <cassert>
#include <cstring>

namespace quire {
namespace {

using namespace blocks;

#define QUIRE_INLINE static inline __attribute__((always_inline))

// One block [32 or 256] each; y may not alias the block.
struct UnpackQ4_0 {
  using Block = Q4_0;
  static constexpr uint64_t elements = 32;
  QUIRE_INLINE void block(const Block& b, float* __restrict y) {
    const float d = b.d.get();
    for (int i = 0; i < 16; ++i) y[i] = d * static_cast<float>((b.qs[i] & 15) - 8);
    for (int i = 0; i < 16; ++i) y[16 + i] = d * static_cast<float>((b.qs[i] >> 4) - 8);
  }
};

struct UnpackQ4_1 {
  using Block = Q4_1;
  static constexpr uint64_t elements = 32;
  QUIRE_INLINE void block(const Block& b, float* __restrict y) {
    const float d = b.d.get(), m = b.m.get();
    for (int i = 0; i < 16; ++i) y[i] = d * static_cast<float>(b.qs[i] & 15) + m;
    for (int i = 0; i < 16; ++i) y[16 + i] = d * static_cast<float>(b.qs[i] >> 4) + m;
  }
};

struct UnpackQ5_0 {
  using Block = Q5_0;
  static constexpr uint64_t elements = 32;
  QUIRE_INLINE void block(const Block& b, float* __restrict y) {
    const float d = b.d.get();
    uint32_t high;
    std::memcpy(&high, b.qh, 4);
    for (uint32_t i = 0; i < 16; ++i) {
      const uint32_t q = (b.qs[i] & 15u) | (((high >> i) & 1u) << 4);
      y[i] = d * static_cast<float>(static_cast<int32_t>(q) - 16);
    }
    for (uint32_t i = 0; i < 16; ++i) {
      const uint32_t q = (b.qs[i] >> 4) | (((high >> (16 + i)) & 1u) << 4);
      y[16 + i] = d * static_cast<float>(static_cast<int32_t>(q) - 16);
    }
  }
};

struct UnpackQ5_1 {
  using Block = Q5_1;
  static constexpr uint64_t elements = 32;
  QUIRE_INLINE void block(const Block& b, float* __restrict y) {
    const float d = b.d.get(), m = b.m.get();
    uint32_t high;
    std::memcpy(&high, b.qh, 4);
    for (uint32_t i = 0; i < 16; ++i) {
      const uint32_t q = (b.qs[i] & 15u) | (((high >> i) & 1u) << 4);
      y[i] = d * static_cast<float>(static_cast<int32_t>(q)) + m;
    }
    for (uint32_t i = 0; i < 16; ++i) {
      const uint32_t q = (b.qs[i] >> 4) | (((high >> (16 + i)) & 1u) << 4);
      y[16 + i] = d * static_cast<float>(static_cast<int32_t>(q)) + m;
    }
  }
};

struct UnpackQ8_0 {
  using Block = Q8_0;
  static constexpr uint64_t elements = 32;
  QUIRE_INLINE void block(const Block& b, float* __restrict y) {
    const float d = b.d.get();
    for (int i = 0; i < 32; ++i) y[i] = d * static_cast<float>(b.qs[i]);
  }
};

struct UnpackQ2_K {
  using Block = Q2_K;
  static constexpr uint64_t elements = 256;
  QUIRE_INLINE void block(const Block& b, float* __restrict y) {
    const float d = b.d.get(), dmin = b.dmin.get();
#pragma GCC unroll 16
    for (int s = 0; s < 16; ++s) { // scale s: elements 16 s to 16 s + 15
      const float scale = d * static_cast<float>(b.scales[s] & 15);
      const float min = dmin * static_cast<float>(b.scales[s] >> 4);
      const uint8_t* q = b.qs + s / 8 * 32 + s % 2 * 16;
      const int shift = s / 2 % 4 * 2;
      for (int i = 0; i < 16; ++i) y[16 * s + i] = scale * static_cast<float>((q[i] >> shift) & 3) - min;
    }
  }
};

struct UnpackQ3_K {
  using Block = Q3_K;
  static constexpr uint64_t elements = 256;
  QUIRE_INLINE void block(const Block& b, float* __restrict y) {
    const float d = b.d.get();
    uint8_t scales[16];
    unpack_q3_scales(b.scales, scales);
#pragma GCC unroll 16
    for (int s = 0; s < 16; ++s) {
      const float scale = d * static_cast<float>(scales[s] - 32);
      const uint8_t* q = b.qs + s / 8 * 32 + s % 2 * 16;
      const uint8_t* high = b.hmask + s % 2 * 16;
      const int shift = s / 2 % 4 * 2;
      const int bit = s / 2;
      for (int i = 0; i < 16; ++i)
        y[16 * s + i] = scale * static_cast<float>(((q[i] >> shift) & 3) + ((high[i] >> bit) & 1) * 4 - 4);
    }
  }
};

struct UnpackQ4_K {
  using Block = Q4_K;
  static constexpr uint64_t elements = 256;
  QUIRE_INLINE void block(const Block& b, float* __restrict y) {
    const float d = b.d.get(), dmin = b.dmin.get();
    uint8_t scales[8], mins[8];
    unpack_scales(b.scales, scales, mins);
    for (int j = 0; j < 4; ++j) {
      const uint8_t* q = b.qs + 32 * j;
      const float scale_low = d * static_cast<float>(scales[2 * j]), min_low = dmin * static_cast<float>(mins[2 * j]);
      const float scale_high = d * static_cast<float>(scales[2 * j + 1]);
      const float min_high = dmin * static_cast<float>(mins[2 * j + 1]);
      for (int i = 0; i < 32; ++i) y[64 * j + i] = scale_low * static_cast<float>(q[i] & 15) - min_low;
      for (int i = 0; i < 32; ++i) y[64 * j + 32 + i] = scale_high * static_cast<float>(q[i] >> 4) - min_high;
    }
  }
};

struct UnpackQ5_K {
  using Block = Q5_K;
  static constexpr uint64_t elements = 256;
  QUIRE_INLINE void block(const Block& b, float* __restrict y) {
    const float d = b.d.get(), dmin = b.dmin.get();
    uint8_t scales[8], mins[8];
    unpack_scales(b.scales, scales, mins);
#pragma GCC unroll 8
    for (int s = 0; s < 8; ++s) {
      const uint8_t* q = b.qs + s / 2 * 32;
      const int shift = s % 2 * 4;
      const float scale = d * static_cast<float>(scales[s]), min = dmin * static_cast<float>(mins[s]);
      for (int i = 0; i < 32; ++i)
        y[32 * s + i] = scale * static_cast<float>(((q[i] >> shift) & 15) | (((b.qh[i] >> s) & 1) << 4)) - min;
    }
  }
};

struct UnpackQ6_K {
  using Block = Q6_K;
  static constexpr uint64_t elements = 256;
  QUIRE_INLINE void block(const Block& b, float* __restrict y) {
    const float d = b.d.get();
    for (int h = 0; h < 2; ++h)
      for (int k = 0; k < 2; ++k) { // elements 128 h + 32 j + 16 k to + 15, j = 0 to 3
        const uint8_t* low = b.ql + 64 * h + 16 * k;
        const uint8_t* high = b.qh + 32 * h + 16 * k;
        const int8_t* scales = b.scales + 8 * h + k;
        const float s0 = d * static_cast<float>(scales[0]), s1 = d * static_cast<float>(scales[2]);
        const float s2 = d * static_cast<float>(scales[4]), s3 = d * static_cast<float>(scales[6]);
        float* out = y + 128 * h + 16 * k;
        for (int i = 0; i < 16; ++i) {
          out[i] = s0 * static_cast<float>(((low[i] & 15) | ((high[i] & 3) << 4)) - 32);
          out[32 + i] = s1 * static_cast<float>(((low[32 + i] & 15) | (((high[i] >> 2) & 3) << 4)) - 32);
          out[64 + i] = s2 * static_cast<float>(((low[i] >> 4) | (((high[i] >> 4) & 3) << 4)) - 32);
          out[96 + i] = s3 * static_cast<float>(((low[32 + i] >> 4) | ((high[i] >> 6) << 4)) - 32);
        }
      }
  }
};

struct UnpackF16 {
  using Block = uint16_t;
  static constexpr uint64_t elements = 1;
  QUIRE_INLINE void block(Block bits, float* __restrict y) { *y = half::from_half(bits); }
};

struct UnpackBF16 {
  using Block = uint16_t;
  static constexpr uint64_t elements = 1;
  QUIRE_INLINE void block(Block bits, float* __restrict y) { *y = half::from_bfloat16(bits); }
};

template <class Unpack>
QUIRE_INLINE void unpack_all(const uint8_t* __restrict blocks, uint64_t count, float* __restrict out) {
  const uint64_t num_blocks = count / Unpack::elements;
  for (uint64_t i = 0; i < num_blocks; ++i) {
    if constexpr (Unpack::elements == 1) {
      typename Unpack::Block block;
      std::memcpy(&block, blocks + i * sizeof block, sizeof block);
      Unpack::block(block, out + i);
    } else { // structs of bytes: any address will do
      Unpack::block(reinterpret_cast<const typename Unpack::Block*>(blocks)[i], out + i * Unpack::elements);
    }
  }
}

template <class Unpack> void unpack_portable(const uint8_t* blocks, uint64_t count, float* out) {
  unpack_all<Unpack>(blocks, count, out);
}

#if defined(__x86_64__)
template <class Unpack>
__attribute__((target("avx2"))) void unpack_avx2(const uint8_t* blocks, uint64_t count, float* out) {
  unpack_all<Unpack>(blocks, count, out);
}
#endif

template <class Unpack> void unpack(const void* blocks, uint64_t count, float* out) {
  assert(count % Unpack::elements == 0);
  const auto* bytes = static_cast<const uint8_t*>(blocks);
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return unpack_avx2<Unpack>(bytes, count, out);
#endif
  unpack_portable<Unpack>(bytes, count, out);
}

} // namespace

void dequantize(uint32_t format, const void* blocks, uint64_t count, float* out) {
  switch (format) {
  case QUIRE_F32:
    std::memcpy(out, blocks, count * sizeof(float));
    return;
  case QUIRE_F16:
    return unpack<UnpackF16>(blocks, count, out);
  case QUIRE_BF16:
    return unpack<UnpackBF16>(blocks, count, out);
  case QUIRE_Q4_0:
    return unpack<UnpackQ4_0>(blocks, count, out);
  case QUIRE_Q4_1:
    return unpack<UnpackQ4_1>(blocks, count, out);
  case QUIRE_Q5_0:
    return unpack<UnpackQ5_0>(blocks, count, out);
  case QUIRE_Q5_1:
    return unpack<UnpackQ5_1>(blocks, count, out);
  case QUIRE_Q8_0:
    return unpack<UnpackQ8_0>(blocks, count, out);
  case QUIRE_Q2_K:
    return unpack<UnpackQ2_K>(blocks, count, out);
  case QUIRE_Q3_K:
    return unpack<UnpackQ3_K>(blocks, count, out);
  case QUIRE_Q4_K:
    return unpack<UnpackQ4_K>(blocks, count, out);
  case QUIRE_Q5_K:
    return unpack<UnpackQ5_K>(blocks, count, out);
  case QUIRE_Q6_K:
    return unpack<UnpackQ6_K>(blocks, count, out);
  default:
    assert(!"a quire_format");
  }
}

} // namespace quire
