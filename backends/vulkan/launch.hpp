// What compiling makes of a program: dispatches with their parameters, constants and grids, ready to be recorded.
//
// Threads: plain data, confined to the instance's thread.
#pragma once

#include "op_params.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace quire::vulkan {

// What a step amounts to, as far as grids go.
struct StepSizes {
  uint32_t counts[3] = {}; // by count_*: T, S, R
  uint32_t entries = 0;    // of the block tables
  uint32_t items[max_groups] = {};
  uint32_t tile_items[max_groups] = {};
  uint32_t combines[max_groups] = {};
};

// Workgroups along one dimension.
struct GridSide {
  enum class Kind : uint8_t { fixed, count, derive, items, tile_items, combines };
  Kind kind = Kind::fixed;
  uint32_t which = 0; // count_*, or a KV group
  uint32_t value = 1; // fixed: how many; count, derive: divisor ...
  uint32_t times = 1; // count: ... and factor

  uint32_t groups(const StepSizes& sizes) const;
  auto operator<=>(const GridSide&) const = default;
};
struct Grid {
  GridSide x, y;
  auto operator<=>(const Grid&) const = default;
};

// A stretch of memory that a dispatch reads or writes, for placing barriers.
struct Access {
  address begin = 0;
  address end = 0;
  bool write = false;
};

// Only recorded where the step has such items.
enum class Needs : uint8_t { nothing, items, tile_items, combines };

struct Dispatch {
  std::string shader;
  uint32_t workgroup = 0;          // invocations
  std::vector<uint32_t> constants; // from 2 on
  Grid grid;
  std::vector<std::byte> parameters;
  std::vector<Access> accesses;
  Needs needs = Needs::nothing;
  std::vector<uint32_t> ops; // of the program that it carries out; empty for what is done besides
  // Columns of activations a workgroup: set when recorded, by the number of rows. -1: the dispatch has none.
  int32_t columns_constant = -1; // index in constants
  uint32_t columns_count = 0;    // count_*
  bool gated = false;            // a linear with glu
  int32_t texels = -1;           // reads through the texel views of this buffer of weights; -1: by addresses

  template <class Params> void set_parameters(const Params& params) {
    static_assert(std::is_trivially_copyable_v<Params>);
    parameters.resize(sizeof params);
    std::memcpy(parameters.data(), &params, sizeof params);
  }
  template <class Tail> void append_parameters(const std::vector<Tail>& tail) {
    static_assert(std::is_trivially_copyable_v<Tail>);
    const std::size_t at = parameters.size();
    parameters.resize(at + tail.size() * sizeof(Tail));
    if (!tail.empty()) std::memcpy(parameters.data() + at, tail.data(), tail.size() * sizeof(Tail));
  }
};

} // namespace quire::vulkan
