// A backend made of ids and hashes, behind the same table as the real ones: for tests of the scheduler and the engine,
// for the KV study and for benchmarks without a device.
//
// Its «model»: the KV of position p holds content(p) = mix(content(p - 1), token, p), read and written through the
// block tables; a row's state is a fold over every content its sequence's tables name (within a group's window), and
// its logits are a hash of that state. So a wrong block table, a missed copy, an early reuse or a lost swap gives other
// tokens than next_token() of the same ids, which needs no tables. Work is queued and carried out at wait, as late as
// the contract allows, from spans copied at the call.
//
// Temperatures above 0 sample by hashed Gumbel noise keyed by (seed, choice, position, token); top-k and the like are
// refused (QUIRE_UNSUPPORTED). Threads: as in plugin.h; counters are for the thread that drives the instance, or for
// after it is done.
#pragma once

#include "quire/plugin.h"

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace quire::test {

struct MockOptions {
  uint32_t vocab_size = 128;
  uint32_t max_context = 1u << 20;
  std::vector<uint32_t> windows = {0}; // of the KV groups
  uint64_t block_bytes = 4096;         // what kv_block_bytes says, for 16 tokens
  // Off: a row's state is content(p) alone, O(1) a row. Wrong blocks behind the last are then not noticed.
  bool verify_context = true;
  // On: only ids: no contents, no logits; the token is a hash of (position, row). For measuring the host alone.
  bool ids_only = false;
  // Time that a step takes, by sleeping in wait: base + a token + a token of context read by a sequence.
  std::chrono::nanoseconds step_time{0}, token_time{0}, context_token_time{0};
  std::chrono::nanoseconds swap_block_time{0};
  // Calls of idle before nothing is left to do, and how long each takes.
  uint64_t idle_slices = 0;
  std::chrono::nanoseconds idle_time{0};
  // Faults: (ticket, code), 1-based over the life of the mock; 0 = none.
  uint64_t fail_submit_at = 0, fail_sample_at = 0, fail_wait_at = 0, fail_copy_at = 0, fail_swap_at = 0;
  uint64_t fail_idle_at = 0; // the call of idle
  int32_t fail_code = QUIRE_DEVICE_LOST;
  uint32_t fail_creates = 0; // the first so many re-creations (not the first creation) fail
  int32_t poison_token = -1; // a row whose own token is this one has NaN logits
};

class MockBackend {
 public:
  explicit MockBackend(MockOptions options = {});
  ~MockBackend();
  MockBackend(const MockBackend&) = delete;
  MockBackend& operator=(const MockBackend&) = delete;

  const quire_backend* table() const { return &table_; }
  // A program with the mock's vocabulary, groups and context; valid as long as the mock.
  const quire_program& program() const { return program_; }

  // What the model says after these tokens, without any cache: the oracle.
  uint64_t state_of(std::span<const int32_t> tokens) const;
  std::vector<float> logits_of(std::span<const int32_t> tokens) const; // [vocab]
  int32_t next_token(std::span<const int32_t> tokens) const;           // greedy
  // `count` greedy tokens after the prompt, fewer if one of `ends` comes (it is the last).
  std::vector<int32_t> continuation(std::span<const int32_t> prompt, size_t count,
                                    std::span<const int32_t> ends = {}) const;

  struct Counters {
    uint64_t creates = 0, destroys = 0, submits = 0, samples = 0, waits = 0, idles = 0;
    uint64_t tokens = 0, sequences = 0, rows = 0, device_fed_tokens = 0;
    uint64_t copy_calls = 0, copies = 0, swapped_out = 0, swapped_in = 0;
    uint32_t most_unwaited = 0;
    std::string fault; // first breach of the contract that was seen, empty if none
  } counters;
  // Called at each submit, on the engine thread, before the step is queued.
  std::function<void(const quire_step&)> on_submit;
  MockOptions options;

 private:
  struct Instance;
  struct Verbs;
  friend struct Verbs;
  quire_backend table_{};
  quire_program program_{};
  std::vector<quire_kv_group> groups_;
};

} // namespace quire::test
