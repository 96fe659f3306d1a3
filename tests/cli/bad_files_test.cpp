// `quire run` on files that are not what they should be: one sentence that names the file, what is wrong in it and what
// to do; exit code 1; no crash.
#include "run_quire.hpp"
#include "support/gguf_writer.hpp"
#include "support/safetensors_writer.hpp"
#include "support/temp_folder.hpp"

#include <gtest/gtest.h>

#include <functional>
#include <map>

namespace quire::test {
namespace {

namespace fs = std::filesystem;

// The words that the sentence must have besides `quire: `.
void expect_sentence(const fs::path& model, const std::vector<std::string>& words,
                     const std::vector<std::string>& more = {}) {
  std::vector<std::string> command{"-q",       "run",         "--backend",    "reference", "--cache-dir",
                                   "-",        "--kv-memory", "4MiB",         "--model",   model.string(),
                                   "--prompt", "x",           "--max-tokens", "1"};
  command.insert(command.end(), more.begin(), more.end());
  const Ended ended = run_quire(command);
  SCOPED_TRACE(ended.out);
  EXPECT_EQ(ended.code, 1) << "signal " << ended.signal;
  EXPECT_TRUE(ended.out.starts_with("quire: "));
  EXPECT_EQ(std::count(ended.out.begin(), ended.out.end(), '\n'), 1) << "more than a sentence";
  for (const std::string& word : words) EXPECT_NE(ended.out.find(word), std::string::npos) << word;
}

// ---- GGUF

struct Shape {
  uint32_t hidden = 32, heads = 2, ffn = 64, vocabulary = 288;
};

std::vector<std::string> words_of(uint32_t count) {
  std::vector<std::string> words(count);
  for (uint32_t i = 0; i < count; ++i) words[i] = "w" + std::to_string(i);
  for (uint32_t i = 0; i < 26; ++i) words[i] = std::string(1, static_cast<char>('a' + i));
  words[26] = "ab";
  return words;
}

// A whole small Llama. `edit` may leave a tensor out (false) or change its dimensions.
using Edit = std::function<bool(const std::string& name, std::vector<uint64_t>& dimensions)>;
GgufWriter llama(const std::string& architecture = "llama", uint32_t num_words = 288, const Edit& edit = {}) {
  const Shape s;
  GgufWriter w;
  const std::string a = architecture + ".";
  w.string("general.architecture", architecture).string("general.name", "small");
  w.uint32(a + "block_count", 1).uint32(a + "embedding_length", s.hidden).uint32(a + "feed_forward_length", s.ffn);
  w.uint32(a + "attention.head_count", s.heads).uint32(a + "attention.head_count_kv", s.heads);
  w.uint32(a + "context_length", 128).float32(a + "attention.layer_norm_rms_epsilon", 1e-5f);
  w.uint32(a + "vocab_size", s.vocabulary).float32(a + "rope.freq_base", 10000);
  w.string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "smollm");
  w.array("tokenizer.ggml.tokens", GgufType::String, words_of(num_words));
  w.array("tokenizer.ggml.token_type", GgufType::Int32, std::vector<int32_t>(num_words, 1));
  w.array("tokenizer.ggml.merges", GgufType::String, std::vector<std::string>{"a b"});
  w.uint32("tokenizer.ggml.eos_token_id", 2);
  const auto add = [&](const std::string& name, std::vector<uint64_t> dimensions) {
    if (!edit || edit(name, dimensions)) w.zeros(name, dimensions);
  };
  add("token_embd.weight", {s.hidden, s.vocabulary});
  add("output_norm.weight", {s.hidden});
  const std::string b = "blk.0.";
  add(b + "attn_norm.weight", {s.hidden});
  for (const char* part : {"attn_q", "attn_k", "attn_v", "attn_output"})
    add(b + part + ".weight", {s.hidden, s.hidden});
  add(b + "ffn_norm.weight", {s.hidden});
  add(b + "ffn_gate.weight", {s.hidden, s.ffn});
  add(b + "ffn_up.weight", {s.hidden, s.ffn});
  add(b + "ffn_down.weight", {s.ffn, s.hidden});
  return w;
}

TEST(BadGguf, TheWholeFileWouldRun) { // so that each of the others fails for its own reason
  const TempFolder folder;
  const Ended ended =
      run_quire({"-q", "run", "--backend", "reference", "--cache-dir", "-", "--kv-memory", "4MiB", "--model",
                 folder.write("m.gguf", llama().bytes()).string(), "--prompt", "x", "--raw", "--max-tokens", "1"});
  EXPECT_EQ(ended.code, 0) << ended.out;
}

TEST(BadGguf, Truncated) {
  const TempFolder folder;
  const std::string whole = llama().bytes();
  for (const size_t length :
       {size_t{0}, size_t{3}, size_t{20}, size_t{200}, whole.size() / 8, whole.size() / 2, whole.size() - 1})
    expect_sentence(folder.write("cut.gguf", whole.substr(0, length)), {"cut.gguf"});
}

TEST(BadGguf, CountsThatLie) {
  const TempFolder folder;
  for (const uint64_t lie : {uint64_t{1} << 16, uint64_t{1} << 40, UINT64_MAX}) {
    GgufWriter tensors = llama(), metadata = llama();
    tensors.num_tensors = lie;
    metadata.num_metadata = lie;
    expect_sentence(folder.write("tensors.gguf", tensors.bytes()), {"tensors.gguf"});
    expect_sentence(folder.write("metadata.gguf", metadata.bytes()), {"metadata.gguf"});
  }
}

TEST(BadGguf, OffsetsOutsideAndOverlapping) {
  const TempFolder folder;
  GgufWriter outside = llama(), overlapping = llama();
  outside.tensor("blk.0.extra", {32}, 0, std::string(128, '\0'), uint64_t{1} << 40);
  overlapping.tensor("blk.0.extra", {32}, 0, std::string(128, '\0'), 0);
  expect_sentence(folder.write("outside.gguf", outside.bytes()), {"outside.gguf", "blk.0.extra"});
  expect_sentence(folder.write("overlap.gguf", overlapping.bytes()), {"overlap.gguf", "blk.0.extra"});
}

TEST(BadGguf, OversizedDimensions) {
  const TempFolder folder;
  for (const uint64_t size : {uint64_t{1} << 40, UINT64_MAX / 4, UINT64_MAX}) {
    GgufWriter w = llama();
    w.tensor("blk.0.extra", {size, 4}, 0, std::string(128, '\0'));
    expect_sentence(folder.write("large.gguf", w.bytes()), {"large.gguf", "blk.0.extra"});
  }
}

TEST(BadGguf, MissingTensor) {
  const TempFolder folder;
  const GgufWriter w =
      llama("llama", 288, [](const std::string& name, auto&) { return name != "blk.0.ffn_up.weight"; });
  expect_sentence(folder.write("missing.gguf", w.bytes()), {"missing.gguf", "up_proj.weight"});
}

TEST(BadGguf, WrongShape) {
  const TempFolder folder;
  const GgufWriter w = llama("llama", 288, [](const std::string& name, std::vector<uint64_t>& dimensions) {
    if (name == "blk.0.attn_k.weight") dimensions = {32, 48};
    return true;
  });
  expect_sentence(folder.write("shape.gguf", w.bytes()), {"shape.gguf", "k_proj.weight", "[48, 32]", "[32, 32]"});
}

TEST(BadGguf, UnknownArchitecture) {
  const TempFolder folder;
  expect_sentence(folder.write("new.gguf", llama("quagga").bytes()), {"quagga"});
}

TEST(BadGguf, AVocabularyThatDoesNotFit) {
  const TempFolder folder;
  expect_sentence(folder.write("words.gguf", llama("llama", 500).bytes()), {"words.gguf", "500", "288"});
}

TEST(BadGguf, ANanIsFoundWhereWeightsAreChecked) {
  const TempFolder folder;
  std::string bytes = llama().bytes();
  bytes.replace(bytes.size() - 8, 4, "\xff\xff\xff\x7f"); // in the last tensor
  expect_sentence(folder.write("nan.gguf", bytes), {"nan.gguf", "ffn_down.weight", "NaN"}, {"--check-weights"});
}

TEST(BadGguf, NoGgufAtAll) {
  const TempFolder folder;
  expect_sentence(folder.write("text.gguf", "This is no model."), {"text.gguf"});
  expect_sentence(folder.path() / "absent.gguf", {"absent.gguf"});
}

// ---- safetensors

constexpr const char* config_json = R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32,
  "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64,
  "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": true})";

