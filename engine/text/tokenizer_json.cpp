// A tokenizer out of a Hugging Face folder's files: tokenizer.json, and what tokenizer_config.json,
// special_tokens_map.json, generation_config.json and config.json say of special tokens.
#include "text/byte_level.hpp"
#include "text/json_view.hpp"
#include "text/sentence_piece.hpp"
#include "text/tokenizer_json_steps.hpp"
#include "text/tokenizer_parts.hpp"
#include "text/utf8.hpp"

#include <quire/error.hpp>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

namespace quire {
namespace {

constexpr uintmax_t max_file_bytes = uintmax_t{1} << 29;

class JsonLoader {
 public:
  JsonLoader(const HuggingFaceTokenizerFiles& files, const std::string& source)
      : files_(files), root_(JsonView::parse(files.tokenizer_json, source, storage_)) {
    parts_->source = source;
  }

  std::unique_ptr<Tokenizer::Parts> run() {
    check_model();
    read_normalizer(root_["normalizer"], parts_->normalizer);
    byte_level_ = read_pre_tokenizer(root_["pre_tokenizer"], parts_->pre_tokenizer).byte_level;
    read_decoding();
    read_tokens();
    read_symbols();
    read_merges();
    read_post_processor(root_["post_processor"], *parts_);
    read_special();
    return std::move(parts_);
  }

 private:
  void check_model() {
    const JsonView type = model_["type"];
    if (!type.absent() && type.string() != "BPE")
      type.fail("is \"" + std::string(type.string()) + "\"; this version supports BPE only");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!model_[key].string_or("").empty()) model_[key].fail("is set, which this version does not support");
    if (const JsonView dropout = model_["dropout"]; !dropout.absent() && dropout.value() != 0.0)
      dropout.fail("is set, which would make tokens random; remove it");
  }

  void read_decoding() {
    decoding_ = read_decoder(root_["decoder"]);
    if (!decoding_.present) {
      decoding_.byte_level = byte_level_;
      decoding_.byte_fallback = model_["byte_fallback"].boolean_or(false);
    }
    parts_->strips_leading_space = decoding_.strips_leading_space;
  }

  std::string bytes_of(const std::string& text) const {
    if (std::string bytes; decoding_.byte_level) return byte_level_map_.unspell(text, bytes) ? bytes : text;
    return decoding_.space_mark ? replace_all(text, space_mark, " ") : text;
  }

  void read_tokens() {
    const JsonView vocab = model_["vocab"];
    if (!vocab.is_object()) vocab.fail("is not an object of tokens and their ids");
    const JsonView added = root_["added_tokens"];
    const size_t added_count = added.absent() ? 0 : added.array_size();
    int32_t last = -1;
    for (const auto& [text, id] : vocab.value().get_object())
      last = std::max(last,
                      checked_token_id(JsonView(id, vocab.path()).integer(), parts_->source, "an id of model.vocab"));
    for (size_t i = 0; i < added_count; ++i)
      last = std::max(last, checked_token_id(added.at(i)["id"].integer(), parts_->source, "an id of added_tokens"));
    if (last < 0) vocab.fail("is empty");
    parts_->vocabulary.resize(static_cast<size_t>(last) + 1);

    for (size_t i = 0; i < added_count; ++i) {
      const JsonView token = added.at(i);
      const auto* in_vocab =
          vocab.value().get_object().if_contains(token["content"].value().is_string() ? token["content"].string() : "");
      if (in_vocab && *in_vocab != token["id"].value())
        token["id"].fail("differs from the id that model.vocab gives to the same token");
      read_added(token);
    }
    const bool fallback = model_["byte_fallback"].boolean_or(false) || decoding_.byte_fallback;
    for (const auto& [key, id_value] : vocab.value().get_object()) {
      const auto id = static_cast<int32_t>(id_value.get_int64());
      std::string text(key.data(), key.size());
      if (parts_->vocabulary.has(id)) {
        if (parts_->vocabulary.text(id) != text)
          vocab.fail("gives id " + std::to_string(id) + " to \"" + text + "\" and to \"" + parts_->vocabulary.text(id) +
                     "\"");
        continue;
      }
      std::string bytes = bytes_of(text);
      parts_->vocabulary.set(id, std::move(text), std::move(bytes), Vocabulary::Kind::normal);
    }
    parts_->vocabulary.index();
    for (int byte = 0; fallback && byte < 256; ++byte) read_byte_token(byte);
  }

  void read_byte_token(int byte) {
    const auto id = parts_->vocabulary.id_of(byte_spelling(static_cast<uint8_t>(byte)));
    if (!id || parts_->vocabulary.kind(*id) != Vocabulary::Kind::normal) return;
    if (decoding_.byte_fallback) parts_->vocabulary.set_byte(*id, static_cast<char>(byte));
    if (model_["byte_fallback"].boolean_or(false)) parts_->bpe.byte_ids[byte] = *id;
  }

