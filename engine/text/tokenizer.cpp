#include "text/tokenizer.hpp"

#include "text/detokenizer.hpp"
#include "text/sentence_piece.hpp"
#include "text/tokenizer_parts.hpp"

#include <quire/error.hpp>

#include <algorithm>
#include <cassert>
#include <utility>

namespace quire {
namespace {

// Spellings that end a turn or a text in public models. A file may name only one of them as its end (or, as some do,
// the wrong one).
constexpr std::string_view end_spellings[] = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<|return|>",
    "<|endofturn|>",
    "<|END_OF_TURN_TOKEN|>",
    "<\xEF\xBD\x9C"
    "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
};

// One encode() call.
class Encoder {
 public:
  Encoder(const Tokenizer::Parts& parts, EncodeOptions options, std::vector<int32_t>& ids)
      : parts_(parts), options_(options), ids_(ids) {}

  void run(std::string_view text) {
    each_segment(parts_.raw_added, text, [&](std::string_view segment, bool at_start) { plain(segment, at_start); });
  }

 private:
  // Added tokens become their ids; text between goes to `visit` with whether it begins the whole.
  template <typename Visit> void each_segment(const AddedTokens& added, std::string_view text, Visit visit) {
    size_t done = 0;
    AddedTokens::Match match{};
    while (done < text.size() && added.find(text, done, options_.parse_special, match)) {
      if (match.begin > done) visit(text.substr(done, match.begin - done), done == 0);
      ids_.push_back(match.token->id);
      done = match.end;
    }
    if (done < text.size()) visit(text.substr(done), done == 0);
  }

  void plain(std::string_view segment, bool at_start) {
    std::string unshielded;
    if (options_.shielded && segment.find(Tokenizer::shield_byte) != segment.npos) {
      unshielded = segment;
      std::erase(unshielded, Tokenizer::shield_byte);
      segment = unshielded;
    }
    // A shielded text's tokens must not be found in normalized text either, where the shields are gone: only those that
    // are not special.
    if (parts_.normalizer.empty() && parts_.normalized_added.empty()) return words(std::string(segment), at_start);
    const std::string normalized = parts_.normalizer.run(segment);
    if (!unshielded.empty()) {
      const EncodeOptions before = std::exchange(options_, {options_.add_special, false, false});
      normalized_segments(normalized, at_start);
      options_ = before;
    } else {
      normalized_segments(normalized, at_start);
    }
  }

  void normalized_segments(const std::string& normalized, bool at_start) {
    each_segment(parts_.normalized_added, normalized,
                 [&](std::string_view segment, bool begins) { words(std::string(segment), at_start && begins); });
  }

  void words(std::string text, bool at_start) {
    const PreTokenizer::Pieces pieces = parts_.pre_tokenizer.run(std::move(text), at_start);
    for (const auto& [begin, end] : pieces.spans)
      parts_.bpe.encode(std::string_view(pieces.text).substr(begin, end - begin), ids_);
  }

  const Tokenizer::Parts& parts_;
  EncodeOptions options_;
  std::vector<int32_t>& ids_;
};

} // namespace

int32_t checked_token_id(int64_t id, const std::string& source, const char* what) {
  if (id < 0 || id >= static_cast<int64_t>(Vocabulary::max_size))
    throw Error(source + ": " + what + " is " + std::to_string(id) + "; a token id lies between 0 and " +
                std::to_string(Vocabulary::max_size - 1));
  return static_cast<int32_t>(id);
}

void Tokenizer::Parts::finish(std::vector<int32_t> ids) {
  for (const std::string_view spelling : end_spellings) {
    const auto id = vocabulary.id_of(spelling);
    // A model that merges its way to such a spelling by itself has it as plain text.
    if (id && (vocabulary.kind(*id) == Vocabulary::Kind::special || vocabulary.kind(*id) == Vocabulary::Kind::added))
      ids.push_back(*id);
  }
  if (eos) ids.push_back(*eos);
  std::erase_if(ids, [&](int32_t id) { return !vocabulary.has(id); });
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  end_ids = std::move(ids);

  std::vector<int32_t> control = end_ids;
  if (bos) control.push_back(*bos);
  for (const int32_t id : control) {
    vocabulary.set_kind(id, Vocabulary::Kind::special);
    if (raw_added.make_special(id) || normalized_added.make_special(id)) continue;
    const std::string& content = vocabulary.text(id);
    if (!content.empty() && content.size() <= AddedTokens::max_content_bytes)
      raw_added.add({.content = content, .id = id, .special = true});
  }
}

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::~Tokenizer() = default;

