#include "support/sampling64.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <sstream>

namespace quire::tests {
namespace {

// What float32 arithmetic can be off by. Keys: a sum of a logit and a Gumbel number, each good to a few units of
// float32, with an absolute part for logarithms near 1. Masses: float32 sums of a whole vocabulary's exponentials.
double key_slack(double logit, double gumbel) { return 0x1p-17 + 0x1p-20 * (std::abs(logit) + std::abs(gumbel)); }
constexpr double kMassSlack = 0x1p-13;
constexpr double kLogitSlack = 0x1p-21; // relative, of an edited logit
constexpr double kLogprobSlack = 0x1p-13;

using Set = std::vector<uint32_t>;

double mass(const Set& set, const std::vector<double>& p) {
  double sum = 0;
  for (const uint32_t i : set) sum += p[i];
  return sum;
}

// The fewest of `set`, in rising order of score, whose probability reaches wanted; and those that tie with the last.
Set fewest(const Set& set, const std::vector<double>& p, const std::vector<double>& score, double wanted) {
  Set order = set;
  std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return score[a] < score[b]; });
  double sum = 0, last = 0;
  for (const uint32_t i : order) {
    sum += p[i];
    last = score[i];
    if (sum >= wanted) break;
  }
  Set kept;
  for (const uint32_t i : set)
    if (score[i] <= last) kept.push_back(i);
  return kept;
}

// All that the filters may keep, at slacks -1, 0 and 1 in each of them. Without slack there is one.
std::vector<Set> possible_sets(const std::vector<double>& l, const quire_sampling_row& row, bool slack) {
  const std::vector<double> shifts = slack ? std::vector<double>{-1, 0, 1} : std::vector<double>{0};
  const double largest = *std::max_element(l.begin(), l.end());
  std::vector<double> p(l.size()), minus_l(l.size());
  Set all;
  for (uint32_t i = 0; i < l.size(); ++i) {
    minus_l[i] = -l[i];
    p[i] = std::exp(l[i] - largest);
    if (l[i] > -HUGE_VAL) all.push_back(i);
  }
  std::vector<Set> sets = {all};
  const auto apply = [&](const auto& filter) {
    std::vector<Set> results;
    for (const Set& set : sets)
      for (const double shift : shifts) results.push_back(filter(set, shift));
    std::sort(results.begin(), results.end());
    results.erase(std::unique(results.begin(), results.end()), results.end());
    sets = results;
  };
  if (row.min_p > 0)
    apply([&](const Set& set, double shift) {
      Set kept;
      for (const uint32_t i : set)
        if (p[i] >= std::min(1.0, row.min_p * (1 + shift * kMassSlack))) kept.push_back(i);
      return kept;
    });
  if (row.top_k > 0)
    apply([&](const Set& set, double shift) {
      if (set.size() <= row.top_k) return set;
      std::vector<double> sorted;
      for (const uint32_t i : set) sorted.push_back(l[i]);
      std::nth_element(sorted.begin(), sorted.begin() + (row.top_k - 1), sorted.end(), std::greater<>());
      const double exact = sorted[row.top_k - 1], best = *std::max_element(sorted.begin(), sorted.end());
      const double threshold = std::min(best, exact + shift * kLogitSlack * std::abs(exact));
      Set kept;
      for (const uint32_t i : set)
        if (l[i] >= threshold) kept.push_back(i);
      return kept;
    });
  if (row.typical_p > 0 && row.typical_p < 1)
    apply([&](const Set& set, double shift) {
      const double total = mass(set, p);
      double entropy = 0;
      for (const uint32_t i : set)
        if (p[i] > 0) entropy -= p[i] / total * std::log(p[i] / total);
      std::vector<double> score(l.size());
      for (const uint32_t i : set) score[i] = std::abs(-std::log(p[i] / total) - entropy);
      return fewest(set, p, score, row.typical_p * total * (1 + shift * kMassSlack));
    });
  if (row.top_p > 0 && row.top_p < 1)
    apply([&](const Set& set, double shift) {
      return fewest(set, p, minus_l, row.top_p * mass(set, p) * (1 + shift * kMassSlack));
    });
  return sets;
}

