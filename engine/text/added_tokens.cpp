#include "text/added_tokens.hpp"

#include "text/unicode/unicode.hpp"
#include "text/utf8.hpp"

#include <algorithm>
#include <cassert>

namespace quire {
namespace {

// The character that ends before `at`, 0 at the beginning or where the bytes are invalid; `begin` is where it starts.
char32_t character_before(std::string_view text, size_t at, size_t& begin) {
  begin = at;
  if (at == 0) return 0;
  begin = at - 1;
  while (begin > 0 && at - begin < 4 && !utf8_begins(text[begin])) --begin;
  const Utf8Step step = utf8_step(text, begin);
  return step.kind == Utf8Step::valid && begin + step.size == at ? step.code : 0;
}

} // namespace

void AddedTokens::add(AddedToken token) {
  assert(!token.content.empty() && token.content.size() <= max_content_bytes);
  int32_t at = 0;
  for (const char byte : token.content) {
    auto& next = nodes_[at].next;
    const auto found =
        std::lower_bound(next.begin(), next.end(), byte, [](const auto& n, char b) { return n.first < b; });
    if (found != next.end() && found->first == byte) {
      at = found->second;
    } else {
      const auto child = static_cast<int32_t>(nodes_.size());
      next.insert(found, {byte, child});
      nodes_.emplace_back();
      at = child;
    }
  }
  if (nodes_[at].token >= 0) return;
  nodes_[at].token = static_cast<int32_t>(tokens_.size());
  begins_[static_cast<uint8_t>(token.content[0])] = true;
  // \w and the joiners: a word character in Unicode's sense (UTS 18, annex C).
  if (token.single_word && !word_) word_.emplace(R"([\w\x{200C}\x{200D}])", "an added token's single_word");
  tokens_.push_back(std::move(token));
}

bool AddedTokens::make_special(int32_t id) {
  const auto found =
      std::find_if(tokens_.begin(), tokens_.end(), [&](const AddedToken& token) { return token.id == id; });
  if (found == tokens_.end()) return false;
  found->special = true;
  return true;
}

bool AddedTokens::is_word(char32_t code) const {
  if (code == 0) return false;
  std::string character;
  append_utf8(character, code);
  size_t begin = 0, end = 0;
  return RegexMatcher(*word_, character.size()).find(character, 0, begin, end);
}

int32_t AddedTokens::child(int32_t node, char byte) const {
  const auto& next = nodes_[node].next;
  const auto found =
      std::lower_bound(next.begin(), next.end(), byte, [](const auto& n, char b) { return n.first < b; });
  return found != next.end() && found->first == byte ? found->second : -1;
}

int32_t AddedTokens::longest_at(std::string_view text, size_t at) const {
  int32_t longest = -1;
  for (int32_t node = 0; at < text.size() && (node = child(node, text[at])) >= 0; ++at)
    if (nodes_[node].token >= 0) longest = nodes_[node].token;
  return longest;
}

bool AddedTokens::special_begins(std::string_view text, size_t at) const {
  if (!begins_[static_cast<uint8_t>(text[at])]) return false;
  for (int32_t node = 0; at < text.size(); ++at) {
    node = child(node, text[at]);
    if (node < 0) return false;
    if (nodes_[node].token >= 0 && tokens_[nodes_[node].token].special) return true;
  }
  return false;
}

bool AddedTokens::find(std::string_view text, size_t from, bool parse_special, Match& match) const {
  if (tokens_.empty()) return false;
  for (size_t at = from; at < text.size(); ++at) {
    if (!begins_[static_cast<uint8_t>(text[at])]) continue;
    const int32_t index = longest_at(text, at);
    if (index < 0) continue;
    const AddedToken& token = tokens_[index];
    size_t begin = at, end = at + token.content.size(), unused = 0;
    bool passes = token.special && !parse_special;
    if (token.single_word && !passes) {
      passes = is_word(character_before(text, begin, unused));
      if (end < text.size()) {
        const Utf8Step after = utf8_step(text, end);
        passes = passes || (after.kind == Utf8Step::valid && is_word(after.code));
      }
    }
    if (passes) {
      at = end - 1;
      continue;
    }
    while (token.lstrip && begin > from) {
      size_t before = 0;
      if (!unicode::is_white_space(character_before(text, begin, before))) break;
      begin = before;
    }
    while (token.rstrip && end < text.size()) {
      const Utf8Step after = utf8_step(text, end);
      if (after.kind != Utf8Step::valid || !unicode::is_white_space(after.code)) break;
      end += after.size;
    }
    match = {begin, end, &token};
    return true;
  }
  return false;
}

} // namespace quire
