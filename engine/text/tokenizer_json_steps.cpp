#include "text/tokenizer_json_steps.hpp"

#include "text/sentence_piece.hpp"

#include <string>
#include <string_view>
#include <utility>

namespace quire {
namespace {

// What Rust's char::is_ascii_punctuation and Unicode's P categories have together.
constexpr const char* punctuation = R"([\p{P}\x21-\x2F\x3A-\x40\x5B-\x60\x7B-\x7E])";

[[noreturn]] void unsupported(const JsonView& json, std::string_view type) {
  json.fail("has type \"" + std::string(type) + "\", which this version does not support");
}

// {"Regex": "..."} or {"String": "..."}, or a plain string.
struct Pattern {
  std::string text;
  bool is_regex;
  Regex compile(const JsonView& json) const { return Regex(is_regex ? text : Regex::quote(text), json.path()); }
};

Pattern read_pattern(const JsonView& json) {
  if (json.is_string()) return {std::string(json.string()), false};
  if (const JsonView regex = json["Regex"]; !regex.absent()) return {std::string(regex.string()), true};
  return {std::string(json["String"].string()), false};
}

SplitBehavior read_behavior(const JsonView& json, SplitBehavior otherwise) {
  if (json.absent()) return otherwise;
  const std::string_view name = json.string();
  if (name == "Removed" || name == "removed") return SplitBehavior::removed;
  if (name == "Isolated" || name == "isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious" || name == "merged_with_previous") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext" || name == "merged_with_next") return SplitBehavior::merged_with_next;
  if (name == "Contiguous" || name == "contiguous") return SplitBehavior::contiguous;
  json.fail("is not a behavior");
}

// prepend_scheme, or add_prefix_space in files of before it.
PreTokenizer::Prefix read_prefix(const JsonView& json) {
  const JsonView scheme = json["prepend_scheme"];
  if (scheme.absent())
    return json["add_prefix_space"].boolean_or(true) ? PreTokenizer::Prefix::always : PreTokenizer::Prefix::never;
  if (scheme.string() == "always") return PreTokenizer::Prefix::always;
  if (scheme.string() == "first") return PreTokenizer::Prefix::first;
  if (scheme.string() == "never") return PreTokenizer::Prefix::never;
  scheme.fail("is none of \"always\", \"first\" and \"never\"");
}

void read_pre_tokenizer_into(const JsonView& json, PreTokenizer& steps, PreTokenizerTraits& traits) {
  const std::string_view type = json["type"].string();
  const auto add_split = [&](const char* pattern, SplitBehavior behavior) {
    steps.add(PreTokenizer::Split{Regex(pattern, json.path()), behavior});
  };
  if (type == "Sequence") {
    const JsonView members = json["pretokenizers"];
    const size_t count = members.array_size();
    for (size_t i = 0; i < count; ++i) read_pre_tokenizer_into(members.at(i), steps, traits);
  } else if (type == "Split") {
    const JsonView pattern = json["pattern"];
    steps.add(PreTokenizer::Split{read_pattern(pattern).compile(pattern),
                                  read_behavior(json["behavior"], SplitBehavior::isolated),
                                  json["invert"].boolean_or(false)});
  } else if (type == "ByteLevel") {
    traits.byte_level = true;
    PreTokenizer::ByteLevelWords step{json["add_prefix_space"].boolean_or(true), {}};
    if (json["use_regex"].boolean_or(true))
      step.split = PreTokenizer::Split{Regex(gpt2_words_pattern, json.path()), SplitBehavior::isolated};
    steps.add(std::move(step));
  } else if (type == "Metaspace") {
    steps.add(PreTokenizer::Metaspace{std::string(json["replacement"].string_or(space_mark)), read_prefix(json),
                                      json["split"].boolean_or(true)});
  } else if (type == "Digits") {
    add_split(R"(\p{N})",
              json["individual_digits"].boolean_or(false) ? SplitBehavior::isolated : SplitBehavior::contiguous);
  } else if (type == "Punctuation") {
    add_split(punctuation, read_behavior(json["behavior"], SplitBehavior::isolated));
  } else if (type == "Whitespace") {
    steps.add(PreTokenizer::Split{Regex(R"(\w+|[^\w\s]+)", json.path()), SplitBehavior::removed, true});
  } else if (type == "WhitespaceSplit") {
    add_split(R"(\s)", SplitBehavior::removed);
  } else if (type == "BertPreTokenizer") {
    add_split(R"(\s)", SplitBehavior::removed);
    add_split(punctuation, SplitBehavior::isolated);
  } else if (type == "CharDelimiterSplit") {
    const JsonView delimiter = json["delimiter"];
    steps.add(PreTokenizer::Split{Regex(Regex::quote(delimiter.string()), delimiter.path()), SplitBehavior::removed});
  } else {
    unsupported(json, type);
  }
}

void read_decoder_into(const JsonView& json, DecoderTraits& traits) {
  const std::string_view type = json["type"].string();
  if (type == "Sequence") {
    const JsonView members = json["decoders"];
    const size_t count = members.array_size();
    for (size_t i = 0; i < count; ++i) read_decoder_into(members.at(i), traits);
  } else if (type == "ByteLevel") {
    traits.byte_level = true;
  } else if (type == "Replace") {
    const Pattern pattern = read_pattern(json["pattern"]);
    if (pattern.text != space_mark || json["content"].string() != " ")
      json.fail("replaces something else than U+2581 by a space, which this version does not support");
    traits.space_mark = true;
  } else if (type == "ByteFallback") {
    traits.byte_fallback = true;
  } else if (type == "Fuse") {
    // Joining the tokens' texts is what decoding does anyway.
  } else if (type == "Strip") {
    const JsonView start = json["start"], stop = json["stop"];
    if (json["content"].string() != " " || (!start.absent() && start.integer() > 1) ||
        (!stop.absent() && stop.integer() != 0))
      json.fail("strips something else than one space at the start, which this version does not support");
    traits.strips_leading_space = start.absent() || start.integer() == 1;
  } else if (type == "Metaspace") {
    if (json["replacement"].string_or(space_mark) != space_mark)
      json["replacement"].fail("is not U+2581, the only one that this version supports");
    traits.space_mark = true;
    traits.strips_leading_space = read_prefix(json) != PreTokenizer::Prefix::never;
  } else {
    unsupported(json, type);
  }
}

} // namespace

void read_normalizer(const JsonView& json, Normalizer& normalizer) {
  if (json.absent()) return;
  const std::string_view type = json["type"].string();
  if (type == "Sequence") {
    const JsonView members = json["normalizers"];
    const size_t count = members.array_size();
    for (size_t i = 0; i < count; ++i) read_normalizer(members.at(i), normalizer);
  } else if (type == "Prepend") {
    normalizer.add(Normalizer::Prepend{std::string(json["prepend"].string())});
  } else if (type == "Replace") {
    const JsonView where = json["pattern"];
    const Pattern pattern = read_pattern(where);
    Normalizer::Replace step{pattern.text, {}, std::string(json["content"].string())};
    if (pattern.is_regex) step.regex = pattern.compile(where);
    normalizer.add(std::move(step));
  } else if (type == "NFC") {
    normalizer.add(Normalizer::Form{unicode::Form::nfc});
  } else if (type == "NFD") {
    normalizer.add(Normalizer::Form{unicode::Form::nfd});
  } else if (type == "NFKC") {
    normalizer.add(Normalizer::Form{unicode::Form::nfkc});
  } else if (type == "NFKD") {
    normalizer.add(Normalizer::Form{unicode::Form::nfkd});
  } else if (type == "Lowercase") {
    normalizer.add(Normalizer::Lowercase{});
  } else if (type == "StripAccents") {
    normalizer.add(Normalizer::StripAccents{});
  } else if (type == "Strip") {
    normalizer.add(Normalizer::Strip{json["strip_left"].boolean_or(true), json["strip_right"].boolean_or(true)});
  } else {
    unsupported(json, type);
  }
}

PreTokenizerTraits read_pre_tokenizer(const JsonView& json, PreTokenizer& pre_tokenizer) {
  PreTokenizerTraits traits;
  if (!json.absent()) read_pre_tokenizer_into(json, pre_tokenizer, traits);
  return traits;
}

DecoderTraits read_decoder(const JsonView& json) {
  DecoderTraits traits;
  if (json.absent()) return traits;
  traits.present = true;
  read_decoder_into(json, traits);
  return traits;
}

void read_post_processor(const JsonView& json, Tokenizer::Parts& parts) {
  if (json.absent()) return;
  const std::string_view type = json["type"].string();
  const auto token_id = [&](const JsonView& id) {
    const int32_t checked = checked_token_id(id.integer(), parts.source, "an id of post_processor");
    if (!parts.vocabulary.has(checked)) id.fail("is the id of no token");
    return checked;
  };
  if (type == "Sequence") {
    const JsonView members = json["processors"];
    const size_t count = members.array_size();
    for (size_t i = 0; i < count; ++i) read_post_processor(members.at(i), parts);
  } else if (type == "TemplateProcessing") {
    const JsonView pieces = json["single"];
    const size_t count = pieces.array_size();
    bool after = false;
    for (size_t i = 0; i < count; ++i) {
      const JsonView piece = pieces.at(i);
      const JsonView special = piece["SpecialToken"];
      if (special.absent()) {
        if (after || piece["Sequence"].absent()) pieces.fail("is not special tokens around one sequence");
        after = true;
        continue;
      }
      const JsonView ids = json["special_tokens"][special["id"].string()]["ids"];
      const size_t id_count = ids.array_size();
      for (size_t k = 0; k < id_count; ++k)
        (after ? parts.suffix_ids : parts.prefix_ids).push_back(token_id(ids.at(k)));
    }
  } else if (type == "BertProcessing" || type == "RobertaProcessing") {
    if (json["cls"].array_size() != 2) json["cls"].fail("is not a token and its id");
    if (json["sep"].array_size() != 2) json["sep"].fail("is not a token and its id");
    parts.prefix_ids.push_back(token_id(json["cls"].at(1)));
    parts.suffix_ids.push_back(token_id(json["sep"].at(1)));
  } else if (type != "ByteLevel") { // ByteLevel only trims offsets, which are not kept
    unsupported(json, type);
  }
}

} // namespace quire
