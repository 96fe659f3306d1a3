// A step's tables are those of its sequences, whatever has happened to them and to the others since the step before.
#include "schedule/step_tables.hpp"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace quire {
namespace {

constexpr uint32_t kBlockSize = 16, kMaxTokens = 1000;

class Tables : public ::testing::Test {
 protected:
  explicit Tables(uint32_t window = 0) : kv_(config_of(window)) {}

  static KvConfig config_of(uint32_t window) {
    KvConfig config;
    config.block_size = kBlockSize;
    config.groups = {{.num_blocks = 2000, .host_blocks = 500}};
    if (window != 0) config.groups.push_back({.num_blocks = 2000, .host_blocks = 500, .window = window});
    return config;
  }
  struct Running {
    KvSeq seq;
    std::vector<int32_t> tokens;
    bool swapped = false;
  };
  Running start(uint32_t prompt) {
    Running r{kv_.create(), std::vector<int32_t>(prompt)};
    for (int32_t& token : r.tokens) token = static_cast<int32_t>(random_() % 4);
    EXPECT_EQ(kv_.admit(r.seq, r.tokens, 0).verdict, Admission::now);
    return r;
  }
  // A step of all that are there; then its end.
  void step(std::vector<Running>& running) {
    for (Running& r : running) {
      if (r.swapped || kv_.num_slots(r.seq) == r.tokens.size()) continue;
      ASSERT_TRUE(kv_.append(r.seq, static_cast<uint32_t>(r.tokens.size()) - kv_.num_slots(r.seq)));
    }
    tables_.begin(kv_.num_groups());
    std::vector<uint32_t> ends{0};
    for (const Running& r : running)
      if (!r.swapped) ends.push_back(tables_.add(kv_, r.seq, kMaxTokens));
    tables_.end();
    uint32_t i = 0;
    for (const Running& r : running) {
      if (r.swapped) continue;
      const uint32_t start = ends[i], end = ends[++i];
      EXPECT_LE(end - start, (kMaxTokens + kBlockSize - 1) / kBlockSize);
      for (uint32_t g = 0; g < kv_.num_groups(); ++g) {
        const auto wanted = kv_.table(r.seq, g);
        ASSERT_LE(wanted.size(), end - start);
        const uint32_t* const entries = tables_.table(g) + start;
        ASSERT_TRUE(std::equal(wanted.begin(), wanted.end(), entries));
        for (size_t e = wanted.size(); e < end - start; ++e) EXPECT_LT(entries[e], 2000u);
      }
    }
    KvTransfers transfers;
    kv_.take_transfers(transfers);
    const Ticket ticket = kv_.building();
    kv_.submitted(ticket);
    kv_.done(ticket);
    for (const Running& r : running)
      if (!r.swapped) kv_.commit(r.seq, r.tokens, static_cast<uint32_t>(r.tokens.size()));
    ASSERT_EQ(kv_.check(), "");
  }

  void run_history() {
    std::vector<Running> running;
    const auto below = [&](size_t n) { return static_cast<size_t>(random_() % n); };
    for (int turn = 0; turn < 2000; ++turn) {
      if (running.size() < 20 && below(4) == 0) running.push_back(start(1 + static_cast<uint32_t>(below(100))));
      if (running.empty()) continue;
      const size_t chosen = below(running.size());
      Running& r = running[chosen];
      const auto forget = [&](size_t i) {
        kv_.destroy(running[i].seq);
        running.erase(running.begin() + static_cast<std::ptrdiff_t>(i));
      };
      switch (below(12)) {
      case 0:
        forget(chosen);
        break;
      case 1:
        r.swapped = r.swapped ? !kv_.swap_in(r.seq) : kv_.swap_out(r.seq);
        break;
      case 2:
        if (r.swapped) break;
        kv_.release(r.seq);
        ASSERT_EQ(kv_.admit(r.seq, r.tokens, 0).verdict, Admission::now);
        break;
      case 3:
        if (r.swapped || running.size() >= 20) break;
        if (const KvSeq child = kv_.fork(r.seq, kv_.num_slots(r.seq)); child != kNoSeq) {
          Running copy = r;
          copy.seq = child;
          running.insert(running.begin() + static_cast<std::ptrdiff_t>(below(running.size() + 1)), copy);
        }
        break;
      default:
        break;
      }
      for (size_t i = running.size(); i-- > 0;) {
        Running& each = running[i];
        if (each.swapped) continue;
        each.tokens.push_back(static_cast<int32_t>(random_() % 4));
        if (each.tokens.size() >= kMaxTokens) forget(i);
      }
      ASSERT_NO_FATAL_FAILURE(step(running));
    }
  }

  std::mt19937 random_{5};
  KvManager kv_;
  StepTables tables_;
};

class WindowedTables : public Tables {
 protected:
  WindowedTables() : Tables(40) {}
};

TEST_F(Tables, AreTheSequencesOwnOverARandomHistory) { run_history(); }

TEST_F(WindowedTables, AreTheSequencesOwnOverARandomHistory) { run_history(); }

TEST_F(Tables, KeepTheirVersionWhileTheyGrow) {
  std::vector<Running> running;
  for (int i = 0; i < 3; ++i) running.push_back(start(33));
  step(running);
  const uint64_t version = kv_.table_version(running[1].seq);
  for (int token = 0; token < 40; ++token) {
    running[1].tokens.push_back(token);
    step(running);
  }
  EXPECT_EQ(kv_.table_version(running[1].seq), version);
  EXPECT_NE(kv_.table_version(running[0].seq), version);
  ASSERT_TRUE(kv_.swap_out(running[1].seq));
  EXPECT_NE(kv_.table_version(running[1].seq), version);
}

} // namespace
} // namespace quire
