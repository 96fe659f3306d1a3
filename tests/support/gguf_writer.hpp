// Small GGUF files for tests, byte by byte, so that they can lie: every count, size and offset may be overridden.
#pragma once

#include "weights/formats.hpp"
#include "weights/gguf.hpp"

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace quire::test {

// Little-endian bytes of a number.
template <class T> std::string raw(T value) {
  std::string bytes(sizeof value, '\0');
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

inline std::string gguf_string(std::string_view text) { return raw(uint64_t(text.size())) + std::string(text); }

class GgufWriter {
 public:
  uint32_t version = 3;
  std::string magic = "GGUF";
  uint64_t alignment = 32;              // that data is laid out by
  std::optional<uint64_t> num_tensors;  // lies
  std::optional<uint64_t> num_metadata; // lies

  GgufWriter& metadata(std::string_view key, GgufType type, std::string_view value_bytes) {
    metadata_ += gguf_string(key) + raw(uint32_t(type)) + std::string(value_bytes);
    ++metadata_count_;
    return *this;
  }
  GgufWriter& uint32(std::string_view key, uint32_t value) { return metadata(key, GgufType::Uint32, raw(value)); }
  GgufWriter& float32(std::string_view key, float value) { return metadata(key, GgufType::Float32, raw(value)); }
  GgufWriter& boolean(std::string_view key, bool value) { return metadata(key, GgufType::Bool, raw(uint8_t(value))); }
  GgufWriter& string(std::string_view key, std::string_view value) {
    return metadata(key, GgufType::String, gguf_string(value));
  }
  template <class T> GgufWriter& array(std::string_view key, GgufType type, const std::vector<T>& values) {
    std::string bytes = raw(uint32_t(type)) + raw(uint64_t(values.size()));
    for (const T& value : values) {
      if constexpr (std::is_convertible_v<T, std::string_view>)
        bytes += gguf_string(value);
      else
        bytes += raw(value);
    }
    return metadata(key, GgufType::Array, bytes);
  }

  // dimensions as GGUF writes them: innermost first. Data is laid out behind what came before, aligned; offset
  // overrides where the header says it is.
  GgufWriter& tensor(std::string_view name, const std::vector<uint64_t>& dimensions, uint32_t ggml_type,
                     const std::string& data, std::optional<uint64_t> offset = {}) {
    tensors_ += gguf_string(name) + raw(uint32_t(dimensions.size()));
    for (const uint64_t size : dimensions) tensors_ += raw(size);
    while (data_.size() % alignment != 0) data_ += '\0';
    tensors_ += raw(ggml_type) + raw(offset.value_or(data_.size()));
    data_ += data;
    ++tensor_count_;
    return *this;
  }
  // F32 [dimensions] of zeros.
  GgufWriter& zeros(std::string_view name, const std::vector<uint64_t>& dimensions) {
    uint64_t count = 1;
    for (const uint64_t size : dimensions) count *= size;
    return tensor(name, dimensions, 0, std::string(4 * count, '\0'));
  }

  std::string bytes() const {
    std::string file = magic + raw(version) + raw(num_tensors.value_or(tensor_count_)) +
                       raw(num_metadata.value_or(metadata_count_)) + metadata_ + tensors_;
    while (file.size() % alignment != 0) file += '\0';
    return file + data_;
  }

 private:
  std::string metadata_, tensors_, data_;
  uint64_t metadata_count_ = 0, tensor_count_ = 0;
};

} // namespace quire::test
