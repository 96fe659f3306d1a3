#include "reference/sample.hpp"

#include "quire/plugin_check.hpp"
#include "reference/philox.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>

namespace quire::reference {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

double log_sum_exp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  if (!std::isfinite(largest)) return largest;
  double sum = 0;
  for (const float l : logits) sum += std::exp(l - largest);
  return largest + std::log(sum);
}

// The most probable of the raw logits, best first, the lowest id on ties.
void find_candidates(std::span<const float> logits, double log_sum, uint32_t count, SampleScratch& scratch,
                     std::vector<quire_candidate>& out) {
  out.clear();
  count = std::min<uint32_t>(count, static_cast<uint32_t>(logits.size()));
  if (count == 0) return;
  auto& order = scratch.order;
  order.resize(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto better = [&](uint32_t a, uint32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
  std::partial_sort(order.begin(), order.begin() + count, order.end(), better);
  for (uint32_t i = 0; i < count; ++i)
    out.push_back({static_cast<int32_t>(order[i]), static_cast<float>(logits[order[i]] - log_sum)});
}

// Step 1 of quire_sampling_row: penalties, bias, mask.
void edit(std::span<float> l, const SamplingRow& row, int32_t pending) {
  const quire_sampling_row& p = row.parameters;
  const float repetition = p.repetition_penalty == 0 ? 1.0f : p.repetition_penalty;
  const auto penalise = [&](int32_t token, uint32_t in_prompt, uint32_t in_output) {
    float& x = l[static_cast<size_t>(token)];
    if (in_prompt + in_output > 0) x = x > 0 ? x / repetition : x * repetition;
    if (in_output > 0) x -= p.frequency_penalty * static_cast<float>(in_output) + p.presence_penalty;
  };
  bool pending_counted = pending < 0;
  for (const quire_token_count& c : row.counts) {
    const bool is_pending = c.token == pending;
    penalise(c.token, c.in_prompt, c.in_output + (is_pending ? 1 : 0));
    pending_counted = pending_counted || is_pending;
  }
  if (!pending_counted) penalise(pending, 0, 1);
  for (const quire_logit_bias& b : row.bias) l[static_cast<size_t>(b.token)] += b.bias;
  if (!row.mask.empty())
    for (size_t i = 0; i < l.size(); ++i)
      if ((row.mask[i / 32] >> (i % 32) & 1u) == 0) l[i] = kNever;
}

// Step 3. kept: token ids; weight: their probabilities up to a common factor. A filter keeps those whose score is at
// least a threshold, so that ties at it all stay.
class Filters {
 public:
  Filters(std::span<const float> l, SampleScratch& scratch)
      : l_(l), kept_(scratch.kept), weight_(scratch.weight), order_(scratch.order) {
    kept_.clear();
    weight_.clear();
    const float largest = *std::max_element(l.begin(), l.end());
    for (size_t i = 0; i < l.size(); ++i)
      if (l[i] != kNever) {
        kept_.push_back(static_cast<uint32_t>(i));
        weight_.push_back(l[i] == largest ? 1.0 : std::exp(static_cast<double>(l[i]) - largest));
      }
  }

  void min_p(double p) {
    keep([&](size_t i) { return weight_[i] >= p; }); // the largest weight is 1
  }
  void top_k(size_t k) {
    if (k >= kept_.size()) return;
    sort([&](size_t i) { return -l_at(i); });
    const float threshold = l_at(order_[k - 1]);
    keep([&](size_t i) { return l_at(i) >= threshold; });
  }
  // The fewest, most probable first, whose sum reaches p.
  void top_p(double p) {
    keep_mass(p, [&](size_t i) { return -static_cast<double>(l_at(i)); });
  }
  // The fewest, nearest to the entropy first, whose sum reaches p.
  void typical_p(double p) {
    const double sum = total();
    double entropy = 0;
    for (const double w : weight_)
      if (w > 0) entropy -= w / sum * std::log(w / sum);
    keep_mass(p, [&](size_t i) { return std::abs(-std::log(weight_[i] / sum) - entropy); });
  }

 private:
  float l_at(size_t i) const { return l_[kept_[i]]; }
  double total() const { return std::accumulate(weight_.begin(), weight_.end(), 0.0); }

  template <class Score> void sort(const Score& score) {
    order_.resize(kept_.size());
    std::iota(order_.begin(), order_.end(), 0u);
    std::sort(order_.begin(), order_.end(), [&](uint32_t a, uint32_t b) {
      const auto x = score(a), y = score(b);
      return x != y ? x < y : a < b;
    });
  }
  template <class Score> void keep_mass(double p, const Score& score) {
    sort(score);
    const double wanted = p * total();
    double sum = 0;
    size_t last = 0;
    for (; last + 1 < order_.size(); ++last)
      if ((sum += weight_[order_[last]]) >= wanted) break;
    const auto threshold = score(order_[last]);
    keep([&](size_t i) { return score(i) <= threshold; });
  }
  // wanted may read weight_ and kept_ at its index: they are compacted in rising order behind it.
  template <class Wanted> void keep(const Wanted& wanted) {
    size_t n = 0;
    for (size_t i = 0; i < kept_.size(); ++i)
      if (wanted(i)) {
        kept_[n] = kept_[i];
        weight_[n++] = weight_[i];
      }
    kept_.resize(n);
    weight_.resize(n);
  }

  std::span<const float> l_;
  std::vector<uint32_t>& kept_;
  std::vector<double>& weight_;
  std::vector<uint32_t>& order_;
};

// Step 4: the Gumbel-max method.
int32_t draw(std::span<const float> l, const quire_sampling_row& p, const std::vector<uint32_t>& kept) {
  double best = 0;
  int32_t token = -1;
  std::array<uint32_t, 4> words{};
  uint32_t block = UINT32_MAX;
  for (const uint32_t i : kept) {
    if (i / 4 != block) {
      block = i / 4;
      words = philox4x32_10({block, p.position, p.choice, 0},
                            {static_cast<uint32_t>(p.seed), static_cast<uint32_t>(p.seed >> 32)});
    }
    const double u = (words[i % 4] + 0.5) * 0x1p-32;
    const double key = l[i] - std::log(-std::log(u));
    if (token < 0 || key > best) {
      best = key;
      token = static_cast<int32_t>(i);
    }
  }
  return token;
}

int32_t choose(std::span<float> l, const quire_sampling_row& p, SampleScratch& scratch) {
  const auto largest = std::max_element(l.begin(), l.end());
  if (*largest == kNever) return -1;
  if (p.temperature == 0) return static_cast<int32_t>(largest - l.begin());
  for (float& x : l) x /= p.temperature;
  Filters filters(l, scratch);
  if (p.min_p > 0) filters.min_p(p.min_p);
  if (p.top_k > 0) filters.top_k(p.top_k);
  if (p.typical_p > 0 && p.typical_p < 1) filters.typical_p(p.typical_p);
  if (p.top_p > 0 && p.top_p < 1) filters.top_p(p.top_p);
  return draw(l, p, scratch.kept);
}

} // namespace

void SamplingRow::assign(const quire_sampling_row& row, uint32_t vocab_size) {
  const auto check = [&](int32_t token, const char* what) {
    if (token < 0 || static_cast<uint32_t>(token) >= vocab_size)
      throw Failure(QUIRE_INVALID, std::string("a sampling row's ") + what + " names token " + std::to_string(token) +
                                       " of a vocabulary of " + std::to_string(vocab_size));
  };
  if (row.num_candidates > QUIRE_MAX_CANDIDATES)
    throw Failure(QUIRE_INVALID, "a sampling row wants " + std::to_string(row.num_candidates) +
                                     " candidates, over the limit of " + std::to_string(QUIRE_MAX_CANDIDATES));
  parameters = row;
  counts.assign(row.counts, row.counts + row.num_counts);
  bias.assign(row.bias, row.bias + row.num_bias);
  mask.clear();
  if (row.mask) mask.assign(row.mask, row.mask + (vocab_size + 31) / 32);
  for (const quire_token_count& c : counts) check(c.token, "counts");
  for (const quire_logit_bias& b : bias) check(b.token, "bias");
}

void sample_row(std::span<const float> logits, const SamplingRow& row, int32_t pending, SampleScratch& scratch,
                SampledRow& out) {
  out.token = -1;
  out.logprob = kNever;
  out.candidates.clear();
  if (std::any_of(logits.begin(), logits.end(), [](float l) { return std::isnan(l); })) return;
  const double log_sum = log_sum_exp(logits);
  find_candidates(logits, log_sum, row.parameters.num_candidates, scratch, out.candidates);
  scratch.logits.assign(logits.begin(), logits.end());
  edit(scratch.logits, row, pending);
  out.token = choose(scratch.logits, row.parameters, scratch);
  if (out.token >= 0) out.logprob = static_cast<float>(logits[static_cast<size_t>(out.token)] - log_sum);
}

} // namespace quire::reference