double gumbel(const quire_sampling_row& row, uint32_t token) { return -std::log(-std::log(uniform64(row, token))); }

std::string judge_token(const std::vector<double>& edited, const quire_sampling_row& row, int32_t token) {
  std::ostringstream message;
  const double largest = *std::max_element(edited.begin(), edited.end());
  if (largest == -HUGE_VAL) {
    if (token != -1) message << "sampled " << token << " where nothing is allowed";
    return message.str();
  }
  if (token < 0 || static_cast<size_t>(token) >= edited.size()) {
    message << "sampled " << token << " of a vocabulary of " << edited.size();
    return message.str();
  }
  const auto chosen = static_cast<uint32_t>(token);
  if (row.temperature == 0) {
    const auto best = static_cast<uint32_t>(std::max_element(edited.begin(), edited.end()) - edited.begin());
    const bool penalised = row.num_counts + row.num_bias + row.pending_row > 0;
    const double slack = penalised ? 4 * kLogitSlack * (std::abs(edited[best]) + std::abs(edited[chosen]) + 1) : 0;
    if (chosen != best && (edited[best] - edited[chosen] > slack || (edited[best] == edited[chosen] && slack == 0)))
      message << "chose " << chosen << " (" << edited[chosen] << "), the largest is " << best << " (" << edited[best]
              << ")";
    return message.str();
  }
  std::vector<double> l = edited;
  for (double& x : l) x /= row.temperature;
  for (const bool slack : {false, true}) {
    const std::vector<Set> sets = possible_sets(l, row, slack);
    // Whoever is in the smallest set must not beat the token; the token must be in the largest.
    Set common = sets.front(), any = sets.front();
    for (const Set& set : sets) {
      Set both, either;
      std::set_intersection(common.begin(), common.end(), set.begin(), set.end(), std::back_inserter(both));
      std::set_union(any.begin(), any.end(), set.begin(), set.end(), std::back_inserter(either));
      common = both;
      any = either;
    }
    message.str("");
    if (!std::binary_search(any.begin(), any.end(), chosen)) {
      message << "sampled " << chosen << ", which the filters drop; they keep " << any.size();
      continue;
    }
    const double g = gumbel(row, chosen), key = l[chosen] + g;
    uint32_t better = UINT32_MAX;
    for (const uint32_t i : common) {
      const double other = gumbel(row, i);
      if (l[i] + other > key + key_slack(l[i], other) + key_slack(l[chosen], g)) better = i;
    }
    if (better == UINT32_MAX) return "";
    message << "sampled " << chosen << " with key " << key << ", but " << better << " has "
            << l[better] + gumbel(row, better);
  }
  return message.str();
}

} // namespace

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (uint32_t round = 0; round < 10; ++round) {
    const uint64_t left = counter[0] * uint64_t{0xD2511F53}, right = counter[2] * uint64_t{0xCD9E8D57};
    const uint32_t k0 = key[0] + round * 0x9E3779B9u, k1 = key[1] + round * 0xBB67AE85u;
    counter = {static_cast<uint32_t>(right >> 32) ^ counter[1] ^ k0, static_cast<uint32_t>(right & UINT32_MAX),
               static_cast<uint32_t>(left >> 32) ^ counter[3] ^ k1, static_cast<uint32_t>(left & UINT32_MAX)};
  }
  return counter;
}

double uniform64(const quire_sampling_row& row, uint32_t token) {
  const auto words = philox({token / 4, row.position, row.choice, 0},
                            {static_cast<uint32_t>(row.seed & UINT32_MAX), static_cast<uint32_t>(row.seed >> 32)});
  return (words[token % 4] + 0.5) / 4294967296.0;
}