  void read_added(const JsonView& json) {
    const auto id = static_cast<int32_t>(json["id"].integer());
    const std::string content(json["content"].string());
    if (content.empty()) return;
    if (content.size() > AddedTokens::max_content_bytes)
      json["content"].fail("has " + std::to_string(content.size()) + " bytes; at most " +
                           std::to_string(AddedTokens::max_content_bytes) + " are allowed");
    AddedToken token{.content = content,
                     .id = id,
                     .special = json["special"].boolean_or(false),
                     .lstrip = json["lstrip"].boolean_or(false),
                     .rstrip = json["rstrip"].boolean_or(false),
                     .single_word = json["single_word"].boolean_or(false)};
    const bool normalized = json["normalized"].boolean_or(!token.special);
    if (!parts_->vocabulary.has(id)) {
      // An added token is spelled as it reads, but U+2581 is still a space where the decoder says so.
      const std::string bytes = decoding_.byte_level ? content : bytes_of(content);
      parts_->vocabulary.set(id, content, bytes, token.special ? Vocabulary::Kind::special : Vocabulary::Kind::added);
    } else if (parts_->vocabulary.text(id) != content) {
      json["id"].fail("is also the id of \"" + parts_->vocabulary.text(id) + "\"");
    }
    if (normalized) token.content = parts_->normalizer.run(content);
    if (token.content.empty() || token.content.size() > AddedTokens::max_content_bytes) return;
    (normalized ? parts_->normalized_added : parts_->raw_added).add(std::move(token));
  }

  // Which tokens a piece begins as: bytes, or characters with a fallback.
  void read_symbols() {
    Bpe& bpe = parts_->bpe;
    bpe.symbols = byte_level_ ? Bpe::Symbols::bytes : Bpe::Symbols::characters;
    bpe.first_inner = parts_->vocabulary.size();
    bpe.fuse_unknown = model_["fuse_unk"].boolean_or(false);
    if (const JsonView unk = model_["unk_token"]; !unk.absent()) {
      bpe.unknown = parts_->vocabulary.id_of(unk.string());
      if (!bpe.unknown) unk.fail("is not in the vocabulary");
    }
    parts_->unk = bpe.unknown;
    const bool ignore_merges = model_["ignore_merges"].boolean_or(false);
    for (const auto& [key, id_value] : model_["vocab"].value().get_object()) {
      const auto id = static_cast<int32_t>(id_value.get_int64());
      const std::string text(key.data(), key.size());
      if (byte_level_) {
        std::string bytes;
        if (!byte_level_map_.unspell(text, bytes)) continue;
        if (bytes.size() == 1) bpe.byte_ids[static_cast<uint8_t>(bytes[0])] = id;
        // The map's keys are views: into the vocabulary where it keeps the same bytes, which an added token's spelling
        // need not be.
        if (ignore_merges && parts_->vocabulary.bytes(id) == bytes &&
            parts_->vocabulary.kind(id) == Vocabulary::Kind::normal)
          bpe.whole.emplace(parts_->vocabulary.bytes(id), id);
      } else {
        const Utf8Step step = text.empty() ? Utf8Step{0, 0, Utf8Step::invalid} : utf8_step(text, 0);
        if (step.kind == Utf8Step::valid && step.size == text.size()) bpe.characters[step.code] = id;
        if (ignore_merges && parts_->vocabulary.kind(id) == Vocabulary::Kind::normal)
          bpe.whole.emplace(parts_->vocabulary.text(id), id);
      }
    }
    // Cutting is sound if the mark is a symbol and whole pieces are not looked up; merges that cross a cut forbid it in
    // read_merges.
    bpe.cuts_before_space_mark = !byte_level_ && !ignore_merges && bpe.characters.contains(U'\u2581');
  }

  void read_merges() {
    const JsonView merges = model_["merges"];
    const size_t count = merges.array_size();
    Bpe& bpe = parts_->bpe;
    bpe.pairs.reserve(count);
    for (size_t rank = 0; rank < count; ++rank) {
      // Read without JsonView: paths of a hundred thousand entries cost more than the rest of the load.
      const boost::json::value& merge = (*merges.value().if_array())[rank];
      std::string_view left, right;
      if (const auto* text = merge.if_string()) {
        const std::string_view pair(text->data(), text->size());
        const size_t space = pair.find(' ', 1);
        if (space == pair.npos) merges.at(rank).fail("is not two tokens with a space between them");
        left = pair.substr(0, space), right = pair.substr(space + 1);
      } else {
        const JsonView pair = merges.at(rank);
        if (pair.array_size() != 2) pair.fail("is not two tokens");
        left = pair.at(0).string(), right = pair.at(1).string();
      }
      const auto token = [&](std::string_view text) {
        const auto id = parts_->vocabulary.id_of(text);
        if (!id) merges.at(rank).fail("names \"" + std::string(text) + "\", which is not in model.vocab");
        return *id;
      };
      const std::string whole = std::string(left) + std::string(right);
      const int32_t left_id = token(left), right_id = token(right);
      bpe.pairs.add(left_id, right_id, {static_cast<uint32_t>(rank), token(whole)});
      if (right.starts_with(space_mark) && !left.ends_with(space_mark)) bpe.cuts_before_space_mark = false;
    }
  }

