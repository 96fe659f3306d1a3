#include "text/normalizer.hpp"

#include "text/utf8.hpp"

#include <cstddef>

namespace quire {
namespace {

std::string apply(const Normalizer::Prepend& step, std::string text) {
  return text.empty() ? text : step.prefix + text;
}

std::string apply(const Normalizer::Replace& step, std::string text) {
  std::string out;
  if (step.regex) {
    const std::string shadow = shadow_of(text);
    const std::string_view subject = shadow.empty() ? std::string_view(text) : shadow;
    RegexMatcher matcher(*step.regex, text.size());
    size_t at = 0, begin = 0, end = 0, from = 0;
    while (from <= text.size() && matcher.find(subject, from, begin, end)) {
      out.append(text, at, begin - at);
      if (begin < end) out += step.content;
      at = end;
      from = end > begin ? end : end + 1;
      while (from < text.size() && !utf8_begins(subject[from])) ++from;
    }
    return out.append(text, at);
  }
  if (step.literal.empty()) return text;
  size_t at = 0;
  for (size_t found; (found = text.find(step.literal, at)) != text.npos; at = found + step.literal.size())
    out.append(text, at, found - at) += step.content;
  return at == 0 ? text : out.append(text, at);
}

std::string apply(const Normalizer::Form& step, std::string text) { return unicode::normalize(text, step.form); }
std::string apply(const Normalizer::Lowercase&, std::string text) { return unicode::to_lower(text); }

std::string apply(const Normalizer::StripAccents&, std::string text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    if (step.kind != Utf8Step::valid || !unicode::is_mark(step.code)) out.append(text, at, step.size);
    at += step.size;
  }
  return out;
}

std::string apply(const Normalizer::Strip& step, std::string text) {
  size_t begin = 0, end = text.size();
  while (step.left && begin < end) {
    const Utf8Step c = utf8_step(text, begin);
    if (c.kind != Utf8Step::valid || !unicode::is_white_space(c.code)) break;
    begin += c.size;
  }
  while (step.right && end > begin) {
    size_t last = end - 1;
    while (last > begin && end - last < 4 && !utf8_begins(text[last])) --last;
    const Utf8Step c = utf8_step(text, last);
    if (c.kind != Utf8Step::valid || last + c.size != end || !unicode::is_white_space(c.code)) break;
    end = last;
  }
  return text.substr(begin, end - begin);
}

} // namespace

void Normalizer::add(Step step) { steps_.push_back(std::move(step)); }

std::string Normalizer::run(std::string_view text) const {
  std::string current(text);
  for (const Step& step : steps_)
    current = std::visit([&](const auto& s) { return apply(s, std::move(current)); }, step);
  return current;
}

std::string shadow_of(std::string_view text) {
  size_t at = utf8_valid_prefix(text);
  if (at == text.size()) return {};
  std::string shadow(text);
  while (at < text.size()) {
    const Utf8Step step = utf8_step(text, at);
    if (step.kind == Utf8Step::valid) {
      at += step.size;
    } else {
      for (int i = 0; i < step.size; ++i) shadow[at++] = '\x7F';
    }
  }
  return shadow;
}

} // namespace quire
