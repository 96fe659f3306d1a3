// Choosing kernels by timing them: which to time, how often, and which wins. What times is a Stopwatch: the device
// (linear_tuning.hpp), or a test's.
//
// A job is a shape and a count of rows. All its candidates run once untimed (their code is loaded), then once each in
// turn, so that a clock that drifts is the same to all; after each round those beyond the round's limit over the best
// median leave. The first of them, what runs untimed, stays to the end and wins unless another is at least 1 % faster.
// Errors: the stopwatch's. Threads: the backend's queue.
#pragma once

#include "linear_choice.hpp"

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

namespace quire::cuda {

struct TuningJob {
  LinearShape shape;
  uint32_t rows = 0;
  friend bool operator==(const TuningJob&, const TuningJob&) = default;
};

class Stopwatch {
 public:
  virtual ~Stopwatch() = default;
  // What can run the job; the first is what runs as long as nothing is known.
  virtual std::vector<LinearChoice> candidates(const TuningJob& job) = 0;
  // Seconds of one launch; none where it can't run after all.
  virtual std::optional<double> time(const TuningJob& job, const LinearChoice& choice) = 0;
};

class Tuner {
 public:
  // Jobs that are in choices already are left out. Counts of many trailing zeros (64, 2048, …) come first, and all
  // shapes of a count together.
  Tuner(std::vector<TuningJob> jobs, LinearChoices& choices, Stopwatch& stopwatch);

  // One timing, or the questions before a job's first. False: nothing is left to do.
  bool step();
  bool done() const { return !job_ && jobs_.empty(); }
  // A count of rows whose shapes have all been chosen, each told once; 0: none.
  uint32_t take_settled();
  bool has_settled() const { return !settled_.empty(); }
  // Whether the next step asks the library or runs a candidate for the first time, whose code is then loaded: that may
  // take milliseconds.
  bool next_is_long() const { return !job_ || round_ == 0; }

  struct Totals {
    uint32_t jobs = 0;                            // chosen
    uint32_t changed = 0;                         // of them, not what ran untimed
    double before_seconds = 0, after_seconds = 0; // a launch of each job, before and after
  };
  const Totals& totals() const { return totals_; }

 private:
  struct Candidate {
    LinearChoice choice;
    std::vector<double> seconds;
    bool in = true;
  };
  void begin_job();
  void end_round();
  void finish_job();

  LinearChoices& choices_;
  Stopwatch& stopwatch_;
  std::deque<TuningJob> jobs_;
  std::optional<TuningJob> job_;
  std::vector<Candidate> candidates_;
  size_t next_ = 0;    // candidate of this round
  uint32_t round_ = 0; // 0: untimed
  std::deque<uint32_t> settled_;
  Totals totals_;
};

} // namespace quire::cuda
