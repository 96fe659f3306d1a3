// attend_decode and attend_clusters with fresh tokens against rope_store and the same behind each other: the same bits
// in out and in the cache. And one against the other, which add up in other orders.
#include "attend_plan.hpp"
#include "ops/attend.hpp"

#include <gtest/gtest.h>

#include <cuda_fp16.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>

namespace quire::cuda {
namespace {

constexpr uint32_t kKvHeads = 2, kBlocks = 8; // of the grid

struct Case {
  uint32_t head_dim, block_size, format, rotary_dim, window;
  bool interleaved;
  uint32_t group = 3;
  bool sinks = false;
  float softcap = 0;
};

// A step of one token a sequence in memory of the host, which the emulated device shares.
class Step {
 public:
  Step(const Case& c, const std::vector<uint32_t>& lengths) : case_(c) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const auto tokens = static_cast<uint32_t>(lengths.size());
    std::vector<AttendSequence> sequences;
    for (uint32_t t = 0; t < tokens; ++t) {
      sequences.push_back({t, 1, lengths[t], static_cast<uint32_t>(table_.size())});
      for (uint32_t at = 0; at < lengths[t]; at += c.block_size) table_.push_back(static_cast<uint32_t>(table_.size()));
      positions_.push_back(lengths[t] - 1);
      slots_.push_back(table_.back() * c.block_size + positions_[t] % c.block_size);
    }
    AttendShape shape;
    shape.group = c.group, shape.kv_heads = kKvHeads, shape.window = c.window, shape.blocks = kBlocks;
    plan_attend(sequences, shape, plan_);
    num_items_ = static_cast<uint32_t>(plan_.decode.size());
    for (const uint32_t cluster : {8u, 16u}) {
      AttendPlan plan;
      shape.cluster = cluster, shape.padded_sequences = tokens + 1;
      plan_attend(sequences, shape, plan);
      std::vector<ClusterItem>& items = clustered_[cluster / 16];
      for (const DecodeItem& item : plan.clustered) {
        items.push_back({item, {}});
        for (uint32_t i = item.begin / c.block_size, n = 0; i * c.block_size < item.end && n < kClusterBlocks; ++i)
          items.back().blocks[n++] = table_[item.table + i];
      }
    }
    plan_.decode.resize(num_items_ + kBlocks); // the kernel reads behind the list

    const uint32_t heads = kKvHeads * c.group, width = (heads + 2 * kKvHeads) * c.head_dim;
    for (uint32_t i = 0; c.sinks && i < heads; ++i) sinks_.push_back(normal(random));
    for (uint32_t i = 0; i < tokens * width; ++i) qkv_.push_back(__float2half(normal(random)));
    for (uint32_t i = 0; i < c.rotary_dim / 2; ++i)
      frequencies_.push_back(static_cast<float>(std::pow(1e4, -2.0 * i / c.rotary_dim)));
    q_.resize(tokens * heads * c.head_dim), out_.resize(q_.size());
    const size_t plane = size_t{kKvHeads} * c.block_size * c.head_dim;
    for (size_t i = 0; i < 2 * plane * table_.size(); ++i)
      cache_.push_back(static_cast<uint16_t>(random() & (c.format == QUIRE_KV_E4M3 ? 0x3b3b : 0x3bff)));
    kv_ = {nullptr, 4 * plane, 0, 2 * plane, kKvHeads, c.head_dim, c.head_dim, c.block_size, c.format, c.window};
    partials_.resize(size_t{num_items_} * heads * (c.head_dim + 2));
    counters_.resize(size_t{num_items_} * kKvHeads);
  }

  uint32_t most_parts() const {
    uint32_t most = 0;
    for (const DecodeItem& item : plan_.decode) most = std::max(most, item.parts);
    return most;
  }

  // out, then the cache. cluster: blocks of one of attend_clusters; 0: attend_decode runs.
  std::vector<uint16_t> run(bool at_once, uint32_t cluster) {
    const uint32_t heads = kKvHeads * case_.group, dim = case_.head_dim, width = (heads + 2 * kKvHeads) * dim;
    std::vector<uint16_t> cache = cache_;
    kv_.base = reinterpret_cast<std::byte*>(cache.data());
    std::fill(out_.begin(), out_.end(), __float2half(NAN));
    RopeArgs rotation;
    rotation.q_in = {qkv_.data(), width, heads, dim, Type::f16};
    rotation.q_out = {q_.data(), heads * dim, heads, dim, Type::f16};
    rotation.k_in = {qkv_.data() + heads * dim, width, kKvHeads, dim, Type::f16};
    rotation.v_in = {qkv_.data() + (heads + kKvHeads) * dim, width, kKvHeads, dim, Type::f16};
    rotation.frequencies = frequencies_.data(), rotation.rotary_dim = case_.rotary_dim;
    rotation.interleaved = case_.interleaved, rotation.magnitude = 1.1f;
    rotation.kv = &kv_, rotation.slots = slots_.data();
    StepArrays arrays;
    arrays.positions = positions_.data();
    AttendArgs args;
    args.q = rotation.q_out;
    args.out = {out_.data(), heads * dim, heads, dim, Type::f16};
    args.kv = kv_, args.scale = 0.1f, args.table = table_.data();
    args.partials = partials_.data(), args.partial_sums = args.partials + size_t{num_items_} * heads * dim;
    args.counters = counters_.data();
    args.softcap = case_.softcap, args.sinks = case_.sinks ? sinks_.data() : nullptr;
    if (at_once) {
      args.q = rotation.q_in;
      args.fresh = {rotation.k_in,       rotation.v_in,        rotation.frequencies,
                    rotation.rotary_dim, rotation.interleaved, rotation.magnitude};
    } else {
      rope({}, arrays, static_cast<uint32_t>(positions_.size()), rotation);
    }
    if (cluster == 0)
      attend_decode({}, kBlocks, &num_items_, plan_.decode.data(), args);
    else
      attend_clusters({}, cluster, cluster == 16, cluster == 8, static_cast<uint32_t>(positions_.size() + 1),
                      clustered_[cluster / 16].data(), args);
    std::vector<uint16_t> bits(out_.size());
    std::memcpy(bits.data(), out_.data(), out_.size() * 2);
    bits.insert(bits.end(), cache.begin(), cache.end());
    return bits;
  }
  size_t out_size() const { return out_.size(); }
  // Whether the step wrote its keys and values: the cache is not as it was.
  bool has_stored(const std::vector<uint16_t>& bits) const {
    return !std::equal(cache_.begin(), cache_.end(), bits.begin() + static_cast<std::ptrdiff_t>(out_.size()));
  }

