#include "decode/stop_matcher.hpp"

#include <algorithm>

namespace quire {

StopPatterns::StopPatterns(std::vector<std::string> strings) : strings_(std::move(strings)) {
  for (const std::string& s : strings_) {
    std::vector<uint16_t> border(s.size(), 0);
    for (size_t i = 1, k = 0; i < s.size(); ++i) {
      while (k > 0 && s[i] != s[k]) k = border[k - 1];
      if (s[i] == s[k]) ++k;
      border[i] = static_cast<uint16_t>(k);
    }
    failure_.push_back(std::move(border));
  }
}

StopMatcher::StopMatcher(std::shared_ptr<const StopPatterns> patterns)
    : patterns_(std::move(patterns)), state_(patterns_->strings().size(), 0) {}

bool StopMatcher::push(std::string_view text, std::string& out) {
  for (size_t at = 0; at < text.size(); ++at) {
    const char byte = text[at];
    size_t longest = 0; // partial match
    size_t whole = 0;   // match that ends here
    for (size_t i = 0; i < state_.size(); ++i) {
      const std::string& s = patterns_->strings_[i];
      const std::vector<uint16_t>& border = patterns_->failure_[i];
      size_t k = state_[i];
      while (k > 0 && s[k] != byte) k = border[k - 1];
      if (s[k] == byte) ++k;
      state_[i] = static_cast<uint16_t>(k);
      if (k == s.size()) {
        if (k > whole) whole = k, matched_ = i;
      } else {
        longest = std::max(longest, k);
      }
    }
    held_ += byte;
    if (whole) {
      out.append(held_, 0, held_.size() - whole);
      held_.clear();
      return true;
    }
    if (held_.size() > longest) {
      out.append(held_, 0, held_.size() - longest);
      held_.erase(0, held_.size() - longest);
    }
  }
  return false;
}

void StopMatcher::flush(std::string& out) {
  out += held_;
  held_.clear();
  std::fill(state_.begin(), state_.end(), uint16_t{0});
}

void StopMatcher::pass(std::string_view text, std::string& out) {
  flush(out);
  out += text;
}

} // namespace quire