std::vector<double> edited64(std::span<const float> logits, const quire_sampling_row& row, int32_t pending) {
  std::vector<double> l(logits.begin(), logits.end());
  std::vector<uint32_t> prompt(l.size()), output(l.size());
  for (uint32_t i = 0; i < row.num_counts; ++i) {
    prompt[static_cast<size_t>(row.counts[i].token)] += row.counts[i].in_prompt;
    output[static_cast<size_t>(row.counts[i].token)] += row.counts[i].in_output;
  }
  if (pending >= 0) ++output[static_cast<size_t>(pending)];
  const double repetition = row.repetition_penalty == 0 ? 1 : row.repetition_penalty;
  for (size_t i = 0; i < l.size(); ++i) {
    if (prompt[i] + output[i] > 0) l[i] = l[i] > 0 ? l[i] / repetition : l[i] * repetition;
    l[i] -= static_cast<double>(row.frequency_penalty) * output[i] + (output[i] > 0 ? row.presence_penalty : 0);
  }
  for (uint32_t i = 0; i < row.num_bias; ++i) l[static_cast<size_t>(row.bias[i].token)] += row.bias[i].bias;
  for (size_t i = 0; row.mask && i < l.size(); ++i)
    if ((row.mask[i / 32] & (1u << (i % 32))) == 0) l[i] = -HUGE_VAL;
  return l;
}

Kept64 kept64(std::span<const float> logits, const quire_sampling_row& row, int32_t pending) {
  std::vector<double> l = edited64(logits, row, pending);
  for (double& x : l) x /= row.temperature;
  Kept64 kept{possible_sets(l, row, false).front(), {}};
  const double largest = *std::max_element(l.begin(), l.end());
  double total = 0;
  for (const uint32_t i : kept.tokens) total += std::exp(l[i] - largest);
  for (const uint32_t i : kept.tokens) kept.probabilities.push_back(std::exp(l[i] - largest) / total);
  return kept;
}

std::string judge_sampled(std::span<const float> logits, const quire_sampling_row& row, int32_t pending,
                          const quire_sampled_row& got) {
  std::ostringstream message;
  if (std::any_of(logits.begin(), logits.end(), [](float x) { return std::isnan(x); })) {
    if (got.token != -1) message << "sampled " << got.token << " from a row with a NaN";
    return message.str();
  }
  const std::string wrong = judge_token(edited64(logits, row, pending), row, got.token);
  if (!wrong.empty()) return wrong;

  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float x : logits) sum += std::exp(x - largest);
  const double log_sum = largest + std::log(sum);
  const auto logprob_wrong = [&](int32_t token, float logprob) {
    const double expected = logits[static_cast<size_t>(token)] - log_sum;
    if (std::isinf(expected) && expected == logprob) return false;
    return !(std::abs(logprob - expected) <= kLogprobSlack * (1 + 0.01 * std::abs(expected)));
  };
  if (got.token >= 0 && logprob_wrong(got.token, got.logprob)) {
    message << "token " << got.token << " has logprob " << got.logprob << ", expected "
            << logits[static_cast<size_t>(got.token)] - log_sum;
    return message.str();
  }
  const auto count = std::min<uint32_t>(row.num_candidates, static_cast<uint32_t>(logits.size()));
  if (got.num_candidates != count) {
    message << got.num_candidates << " candidates came, expected " << count;
    return message.str();
  }
  Set order(logits.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
  for (uint32_t i = 0; i < count; ++i) {
    const quire_candidate& candidate = got.candidates[i];
    if (candidate.token != static_cast<int32_t>(order[i])) {
      message << "candidate " << i << " is " << candidate.token << ", expected " << order[i];
      return message.str();
    }
    if (logprob_wrong(candidate.token, candidate.logprob)) {
      message << "candidate " << i << " has logprob " << candidate.logprob << ", expected "
              << logits[order[i]] - log_sum;
      return message.str();
    }
  }
  return "";
}

} // namespace quire::tests
