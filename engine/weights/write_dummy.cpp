// Dummy weights as a real checkpoint on disk, streamed row by row.
#include "quire/error.hpp"
#include "weights/formats.hpp"
#include "weights/gguf_names.hpp"
#include "weights/model_state.hpp"
#include "weights/sentence.hpp"

#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

namespace quire {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr uint64_t stretch_bytes = 16 << 20; // made and written at a time
constexpr uint64_t gguf_alignment = 32;

// A file that appears under its name only when it is whole.
class NewFile {
 public:
  explicit NewFile(fs::path path) : path_(std::move(path)), part_(path_.string() + ".part") {
    file_ = std::fopen(part_.c_str(), "wb");
    if (!file_) fail();
  }
  ~NewFile() {
    if (!file_) return;
    std::fclose(file_);
    std::remove(part_.c_str());
  }
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;

  void write(const void* data, uint64_t bytes) {
    if (bytes > 0 && std::fwrite(data, 1, bytes, file_) != bytes) fail();
    written_ += bytes;
  }
  void write(std::string_view text) { write(text.data(), text.size()); }
  template <class T> void number(T value) { write(&value, sizeof value); }
  void string(std::string_view text) { // GGUF's
    number(static_cast<uint64_t>(text.size()));
    write(text);
  }
  void pad(uint64_t alignment) {
    const std::string zeros((alignment - written_ % alignment) % alignment, '\0');
    write(zeros);
  }
  void finish() {
    const bool closed = std::fclose(file_) == 0;
    file_ = nullptr;
    if (!closed || std::rename(part_.c_str(), path_.c_str()) != 0) fail();
  }

 private:
  [[noreturn]] void fail() {
    const std::string why = std::strerror(errno);
    if (file_) {
      std::fclose(file_);
      file_ = nullptr;
      std::remove(part_.c_str());
    }
    throw Error(path_.string() + " cannot be written: " + why);
  }
  fs::path path_;
  std::string part_;
  std::FILE* file_ = nullptr;
  uint64_t written_ = 0;
};

class Writer {
 public:
  Writer(const DummyWeights& weights, fs::path folder, const std::function<void(uint64_t, uint64_t)>& progress)
      : weights_(weights), folder_(std::move(folder)), progress_(progress) {}

  void safetensors(uint64_t shard_bytes) {
    std::vector<std::vector<const TensorEntry*>> shards(1);
    uint64_t bytes = 0;
    for (const TensorEntry* tensor : weights_.made()) {
      if (bytes > 0 && bytes + tensor->bytes > shard_bytes) {
        shards.emplace_back();
        bytes = 0;
      }
      shards.back().push_back(tensor);
      bytes += tensor->bytes;
    }
    json::object map;
    for (size_t i = 0; i < shards.size(); ++i) {
      char name[64] = "model.safetensors";
      if (shards.size() > 1) std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
      shard(name, shards[i]);
      for (const TensorEntry* tensor : shards[i]) map[tensor->name] = name;
    }
    const fs::path index = folder_ / "model.safetensors.index.json";
    if (shards.size() == 1) {
      std::error_code none;
      fs::remove(index, none); // an older one would point elsewhere
      return;
    }
    const json::object whole = {{"metadata", {{"total_size", weights_.total_bytes()}}}, {"weight_map", map}};
    NewFile file(index);
    file.write(json::serialize(whole));
    file.finish();
  }

