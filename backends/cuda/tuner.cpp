#include "tuner.hpp"

#include <algorithm>
#include <bit>
#include <utility>

namespace quire::cuda {
namespace {

// How far above the best median a candidate may be after each timed round, to stay.
constexpr double kLimits[] = {1.25, 1.12, 1.06, 1.04, 1.03, 1.03, 1.03};
constexpr double kLeastGain = 0.99;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

} // namespace

Tuner::Tuner(std::vector<TuningJob> jobs, LinearChoices& choices, Stopwatch& stopwatch)
    : choices_(choices), stopwatch_(stopwatch) {
  std::stable_sort(jobs.begin(), jobs.end(), [](const TuningJob& a, const TuningJob& b) {
    const int za = std::countr_zero(a.rows), zb = std::countr_zero(b.rows);
    return za != zb ? za > zb : a.rows < b.rows;
  });
  for (TuningJob& job : jobs)
    if (choices_.at(job.shape, job.rows) == nullptr) jobs_.push_back(std::move(job));
}

bool Tuner::step() {
  if (!job_) {
    if (jobs_.empty()) return false;
    begin_job();
    return !done();
  }
  while (next_ < candidates_.size() && !candidates_[next_].in) ++next_;
  if (next_ < candidates_.size()) {
    Candidate& candidate = candidates_[next_++];
    const std::optional<double> seconds = stopwatch_.time(*job_, candidate.choice);
    candidate.in = seconds.has_value();
    if (seconds && round_ > 0) candidate.seconds.push_back(*seconds);
  }
  while (next_ < candidates_.size() && !candidates_[next_].in) ++next_;
  if (next_ == candidates_.size()) end_round();
  return !done();
}

void Tuner::begin_job() {
  job_ = jobs_.front();
  jobs_.pop_front();
  candidates_.clear();
  for (const LinearChoice& choice : stopwatch_.candidates(*job_)) candidates_.push_back({choice, {}, true});
  next_ = 0, round_ = 0;
  if (candidates_.size() <= 1) finish_job();
}

void Tuner::end_round() {
  next_ = 0;
  if (round_ > 0) {
    double best = 1e30;
    for (const Candidate& c : candidates_)
      if (c.in) best = std::min(best, median(c.seconds));
    for (size_t i = 1; i < candidates_.size(); ++i)
      if (candidates_[i].in && median(candidates_[i].seconds) > best * kLimits[round_ - 1]) candidates_[i].in = false;
  }
  const auto left = std::count_if(candidates_.begin(), candidates_.end(), [](const Candidate& c) { return c.in; });
  if (round_ == std::size(kLimits) || left <= 1)
    finish_job();
  else
    ++round_;
}

void Tuner::finish_job() {
  const TuningJob job = *job_;
  job_.reset();
  // The first where it is as good as the best; the best of those that ran where it can't run at all.
  const Candidate* winner = nullptr;
  const auto seconds_of = [](const Candidate& c) { return c.seconds.empty() ? 0.0 : median(c.seconds); };
  for (const Candidate& c : candidates_) {
    if (!c.in) continue;
    const bool is_first = winner == &candidates_[0];
    if (winner == nullptr || seconds_of(c) < seconds_of(*winner) * (is_first ? kLeastGain : 1)) winner = &c;
  }
  if (winner != nullptr) {
    LinearChoice choice = winner->choice;
    choice.seconds = seconds_of(*winner);
    choices_.put(job.shape, job.rows, choice);
    ++totals_.jobs;
    totals_.before_seconds += seconds_of(candidates_[0].seconds.empty() ? *winner : candidates_[0]);
    totals_.after_seconds += choice.seconds;
    if (winner != &candidates_[0]) ++totals_.changed;
  }
  candidates_.clear();
  if (jobs_.empty() || jobs_.front().rows != job.rows) settled_.push_back(job.rows);
}

uint32_t Tuner::take_settled() {
  if (settled_.empty()) return 0;
  const uint32_t rows = settled_.front();
  settled_.pop_front();
  return rows;
}

} // namespace quire::cuda
