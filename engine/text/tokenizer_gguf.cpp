// A tokenizer out of a GGUF file's metadata.
#include "text/byte_level.hpp"
#include "text/gguf_pretokenizers.hpp"
#include "text/sentence_piece.hpp"
#include "text/tokenizer_parts.hpp"
#include "text/utf8.hpp"

#include <quire/error.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <unordered_map>
#include <utility>

namespace quire {
namespace {

class GgufLoader {
 public:
  GgufLoader(const GgufVocabulary& in, const std::string& source) : in_(in) { parts_->source = source; }

  std::unique_ptr<Tokenizer::Parts> run() {
    const bool sentence_piece = in_.model == "llama";
    if (!sentence_piece && in_.model != "gpt2")
      fail("tokenizer.ggml.model \"" + in_.model +
           "\" is not supported; byte-level BPE (\"gpt2\") and SentencePiece-style BPE (\"llama\") are");
    check_sizes();
    if (sentence_piece)
      load_sentence_piece();
    else
      load_byte_level();
    special_ids();
    return std::move(parts_);
  }

 private:
  [[noreturn]] void fail(const std::string& sentence) const { throw Error(parts_->source + ": " + sentence); }

  void check_sizes() {
    const size_t size = in_.tokens.size();
    if (size == 0) fail("tokenizer.ggml.tokens is empty or missing, so the file has no vocabulary");
    if (size > Vocabulary::max_size) fail("tokenizer.ggml.tokens has " + std::to_string(size) + " entries, too many");
    const auto same = [&](size_t other, const char* key) {
      if (other != 0 && other != size)
        fail(std::string(key) + " has " + std::to_string(other) + " entries, tokenizer.ggml.tokens has " +
             std::to_string(size));
    };
    same(in_.token_types.size(), "tokenizer.ggml.token_type");
    same(in_.scores.size(), "tokenizer.ggml.scores");
    parts_->vocabulary.resize(size);
  }

  GgufTokenType type(size_t id) const {
    if (in_.token_types.empty()) return GgufTokenType::normal;
    return static_cast<GgufTokenType>(in_.token_types[id]);
  }

  // Tokens of all kinds; to_bytes turns a normal token's spelling into what it stands for.
  template <typename ToBytes> void add_tokens(bool byte_tokens, ToBytes to_bytes) {
    const bool phi3 = names_phi3();
    for (size_t i = 0; i < in_.tokens.size(); ++i) {
      const auto id = static_cast<int32_t>(i);
      const std::string& text = in_.tokens[i];
      switch (type(i)) {
      case GgufTokenType::unknown:
      case GgufTokenType::control: {
        parts_->vocabulary.set(id, text, text, Vocabulary::Kind::special);
        // GGUF has no flag for it: Phi-3's special tokens, but for these, swallow the white space after them.
        const bool rstrip = phi3 && text != "<unk>" && text != "<s>" && text != "<|endoftext|>";
        add_added({.content = text, .id = id, .special = true, .rstrip = rstrip});
        break;
      }
      case GgufTokenType::user_defined:
        parts_->vocabulary.set(id, text, text, Vocabulary::Kind::added);
        add_added({.content = text, .id = id, .rstrip = phi3 && text == "</s>"});
        break;
      case GgufTokenType::byte:
        if (const auto byte = spelled_byte(text); byte && byte_tokens) {
          parts_->vocabulary.set(id, text, std::string(1, static_cast<char>(*byte)), Vocabulary::Kind::byte);
          if (parts_->bpe.byte_ids[*byte] < 0) parts_->bpe.byte_ids[*byte] = id;
          break;
        }
        [[fallthrough]];
      default:
        parts_->vocabulary.set(id, text, to_bytes(text), Vocabulary::Kind::normal);
      }
    }
    parts_->vocabulary.index();
  }

  void add_added(AddedToken token) {
    if (token.content.empty()) return;
    if (token.content.size() > AddedTokens::max_content_bytes)
      fail("tokenizer.ggml.tokens[" + std::to_string(token.id) + "] is a special token of " +
           std::to_string(token.content.size()) + " bytes; at most " + std::to_string(AddedTokens::max_content_bytes) +
           " are allowed");
    parts_->raw_added.add(std::move(token));
  }

  bool names_phi3() const {
    const std::string name = unicode::to_lower(in_.model_name);
    return name.find("phi-3") != name.npos || name.find("phi3") != name.npos;
  }