std::shared_ptr<const Tokenizer> Tokenizer::from_bytes(int32_t vocab_size) {
  if (vocab_size < 256)
    throw Error("a byte tokenizer needs a vocabulary of 256 ids or more, the model has " + std::to_string(vocab_size));
  auto parts = std::make_unique<Parts>();
  parts->source = "byte tokenizer";
  parts->vocabulary.resize(static_cast<size_t>(checked_token_id(vocab_size - 1, parts->source, "the last id")) + 1);
  for (int byte = 0; byte < 256; ++byte) {
    parts->vocabulary.set(byte, byte_spelling(static_cast<uint8_t>(byte)), std::string(1, static_cast<char>(byte)),
                          Vocabulary::Kind::byte);
    parts->bpe.byte_ids[byte] = byte;
  }
  const auto special = [&](int32_t id, const char* spelling) {
    parts->vocabulary.set(id, spelling, spelling, Vocabulary::Kind::special);
    parts->raw_added.add({.content = spelling, .id = id, .special = true});
    return id;
  };
  if (vocab_size > 256) {
    parts->bos = special(256, "<s>");
    parts->prefix_ids = {256};
  }
  if (vocab_size > 257) parts->eos = special(257, "</s>");
  parts->vocabulary.index();
  parts->finish({});
  return std::make_shared<const Tokenizer>(std::move(parts));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  if (text.size() > max_text_bytes)
    throw Error("a text of " + std::to_string(text.size()) + " bytes is too long to tokenize; at most " +
                std::to_string(max_text_bytes) + " are taken");
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 4 + 8);
  if (options.add_special) ids = parts_->prefix_ids;
  Encoder(*parts_, options, ids).run(text);
  if (options.add_special) ids.insert(ids.end(), parts_->suffix_ids.begin(), parts_->suffix_ids.end());
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, DecodeOptions options) const {
  // A view of this tokenizer that owns nothing: the detokenizer lives no longer than this call.
  Detokenizer detokenizer(std::shared_ptr<const Tokenizer>(std::shared_ptr<void>(), this), options);
  std::string text;
  for (const int32_t id : ids) detokenizer.push(id, text);
  return text += detokenizer.flush();
}

std::string Tokenizer::decode_bytes(std::span<const int32_t> ids, DecodeOptions options) const {
  std::string bytes;
  bool strip = parts_->strips_leading_space;
  for (const int32_t id : ids) {
    if (options.skip_special && is_special(id)) continue;
    std::string_view piece = token_bytes(id);
    if (piece.empty()) continue;
    if (strip && piece.front() == ' ') piece.remove_prefix(1);
    strip = false;
    bytes += piece;
  }
  return bytes;
}

std::string Tokenizer::shield_special(std::string_view text) const {
  std::string shielded;
  shielded.reserve(text.size());
  // Every place where a special token's spelling begins is shielded, also where a longer token would hide it: what the
  // template puts beside the text may change what is longest.
  for (size_t at = 0; at < text.size(); ++at) {
    shielded += text[at];
    if (parts_->raw_added.special_begins(text, at) || parts_->normalized_added.special_begins(text, at))
      shielded += shield_byte;
  }
  return shielded;
}

int32_t Tokenizer::vocab_size() const { return parts_->vocabulary.size(); }

std::string_view Tokenizer::token_bytes(int32_t id) const {
  return parts_->vocabulary.has(id) ? std::string_view(parts_->vocabulary.bytes(id)) : std::string_view();
}

std::string_view Tokenizer::token_text(int32_t id) const {
  return parts_->vocabulary.has(id) ? std::string_view(parts_->vocabulary.text(id)) : std::string_view();
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token_text) const {
  return parts_->vocabulary.id_of(token_text);
}

bool Tokenizer::is_special(int32_t id) const {
  return parts_->vocabulary.has(id) && parts_->vocabulary.kind(id) == Vocabulary::Kind::special;
}

std::optional<int32_t> Tokenizer::bos() const { return parts_->bos; }
std::optional<int32_t> Tokenizer::eos() const { return parts_->eos; }
std::optional<int32_t> Tokenizer::unk() const { return parts_->unk; }
std::optional<int32_t> Tokenizer::pad() const { return parts_->pad; }
std::span<const int32_t> Tokenizer::end_ids() const { return parts_->end_ids; }
bool Tokenizer::is_end(int32_t id) const {
  return std::binary_search(parts_->end_ids.begin(), parts_->end_ids.end(), id);
}
bool Tokenizer::adds_bos() const {
  return parts_->bos && !parts_->prefix_ids.empty() && parts_->prefix_ids.front() == *parts_->bos;
}
bool Tokenizer::adds_eos() const {
  return parts_->eos && !parts_->suffix_ids.empty() && parts_->suffix_ids.back() == *parts_->eos;
}
bool Tokenizer::strips_leading_space() const { return parts_->strips_leading_space; }

} // namespace quire
