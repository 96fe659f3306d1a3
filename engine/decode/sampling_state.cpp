#include "decode/sampling_state.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace quire {
namespace {

constexpr float banned = -std::numeric_limits<float>::infinity();

// Each token at most once, as the ABI asks: a ban wins over a bias.
void ban(std::vector<quire_logit_bias>& bias, int32_t token) {
  for (quire_logit_bias& b : bias)
    if (b.token == token) {
      b.bias = banned;
      return;
    }
  bias.push_back({token, banned});
}

} // namespace

SamplingPlan::SamplingPlan(const SamplingParameters& p, std::span<const int32_t> ends, uint64_t seed,
                           uint32_t vocab_size)
    : min_tokens_(static_cast<uint32_t>(p.min_tokens)), ends_(ends.begin(), ends.end()) {
  std::sort(ends_.begin(), ends_.end());
  ends_.erase(std::unique(ends_.begin(), ends_.end()), ends_.end());

  row_.temperature = p.temperature;
  if (p.temperature > 0) { // a greedy row has no need of the filters
    row_.top_p = p.top_p;
    row_.min_p = p.min_p;
    row_.typical_p = p.typical_p;
    row_.top_k = static_cast<uint32_t>(p.top_k);
    if (row_.top_k >= vocab_size) row_.top_k = 0;
  }
  row_.repetition_penalty = p.repetition_penalty;
  row_.presence_penalty = p.presence_penalty;
  row_.frequency_penalty = p.frequency_penalty;
  row_.seed = seed;
  row_.num_candidates = p.logprobs > 0 ? std::min(static_cast<uint32_t>(p.logprobs), vocab_size) : 0;
  uses_counts_ = p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;

  for (const auto& [token, value] : p.logit_bias) bias_.push_back({token, value});
  for (int32_t token : p.banned_tokens) ban(bias_, token);
  bias_early_ = bias_;
  for (int32_t token : ends_) ban(bias_early_, token);

  if (!p.allowed_tokens.empty()) {
    mask_.assign((vocab_size + 31) / 32, 0);
    for (int32_t token : p.allowed_tokens) mask_[static_cast<uint32_t>(token) / 32] |= 1u << (token % 32);
    row_.mask = mask_.data();
  }
}

bool SamplingPlan::stops(int32_t token) const { return std::binary_search(ends_.begin(), ends_.end(), token); }

SamplingState::SamplingState(std::shared_ptr<const SamplingPlan> plan, uint32_t choice, std::span<const int32_t> prompt)
    : plan_(std::move(plan)), choice_(choice), uses_counts_(plan_->uses_counts_) {
  if (!plan_->uses_counts_) return;
  const float penalty = plan_->row_.repetition_penalty;
  if (penalty == 0 || penalty == 1) return; // the other penalties look at the output alone
  for (int32_t token : prompt) ++entry(token).in_prompt;
}

quire_token_count& SamplingState::entry(int32_t token) {
  if (slots_.size() < 2 * (counts_.size() + 1)) grow();
  const size_t mask = slots_.size() - 1;
  size_t slot = (static_cast<uint32_t>(token) * 0x9E3779B1u) & mask;
  while (slots_[slot]) {
    quire_token_count& found = counts_[slots_[slot] - 1];
    if (found.token == token) return found;
    slot = (slot + 1) & mask;
  }
  counts_.push_back({token, 0, 0});
  slots_[slot] = static_cast<uint32_t>(counts_.size());
  return counts_.back();
}

void SamplingState::grow() {
  slots_.assign(std::max<size_t>(64, slots_.size() * 2), 0);
  const size_t mask = slots_.size() - 1;
  for (size_t i = 0; i < counts_.size(); ++i) {
    size_t slot = (static_cast<uint32_t>(counts_[i].token) * 0x9E3779B1u) & mask;
    while (slots_[slot]) slot = (slot + 1) & mask;
    slots_[slot] = static_cast<uint32_t>(i + 1);
  }
}

void apply_row(const quire_sampling_row& row, std::span<float> logits) {
  const float penalty = row.repetition_penalty == 0 ? 1.0f : row.repetition_penalty;
  for (uint32_t i = 0; i < row.num_counts; ++i) {
    const quire_token_count& c = row.counts[i];
    float& l = logits[static_cast<size_t>(c.token)];
    if (c.in_prompt + c.in_output > 0) l = l > 0 ? l / penalty : l * penalty;
    if (c.in_output > 0) l -= row.frequency_penalty * static_cast<float>(c.in_output) + row.presence_penalty;
  }
  for (uint32_t i = 0; i < row.num_bias; ++i) logits[static_cast<size_t>(row.bias[i].token)] += row.bias[i].bias;
  if (row.mask)
    for (size_t i = 0; i < logits.size(); ++i)
      if (!(row.mask[i / 32] >> (i % 32) & 1)) logits[i] = banned;
}

double log_sum_exp(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (float l : logits) sum += std::exp(static_cast<double>(l) - top);
  return top + std::log(sum);
}

} // namespace quire
