#include "load.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <random>
#include <thread>

namespace quire::bench {
namespace {

using Clock = std::chrono::steady_clock;

// A token comes when its step is done. What each token touches comes first, in one cache line.
class alignas(64) Recorder : public EventSink {
 public:
  Recorder(LoadResult& result, Clock::time_point start) : start_(start), result_(result) {
    seconds_.swap(result_.token_seconds);
  }

  void token(TokenEvent&& event) noexcept override {
    if (event.token >= 0) seconds_.push_back(std::chrono::duration<double>(event.made - start_).count());
    if (event.finish == FinishReason::none) return;
    if (event.finish == FinishReason::error) result_.error = std::move(event.error);
    result_.cut_off |= event.finish == FinishReason::cancelled;
    result_.end_seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  }
  void finished(const Finished& summary) noexcept override {
    seconds_.swap(result_.token_seconds);
    result_.output_tokens = summary.output_tokens;
    result_.cached_tokens = summary.cached_tokens;
    const std::lock_guard lock(mutex_);
    done_ = true;
    changed_.notify_one();
  }
  void wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done_; });
  }
  bool wait_until(Clock::time_point end) {
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, end, [&] { return done_; });
  }

 private:
  const Clock::time_point start_;
  std::vector<double> seconds_;
  LoadResult& result_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
};

} // namespace

std::vector<int32_t> random_tokens(const Engine& engine, uint32_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  // Ids below 256 are often control tokens; any id will do as content otherwise.
  const int32_t vocab = static_cast<int32_t>(engine.model().vocab_size);
  std::uniform_int_distribution<int32_t> token(std::min(256, vocab / 2), vocab - 1);
  std::vector<int32_t> tokens(count);
  for (int32_t& t : tokens) t = token(random);
  return tokens;
}

std::vector<LoadResult> run_load(Engine& engine, const std::vector<LoadRequest>& requests, uint64_t seed,
                                 double cut_off_seconds) {
  std::mt19937_64 random(seed);
  std::vector<LoadResult> results(requests.size());
  std::vector<std::shared_ptr<Recorder>> recorders;
  std::vector<RequestId> ids;
  const auto start = Clock::now();
  const auto after = [&](double seconds) {
    return start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  };
  for (size_t i = 0; i < requests.size(); ++i) {
    const LoadRequest& r = requests[i];
    Request request;
    request.prompt = r.prompt.empty() ? random_tokens(engine, r.prompt_tokens, random()) : r.prompt;
    request.max_tokens = r.output_tokens;
    request.ignore_eos = true;
    request.sampling.temperature = 0;
    results[i].arrival_seconds = r.arrival_seconds;
    results[i].prompt_tokens = static_cast<uint32_t>(request.prompt.size());
    results[i].token_seconds.reserve(r.output_tokens);
    recorders.push_back(std::make_shared<Recorder>(results[i], start));
    request.sink = recorders.back();
    std::this_thread::sleep_until(after(r.arrival_seconds));
    ids.push_back(engine.submit(std::move(request)));
  }
  if (cut_off_seconds > 0)
    for (size_t i = 0; i < ids.size(); ++i)
      if (!recorders[i]->wait_until(after(cut_off_seconds))) engine.cancel(ids[i]);
  for (const auto& recorder : recorders) recorder->wait();
  for (LoadResult& result : results) {
    if (result.token_seconds.empty()) continue;
    result.first_token_seconds = result.token_seconds.front();
    result.last_token_seconds = result.token_seconds.back();
  }
  return results;
}

std::vector<LoadRequest> uniform_requests(uint32_t count, uint32_t low, uint32_t high, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<uint32_t> length(low, high);
  std::vector<LoadRequest> requests(count);
  for (LoadRequest& r : requests) {
    r.prompt_tokens = length(random);
    r.output_tokens = length(random);
  }
  return requests;
}

std::vector<LoadRequest> sharegpt_like_requests(uint32_t count, double requests_per_second, uint32_t max_total_tokens,
                                                uint64_t seed) {
  std::mt19937_64 random(seed);
  // A lognormal of mean m and shape s has the location log(m) - s^2 / 2.
  // The shapes are those of the memory study, docs/paged-memory.md.
  constexpr double mean_in = 161.31, mean_out = 337.99, shape_in = 1.0, shape_out = 0.75;
  std::lognormal_distribution<double> in(std::log(mean_in) - shape_in * shape_in / 2, shape_in),
      out(std::log(mean_out) - shape_out * shape_out / 2, shape_out);
  std::exponential_distribution<double> gap(requests_per_second);
  std::vector<LoadRequest> requests(count);
  double now = 0;
  for (LoadRequest& r : requests) {
    now += gap(random);
    r.arrival_seconds = now;
    r.prompt_tokens = static_cast<uint32_t>(std::clamp(in(random), 4.0, max_total_tokens / 2.0));
    r.output_tokens =
        static_cast<uint32_t>(std::clamp(out(random), 1.0, static_cast<double>(max_total_tokens - r.prompt_tokens)));
  }
  return requests;
}

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  const size_t k = std::min(values.size() - 1, static_cast<size_t>(q * static_cast<double>(values.size())));
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(k), values.end());
  return values[k];
}

} // namespace quire::bench
