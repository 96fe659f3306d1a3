// Rows whose token a sampler plugin chooses on the host, on a small pool of threads.
//
// A SamplerState is one sequence's state inside the plugin, closed with its last owner. The pool runs choices one a
// state at a time (the engine has at most one outstanding a sequence) and hands the results back on the engine thread,
// which never waits for them longer than it says. Errors: a plugin's status becomes the choice's error sentence. A
// token outside the vocabulary is such an error.
#pragma once

#include "quire/plugin.h"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace quire {

class SamplerState {
 public:
  // Throws Error with the plugin's sentence. `numbers`: the request's sampler_parameters.
  static std::shared_ptr<SamplerState> open(const quire_sampler& sampler,
                                            const std::vector<std::pair<std::string, double>>& numbers, uint64_t seed,
                                            uint32_t choice, uint32_t vocab_size);
  ~SamplerState();
  SamplerState(const SamplerState&) = delete;
  SamplerState& operator=(const SamplerState&) = delete;

  int32_t choose(float* logits, uint32_t vocab_size, uint32_t position, quire_status& status); // logits [vocab]

 private:
  SamplerState(const quire_sampler& sampler, void* state) : sampler_(&sampler), state_(state) {}
  const quire_sampler* sampler_;
  void* state_;
};

struct Choice {
  void* tag = nullptr; // the engine's: whose row it is
  std::shared_ptr<SamplerState> state;
  quire_sampling_row row{}; // counts, bias and mask are copied below
  std::vector<quire_token_count> counts;
  std::vector<quire_logit_bias> bias;
  std::vector<uint32_t> mask;
  std::vector<float> logits; // [vocab] raw
  // The result.
  int32_t token = -1; // -1: error says why
  float logprob = 0;  // of the raw logits
  std::vector<quire_candidate> candidates;
  std::string error;
};

// Carries the choice out: penalties, bias and mask, then the plugin's word. Used by the pool's threads.
void make_choice(Choice& choice);

class ChooserPool {
 public:
  // `ready` is called on a pool thread after each result, to wake the engine.
  ChooserPool(uint32_t num_threads, std::function<void()> ready);
  ~ChooserPool(); // finishes what runs, drops what waits

  void post(std::unique_ptr<Choice> choice);
  // Moves finished choices to `out` (cleared first). Waits at most `patience` for those outstanding.
  void collect(std::vector<std::unique_ptr<Choice>>& out, std::chrono::nanoseconds patience);
  uint32_t outstanding() const { return outstanding_; } // posted and not collected; of the engine thread

 private:
  void work();

  std::function<void()> ready_;
  std::mutex mutex_;
  std::condition_variable wake_, finished_;
  std::vector<std::unique_ptr<Choice>> queue_, done_;
  size_t running_ = 0;
  bool stopping_ = false;
  uint32_t outstanding_ = 0;
  std::vector<std::thread> threads_;
};

} // namespace quire
