// The embedding API: load a model, submit requests, receive tokens as they are made.
//
// Engine owns one engine thread that holds all mutable state; submit, cancel and stats may be called from any thread. Events are delivered
// on the engine thread through the request's sink, which must be quick, must not throw and must not call back into wait-like functions:
// post to your own queue. Token ids in, token ids out; text is the caller's (engine/text).
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace quire {

using RequestId = uint64_t;

// One alternative of a token with its log-probability (of the raw logits).
struct Candidate {
  int32_t token = -1;
  float logprob = 0;
};

// Zero or empty is «off» unless a default says otherwise. Ranges are checked by Engine::submit; an Error names the field and the limit.
struct SamplingParameters {
  float temperature = 1.0f;  // 0 = greedy; up to 100
  float top_p = 1.0f;        // (0, 1]
  int32_t top_k = 0;         // 0 = off
  float min_p = 0.0f;        // [0, 1]
  float typical_p = 1.0f;    // (0, 1]
  float repetition_penalty = 1.0f; // (0, 100]
  float presence_penalty = 0.0f;   // [-2, 2]
  float frequency_penalty = 0.0f;  // [-2, 2]
  std::optional<uint64_t> seed;    // unset: drawn at admission and reported in Finished
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> allowed_tokens; // empty = all
  std::vector<int32_t> banned_tokens;
  int32_t min_tokens = 0; // stop tokens are banned before
  int32_t logprobs = -1;  // alternatives a token, up to 20; 0 = the token's own only; -1 = none
  std::string sampler;    // a choosing sampler plugin's id; empty = on the device
  std::vector<std::pair<std::string, double>> sampler_parameters;
};

// Semantics and results are those of Hugging Face's generate(num_beams=width). The other sampling parameters must be at
// their defaults (temperature may be 0), min_tokens and logprobs excepted. With max_tokens 0 the answers may be as long as
// the KV memory holds.
struct BeamParameters {
  int32_t width = 0;            // 0 = no beam search
  float length_penalty = 1.0f;  // score = sum of logprobs / length ^ length_penalty
  bool early_stopping = false;
};

enum class FinishReason { none, stop, length, cancelled, deadline, error };

struct TokenEvent {
  RequestId request = 0;
  uint32_t choice = 0;
  int32_t token = -1; // -1: none, only text held back or the finish. With finish == stop and no stop_match: the end token,
                      // whose text isn't the answer's
  float logprob = 0;
  std::vector<Candidate> candidates;
  std::string text; // only for requests with stop strings, where the engine detokenizes: what is final so far, cut before a match
  FinishReason finish = FinishReason::none;
  std::chrono::steady_clock::time_point made{}; // of tokens: when their step was seen to be done, alike for all of a step
  std::string stop_match;   // the stop string that matched
  std::string error;        // finish == error: a sentence
};

// Sent once, last, after every choice has finished.
struct Finished {
  RequestId request = 0;
  uint64_t seed = 0;
  uint32_t prompt_tokens = 0;
  uint32_t cached_tokens = 0; // of the prompt, found in the prefix cache
  uint32_t output_tokens = 0; // of all choices, end tokens included
  double queue_seconds = 0;   // submit to admission
  double first_token_seconds = 0; // submit to first token
  double total_seconds = 0;
};

// Both are called on the engine thread. After `finished` nothing follows.
struct EventSink {
  virtual ~EventSink() = default;
  virtual void token(TokenEvent&& event) noexcept = 0;
  virtual void finished(const Finished& summary) noexcept = 0;
};

// A finished or running sequence kept for continuation: see Request::continue_from.
using SequenceHandle = uint64_t;

struct Request {
  std::vector<int32_t> prompt; // token ids, at least one (with continue_from: the new ones only)
  uint32_t max_tokens = 0;     // 0 = to the end of the context
  SamplingParameters sampling;
  BeamParameters beam;
  uint32_t n = 1;       // choices returned, up to 128
  uint32_t best_of = 0; // sampled, the n best by mean logprob are returned at the end; 0 = n
  std::vector<std::string> stop; // strings, up to 64 of up to 1,024 bytes
  std::vector<int32_t> stop_tokens; // besides the model's own ends
  bool ignore_eos = false;
  int32_t priority = 0; // lower runs first, as in vLLM
  std::string cache_salt; // prefix cache is shared only among equal salts
  double deadline_seconds = 0; // from submit; 0 = none
  // Keeps the finished sequence's token ids, so that a later request can continue or branch it.
  bool keep = false;
  SequenceHandle continue_from = 0; // prompt is appended to that sequence's tokens
  std::shared_ptr<EventSink> sink;
};

struct EngineOptions {
  std::string model;                 // file or folder
  std::string load_format = "auto";  // auto, or dummy[:FORMAT]
  std::string backend = "auto";      // auto, cuda, vulkan, reference
  int32_t device = -1;               // -1 = the best
  uint32_t block_size = 16;
  uint32_t max_sequences = 64;
  uint32_t max_batched_tokens = 0;   // token budget a step; 0 = by device
  uint32_t max_context = 0;          // 0 = the model's, or what fits
  uint64_t kv_memory_bytes = 0;      // 0 = by fraction
  double memory_fraction = 0.9;      // of the device's free memory, for weights, KV and scratch
  uint64_t swap_memory_bytes = uint64_t{1} << 30;
  std::string kv_format = "f16";     // f16, bf16, f32, f8
  std::string kv_policy = "paged";   // paged, max, pow2, oracle (comparison only)
  std::string batching = "continuous"; // continuous, static (comparison only)
  std::string preemption = "auto";     // auto, by measured cost; or swap, recompute
  bool prefix_cache = true;
  bool invariant = false;            // CUDA; the others always are
  bool validate = false;             // API validation layers
  bool check_weights = false;        // read every weight first: a NaN or an infinity is an error that names the tensor
  uint32_t num_threads = 0;
  uint64_t seed = 0;                 // of dummy weights and of drawn seeds; 0 = random
  std::vector<std::string> plugins;  // explicit plugin files, besides the search path
  std::string cache_dir;             // "" = the user's cache folder; "-" = none
  std::function<void(uint64_t done_bytes, uint64_t total_bytes)> progress; // of loading
};

// A snapshot of counters for /metrics; monotonic where they count.
struct Stats {
  uint32_t running = 0, waiting = 0, swapped = 0;
  // KV group 0. Draining: given up, and not free before the steps in flight are done. The four add up to the total.
  uint64_t blocks_total = 0, blocks_free = 0, blocks_cached = 0, blocks_referenced = 0, blocks_draining = 0;
  uint32_t block_size = 0;  // in tokens
  uint64_t tokens_held = 0; // tokens whose KV is in referenced blocks, shared ones once
  uint64_t prompt_tokens = 0, output_tokens = 0, cached_tokens = 0;
  uint64_t preemptions_swap = 0, preemptions_recompute = 0;
  uint64_t steps = 0, requests = 0, requests_failed = 0, requests_cancelled = 0; // cancelled: deadlines too
  uint64_t device_restarts = 0;
  uint64_t prefix_queries = 0, prefix_hits = 0; // in tokens
  // The engine thread's time, summed over steps: its own work (messages, scheduling, building steps, what comes of the tokens); in the
  // backend's submit and sample, which may block while the device's queue is full; and waiting for steps.
  double host_seconds = 0, submit_seconds = 0, device_wait_seconds = 0;
  double step_seconds = 0; // of the steps, queued ones from when the one before had ended
  // Of the steps without prompts: one token a sequence. host: own work and submit together.
  uint64_t decode_steps = 0;
  double decode_host_seconds = 0, decode_submit_seconds = 0;
  // Where the host's part of them goes: choosing and building the step, its tokens into sequences and blocks, and out to the clients.
  double decode_schedule_seconds = 0, decode_commit_seconds = 0, decode_deliver_seconds = 0;
  // Of those in which as many sequences took part as may run.
  uint64_t full_decode_steps = 0;
  double full_decode_host_seconds = 0, full_decode_submit_seconds = 0;
  // The device had nothing queued, though there was work: at most so long. From when the host saw the last step done to when the next
  // was submitted.
  double device_idle_seconds = 0;
  // Of the backend's own work while no request is there, such as timing kernels, in slices of a few milliseconds.
  double tuning_seconds = 0;
  bool tuning_left = false; // it isn't done
};

struct DeviceChoice {
  std::string backend, device, why; // why: one line for the user
  std::string driver;
};

struct ModelInfo {
  std::string name, architecture, source; // source: the file or folder
  uint64_t parameters = 0, weights_bytes = 0, kv_bytes = 0, scratch_bytes = 0;
  uint32_t vocab_size = 0, max_context = 0, block_size = 0, num_blocks = 0, num_layers = 0;
  double load_seconds = 0;
  double weights_bytes_per_second = 0; // at which they reached the device; 0: the backend didn't report it, or they are few
  std::vector<int32_t> end_tokens; // end of generation
};

class Tokenizer;
class ChatTemplate;

class Engine {
 public:
  // Loads plugins, chooses the device, loads the model. Throws Error with a sentence. Takes as long as the weights do.
  explicit Engine(const EngineOptions& options);
  ~Engine(); // cancels what runs, waits for the device
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Validates (throws Error, at once) and queues. [any]
  RequestId submit(Request request);
  // The request ends with FinishReason::cancelled within two steps. Unknown ids are ignored. [any]
  void cancel(RequestId request);
  // Forgets a kept sequence. [any]
  void release(SequenceHandle sequence);
  // The handle of a finished request's choice that was kept (known before its last event leaves); 0 if none, or forgotten:
  // the least recently used are when 64 million tokens are held. [any]
  SequenceHandle kept(RequestId request, uint32_t choice) const;
  // A handle of its own for the first at_token tokens of a kept sequence: continuing it shares every full block up to
  // there. 0 if unknown or shorter.
  SequenceHandle fork(SequenceHandle sequence, uint32_t at_token); // [any]
  // Prompt and output of a kept sequence, the end token included; null if unknown. [any]
  std::shared_ptr<const std::vector<int32_t>> tokens_of(SequenceHandle sequence) const;

  Stats stats() const;              // [any]
  // What the backend has counted, by its own names; none where it doesn't count. Waits for the engine thread. [any]
  std::vector<std::pair<std::string, double>> backend_counters() const;
  // Another KV policy and way of batching on the same device and weights, for comparisons: see EngineOptions. What is kept and cached is
  // forgotten, what runs is cancelled. No other call may be under way.
  void reconfigure(const std::string& kv_policy, const std::string& batching);
  const DeviceChoice& device() const; // immutable after construction [any]
  const ModelInfo& model() const;
  std::shared_ptr<const Tokenizer> tokenizer() const; // engine/text/tokenizer.hpp
  std::shared_ptr<const ChatTemplate> chat_template() const; // null: the model has none

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

} // namespace quire
