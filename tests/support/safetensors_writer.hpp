// Small safetensors files for tests; the header is text that the test may write itself.
#pragma once

#include "support/gguf_writer.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quire::test {

// A file of this header and data; header_bytes overrides the length that it claims.
inline std::string safetensors(std::string_view header, std::string_view data = {},
                               uint64_t header_bytes = UINT64_MAX) {
  return raw(header_bytes == UINT64_MAX ? uint64_t(header.size()) : header_bytes) + std::string(header) +
         std::string(data);
}

class SafetensorsWriter {
 public:
  // shape outermost first.
  SafetensorsWriter& tensor(std::string_view name, std::string_view dtype, const std::vector<uint64_t>& shape,
                            std::string_view data) {
    header_ += (header_.empty() ? "{\"" : ",\"") + std::string(name) + "\":{\"dtype\":\"" + std::string(dtype) +
               "\",\"shape\":[";
    for (size_t i = 0; i < shape.size(); ++i) header_ += (i ? "," : "") + std::to_string(shape[i]);
    header_ +=
        "],\"data_offsets\":[" + std::to_string(data_.size()) + "," + std::to_string(data_.size() + data.size()) + "]}";
    data_ += data;
    return *this;
  }
  std::string bytes() const { return safetensors(header_.empty() ? "{}" : header_ + "}", data_); }

 private:
  std::string header_, data_;
};

} // namespace quire::test
