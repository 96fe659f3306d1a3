// A random history of the KV manager against a model that knows what each block holds.
//
// The mock device runs each step as it is submitted (its verbs are one queue) and reveals the result when the step is
// waited for; up to two steps are in flight. The content of a slot is a number that depends on salt, adapter and all
// tokens up to its own, so that a wrong, stale or foreign block is seen by whoever reads it. Everything is drawn from
// one seed.
#pragma once

#include <deque>
#include <map>
#include <random>
#include <set>
#include <string>

#include "kv/kv_manager.hpp"

namespace quire::test {

struct HistoryOptions {
  KvConfig config;
  std::uint32_t max_length = 96; // tokens a sequence may reach
  std::uint32_t max_sequences = 12;
  bool failures = true;   // some steps fail
  bool check_each = true; // KvManager::check after each operation
};

class History {
 public:
  History(const HistoryOptions& options, std::uint64_t seed);
  // One random operation, where it finds something to work on: empty, or what went wrong.
  std::string operate();
  // Ends everything and looks for leaks.
  std::string finish();

  // How often each thing happened, so that a test can see that it did.
  std::map<std::string, std::uint64_t> counts;
  std::uint64_t performed = 0; // operations that did something
  KvManager kv;

 private:
  using Content = std::uint64_t;
  struct Sequence {
    std::vector<std::int32_t> tokens; // known to the host
    std::vector<std::int32_t> truth;  // with those that the device has sampled and the host hasn't seen
    std::string salt;
    std::uint64_t adapter = 0;
    std::uint32_t written = 0; // slots that submitted steps have written
    std::uint32_t unseen = 0;  // sampled tokens still to be revealed: truth - tokens
    std::uint32_t in_flight = 0;
    std::uint32_t building = 0; // tokens in the step being built
    std::uint32_t inherits = 0; // tokens of it that a forked-from sequence writes for this one
    std::uint64_t lender = 0;   // its life
    bool lends = false;         // a fork inherits from this one in this step
    std::uint64_t life = 0;
  };
  struct Place {
    KvSeq seq;
    std::uint64_t life;
    std::uint32_t start, count;
    bool sampled;
  };
  using Block = std::pair<std::uint32_t, BlockId>; // group, block
  struct Flight {
    Ticket ticket;
    std::vector<Place> places;
    std::set<Block> touched;
  };

  std::uint32_t below(std::uint32_t n) { return std::uniform_int_distribution<std::uint32_t>(0, n - 1)(random_); }
  KvSeq any(auto&& wanted);
  Content expected(const Sequence& seq, std::uint32_t position) const;
  std::string expect_content(KvSeq id, std::uint32_t first, std::uint32_t end);
  std::string handed_out(std::uint32_t group, BlockId block);
  std::string handed_out_since(KvSeq id, const std::vector<std::vector<BlockId>>& before);
  std::vector<std::vector<BlockId>> tables(KvSeq id) const;

  std::string admit();
  std::string append();
  std::string submit();
  std::string wait();
  std::string fork();
  std::string end();
  std::string leave();
  std::string preempt();
  std::string resume();
  void leave_step(KvSeq id);
  std::string move(const KvTransfers& transfers);

  HistoryOptions options_;
  std::mt19937_64 random_;
  std::map<KvSeq, Sequence> sequences_;
  std::deque<Flight> flights_;
  std::set<Block> building_sources_;                             // read or written by transfers of the step being built
  std::vector<std::vector<std::vector<Content>>> device_, host_; // [groups][blocks][slots]
  std::uint64_t lives_ = 0;
};

} // namespace quire::test