void expect_bad_checkpoint(const std::string& safetensors_bytes, const std::vector<std::string>& words) {
  const TempFolder folder;
  folder.write("config.json", config_json);
  folder.write("model.safetensors", safetensors_bytes);
  expect_sentence(folder.path(), words);
}

std::string whole_checkpoint() {
  SafetensorsWriter w;
  w.tensor("model.embed_tokens.weight", "F32", {64, 32}, std::string(64 * 32 * 4, '\0'));
  w.tensor("model.norm.weight", "F32", {32}, std::string(128, '\0'));
  return w.bytes();
}

TEST(BadSafetensors, Truncated) {
  const std::string whole = whole_checkpoint();
  for (const size_t length : {size_t{0}, size_t{5}, size_t{40}, whole.size() / 2, whole.size() - 1})
    expect_bad_checkpoint(whole.substr(0, length), {"model.safetensors"});
}

TEST(BadSafetensors, HeadersThatLie) {
  for (const uint64_t length : {uint64_t{1} << 33, UINT64_MAX - 8})
    expect_bad_checkpoint(safetensors("{}", {}, length), {"model.safetensors"});
  expect_bad_checkpoint(safetensors("{\"a\":"), {"model.safetensors"});
  expect_bad_checkpoint(
      safetensors(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,999]}})", std::string(16, '\0')),
      {"model.safetensors", "`a`"});
  expect_bad_checkpoint(safetensors(R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]}})",
                                    std::string(16, '\0')),
                        {"model.safetensors", "`a`"});
  expect_bad_checkpoint(safetensors(R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
                                    R"("b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}})",
                                    std::string(24, '\0')),
                        {"model.safetensors", "`b`"});
}

TEST(BadSafetensors, MissingTensor) { expect_bad_checkpoint(whole_checkpoint(), {"model.layers.0."}); }

TEST(BadSafetensors, WrongShape) {
  SafetensorsWriter w;
  w.tensor("model.embed_tokens.weight", "F32", {64, 16}, std::string(64 * 16 * 4, '\0'));
  expect_bad_checkpoint(w.bytes(), {"model.safetensors", "model.embed_tokens.weight", "[64, 16]", "[64, 32]"});
}

TEST(BadSafetensors, ConfigurationsThatAreNone) {
  for (const char* config : {"", "[]", "{", "{}", R"({"architectures": ["QuaggaForCausalLM"], "hidden_size": 4})",
                             R"({"architectures": ["LlamaForCausalLM"], "hidden_size": -5})"}) {
    const TempFolder folder;
    folder.write("config.json", config);
    folder.write("model.safetensors", whole_checkpoint());
    expect_sentence(folder.path(), {});
  }
}

} // namespace
} // namespace quire::test
