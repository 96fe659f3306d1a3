#include "decode/stop_matcher.hpp"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>

namespace quire {
namespace {

StopMatcher matcher(std::vector<std::string> strings) {
  return StopMatcher(std::make_shared<const StopPatterns>(std::move(strings)));
}

TEST(StopMatcher, CutsTheMatchAndWhatFollows) {
  StopMatcher m = matcher({"END"});
  std::string out;
  EXPECT_TRUE(m.push("some text END and more", out));
  EXPECT_EQ(out, "some text ");
  EXPECT_EQ(m.match(), "END");
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAMatch) {
  StopMatcher m = matcher({"###", "\n\n"});
  std::string out;
  EXPECT_FALSE(m.push("a#", out));
  EXPECT_EQ(out, "a");
  EXPECT_EQ(m.held_bytes(), 1u);
  EXPECT_FALSE(m.push("#b\n", out));
  EXPECT_EQ(out, "a##b");
  m.flush(out);
  EXPECT_EQ(out, "a##b\n");
}

TEST(StopMatcher, FindsAMatchSplitOverPushesAndInsideACharacter) {
  StopMatcher m = matcher({"für"});
  std::string out;
  EXPECT_FALSE(m.push("das ist f\xC3", out));
  EXPECT_EQ(out, "das ist ");
  EXPECT_TRUE(m.push("\xBCr", out));
  EXPECT_EQ(out, "das ist ");
}

TEST(StopMatcher, OfMatchesThatEndTogetherTheLongestWins) {
  StopMatcher m = matcher({"stop", "full stop"});
  std::string out;
  EXPECT_TRUE(m.push("a full stop", out));
  EXPECT_EQ(out, "a ");
  EXPECT_EQ(m.match(), "full stop");
}

TEST(StopMatcher, PassedTextIsNotExamined) {
  StopMatcher m = matcher({"ab"});
  std::string out;
  m.pass("ab a", out);
  EXPECT_EQ(out, "ab a");
  EXPECT_FALSE(m.push("b", out)); // the «a» was passed
  EXPECT_EQ(out, "ab ab");
}

// Whatever the pieces, the text before the first match to end comes out, and all of it where there is none.
TEST(StopMatcher, AgreesWithASearchInTheWholeText) {
  rc::check([] {
    const auto letter = rc::gen::element('a', 'b', 'c');
    const auto text = *rc::gen::container<std::string>(letter);
    const auto stops = *rc::gen::nonEmpty(rc::gen::container<std::vector<std::string>>(rc::gen::suchThat(
        rc::gen::container<std::string>(letter), [](const std::string& s) { return !s.empty() && s.size() < 6; })));
    StopMatcher m = matcher(stops);
    std::string out;
    bool matched = false;
    for (size_t at = 0; at < text.size() && !matched;) {
      const auto size = *rc::gen::inRange<size_t>(1, 5);
      matched = m.push(std::string_view(text).substr(at, size), out);
      at += size;
    }
    size_t end = std::string::npos, start = 0;
    for (size_t e = 1; e <= text.size() && end == std::string::npos; ++e)
      for (const std::string& s : stops)
        if (s.size() <= e && text.compare(e - s.size(), s.size(), s) == 0) {
          if (end == std::string::npos || e - s.size() < start) start = e - s.size();
          end = e;
        }
    RC_ASSERT(matched == (end != std::string::npos));
    if (!matched) m.flush(out);
    RC_ASSERT(out == (matched ? text.substr(0, start) : text));
  });
}

} // namespace
} // namespace quire
