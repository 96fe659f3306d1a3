// Explicit vector lanes: how the hot loops vectorise while every sum keeps one fixed order.
//
// A sum over k of a row is kept in 16 lane sums: lane j adds the elements j, j + 16, j + 32, ... in rising order, and
// the lanes are added as a fixed tree. The order depends on the length alone, so a result is the same bit for bit
// whatever tile or instruction set computes it. That also needs the build's -ffp-contract=off: a multiply and an add
// are two roundings on every machine. Threads: pure functions.
#pragma once

#include <cstddef>

namespace quire::reference {

inline constexpr size_t kLanes = 16;

// GCC and Clang lower these to whatever the target has: one AVX-512 register, two of AVX, four of SSE or NEON.
using Lanes = float __attribute__((vector_size(64)));
using UnalignedLanes = float __attribute__((vector_size(64), aligned(4), may_alias));

// A function compiled for several x86-64 levels, chosen once at load. Not under sanitizers, whose run time starts after
// the choice is made; nor with Clang, whose older versions lack it.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&               \
    !defined(__SANITIZE_THREAD__)
#define QUIRE_LEVELS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define QUIRE_LEVELS
#endif

} // namespace quire::reference