  // The spelling in "bos_token": "<s>" or "bos_token": {"content": "<s>", …}.
  static std::string_view spelling(const JsonView& json) {
    return json.is_object() ? json["content"].string_or("") : json.string_or("");
  }

  void read_special() {
    Tokenizer::Parts& p = *parts_;
    boost::json::value config_storage, map_storage, generation_storage, model_storage;
    const auto file = [&](const std::string& text, const char* name, boost::json::value& storage) {
      return text.empty() ? JsonView(storage = boost::json::object(), std::string(name) + ": ")
                          : JsonView::parse(text, name, storage);
    };
    const JsonView config = file(files_.tokenizer_config_json, "tokenizer_config.json", config_storage);
    const JsonView map = file(files_.special_tokens_map_json, "special_tokens_map.json", map_storage);
    const JsonView generation = file(files_.generation_config_json, "generation_config.json", generation_storage);
    const JsonView model = file(files_.config_json, "config.json", model_storage);

    const auto special = [&](const char* key, const char* id_key) -> std::optional<int32_t> {
      for (const JsonView* view : {&config, &map})
        if (const std::string_view text = spelling((*view)[key]); !text.empty())
          if (const auto id = p.vocabulary.id_of(text)) return id;
      for (const JsonView* view : {&generation, &model}) {
        const JsonView id = (*view)[id_key];
        const JsonView first = id.is_array() && id.array_size() > 0 ? id.at(0) : id;
        if (const auto* number = first.value().if_int64())
          if (p.vocabulary.has(static_cast<int32_t>(std::clamp<int64_t>(*number, -1, INT32_MAX))))
            return static_cast<int32_t>(*number);
      }
      return {};
    };
    p.bos = special("bos_token", "bos_token_id");
    p.eos = special("eos_token", "eos_token_id");
    p.pad = special("pad_token", "pad_token_id");
    if (const auto unk = special("unk_token", "unk_token_id")) p.unk = unk;
    override_post_processor(config);

    std::vector<int32_t> ends;
    for (const JsonView* view : {&generation, &model}) {
      const JsonView id = (*view)["eos_token_id"];
      const auto add = [&](const JsonView& one) {
        if (const auto* number = one.value().if_int64(); number && *number >= 0 && *number < p.vocabulary.size())
          ends.push_back(static_cast<int32_t>(*number));
      };
      if (id.is_array())
        for (size_t i = 0; i < id.array_size(); ++i) add(id.at(i));
      else
        add(id);
    }
    p.finish(std::move(ends));
  }

  // Llama's and Gemma's classes put bos and eos by these flags, whatever the post-processor says.
  void override_post_processor(const JsonView& config) {
    const std::string_view name = config["tokenizer_class"].string_or("");
    if (!name.starts_with("LlamaTokenizer") && !name.starts_with("GemmaTokenizer") &&
        !name.starts_with("CodeLlamaTokenizer"))
      return;
    const auto put = [&](const char* key, std::optional<int32_t> id, std::vector<int32_t>& ids) {
      const JsonView flag = config[key];
      if (flag.absent() || !id) return;
      ids.clear();
      if (flag.boolean_or(false)) ids.push_back(*id);
    };
    put("add_bos_token", parts_->bos, parts_->prefix_ids);
    put("add_eos_token", parts_->eos, parts_->suffix_ids);
  }

  const HuggingFaceTokenizerFiles& files_;
  boost::json::value storage_;
  JsonView root_;
  JsonView model_ = root_["model"];
  std::unique_ptr<Tokenizer::Parts> parts_ = std::make_unique<Tokenizer::Parts>();
  ByteLevel byte_level_map_;
  bool byte_level_ = false; // pieces are tokenized as bytes
  DecoderTraits decoding_;
};

std::string read_text(const std::filesystem::path& path) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (error) return {};
  if (size > max_file_bytes)
    throw Error(path.string() + " has " + std::to_string(size) + " bytes, more than a tokenizer's file can have");
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

} // namespace

std::shared_ptr<const Tokenizer> Tokenizer::from_huggingface(const HuggingFaceTokenizerFiles& files,
                                                             const std::string& source) {
  return std::make_shared<const Tokenizer>(JsonLoader(files, source).run());
}

std::shared_ptr<const Tokenizer> Tokenizer::from_folder(const std::filesystem::path& folder) {
  HuggingFaceTokenizerFiles files;
  files.tokenizer_json = read_text(folder / "tokenizer.json");
  if (files.tokenizer_json.empty())
    throw Error((folder / "tokenizer.json").string() + " is missing or empty; a model folder needs it");
  files.tokenizer_config_json = read_text(folder / "tokenizer_config.json");
  files.special_tokens_map_json = read_text(folder / "special_tokens_map.json");
  files.generation_config_json = read_text(folder / "generation_config.json");
  files.config_json = read_text(folder / "config.json");
  return from_huggingface(files, (folder / "tokenizer.json").string());
}

} // namespace quire