  // A symbol of the merges: a normal token, or one that the vocabulary lacks.
  int32_t symbol(std::string_view text, std::string_view bytes) {
    if (const auto id = parts_->vocabulary.id_of(text); id && parts_->vocabulary.kind(*id) == Vocabulary::Kind::normal)
      return *id;
    const auto [found, fresh] =
        inner_.emplace(std::string(text), parts_->bpe.first_inner + static_cast<int32_t>(inner_.size()));
    if (fresh) parts_->bpe.inner.emplace_back(bytes);
    return found->second;
  }

  void load_byte_level() {
    if (in_.merges.empty()) fail("tokenizer.ggml.merges is missing; a \"gpt2\" vocabulary needs it");
    GgufPreTokenizer pre = gguf_pre_tokenizer(in_.pre, parts_->source);
    parts_->normalizer = std::move(pre.normalizer);
    parts_->pre_tokenizer = std::move(pre.pre_tokenizer);
    add_bos_ = in_.add_bos.value_or(pre.add_bos);
    const ByteLevel byte_level;
    const auto bytes_of = [&](const std::string& text) {
      std::string bytes;
      return byte_level.unspell(text, bytes) ? bytes : text;
    };
    add_tokens(false, bytes_of);
    Bpe& bpe = parts_->bpe;
    bpe.symbols = Bpe::Symbols::bytes;
    bpe.first_inner = parts_->vocabulary.size();
    for (int32_t id = 0; id < parts_->vocabulary.size(); ++id) {
      const std::string& bytes = parts_->vocabulary.bytes(id);
      if (parts_->vocabulary.kind(id) != Vocabulary::Kind::normal) continue;
      if (bytes.size() == 1 && bpe.byte_ids[static_cast<uint8_t>(bytes[0])] < 0)
        bpe.byte_ids[static_cast<uint8_t>(bytes[0])] = id;
      if (pre.ignore_merges) bpe.whole.emplace(bytes, id);
    }
    bpe.pairs.reserve(in_.merges.size());
    for (size_t rank = 0; rank < in_.merges.size(); ++rank) {
      const std::string& merge = in_.merges[rank];
      const size_t space = merge.find(' ', 1);
      if (space == merge.npos || space + 1 == merge.size())
        fail("tokenizer.ggml.merges[" + std::to_string(rank) + "] is not two symbols with a space between them");
      const std::string left = merge.substr(0, space), right = merge.substr(space + 1);
      const std::string left_bytes = bytes_of(left), right_bytes = bytes_of(right);
      const int32_t left_id = symbol(left, left_bytes), right_id = symbol(right, right_bytes);
      bpe.pairs.add(left_id, right_id, {static_cast<uint32_t>(rank), symbol(left + right, left_bytes + right_bytes)});
    }
  }

  void load_sentence_piece() {
    if (in_.scores.empty()) fail("tokenizer.ggml.scores is missing; a \"llama\" vocabulary needs it");
    add_bos_ = in_.add_bos.value_or(true);
    add_tokens(true, [](const std::string& text) { return replace_all(text, space_mark, " "); });
    if (in_.add_space_prefix.value_or(true)) {
      parts_->normalizer.add(Normalizer::Prepend{std::string(space_mark)});
      parts_->strips_leading_space = true;
    }
    parts_->normalizer.add(Normalizer::Replace{" ", {}, std::string(space_mark)});
    Bpe& bpe = parts_->bpe;
    bpe.symbols = Bpe::Symbols::characters;
    bpe.cuts_before_space_mark = true;
    bpe.first_inner = parts_->vocabulary.size();
    if (in_.unk_id) bpe.unknown = checked(*in_.unk_id, "tokenizer.ggml.unknown_token_id");
    const std::unordered_map<float, uint32_t> rank_of = ranks();
    for (int32_t id = 0; id < parts_->vocabulary.size(); ++id)
      if (parts_->vocabulary.kind(id) == Vocabulary::Kind::normal) add_splits(id, rank_of.at(in_.scores[id] + 0.0f));
  }

  // The rank of a score: the highest comes first.
  std::unordered_map<float, uint32_t> ranks() const {
    std::vector<float> scores;
    for (const float score : in_.scores) {
      if (std::isnan(score)) fail("tokenizer.ggml.scores has an entry that is not a number");
      scores.push_back(score + 0.0f); // -0 is 0
    }
    std::sort(scores.begin(), scores.end(), std::greater<>());
    scores.erase(std::unique(scores.begin(), scores.end()), scores.end());
    std::unordered_map<float, uint32_t> rank_of;
    for (size_t i = 0; i < scores.size(); ++i) rank_of.emplace(scores[i], static_cast<uint32_t>(i));
    return rank_of;
  }

