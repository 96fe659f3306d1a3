#include "text/pretokenizer.hpp"

#include "text/normalizer.hpp"
#include "text/utf8.hpp"

namespace quire {

const char* const gpt2_words_pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

namespace {

using Spans = std::vector<std::pair<uint32_t, uint32_t>>;

// The stretches of one span, matches and what lies between, joined as the behaviour says; appended to `out`.
class Cutter {
 public:
  Cutter(const PreTokenizer::Split& split, size_t total_bytes) : split_(split), matcher_(split.regex, total_bytes) {}

  // `subject` is valid UTF-8 of the same length as the text.
  void cut(std::string_view subject, std::pair<uint32_t, uint32_t> span, Spans& out) {
    const std::string_view text = subject.substr(span.first, span.second - span.first);
    stretches_.clear();
    size_t done = 0, from = 0, begin = 0, end = 0;
    while (from <= text.size() && matcher_.find(text, from, begin, end)) {
      if (begin > done) stretches_.push_back({done, begin, split_.invert});
      stretches_.push_back({begin, end, !split_.invert}); // an empty match is a cut without a separator
      done = end;
      from = end;
      if (begin == end) {
        ++from;
        while (from < text.size() && !utf8_begins(text[from])) ++from;
      }
    }
    if (done < text.size()) stretches_.push_back({done, text.size(), split_.invert});
    join();
    for (const Stretch& s : stretches_) {
      if (s.begin < s.end && !(s.separator && split_.behavior == SplitBehavior::removed))
        out.emplace_back(span.first + static_cast<uint32_t>(s.begin), span.first + static_cast<uint32_t>(s.end));
    }
  }

 private:
  struct Stretch {
    size_t begin, end;
    bool separator;
  };

  void join() {
    const SplitBehavior behavior = split_.behavior;
    if (behavior == SplitBehavior::removed || behavior == SplitBehavior::isolated) return;
    const bool backward = behavior == SplitBehavior::merged_with_next;
    std::vector<Stretch> joined;
    bool previous = false; // whether the stretch before was a separator
    for (size_t i = 0; i < stretches_.size(); ++i) {
      const Stretch& s = stretches_[backward ? stretches_.size() - 1 - i : i];
      const bool joins = behavior == SplitBehavior::contiguous ? s.separator == previous : s.separator && !previous;
      previous = s.separator;
      if (!joins || joined.empty())
        joined.push_back(s);
      else if (backward)
        joined.back().begin = s.begin;
      else
        joined.back().end = s.end;
    }
    if (backward)
      stretches_.assign(joined.rbegin(), joined.rend());
    else
      stretches_ = std::move(joined);
  }

  const PreTokenizer::Split& split_;
  RegexMatcher matcher_;
  std::vector<Stretch> stretches_;
};

struct State {
  std::string text;
  std::string shadow; // empty: the text is valid UTF-8 itself
  Spans spans;
  bool at_start;
  bool spelled = false; // in ByteLevel's characters

  std::string_view subject() const { return shadow.empty() ? std::string_view(text) : shadow; }
  std::string_view piece(std::pair<uint32_t, uint32_t> span) const {
    return std::string_view(text).substr(span.first, span.second - span.first);
  }
};

void apply(const PreTokenizer::Split& split, State& state) {
  Spans cut;
  cut.reserve(state.spans.size() + state.text.size() / 4);
  Cutter cutter(split, state.text.size());
  for (const auto& span : state.spans) cutter.cut(state.subject(), span, cut);
  state.spans = std::move(cut);
}

// Rebuilds the text piece by piece: edit(piece, out) appends what the piece becomes.
template <typename Edit> void rewrite(State& state, Edit edit) {
  std::string text;
  text.reserve(state.text.size() + state.text.size() / 4);
  for (auto& span : state.spans) {
    const size_t begin = text.size();
    edit(state.piece(span), span.first == 0, text);
    span = {static_cast<uint32_t>(begin), static_cast<uint32_t>(text.size())};
  }
  state.text = std::move(text);
  state.shadow = shadow_of(state.text);
}

void cut_before(std::string_view mark, State& state) {
  Spans cut;
  for (const auto& [first, last] : state.spans) {
    uint32_t begin = first;
    for (size_t at = first; (at = state.text.find(mark, at)) < last; at += mark.size()) {
      if (at > begin) cut.emplace_back(begin, static_cast<uint32_t>(at));
      begin = static_cast<uint32_t>(at);
    }
    if (begin < last) cut.emplace_back(begin, last);
  }
  state.spans = std::move(cut);
}

void apply(const PreTokenizer::Metaspace& step, State& state) {
  rewrite(state, [&](std::string_view piece, bool begins_text, std::string& out) {
    const bool prefix = step.prefix == PreTokenizer::Prefix::always ||
                        (step.prefix == PreTokenizer::Prefix::first && state.at_start && begins_text);
    if (prefix && !piece.starts_with(' ') && !piece.starts_with(step.replacement)) out += step.replacement;
    for (const char c : piece) {
      if (c == ' ')
        out += step.replacement;
      else
        out += c;
    }
  });
  if (step.split) cut_before(step.replacement, state);
}

void apply(const PreTokenizer::ByteLevelWords& step, State& state, const ByteLevel& byte_level, bool spell) {
  if (step.add_prefix_space) {
    rewrite(state, [](std::string_view piece, bool, std::string& out) {
      if (!piece.starts_with(' ')) out += ' ';
      out += piece;
    });
  }
  if (step.split) apply(*step.split, state);
  if (spell && !state.spelled) {
    rewrite(state, [&](std::string_view piece, bool, std::string& out) { byte_level.spell(piece, out); });
    state.spelled = true;
  }
}

} // namespace

PreTokenizer::Pieces PreTokenizer::run(std::string text, bool at_start) const {
  State state{std::move(text), {}, {}, at_start, false};
  if (state.text.empty()) return {};
  state.shadow = shadow_of(state.text);
  state.spans.emplace_back(0, static_cast<uint32_t>(state.text.size()));
  for (size_t i = 0; i < steps_.size(); ++i) {
    if (const auto* split = std::get_if<Split>(&steps_[i]))
      apply(*split, state);
    else if (const auto* metaspace = std::get_if<Metaspace>(&steps_[i]))
      apply(*metaspace, state);
    // Only a step that comes after needs to see the spelling.
    else
      apply(std::get<ByteLevelWords>(steps_[i]), state, byte_level_, i + 1 < steps_.size());
  }
  if (state.spelled)
    rewrite(state, [&](std::string_view piece, bool, std::string& out) { byte_level_.unspell(piece, out); });
  return {std::move(state.text), std::move(state.spans)};
}

} // namespace quire
