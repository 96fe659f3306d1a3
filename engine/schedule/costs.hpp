// What preempting a sequence costs, by measured rates: moving its blocks out and in again, or computing its tokens
// again.
#pragma once

#include <cstdint>

namespace quire {

// Exponentially weighted means of what was measured; 0 = not yet.
class PreemptionCosts {
 public:
  void measured_swap_rate(double bytes_per_second) { swap_bytes_per_second_ = bytes_per_second; }
  void measured_prefill(uint64_t tokens, double seconds) {
    blend(prefill_tokens_per_second_, static_cast<double>(tokens), seconds);
  }
  double swap_bytes_per_second() const { return swap_bytes_per_second_; }
  double prefill_tokens_per_second() const { return prefill_tokens_per_second_; }

  // bytes: to be moved each way. tokens: to be computed again. Where a rate is unknown: swapping, whose cost doesn't
  // grow with the model.
  bool swap_is_cheaper(uint64_t bytes, uint64_t tokens) const {
    if (swap_bytes_per_second_ <= 0 || prefill_tokens_per_second_ <= 0) return true;
    return 2.0 * static_cast<double>(bytes) / swap_bytes_per_second_ <=
           static_cast<double>(tokens) / prefill_tokens_per_second_;
  }

 private:
  static void blend(double& rate, double amount, double seconds) {
    if (!(seconds > 0) || !(amount > 0)) return;
    const double now = amount / seconds;
    rate = rate > 0 ? 0.8 * rate + 0.2 * now : now;
  }
  double swap_bytes_per_second_ = 0, prefill_tokens_per_second_ = 0;
};

} // namespace quire
