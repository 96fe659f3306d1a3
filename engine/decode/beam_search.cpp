#include "decode/beam_search.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace quire {

BeamSearch::BeamSearch(BeamRules rules) : rules_(std::move(rules)) {
  assert(rules_.width > 0 && rules_.max_tokens > 0);
}

uint32_t BeamSearch::candidates_wanted(uint32_t vocab_size) const {
  // Of one beam at most `width` continuations live on, behind at most every end; ends count only among the first
  // `width`.
  const auto wanted = rules_.width + static_cast<uint32_t>(rules_.ends.size());
  return std::min(vocab_size, std::max(wanted, rules_.alternatives));
}

bool BeamSearch::ends(int32_t token) const { return std::binary_search(rules_.ends.begin(), rules_.ends.end(), token); }

void BeamSearch::advance(std::span<const std::span<const quire_candidate>> rows) {
  assert(!done_ && rows.size() == (length_ == 0 ? 1 : beams_.size()));
  continuations_.clear();
  for (uint32_t beam = 0; beam < rows.size(); ++beam) {
    const float score = length_ == 0 ? 0.0f : beams_[beam].score;
    for (const quire_candidate& c : rows[beam])
      if (length_ >= rules_.min_tokens || !ends(c.token)) continuations_.push_back({score + c.logprob, beam, c});
  }
  std::stable_sort(continuations_.begin(), continuations_.end(), [](const Continuation& a, const Continuation& b) {
    if (a.score != b.score) return a.score > b.score;
    return a.beam != b.beam ? a.beam < b.beam : a.candidate.token < b.candidate.token;
  });

  std::vector<uint32_t> kept(rows.size(), UINT32_MAX); // where each parent's alternatives went
  const auto make_node = [&](const Continuation& c) {
    Node node{length_ == 0 ? 0 : beams_[c.beam].node, length_ + 1, c.candidate.token, c.candidate.logprob, 0, 0};
    if (rules_.alternatives) {
      node.num_alternatives = std::min(rules_.alternatives, static_cast<uint32_t>(rows[c.beam].size()));
      if (kept[c.beam] == UINT32_MAX) {
        kept[c.beam] = static_cast<uint32_t>(alternatives_.size());
        alternatives_.insert(alternatives_.end(), rows[c.beam].begin(), rows[c.beam].begin() + node.num_alternatives);
      }
      node.alternatives = kept[c.beam];
    }
    nodes_.push_back(node);
    return static_cast<uint32_t>(nodes_.size());
  };

  const bool at_limit = length_ + 1 >= rules_.max_tokens;
  const bool full = finished_.size() == rules_.width && rules_.early_stopping;
  const auto penalty =
      static_cast<float>(std::pow(static_cast<double>(length_ + 1), static_cast<double>(rules_.length_penalty)));
  next_.clear();
  for (uint32_t rank = 0; rank < continuations_.size(); ++rank) {
    const Continuation& c = continuations_[rank];
    const bool end = ends(c.candidate.token);
    if (!end && !at_limit) {
      if (next_.size() < rules_.width) next_.push_back({c.beam, c.candidate.token, c.score, make_node(c)});
    } else if (rank < rules_.width && !full) {
      const float score = c.score / penalty;
      if (finished_.size() == rules_.width && !(score > finished_.back().score)) continue;
      const auto place =
          std::find_if(finished_.begin(), finished_.end(), [&](const Hypothesis& h) { return score > h.score; });
      finished_.insert(place, {score, c.score, make_node(c), end});
      if (finished_.size() > rules_.width) finished_.pop_back();
    }
    if (next_.size() == rules_.width && rank + 1 >= rules_.width) break;
  }
  std::swap(beams_, next_);
  ++length_;

  bool improvable = true;
  if (finished_.size() == rules_.width && !beams_.empty())
    improvable = beams_.front().score / penalty > finished_.back().score;
  done_ = at_limit || beams_.empty() || !improvable || (rules_.early_stopping && finished_.size() == rules_.width);
  if (done_) beams_.clear();
}

BeamSearch::Token BeamSearch::token_at(uint32_t node) const {
  const Node& n = nodes_[node - 1];
  return {n.token, n.logprob, {alternatives_.data() + n.alternatives, n.num_alternatives}};
}

std::vector<BeamSearch::Token> BeamSearch::tokens_of(uint32_t node) const {
  std::vector<Token> tokens(nodes_[node - 1].depth);
  for (; node; node = nodes_[node - 1].parent) tokens[nodes_[node - 1].depth - 1] = token_at(node);
  return tokens;
}

// The deepest node that both paths pass; 0 = none. Siblings have different tokens, so paths share a prefix exactly
// where they share nodes.
uint32_t BeamSearch::meet(uint32_t a, uint32_t b) const {
  while (a != b) {
    if (a == 0 || b == 0) return 0;
    uint32_t& deeper = nodes_[a - 1].depth >= nodes_[b - 1].depth ? a : b;
    deeper = nodes_[deeper - 1].parent;
  }
  return a;
}

std::vector<BeamSearch::Token> BeamSearch::settled(uint32_t from) const {
  uint32_t common = beams_.empty() ? (finished_.empty() ? 0 : finished_.front().node) : beams_.front().node;
  for (const Beam& beam : beams_) common = meet(common, beam.node);
  for (const Hypothesis& hypothesis : finished_) common = meet(common, hypothesis.node);
  if (common == 0 || nodes_[common - 1].depth <= from) return {};
  std::vector<Token> tokens(nodes_[common - 1].depth - from);
  for (uint32_t node = common; node && nodes_[node - 1].depth > from; node = nodes_[node - 1].parent)
    tokens[nodes_[node - 1].depth - from - 1] = token_at(node);
  return tokens;
}

} // namespace quire
