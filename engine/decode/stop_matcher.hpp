// Finds stop strings in text that comes in pieces, and holds back what may still become one.
//
// Matching is on bytes, by one Knuth-Morris-Pratt automaton a string: O(strings) a byte, whatever the text. The match
// that ends first wins; of those that end together the one that begins first. Text before the match is given out, the
// match and what follows never. The patterns are immutable and shared by forks; a matcher is cheap to copy. One thread
// at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

class StopPatterns {
 public:
  // Strings of at least one byte.
  explicit StopPatterns(std::vector<std::string> strings);
  const std::vector<std::string>& strings() const { return strings_; }

 private:
  friend class StopMatcher;
  std::vector<std::string> strings_;
  std::vector<std::vector<uint16_t>> failure_; // [string][i]: longest proper border of its first i + 1 bytes
};

class StopMatcher {
 public:
  explicit StopMatcher(std::shared_ptr<const StopPatterns> patterns);

  // Appends what has become final to `out`. True when a string matched: match() says which, and nothing more may be
  // pushed.
  bool push(std::string_view text, std::string& out);
  // The end of the stream: what was held back is final.
  void flush(std::string& out);
  // Lets text through unexamined: before min_tokens. Forgets partial matches.
  void pass(std::string_view text, std::string& out);

  const std::string& match() const { return patterns_->strings()[matched_]; }
  size_t held_bytes() const { return held_.size(); }

 private:
  std::shared_ptr<const StopPatterns> patterns_;
  std::vector<uint16_t> state_; // [strings] bytes of each string that the text ends with
  std::string held_;            // as long as the longest partial match
  size_t matched_ = 0;
};

} // namespace quire
