// What ModelFiles holds, shared by the files that implement it; nobody else includes this.
#pragma once

#include "weights/config.hpp"
#include "weights/dummy.hpp"
#include "weights/gguf.hpp"
#include "weights/mapped_file.hpp"
#include "weights/model_files.hpp"

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

namespace quire {

struct ModelFiles::State {
  LoadOptions options;
  std::filesystem::path folder; // of a Hugging Face checkpoint; empty for GGUF
  std::string label;            // the file's or folder's name, for errors
  std::string model_name;
  bool from_gguf = false;
  Config config;
  Config tokenizer_config;
  std::optional<std::filesystem::path> tokenizer_json;
  std::map<std::string, std::string, std::less<>> chat_templates; // «»: the default
  GenerationDefaults defaults;

  std::vector<std::shared_ptr<const MappedFile>> files;
  std::vector<std::unique_ptr<GgufFile>> ggufs; // parallel to files, for GGUF
  std::vector<TensorEntry> tensors;             // in the order of file and offset
  std::unordered_map<std::string_view, const TensorEntry*> index;
  std::map<std::string, std::string, std::less<>> unreadable; // name → the type that Quire can't compute with

  // Tensors that had to be built in memory: stacked experts, realigned ones.
  struct Built {
    TensorEntry entry;
    std::vector<uint64_t> memory; // aligned to 8
  };
  std::map<std::string, std::unique_ptr<Built>, std::less<>> built;
  std::unique_ptr<DummyWeights> dummy;
  std::jthread read_ahead; // last: ends before what it reads

  void add(TensorEntry entry) { tensors.push_back(std::move(entry)); }
  // Sorts and indexes what was added; throws for names that occur twice.
  void finish();

  void open_file(const std::filesystem::path& path);
  void open_gguf(const std::filesystem::path& path);
  void open_folder(const std::filesystem::path& path);
  // config.json and its companions in a folder; path is the file.
  void read_configuration(const std::filesystem::path& path);
  void open_safetensors(const std::filesystem::path& path);

  const TensorEntry* stacked(std::string_view name, uint64_t experts);
  const TensorEntry* realigned(const TensorEntry& entry);
};

// Bytes that the machine can still give without swapping, as the kernel estimates them; UINT64_MAX where it doesn't
// say.
uint64_t available_memory_bytes();

// The text of a small file; throws if it is missing or larger than `max_bytes`.
std::string read_text(const std::filesystem::path& path, uint64_t max_bytes = uint64_t(256) << 20);

} // namespace quire
