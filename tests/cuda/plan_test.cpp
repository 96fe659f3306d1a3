// Buckets, work lists of attention, and what a machine without a driver is told: no GPU is needed.
#include "attend_plan.hpp"
#include "buckets.hpp"
#include "device.hpp"
#include "emulator/control.hpp"
#include "ops/linear_chain.hpp"

#include <cuda_fp16.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <tuple>

namespace quire::cuda {
namespace {

TEST(CudaBuckets, HoldEveryCountAndRise) {
  const std::vector<uint32_t> buckets = buckets_up_to(300);
  EXPECT_EQ(buckets[0], 1u);
  EXPECT_EQ(buckets[1], 2u);
  EXPECT_EQ(buckets[2], 4u);
  EXPECT_EQ(buckets[3], 8u);
  EXPECT_EQ(buckets.back(), 300u);
  for (size_t i = 1; i < buckets.size(); ++i) EXPECT_LT(buckets[i - 1], buckets[i]);
  for (uint32_t n = 1; n <= 300; ++n) EXPECT_GE(bucket_for(n, 300), n);
}

TEST(CudaChain, HoldsOneFormatOrAPairThatAKernelHas) {
  uint32_t first = 0, second = 0;
  EXPECT_TRUE(chain_holds(QUIRE_Q4_K, first, second));
  EXPECT_TRUE(chain_holds(QUIRE_Q4_K, first, second));
  EXPECT_EQ(second, 0u);
  EXPECT_TRUE(chain_holds(QUIRE_Q6_K, first, second));
  EXPECT_FALSE(chain_holds(QUIRE_Q8_0, first, second)) << "a third format";
  EXPECT_EQ(first, uint32_t{QUIRE_Q4_K});
  EXPECT_EQ(second, uint32_t{QUIRE_Q6_K});
  first = second = 0;
  EXPECT_TRUE(chain_holds(QUIRE_F16, first, second));
  EXPECT_FALSE(chain_holds(QUIRE_Q4_K, first, second)) << "fp16 and blocks are read by different kernels";
  EXPECT_EQ(second, 0u);
}

TEST(CudaChain, TakesAsManyRowsAsSharedMemoryHolds) {
  std::vector<ChainPhase> phases(1);
  LinearArgs& linear = phases[0].linear;
  linear.num_parts = 1;
  linear.parts[0].weight.rows = 4096, linear.parts[0].weight.cols = 1024;
  EXPECT_EQ(chain_rows(chain_shape(phases), 227 << 10), kChainRows);
  linear.parts[0].weight.cols = 14336;
  const uint32_t rows = chain_rows(chain_shape(phases), 227 << 10);
  EXPECT_GE(rows, 1u);
  EXPECT_LT(rows, kChainRows);
  EXPECT_EQ(chain_rows(chain_shape(phases), 64 << 10), 0u);
  linear.parts[0].weight.format = QUIRE_Q4_K;
  EXPECT_EQ(chain_rows(chain_shape(phases), 227 << 10), 1u);
  EXPECT_EQ(chain_items(linear), 256u);
}

// Blocks that begin late have less of a phase, and nothing where the others' rings hold it.
TEST(CudaChain, BlocksThatBeginLateHaveLess) {
  const auto split = [](uint32_t format, uint32_t rows, uint32_t cols, uint32_t late, bool keeps_sum = false) {
    std::vector<ChainPhase> phases(1);
    ChainPhase& phase = phases[0];
    phase.linear.num_parts = 1;
    phase.keeps_sum = keeps_sum;
    Weight& weight = phase.linear.parts[0].weight;
    weight.format = format, weight.rows = rows, weight.cols = weight.stride = cols;
    if (format != QUIRE_F16) weight.tiles = rows / 16, weight.units = cols / 128;
    split_phase(phase, chain_shape(phases), 132, late);
    const uint32_t in_time = phase.late_from * phase.items_each + phase.items_more;
    EXPECT_EQ(in_time + (132 - phase.late_from) * phase.items_late, chain_items(phase.linear));
    return std::tuple(phase.late_from, phase.items_each, phase.items_late);
  };
  using Split =
      std::tuple<uint32_t, uint32_t, uint32_t>; // from which block on; items of the others, at least; of these
  EXPECT_EQ(split(QUIRE_Q4_K, 4096, 4096, 64), Split(68, 3, 0)) << "four stages of a tile each";
  EXPECT_EQ(split(QUIRE_Q4_K, 4096, 4096, 64, true), Split(68, 2, 1)) << "every block keeps the sum";
  EXPECT_EQ(split(QUIRE_Q8_0, 4096, 4096, 64), Split(68, 2, 1)) << "two stages";
  EXPECT_EQ(split(QUIRE_F16, 2048, 2048, 64), Split(68, 3, 0)) << "two stages of two items each";
  EXPECT_EQ(split(QUIRE_F16, 4096, 4096, 64), Split(68, 4, 3));
  EXPECT_EQ(split(QUIRE_Q4_K, 4096, 4096, 0), Split(132, 1, 0)) << "none is late";
  EXPECT_EQ(split(QUIRE_Q4_K, 4096, 4096, 132), Split(132, 1, 0)) << "all are";
  EXPECT_EQ(split(QUIRE_Q4_K, 4096, 4096, 112), Split(132, 1, 1)) << "nearly all are: it would be seven items, and one";
  EXPECT_EQ(split(QUIRE_Q4_K, 1024, 4096, 64), Split(132, 0, 0)) << "too few to share out";
}

// Where x becomes integers its group is what must say so.
TEST(CudaChain, ANaNInTheInputShowsInEveryOutput) {
  constexpr uint32_t kCols = 512, kRows = 32, kTiles = kRows / 16, kUnits = kCols / 128;
  std::mt19937 random(5);
  for (uint32_t format = QUIRE_Q4_0; format < QUIRE_FORMAT_COUNT; ++format) {
    const BlockFormat planes = block_format(format);
    const auto plane = [&](uint32_t bytes) { // of all tiles and units
      std::vector<unsigned char> v(bytes * kTiles * kUnits);
      for (unsigned char& byte : v) byte = static_cast<unsigned char>(random());
      return v;
    };
    const auto q4 = plane(planes.q4_bytes), q8 = plane(planes.q8_bytes), q2 = plane(planes.q2_bytes),
               q1 = plane(planes.q1_bytes);
    const auto halves = [](uint32_t bytes) { return std::vector<__half>(bytes / sizeof(__half), __float2half(0.5f)); };
    const auto scales = halves(planes.scale_bytes * kTiles * kUnits),
               super = halves(planes.super_bytes * kTiles * kUnits / 2);
    const auto bytes = [](const auto& v) { return reinterpret_cast<const std::byte*>(v.data()); };
    std::vector<ChainPhase> phases(1);
    Weight& weight = phases[0].linear.parts[0].weight;
    weight.format = format, weight.rows = kRows, weight.cols = kCols;
    weight.tiles = kTiles, weight.units = kUnits;
    weight.q4 = bytes(q4), weight.q8 = bytes(q8), weight.q2 = bytes(q2), weight.q1 = bytes(q1);
    weight.scales = bytes(scales), weight.super = bytes(super);
    phases[0].linear.num_parts = 1;
    phases[0].in_width = kCols, phases[0].out_width = kRows;
    std::vector<float> out(kRows);
    phases[0].linear.out = {out.data(), kRows, 1, kRows, Type::f32};
    split_phase(phases[0], chain_shape(phases), 1, 0);
    ChainArgs args;
    std::vector<ChainRecord> records(1);
    args.shape = chain_shape(phases), args.phases = phases.data(), args.records = records.data();
    std::vector<__half> in(kCols);
    phases[0].linear.in = {in.data(), kCols, 1, kCols, Type::f16};
    const auto run = [&] {
      std::fill(out.begin(), out.end(), HUGE_VALF);
      linear_chain({}, 1, 1, args);
    };
    for (__half& h : in) h = __float2half(static_cast<float>(random() % 65) / 64.f - 0.5f);
    run();
    for (const float value : out) EXPECT_TRUE(std::isfinite(value)) << format;
    for (uint32_t col = random() % 8; col < kCols; col += 61) { // places of a group in turn
      const __half kept = in[col];
      in[col] = __float2half(std::nanf(""));
      run();
      for (uint32_t n = 0; n < kRows; ++n) EXPECT_TRUE(std::isnan(out[n])) << format << ", " << col << ", " << n;
      in[col] = kept;
    }
  }
}

// Launched again and again: each launch hands over in a set of its own, and leaves the next one's empty.
TEST(CudaChain, LaunchesTakeTurnsWithTheirSets) {
  constexpr uint32_t kPhases = kMaxPhases, kBlocks = 4, kRows = 3;
  std::mt19937 random(7);
  const auto halves = [&](uint32_t count) {
    std::vector<__half> v(count);
    for (__half& h : v) h = __float2half(static_cast<float>(static_cast<int>(random() % 65) - 32) / 256.f);
    return v;
  };
  uint32_t widths[kPhases + 1]; // what goes into a phase, and what comes out of the last
  for (uint32_t p = 0; p <= kPhases; ++p) widths[p] = 64 + 8 * (random() % 17);
  widths[1] = 64; // little enough that blocks which begin late have nothing of it
  std::vector<std::vector<__half>> weights;
  std::vector<ChainPhase> phases(kPhases);
  std::vector<float> out(kRows * widths[kPhases]);
  std::vector<__half> in;
  uint32_t row_bytes = 0;
  for (uint32_t p = 0; p < kPhases; ++p) {
    const uint32_t cols = widths[p], rows = widths[p + 1];
    weights.push_back(halves(rows * cols));
    phases[p].linear.num_parts = 1;
    Weight& weight = phases[p].linear.parts[0].weight;
    weight.data = reinterpret_cast<const std::byte*>(weights[p].data());
    weight.rows = rows, weight.cols = weight.stride = cols;
    phases[p].arena = weight.data, phases[p].arena_rows = rows;
    phases[p].in_width = cols, phases[p].out_width = rows;
    if (p != 0) phases[p].takes = phases[p - 1].gives;
    if (p + 1 < kPhases) phases[p].gives = row_bytes, row_bytes += 2 * rows;
  }
  phases.back().linear.out = {out.data(), widths[kPhases], 1, widths[kPhases], Type::f32};
  for (ChainPhase& phase : phases) split_phase(phase, chain_shape(phases), kBlocks, &phase == &phases[0] ? 2 : 0);
  EXPECT_EQ(phases[0].late_from, 2u);
  EXPECT_EQ(phases[0].items_late, 0u);
  const uint32_t set_bytes = (kChainRows * row_bytes + 15) / 16 * 16;
  std::vector<std::byte> handed(2 * set_bytes, std::byte{0xff});
  std::vector<ChainRecord> records(kBlocks);
  ChainArgs args;
  args.shape = chain_shape(phases);
  args.phases = phases.data(), args.records = records.data(), args.handed = handed.data();
  args.set_bytes = set_bytes, args.row_bytes = row_bytes;
  std::vector<ChainTimes> times(kTracedLaunches * kBlocks);
  args.times = times.data();
  const uint32_t rows_of_launch[] = {kRows, 1, kRows, 2};
  for (uint32_t launch = 0; launch < 4; ++launch) {
    const uint32_t rows = rows_of_launch[launch];
    in = halves(rows * widths[0]);
    phases[0].linear.in = {in.data(), widths[0], 1, widths[0], Type::f16};
    linear_chain({}, kBlocks, rows, args);
    for (uint32_t row = 0; row < rows; ++row) {
      std::vector<float> x(widths[0]);
      for (uint32_t k = 0; k < widths[0]; ++k) x[k] = __half2float(in[row * widths[0] + k]);
      for (uint32_t p = 0; p < kPhases; ++p) {
        std::vector<float> next(widths[p + 1]);
        for (uint32_t n = 0; n < next.size(); ++n) {
          for (uint32_t k = 0; k < x.size(); ++k) next[n] += __half2float(weights[p][n * x.size() + k]) * x[k];
          if (p + 1 < kPhases) next[n] = __half2float(__float2half(next[n]));
        }
        x = next;
      }
      float largest = 0;
      for (const float value : x) largest = std::max(largest, std::abs(value));
      EXPECT_GT(largest, 0.f);
      for (uint32_t n = 0; n < x.size(); ++n)
        EXPECT_NEAR(out[row * x.size() + n], x[n], largest * 1e-2f) << launch << ", " << row << ", " << n;
    }
    for (const ChainRecord& record : records) {
      EXPECT_EQ(record.launches, launch + 1);
      EXPECT_EQ(record.handed_bytes, rows * row_bytes);
    }
    const auto passed = [](uint32_t from, uint32_t to) { return static_cast<int32_t>(to - from) >= 0; };
    for (uint32_t block = 0; block < kBlocks; ++block) {
      const ChainTimes& at = times[launch * kBlocks + block];
      EXPECT_EQ(at.launch, launch);
      EXPECT_EQ(at.num_phases, kPhases);
      EXPECT_TRUE(passed(at.begun, at.framed) && passed(at.framed, at.asked) && passed(at.asked, at.released));
      for (const auto& warp : at.phases)
        for (uint32_t p = 0; p < kPhases; ++p) {
          EXPECT_EQ(warp[p].input == 0, p == 0 && block >= 2) << "nothing of the phase: " << block << ", " << p;
          if (warp[p].input == 0) continue;
          EXPECT_TRUE(passed(warp[p].input, warp[p].multiplied) && passed(warp[p].multiplied, warp[p].handed));
          EXPECT_TRUE(p == 0 || warp[p - 1].input == 0 || passed(warp[p - 1].handed, warp[p].input)) << p;
        }
    }
    const std::byte* next = handed.data() + (launch + 1) % 2 * set_bytes;
    EXPECT_TRUE(std::all_of(next, next + set_bytes, [](std::byte at) { return at == std::byte{0xff}; })) << launch;
  }
}

TEST(CudaAttendPlan, EveryPositionIsReadOnceAndTheGridIsFilled) {
  std::mt19937 random(1);
  for (int round = 0; round < 300; ++round) {
    std::vector<AttendSequence> sequences(1 + random() % 40);
    for (uint32_t s = 0; s < sequences.size(); ++s)
      sequences[s] = {s, 1, 1 + static_cast<uint32_t>(random() % (round % 3 == 0 ? 60000 : 3000)), 1000 * s};
    AttendShape shape;
    shape.group = 4;
    shape.kv_heads = 1 + static_cast<uint32_t>(random() % 8);
    shape.window = round % 2 == 0 ? 0u : 1 + static_cast<uint32_t>(random() % 900);
    shape.blocks = 1 + static_cast<uint32_t>(random() % 264);
    AttendPlan plan;
    plan_attend(sequences, shape, plan);
    const auto most = max_decode_items(static_cast<uint32_t>(sequences.size()), shape.blocks, shape.kv_heads);
    EXPECT_LE(plan.decode.size(), most);
    EXPECT_LE(plan.decode_partials, most);
    std::vector<std::vector<DecodeItem>> of(sequences.size());
    std::vector<bool> taken(plan.decode_partials);
    for (size_t i = 0; i < plan.decode.size(); ++i) {
      const DecodeItem& item = plan.decode[i];
      if (i > 0) {
        EXPECT_LE(item.end - item.begin, plan.decode[i - 1].end - plan.decode[i - 1].begin);
      }
      EXPECT_LE(item.parts, kMaxDecodeParts);
      EXPECT_EQ(item.table, 1000 * item.token);
      EXPECT_EQ(item.stored, sequences[item.token].length - 1);
      of[item.token].push_back(item);
      if (item.parts > 1) {
        ASSERT_LT(item.partial + item.part, plan.decode_partials);
        EXPECT_FALSE(taken[item.partial + item.part]) << "two parts leave their result in the same place";
        taken[item.partial + item.part] = true;
      }
    }
    for (uint32_t s = 0; s < sequences.size(); ++s) {
      std::sort(of[s].begin(), of[s].end(), [](const auto& a, const auto& b) { return a.part < b.part; });
      uint32_t next = first_seen(sequences[s].length - 1, shape.window);
      for (uint32_t part = 0; part < of[s].size(); ++part) {
        EXPECT_EQ(of[s][part].part, part);
        EXPECT_EQ(of[s][part].parts, of[s].size());
        EXPECT_EQ(of[s][part].begin, next);
        EXPECT_LT(of[s][part].begin, of[s][part].end);
        next = of[s][part].end;
      }
      EXPECT_EQ(next, sequences[s].length);
    }
  }
}

// What plan_attend says of decode sequences, by plain arithmetic: every candidate is tried over all sequences, and the
// items are sorted by a stable sort.
std::vector<DecodeItem> plain_plan(const std::vector<AttendSequence>& sequences, const AttendShape& shape) {
  const auto up = [](uint64_t n, uint32_t to) { return static_cast<uint32_t>((n + to - 1) / to * to); };
  const auto origin = [&](const AttendSequence& s) { return first_seen(s.length - 1, shape.window) / 16 * 16; };
  uint64_t total = 0;
  uint32_t longest = 0;
  for (const AttendSequence& s : sequences) {
    total += s.length - origin(s);
    longest = std::max(longest, s.length - origin(s));
  }
  const uint32_t most = max_decode_items(static_cast<uint32_t>(sequences.size()), shape.blocks, shape.kv_heads);
  const auto cost = [&](uint32_t chunk) -> uint64_t {
    std::vector<uint64_t> lengths; // of items, whole ones and then the rest in 64ths of a chunk
    for (const AttendSequence& s : sequences) {
      const uint32_t n = s.length - origin(s), rest = n % chunk;
      lengths.insert(lengths.end(), n / chunk, chunk);
      if (rest != 0) lengths.push_back(uint64_t{chunk} * ((uint64_t{rest} * 64 + chunk - 1) / chunk) / 64);
    }
    if (lengths.size() > most) return UINT64_MAX;
    std::sort(lengths.rbegin(), lengths.rend());
    std::vector<uint64_t> tasks; // an item a KV head
    for (const uint64_t length : lengths) tasks.insert(tasks.end(), shape.kv_heads, length + 128);
    uint64_t low = 0, high = 0;
    for (size_t at = 0, round = 0; at < tasks.size(); at += shape.blocks, ++round) {
      const uint64_t first = tasks[at], last = at + shape.blocks <= tasks.size() ? tasks[at + shape.blocks - 1] : 0;
      low += round % 2 == 0 ? first : last;
      high += round % 2 == 0 ? last : first;
    }
    return std::max(low, high) + (lengths.size() > sequences.size() ? 64 : 0);
  };
  const uint32_t whole = up(longest, 16), least = std::max(64u, up((longest + 254) / 255, 16));
  std::vector<uint32_t> candidates;
  for (uint32_t chunk = 64; chunk <= 4096; chunk *= 2) candidates.push_back(chunk);
  for (uint32_t rounds = 1; rounds <= 3; ++rounds) {
    const uint64_t tasks = uint64_t{shape.blocks} * rounds;
    for (uint32_t more = 0; more <= 32; more += 16)
      candidates.push_back(up((total * shape.kv_heads + tasks - 1) / tasks, 16) + more);
  }
  uint32_t chunk = std::max(whole, least);
  uint64_t best = cost(chunk);
  for (const uint32_t c : candidates)
    if (c >= least && c < whole)
      if (const uint64_t its = cost(c); its < best) best = its, chunk = c;
  std::vector<DecodeItem> items;
  uint32_t partials = 0;
  for (const AttendSequence& s : sequences) {
    const uint32_t parts = (s.length - origin(s) + chunk - 1) / chunk;
    for (uint32_t part = 0; part < parts; ++part) {
      const uint32_t begin = origin(s) + part * chunk;
      items.push_back({s.token, std::max(begin, first_seen(s.length - 1, shape.window)),
                       std::min(begin + chunk, s.length), s.table, part, parts, partials, s.length - 1});
    }
    if (parts > 1) partials += parts;
  }
  std::stable_sort(items.begin(), items.end(),
                   [](const DecodeItem& a, const DecodeItem& b) { return a.end - a.begin > b.end - b.begin; });
  return items;
}

TEST(CudaAttendPlan, IsThatOfPlainArithmeticOverRandomHistories) {
  std::mt19937 random(2);
  const auto below = [&](uint32_t n) { return static_cast<uint32_t>(random() % n); };
  AttendPlan plan; // keeps its memory through all of them
  for (int history = 0; history < 40; ++history) {
    AttendShape shape;
    shape.kv_heads = 1 + below(8);
    shape.window = history % 3 == 0 ? 1 + below(900) : 0;
    shape.blocks = history % 2 == 0 ? 264 : 1 + below(300);
    const uint32_t longest = history % 4 == 0 ? 100000 : 3000;
    std::vector<uint32_t> lengths(1 + below(300));
    for (uint32_t& length : lengths) length = 1 + below(longest);
    for (int step = 0; step < 12; ++step) {
      for (uint32_t& length : lengths) ++length;
      if (below(3) == 0) lengths[below(static_cast<uint32_t>(lengths.size()))] = 1 + below(longest);
      if (below(3) == 0)
        lengths.insert(lengths.begin() + below(static_cast<uint32_t>(lengths.size())), 1 + below(longest));
      if (lengths.size() > 1 && below(3) == 0)
        lengths.erase(lengths.begin() + below(static_cast<uint32_t>(lengths.size())));
      std::vector<AttendSequence> sequences;
      for (uint32_t s = 0; s < lengths.size(); ++s) sequences.push_back({s, 1, lengths[s], 1000 * s});
      plan_attend(sequences, shape, plan);
      const std::vector<DecodeItem> wanted = plain_plan(sequences, shape);
      ASSERT_EQ(plan.decode.size(), wanted.size());
      for (size_t i = 0; i < wanted.size(); ++i) {
        const DecodeItem &a = plan.decode[i], &b = wanted[i];
        ASSERT_TRUE(a.token == b.token && a.begin == b.begin && a.end == b.end && a.table == b.table &&
                    a.part == b.part && a.parts == b.parts && a.partial == b.partial && a.stored == b.stored)
            << "item " << i << " of history " << history << ", step " << step;
      }
    }
  }
}

TEST(CudaAttendPlan, OneLongSequenceOccupiesTheWholeGrid) {
  AttendShape shape;
  shape.group = 4, shape.kv_heads = 8, shape.blocks = 264;
  AttendPlan plan;
  plan_attend(std::vector<AttendSequence>{{0, 1, 32768, 0}}, shape, plan);
  EXPECT_GE(plan.decode.size() * shape.kv_heads, 256u);
  uint32_t longest = 0;
  for (const DecodeItem& item : plan.decode) longest = std::max(longest, item.end - item.begin);
  EXPECT_LE(longest, 32768 * 8 / 264 + 64);
}

TEST(CudaAttendPlan, ClustersReadEveryPositionOnceInEvenParts) {
  std::mt19937 random(3);
  AttendPlan plan;
  for (int round = 0; round < 300; ++round) {
    AttendShape shape;
    shape.kv_heads = 1 + static_cast<uint32_t>(random() % 8);
    shape.window = round % 2 == 0 ? 0u : 1 + static_cast<uint32_t>(random() % 900);
    shape.cluster = round % 4 < 2 ? 16 : 8;
    std::vector<AttendSequence> sequences(1 + random() % 4);
    for (uint32_t s = 0; s < sequences.size(); ++s)
      sequences[s] = {s, 1, 1 + static_cast<uint32_t>(random() % (round % 3 == 0 ? 60000 : 300)), 1000 * s};
    shape.padded_sequences = static_cast<uint32_t>(sequences.size()) + round % 3;
    plan_attend(sequences, shape, plan);
    EXPECT_TRUE(plan.decode.empty());
    ASSERT_EQ(plan.clustered.size(), shape.padded_sequences * shape.cluster);
    for (uint32_t s = 0; s < shape.padded_sequences; ++s) {
      const DecodeItem* const items = plan.clustered.data() + s * shape.cluster;
      if (s >= sequences.size()) {
        for (uint32_t part = 0; part < shape.cluster; ++part) EXPECT_EQ(items[part].parts, 0u);
        continue;
      }
      const uint32_t seen = first_seen(sequences[s].length - 1, shape.window), n = sequences[s].length - seen;
      uint32_t next = seen;
      for (uint32_t part = 0; part < shape.cluster; ++part) {
        const DecodeItem& item = items[part];
        EXPECT_EQ(item.token, s);
        EXPECT_EQ(item.table, 1000 * s);
        EXPECT_EQ(item.stored, sequences[s].length - 1);
        EXPECT_EQ(item.part, part);
        EXPECT_EQ(item.parts, items[0].parts);
        EXPECT_EQ(item.begin < item.end, part < item.parts);
        if (part >= item.parts) {
          EXPECT_EQ(item.end, 0u) << "else it would seem to have the token's own position";
          continue;
        }
        EXPECT_EQ(item.begin, next);
        EXPECT_LE(item.end - item.begin, n / shape.cluster + 2 * kDecodeTile);
        if (part > 0) {
          EXPECT_EQ(item.begin % kDecodeTile, 0u);
        }
        next = item.end;
      }
      EXPECT_EQ(next, sequences[s].length);
    }
  }
}

TEST(CudaAttendPlan, ClustersAreForTasksThatAllHaveRoom) {
  const ClusterRoom h200{3, 8, 32};
  EXPECT_EQ(cluster_blocks(h200, 2), 0u);
  EXPECT_EQ(cluster_blocks(h200, 8), 16u);
  EXPECT_EQ(cluster_blocks(h200, 9), 8u);
  EXPECT_EQ(cluster_blocks(h200, 32), 8u);
  EXPECT_EQ(cluster_blocks(h200, 33), 0u);
  EXPECT_EQ(cluster_blocks({}, 1), 0u);
}

TEST(CudaAttendPlan, LongChunksGoToTheWideKernelWhereThereIsOne) {
  AttendShape shape;
  shape.group = 4, shape.kv_heads = 2, shape.blocks = 16, shape.wide = true;
  const std::vector<AttendSequence> sequences{{0, 300, 1300, 7}, {300, 5, 90, 50}, {305, 1, 77, 60}};
  AttendPlan plan;
  plan_attend(sequences, shape, plan);
  ASSERT_EQ(plan.wide.size(), 3u);
  uint32_t tokens = 0;
  for (const WideItem& item : plan.wide) {
    EXPECT_EQ(item.position - item.token, 1000u);
    EXPECT_EQ(item.end, 1300u);
    EXPECT_EQ(item.table, 7u);
    tokens += item.tokens;
  }
  EXPECT_EQ(tokens, 300u);
  ASSERT_EQ(plan.prefill.size(), 1u);
  EXPECT_EQ(plan.prefill[0].rows, 20u);
  EXPECT_FALSE(plan.decode.empty());
  shape.wide = false;
  plan_attend(sequences, shape, plan);
  EXPECT_TRUE(plan.wide.empty());
  EXPECT_EQ(plan.prefill.size(), 1200 / kPrefillRows + 2);
}

TEST(CudaAttendPlan, FixedOrderCutsAtTheSamePositionsWhateverTheBatch) {
  AttendPlan alone, batch;
  AttendShape shape;
  shape.group = 4, shape.fixed_order = true, shape.max_partials = 1000;
  const AttendSequence one{0, 1, 1300, 0}, other{1, 1, 4000, 90};
  plan_attend(std::vector{one}, shape, alone);
  plan_attend(std::vector{one, other}, shape, batch);
  ASSERT_EQ(alone.parts.size(), 3u);
  for (size_t i = 0; i < alone.parts.size(); ++i) {
    EXPECT_EQ(alone.parts[i].chunk, i);
    EXPECT_EQ(batch.parts[i].chunk, i);
    EXPECT_EQ(batch.parts[i].parts, 3u);
  }
}

TEST(CudaDevice, AMissingDriverIsOneSentence) {
  emulator::control().no_driver = true;
  try {
    count_devices();
    ADD_FAILURE() << "a device without a driver";
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.code(), QUIRE_UNSUPPORTED);
    EXPECT_NE(std::string(failure.what()).find("no NVIDIA driver"), std::string::npos);
  }
  emulator::control().no_driver = false;
  EXPECT_EQ(count_devices(), 1u);
}

} // namespace
} // namespace quire::cuda