 private:
  Case case_;
  AttendPlan plan_;
  uint32_t num_items_ = 0;
  std::vector<uint32_t> table_, positions_, slots_, counters_;
  std::vector<__half> qkv_, q_, out_;
  std::vector<uint16_t> cache_; // blocks of K and V of all heads
  std::vector<float> frequencies_, partials_, sinks_;
  std::vector<ClusterItem> clustered_[2]; // in clusters of 8, of 16
  KvLayer kv_;
};

std::vector<Case> cases() {
  return {{128, 16, QUIRE_BF16, 128, 0, false},
          {128, 16, QUIRE_F16, 128, 0, true, 8, true},
          {64, 8, QUIRE_F16, 64, 0, false, 16},
          {80, 32, QUIRE_BF16, 34, 0, false, 1},
          {96, 16, QUIRE_F16, 96, 20, true},
          {256, 16, QUIRE_BF16, 64, 100, true},
          {128, 16, QUIRE_F16, 0, 0, false, 16, true, 20.f},
          {128, 16, QUIRE_KV_E4M3, 128, 0, false},
          {64, 8, QUIRE_KV_E4M3, 64, 0, true, 1, true},
          {80, 32, QUIRE_KV_E4M3, 34, 20, false, 12},
          {256, 16, QUIRE_KV_E4M3, 256, 0, false, 16}};
}
const std::vector<uint32_t> kLengths{1, 700, 16, 17, 33, 128, 257};

std::string words(const Case& c) {
  return "heads of " + std::to_string(c.head_dim) + ", " + std::to_string(c.group) + " a group, " +
         std::to_string(c.rotary_dim) + " rotary: ";
}

TEST(CudaRotatedAttend, DoesWhatRopeStoreAndAttendDo) {
  uint32_t most_parts = 0;
  for (const Case& c : cases()) {
    Step step(c, kLengths);
    most_parts = std::max(most_parts, step.most_parts());
    for (const uint32_t cluster : {0u, 8u, 16u}) {
      const std::vector<uint16_t> behind = step.run(false, cluster), at_once = step.run(true, cluster);
      EXPECT_TRUE(step.has_stored(at_once));
      for (size_t i = 0; i < behind.size(); ++i)
        if (behind[i] != at_once[i]) {
          ADD_FAILURE() << words(c) << (i < step.out_size() ? "output " : "cache element ")
                        << (i < step.out_size() ? i : i - step.out_size()) << " is " << at_once[i] << ", not "
                        << behind[i] << ", in clusters of " << cluster;
          break;
        }
    }
  }
  EXPECT_GT(most_parts, 1u) << "some sequence should be cut";
}

// The two differ by the rounding of sums of floats, and of what they are rounded to: half a unit of fp16 each.
TEST(CudaClusteredAttend, AttendsAsTheGridDoes) {
  for (Case c : cases()) {
    // A part of more blocks of the cache than its item names, and of more tiles than a warp's lanes hold blocks of.
    const bool is_long = c.head_dim == 64;
    Step step(c, is_long ? std::vector<uint32_t>{9000, 3} : kLengths);
    const std::vector<uint16_t> grid = step.run(true, 0);
    for (const uint32_t cluster : {8u, 16u}) {
      const std::vector<uint16_t> clustered = step.run(true, cluster);
      float largest = 0, most = 0;
      for (size_t i = 0; i < step.out_size(); ++i) {
        const auto value = [&](const std::vector<uint16_t>& of) {
          return static_cast<float>(std::bit_cast<__half>(of[i]));
        };
        ASSERT_FALSE(std::isnan(value(clustered))) << words(c) << i;
        largest = std::max(largest, std::abs(value(grid)));
        most = std::max(most, std::abs(value(grid) - value(clustered)));
      }
      EXPECT_GT(largest, 0.f);
      EXPECT_LE(most, largest * 2e-3f) << words(c) << "clusters of " << cluster;
      EXPECT_TRUE(std::equal(grid.begin() + static_cast<std::ptrdiff_t>(step.out_size()), grid.end(),
                             clustered.begin() + static_cast<std::ptrdiff_t>(step.out_size())))
          << words(c) << "the cache";
    }
  }
}

} // namespace
} // namespace quire::cuda
