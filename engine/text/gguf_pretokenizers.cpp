#include "text/gguf_pretokenizers.hpp"

#include <quire/error.hpp>

#include <initializer_list>
#include <string_view>
#include <utility>

namespace quire {
namespace {

// Each pattern is the one in the models' own tokenizer.json; the names are those that GGUF files give to them.
constexpr const char* digit = R"(\p{N})";
constexpr const char* llama3_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* qwen2_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+)"
    R"(|\s+(?!\S)|\s+)";
constexpr const char* qwen35_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)"
    R"(|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* gpt4o_words =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|)"
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* tekken_words = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|)"
                                     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|)"
                                     R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* bailing_words =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr const char* seed_words =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+)"
    R"(|\s+(?!\S)|\s+)";
constexpr const char* bloom_words = R"( ?[^(\s|.,!?…。，、।۔،)]+)";
constexpr const char* deepseek3_words =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
    R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr const char* deepseek_cjk = R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";
// The letters of the scripts that have case, as DeepSeek LLM's file lists them.
constexpr const char* deepseek_letters =
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"
    R"(\x{295}-\x{2AF}\x{370}-\x{373})"
    R"(\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5})"
    R"(\x{3F7}-\x{481})"
    R"(\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA})"
    R"(\x{1CBD}-\x{1CBF})"
    R"(\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D})"
    R"(\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D})"
    R"(\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC})"
    R"(\x{1FBE}\x{1FC2}-\x{1FC4})"
    R"(\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4})"
    R"(\x{1FF6}-\x{1FFC}\x{2102}\x{2107})"
    R"(\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D})"
    R"(\x{212F}-\x{2134}\x{2139})"
    R"(\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4})"
    R"(\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3})"
    R"(\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E})"
    R"(\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06})"
    R"(\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3})"
    R"(\x{104D8}-\x{104FB})"
    R"(\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}]+)";
constexpr const char* deepseek_punctuation =
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)";

struct Row {
  std::initializer_list<std::string_view> names;
  std::initializer_list<const char*> patterns; // each cuts what the one before left
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;
};

const std::initializer_list<Row> rows = {
    {{"default"}, {R"([\p{P}\$\+<=>\^~\|]+)", gpt2_words_pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"}},
    {{"gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "jais", "exaone4", "trillion", "granite-docling"},
     {gpt2_words_pattern}},
    {{"mpt", "olmo"}, {gpt2_words_pattern}, true},
    {{"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b"}, {digit, gpt2_words_pattern}},
    {{"llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
     {llama3_words},
     false,
     true,
     true},
    {{"dbrx", "smaug-bpe", "glm4", "chatglm-bpe"}, {llama3_words}},
    {{"qwen2", "megrez"}, {qwen2_words}, true},
    {{"deepseek-r1-qwen", "stablelm2", "hunyuan", "grok-2", "solar-open"}, {qwen2_words}},
    {{"qwen35"}, {qwen35_words}, true},
    {{"gpt-4o", "llama4", "kanana2", "minimax-m2"}, {gpt4o_words}},
    {{"tekken"}, {tekken_words}, false, true, true},
    {{"bailingmoe", "bailingmoe2", "llada-moe"}, {bailing_words}},
    {{"seed-coder"}, {seed_words}},
    {{"bloom", "poro-chat", "gpt3-finnish"}, {bloom_words}},
    {{"viking"}, {bloom_words, digit}},
    {{"superbpe"}, {R"(\p{N}+)", R"((?=(\d{3})+(?!\d)))"}},
    {{"deepseek-llm"}, {R"([\r\n])", deepseek_letters, deepseek_punctuation, R"(\s+$)", deepseek_cjk, R"(\p{N}+)"}},
    {{"deepseek-coder"}, {R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", deepseek_cjk, digit}},
    {{"deepseek-v3", "hunyuan-dense"},
     {R"(\p{N}{1,3})", R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)", deepseek3_words}},
};

// Falcon's steps come after the bytes are spelled, which patterns alone can't say.
PreTokenizer falcon(const std::string& where) {
  PreTokenizer steps;
  steps.add(
      PreTokenizer::Split{Regex(R"([\p{P}\x21-\x2F\x3A-\x40\x5B-\x60\x7B-\x7E])", where), SplitBehavior::contiguous});
  steps.add(PreTokenizer::ByteLevelWords{
      false, PreTokenizer::Split{Regex(gpt2_words_pattern, where), SplitBehavior::isolated}});
  steps.add(PreTokenizer::Split{Regex(digit, where), SplitBehavior::contiguous});
  steps.add(PreTokenizer::Split{Regex("[0-9][0-9][0-9]", where), SplitBehavior::isolated});
  return steps;
}

} // namespace

GgufPreTokenizer gguf_pre_tokenizer(const std::string& name, const std::string& source) {
  const std::string_view wanted = name.empty() ? std::string_view("default") : name;
  const std::string where = source + ": tokenizer.ggml.pre \"" + std::string(wanted) + "\"";
  if (wanted == "falcon") return {{}, falcon(where), false, false};
  std::string known = "falcon";
  for (const Row& row : rows) {
    for (const std::string_view row_name : row.names) {
      (known += ", ") += row_name;
      if (row_name != wanted) continue;
      GgufPreTokenizer result{{}, {}, row.ignore_merges, row.add_bos};
      if (row.nfc) result.normalizer.add(Normalizer::Form{unicode::Form::nfc});
      for (const char* pattern : row.patterns)
        result.pre_tokenizer.add(PreTokenizer::Split{Regex(pattern, where), SplitBehavior::isolated});
      return result;
    }
  }
  throw Error(where + " is not a pre-tokenizer that this version knows; known are " + known);
}

} // namespace quire