  void gguf(const Config& config) {
    const auto metadata = gguf_metadata(config);
    const std::string& architecture = std::get<std::string>(metadata.front().second);
    NewFile file(folder_ / "model.gguf");
    file.write("GGUF");
    file.number(uint32_t(3));
    file.number(static_cast<uint64_t>(weights_.made().size()));
    file.number(static_cast<uint64_t>(metadata.size()));
    for (const auto& [key, value] : metadata) {
      file.string(key);
      if (const auto* u = std::get_if<uint32_t>(&value)) {
        file.number(static_cast<uint32_t>(GgufType::Uint32));
        file.number(*u);
      } else if (const auto* f = std::get_if<float>(&value)) {
        file.number(static_cast<uint32_t>(GgufType::Float32));
        file.number(*f);
      } else if (const auto* b = std::get_if<bool>(&value)) {
        file.number(static_cast<uint32_t>(GgufType::Bool));
        file.number(static_cast<uint8_t>(*b));
      } else {
        file.number(static_cast<uint32_t>(GgufType::String));
        file.string(std::get<std::string>(value));
      }
    }
    uint64_t offset = 0;
    for (const TensorEntry* tensor : weights_.made()) {
      const auto name = gguf_name(tensor->name, architecture);
      if (!name)
        throw Error(config.source() + ": GGUF has no name for the tensor " + in_quotes(tensor->name) +
                    ": choose F32, F16 or BF16, which are written as safetensors");
      file.string(*name);
      file.number(static_cast<uint32_t>(tensor->shape.size()));
      for (auto size = tensor->shape.rbegin(); size != tensor->shape.rend(); ++size) file.number(*size);
      file.number(ggml_type_of(tensor->format));
      file.number(offset);
      offset = (offset + tensor->bytes + gguf_alignment - 1) / gguf_alignment * gguf_alignment;
    }
    for (const TensorEntry* tensor : weights_.made()) {
      file.pad(gguf_alignment);
      data(file, *tensor);
    }
    file.pad(gguf_alignment);
    file.finish();
  }

 private:
  void shard(const std::string& name, const std::vector<const TensorEntry*>& tensors) {
    json::object header = {{"__metadata__", {{"format", "pt"}}}};
    uint64_t offset = 0;
    for (const TensorEntry* tensor : tensors) {
      json::array shape;
      for (const uint64_t size : tensor->shape) shape.emplace_back(size);
      header[tensor->name] = {{"dtype", format_info(tensor->format).name},
                              {"shape", shape},
                              {"data_offsets", {offset, offset + tensor->bytes}}};
      offset += tensor->bytes;
    }
    std::string text = json::serialize(header);
    text.resize((text.size() + 7) / 8 * 8, ' '); // the data begins on a multiple of 8
    NewFile file(folder_ / name);
    file.number(static_cast<uint64_t>(text.size()));
    file.write(text);
    for (const TensorEntry* tensor : tensors) data(file, *tensor);
    file.finish();
  }

  void data(NewFile& file, const TensorEntry& tensor) {
    const uint64_t row = row_bytes(tensor.format, tensor.shape.back()), rows = tensor.bytes / row;
    const uint64_t at_once = std::max<uint64_t>(1, stretch_bytes / row);
    buffer_.resize(std::min(at_once, rows) * row);
    for (uint64_t first = 0; first < rows; first += at_once) {
      const uint64_t count = std::min(at_once, rows - first);
      weights_.fill(tensor, first, count, buffer_.data());
      file.write(buffer_.data(), count * row);
      done_ += count * row;
      if (progress_) progress_(done_, weights_.total_bytes());
    }
  }

  const DummyWeights& weights_;
  fs::path folder_;
  const std::function<void(uint64_t, uint64_t)>& progress_;
  std::vector<std::byte> buffer_;
  uint64_t done_ = 0;
};

} // namespace

void ModelFiles::write_dummy(const fs::path& folder, uint64_t shard_bytes,
                             const std::function<void(uint64_t, uint64_t)>& progress) const {
  assert(state_->dummy);
  std::error_code code;
  fs::create_directories(folder, code);
  if (code) throw Error(folder.string() + " cannot be made: " + code.message());
  Writer writer(*state_->dummy, folder, progress);
  if (format_info(state_->options.dummy_format).quantised) {
    writer.gguf(state_->config);
    return;
  }
  writer.safetensors(shard_bytes);
  Config config(state_->config.source());
  for (const auto& [key, value] : state_->config.values())
    if (!key.starts_with("gguf.")) config.set(key, value);
  for (const auto& [key, length] : state_->config.lengths()) config.set_length(key, length);
  config.set("quire.dummy", true);
  NewFile file(folder / "config.json");
  file.write(config.to_json());
  file.finish();
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "generation_config.json", "chat_template.jinja"})
    if (!state_->folder.empty() && fs::exists(state_->folder / name) && !fs::equivalent(state_->folder, folder, code))
      fs::copy_file(state_->folder / name, folder / name, fs::copy_options::overwrite_existing);
}

} // namespace quire
