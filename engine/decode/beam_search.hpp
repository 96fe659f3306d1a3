// Beam search over candidates: which beams live on, which hypotheses are finished, what is settled.
//
// The semantics are those of Hugging Face's generate(num_beams=width) (transformers 5, GenerationMixin._beam_search):
// of all continuations of all beams the `width` best that don't end live on; of the `width` best those that end join a
// pool of the `width` best finished ones by score = sum of logprobs / length ^ length_penalty (length: generated
// tokens, the end included). The search is over when no beam can improve the pool (judged by the best beam at its
// present length), when the pool is full and early_stopping is set, or at max_tokens, where every continuation counts
// as finished. Sums are float32, as there. Ties: the lower beam, then the lower token.
//
// Pure data: tokens and logprobs in, parents and tokens out; blocks and forks are the scheduler's. Owned by the engine
// thread.
#pragma once

#include "quire/plugin.h"

#include <cstdint>
#include <span>
#include <vector>

namespace quire {

struct BeamRules {
  uint32_t width = 1;
  float length_penalty = 1.0f;
  bool early_stopping = false;
  uint32_t max_tokens = 1;   // to generate
  uint32_t min_tokens = 0;   // ends are passed over before
  std::vector<int32_t> ends; // ascending
  uint32_t alternatives = 0; // candidates kept with each token for the client
};

class BeamSearch {
 public:
  explicit BeamSearch(BeamRules rules);

  // Candidates that each beam's row must bring.
  uint32_t candidates_wanted(uint32_t vocab_size) const;

  // A beam that lives on: the continuation of beam `parent` (of the step before; 0 at first) by `token`.
  struct Beam {
    uint32_t parent = 0;
    int32_t token = -1;
    float score = 0;   // sum of logprobs
    uint32_t node = 0; // its last token in the tree
  };

  // rows[i]: the candidates of beam i, most probable first. The first call has one row, the prompt's.
  void advance(std::span<const std::span<const quire_candidate>> rows);
  bool done() const { return done_; }
  std::span<const Beam> beams() const { return beams_; } // by score, best first; empty once done

  struct Token {
    int32_t token = -1;
    float logprob = 0;
    std::span<const quire_candidate> alternatives; // valid until the next advance
  };
  struct Hypothesis {
    float score = 0; // with the length penalty
    float sum = 0;   // of logprobs
    uint32_t node = 0;
    bool ended = false; // by an end token; false: at max_tokens
  };
  // Best first; at most width.
  std::span<const Hypothesis> finished() const { return finished_; }
  std::vector<Token> tokens_of(uint32_t node) const;

  // The tokens that every hypothesis still possible begins with, from index `from` on. Never shrinks.
  std::vector<Token> settled(uint32_t from) const;
  uint32_t length() const { return length_; } // generated tokens of each live beam

 private:
  struct Node {
    uint32_t parent = 0; // 1-based; 0 = the prompt
    uint32_t depth = 0;  // tokens up to here
    int32_t token = -1;
    float logprob = 0;
    uint32_t alternatives = 0; // start in alternatives_; of length rules_.alternatives or less
    uint32_t num_alternatives = 0;
  };
  uint32_t meet(uint32_t a, uint32_t b) const;
  Token token_at(uint32_t node) const;
  bool ends(int32_t token) const;

  BeamRules rules_;
  uint32_t length_ = 0;
  bool done_ = false;
  std::vector<Node> nodes_; // node i is nodes_[i - 1]
  std::vector<quire_candidate> alternatives_;
  std::vector<Beam> beams_, next_;
  std::vector<Hypothesis> finished_;
  struct Continuation {
    float score;
    uint32_t beam;
    quire_candidate candidate;
  };
  std::vector<Continuation> continuations_;
};

} // namespace quire
