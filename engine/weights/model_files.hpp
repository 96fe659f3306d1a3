// What `--model FILE|DIR` names: a GGUF file (split ones too) or a Hugging Face folder. Gives the configuration, the
// weights, where the tokenizer lies, the chat template and the defaults of generation.
//
// Weights stay in the mapped file (see mapped_file.hpp for what happens if it shrinks).
//
// Names: every tensor goes by its Hugging Face name and has its shape outermost first ([N, K]), whatever the file says.
//  - The router of experts is `model.layers.0.mlp.gate.weight`; stacked experts are
//    `model.layers.0.mlp.experts.gate_proj.weight` [experts, N, K] (also up_proj, down_proj). A checkpoint that has
//    them one by one (`….mlp.experts.7.gate_proj.weight`, `….block_sparse_moe.experts.7.w1.weight`) has them stacked
//    in memory on first use.
//  - GGUF's tensors without a counterpart keep their names: `rope_freqs.weight` (F32 [rotary_dim / 2], divides the
//    frequencies: llama3 scaling worked out), `rope_factors_long.weight` and `rope_factors_short.weight` (also in
//    config() as `rope_scaling.long_factor` and `rope_scaling.short_factor`).
// GGUF's conventions (from_gguf()): where config() has `gguf.rope_interleaved`, q and k are permuted for interleaved
// rope (families llama, granite, smollm3); Gemma's norms hold weight + 1. `gguf.architecture` is GGUF's own word.
//
// Errors: quire::Error, one sentence that names the file, the tensor and the fix.
// Threads: [load] for open, weight, start_read_ahead and write_dummy; the const members are [any].
#pragma once

#include "quire/plugin.h"
#include "weights/config.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

class GgufFile;
class MappedFile;

struct TensorEntry {
  std::string name;            // in Hugging Face's words
  std::string stored_name;     // in the file's
  uint32_t format = QUIRE_F32; // quire_format
  std::vector<uint64_t> shape; // outermost first; the last is K
  const std::byte* data = nullptr;
  uint64_t bytes = 0;
  uint32_t file = 0;   // index into ModelFiles::files(); of a dummy or stacked tensor: UINT32_MAX
  uint64_t offset = 0; // in that file
};

struct LoadOptions {
  bool dummy = false;                 // --load-format dummy: only a configuration is read, weights are made up
  uint32_t dummy_format = QUIRE_BF16; // --load-format dummy:FORMAT
  uint64_t dummy_seed = 0;
  bool dummy_in_memory = true; // false: tensors have no data, for write_dummy alone
};

// «auto», «dummy» or «dummy:Q4_K»; anything else is an Error that lists the formats.
LoadOptions parse_load_format(std::string_view word);

// What the checkpoint asks for where a request says nothing.
struct GenerationDefaults {
  std::vector<int32_t> eos_token_ids; // each ends a sequence
  std::optional<bool> do_sample;      // false: greedy
  std::optional<double> temperature;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<int64_t> top_k;
};

class ModelFiles {
 public:
  // path: a .gguf file (any part of a split one), a folder with config.json and *.safetensors, or a folder with exactly
  // one GGUF model. With options.dummy: a folder with config.json, a config.json (any .json file), or a GGUF whose
  // tensors are then ignored.
  static std::unique_ptr<ModelFiles> open(const std::filesystem::path& path, const LoadOptions& options = {});
  ~ModelFiles();
  ModelFiles(const ModelFiles&) = delete;
  ModelFiles& operator=(const ModelFiles&) = delete;

  const Config& config() const;
  bool from_gguf() const; // weights follow GGUF's conventions; false for dummies
  bool dummy() const;     // weights are made up in memory
  bool made_up() const;   // dummy(), or a checkpoint that write_dummy wrote: nobody misses its tokenizer
  quire_config quire_configuration() const; // valid as long as this lives
  // config `architectures.0` («LlamaForCausalLM»); for a GGUF family without a Hugging Face name, GGUF's word.
  const std::string& architecture() const;
  const std::string& name() const; // general.name, or the file's or folder's own name

  // The tensor as the file has it; nullptr where there is none (always, for dummies). Throws where its format can't be
  // read.
  const TensorEntry* find(std::string_view name) const;
  // For binding to a program: the tensor of this name, checked against `shape` ([cols], [rows, cols] or [experts, rows,
  // cols]; leading ones don't count), stacked, realigned or made up where need be. `reason` is added to the sentence of
  // a wrong shape («hidden_size»). Missing: nullptr if optional, else an Error. A dummy has the optional weights that
  // its configuration implies.
  const TensorEntry* weight(std::string_view name, std::span<const uint64_t> shape, bool optional,
                            std::string_view reason = {});

  std::span<const TensorEntry> tensors() const; // in the order of file and offset: read them so, to stream
  std::span<const std::shared_ptr<const MappedFile>> files() const;
  uint64_t total_bytes() const; // of all tensors; of a dummy: of those made so far

  // Starts reading all files into the page cache, in their order, on a thread of its own that ends with this object;
  // does nothing where they would not fit in the memory that is left.
  void start_read_ahead();
  // Throws if a file changed or shrank since it was opened: call it after loading.
  void check_unchanged() const;
  // A file shrank and something behind its end was read, as zeros. Cheap enough to ask once a step.
  bool damaged() const;
  // Throws if a block's scale (or an element of a float format) of this tensor is NaN or infinite. Reads it all.
  static void check_finite(const TensorEntry& tensor, const std::string& file);

  // The tokenizer: tokenizer.json's path, else the GGUF that holds the vocabulary, else neither (a dummy without one).
  const std::optional<std::filesystem::path>& tokenizer_json() const;
  const GgufFile* gguf() const; // the (first) GGUF file, else nullptr
  bool has_tokenizer() const;   // false: only a byte tokenizer will do
  // tokenizer_config.json, or the same words from GGUF: bos_token, eos_token, unk_token, pad_token as strings,
  // add_bos_token, add_eos_token.
  const Config& tokenizer_config() const;
  // The Jinja source, if the checkpoint has one. `kind`: a named template among several («tool_use», «rag»); empty =
  // the default one.
  const std::string* chat_template(std::string_view kind = {}) const;
  const GenerationDefaults& generation_defaults() const;

  // Writes what weight() was asked for (build the program first) as a model that can be opened without `dummy`:
  // config.json and safetensors shards of at most shard_bytes for F32, F16 and BF16; for block formats one GGUF. The
  // folder is made; existing files of the same names are replaced. progress(done, total) in bytes. Dummies only.
  void write_dummy(const std::filesystem::path& folder, uint64_t shard_bytes = 5ull << 30,
                   const std::function<void(uint64_t, uint64_t)>& progress = {}) const;

 private:
  struct State;
  explicit ModelFiles(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// «model.safetensors: tensor `x` is [1536, 576], expected [1536, 512] from config.json (hidden_size)».
std::string wrong_shape_sentence(std::string_view file, std::string_view tensor, std::span<const uint64_t> is,
                                 std::span<const uint64_t> expected, std::string_view config_source,
                                 std::string_view reason);

} // namespace quire