  // Every way to make a token out of two symbols: single characters always are, longer texts if they are tokens.
  void add_splits(int32_t id, uint32_t rank) {
    const std::string_view text = parts_->vocabulary.text(id);
    std::vector<std::pair<size_t, char32_t>> at; // where characters begin
    for (size_t i = 0; i < text.size();) {
      const Utf8Step step = utf8_step(text, i);
      if (step.kind != Utf8Step::valid) return; // no text makes such a token
      at.emplace_back(i, step.code);
      i += step.size;
    }
    if (at.size() > max_token_characters) return;
    Bpe& bpe = parts_->bpe;
    if (at.size() == 1) bpe.characters.insert_or_assign(at[0].second, id);
    for (size_t k = 1; k < at.size(); ++k) {
      const std::string_view left = text.substr(0, at[k].first), right = text.substr(at[k].first);
      const std::optional<int32_t> left_id = part(left, k == 1 ? std::optional(at[0].second) : std::nullopt);
      const std::optional<int32_t> right_id =
          part(right, k + 1 == at.size() ? std::optional(at[k].second) : std::nullopt);
      if (left_id && right_id) bpe.pairs.add(*left_id, *right_id, {rank, id});
      if (right.starts_with(space_mark) && !left.ends_with(space_mark)) bpe.cuts_before_space_mark = false;
    }
  }

  std::optional<int32_t> part(std::string_view text, std::optional<char32_t> character) {
    const auto id = parts_->vocabulary.id_of(text);
    if (id && parts_->vocabulary.kind(*id) == Vocabulary::Kind::normal) return id;
    if (!character) return {};
    return parts_->bpe.characters.try_emplace(*character, symbol(text, text)).first->second;
  }

  int32_t checked(int32_t id, const char* key) const {
    if (id < 0 || id >= parts_->vocabulary.size())
      fail(std::string(key) + " is " + std::to_string(id) + ", but the vocabulary has " +
           std::to_string(parts_->vocabulary.size()) + " tokens");
    return id;
  }
  std::optional<int32_t> checked(std::optional<int32_t> id, const char* key) const {
    if (id) return checked(*id, key);
    return id;
  }

  void special_ids() {
    Tokenizer::Parts& p = *parts_;
    p.bos = checked(in_.bos_id, "tokenizer.ggml.bos_token_id");
    p.eos = checked(in_.eos_id, "tokenizer.ggml.eos_token_id");
    p.unk = checked(in_.unk_id, "tokenizer.ggml.unknown_token_id");
    p.pad = checked(in_.pad_id, "tokenizer.ggml.padding_token_id");
    const auto put = [&](bool wanted, bool said, std::optional<int32_t> id, std::vector<int32_t>& ids, const char* key,
                         const char* id_key) {
      if (wanted && id)
        ids.push_back(*id);
      else if (wanted && said)
        fail(std::string(key) + " is true, but " + id_key + " is missing");
    };
    put(add_bos_, in_.add_bos.has_value(), p.bos, p.prefix_ids, "tokenizer.ggml.add_bos_token",
        "tokenizer.ggml.bos_token_id");
    put(in_.add_eos.value_or(false), true, p.eos, p.suffix_ids, "tokenizer.ggml.add_eos_token",
        "tokenizer.ggml.eos_token_id");
    std::vector<int32_t> ends;
    if (const auto id = checked(in_.eot_id, "tokenizer.ggml.eot_token_id")) ends.push_back(*id);
    if (const auto id = checked(in_.eom_id, "tokenizer.ggml.eom_token_id")) ends.push_back(*id);
    p.finish(std::move(ends));
  }

  static constexpr size_t max_token_characters = 1024; // a longer "token" could only cost time at load

  const GgufVocabulary& in_;
  std::unique_ptr<Tokenizer::Parts> parts_ = std::make_unique<Tokenizer::Parts>();
  std::unordered_map<std::string, int32_t> inner_; // symbols that the vocabulary lacks
  bool add_bos_ = false;
};

} // namespace

std::shared_ptr<const Tokenizer> Tokenizer::from_gguf(const GgufVocabulary& vocabulary, const std::string& source) {
  return std::make_shared<const Tokenizer>(GgufLoader(vocabulary, source).run());
}

} // namespace quire
