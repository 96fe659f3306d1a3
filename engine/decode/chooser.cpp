#include "decode/chooser.hpp"

#include "decode/sampling_state.hpp"
#include "quire/error.hpp"

#include <algorithm>
#include <cmath>

namespace quire {
namespace {

using Numbers = std::vector<std::pair<std::string, double>>;

int32_t number(void* host, const char* key, double* out) {
  for (const auto& [name, value] : *static_cast<const Numbers*>(host))
    if (name == key) return *out = value, 1;
  return 0;
}

} // namespace

std::shared_ptr<SamplerState> SamplerState::open(const quire_sampler& sampler, const Numbers& numbers, uint64_t seed,
                                                 uint32_t choice, uint32_t vocab_size) {
  quire_sampler_request request{};
  request.struct_size = sizeof request;
  request.seed = seed;
  request.choice = choice;
  request.vocab_size = vocab_size;
  request.host = const_cast<Numbers*>(&numbers);
  request.number = number;
  quire_status status{};
  void* state = sampler.open(sampler.self, &request, &status);
  if (status.code != QUIRE_OK) throw Error(status.message);
  return std::shared_ptr<SamplerState>(new SamplerState(sampler, state));
}

SamplerState::~SamplerState() {
  if (sampler_->close) sampler_->close(state_);
}

int32_t SamplerState::choose(float* logits, uint32_t vocab_size, uint32_t position, quire_status& status) {
  return sampler_->choose(state_, logits, vocab_size, position, &status);
}

void make_choice(Choice& c) {
  const auto vocab = static_cast<uint32_t>(c.logits.size());
  if (std::any_of(c.logits.begin(), c.logits.end(), [](float l) { return std::isnan(l); })) {
    c.error = "the model's logits held a NaN";
    return;
  }
  std::vector<float> adjusted = c.logits;
  c.row.counts = c.counts.data();
  c.row.num_counts = static_cast<uint32_t>(c.counts.size());
  c.row.bias = c.bias.data();
  c.row.num_bias = static_cast<uint32_t>(c.bias.size());
  c.row.mask = c.mask.empty() ? nullptr : c.mask.data();
  apply_row(c.row, adjusted);
  quire_status status{};
  const int32_t token = c.state->choose(adjusted.data(), vocab, c.row.position, status);
  if (status.code != QUIRE_OK) {
    c.error = status.message[0] ? status.message : "the sampler plugin failed without a message";
    return;
  }
  if (token < 0 || static_cast<uint32_t>(token) >= vocab) {
    c.error = "the sampler plugin chose token " + std::to_string(token) + ", which is outside the vocabulary of " +
              std::to_string(vocab);
    return;
  }
  c.token = token;
  const double log_sum = log_sum_exp(c.logits);
  c.logprob = static_cast<float>(c.logits[static_cast<size_t>(token)] - log_sum);
  const uint32_t wanted = std::min(c.row.num_candidates, vocab);
  if (wanted == 0) return;
  std::vector<int32_t> ids(vocab);
  for (uint32_t i = 0; i < vocab; ++i) ids[i] = static_cast<int32_t>(i);
  std::partial_sort(ids.begin(), ids.begin() + wanted, ids.end(), [&](int32_t a, int32_t b) {
    const float la = c.logits[static_cast<size_t>(a)], lb = c.logits[static_cast<size_t>(b)];
    return la > lb || (la == lb && a < b);
  });
  for (uint32_t i = 0; i < wanted; ++i)
    c.candidates.push_back({ids[i], static_cast<float>(c.logits[static_cast<size_t>(ids[i])] - log_sum)});
}

ChooserPool::ChooserPool(uint32_t num_threads, std::function<void()> ready) : ready_(std::move(ready)) {
  for (uint32_t i = 0; i < num_threads; ++i) threads_.emplace_back([this] { work(); });
}

ChooserPool::~ChooserPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
    queue_.clear();
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ChooserPool::post(std::unique_ptr<Choice> choice) {
  ++outstanding_;
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(choice));
  }
  wake_.notify_one();
}

void ChooserPool::collect(std::vector<std::unique_ptr<Choice>>& out, std::chrono::nanoseconds patience) {
  out.clear();
  if (outstanding_ == 0) return;
  std::unique_lock lock(mutex_);
  if (patience.count() > 0) finished_.wait_for(lock, patience, [this] { return queue_.empty() && running_ == 0; });
  std::swap(out, done_);
  outstanding_ -= static_cast<uint32_t>(out.size());
}

void ChooserPool::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    auto choice = std::move(queue_.front());
    queue_.erase(queue_.begin());
    ++running_;
    lock.unlock();
    make_choice(*choice);
    lock.lock();
    --running_;
    done_.push_back(std::move(choice));
    if (queue_.empty() && running_ == 0) finished_.notify_one();
    lock.unlock();
    if (ready_) ready_();
    lock.lock();
  }
}

} // namespace quire
