// GGUF, versions 2 and 3, little-endian: a parser that believes nothing (source: the GGUF specification in ggml's
// docs).
//
// Checked: magic, version, every count and length against the bytes that are left, every size for overflow, nesting of
// arrays (at most 4), duplicate keys and tensor names, known types, 1 to 4 dimensions of at least 1, rows of whole
// blocks, alignment a power of two, offsets aligned, tensors inside the file and disjoint. Memory stays within a small
// multiple of the header's bytes.
//
// Strings and arrays are views into the bytes parsed: they live as long as those (GgufFile owns the mapping).
// Errors: quire::Error, one sentence that names the file, the key or tensor, and the fix. Threads: immutable once
// parsed: [any].
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

namespace quire {

class MappedFile;

enum class GgufType : uint32_t {
  Uint8 = 0,
  Int8 = 1,
  Uint16 = 2,
  Int16 = 3,
  Uint32 = 4,
  Int32 = 5,
  Float32 = 6,
  Bool = 7,
  String = 8,
  Array = 9,
  Uint64 = 10,
  Int64 = 11,
  Float64 = 12
};

// Elements are read on demand: an array of numbers stays in the file's bytes.
class GgufArray {
 public:
  GgufType type = GgufType::Uint8; // of the elements
  uint64_t count = 0;

  // Element i, if it is of that kind and fits; integers are reals too, bools are not integers.
  std::optional<int64_t> integer(uint64_t i) const;
  std::optional<double> real(uint64_t i) const;
  std::optional<bool> boolean(uint64_t i) const;
  std::optional<std::string_view> string(uint64_t i) const;
  const GgufArray* array(uint64_t i) const;

  std::span<const std::byte> numbers;    // of fixed-size types
  std::vector<std::string_view> strings; // of strings
  std::vector<GgufArray> arrays;         // of arrays
};

struct GgufValue {
  GgufType type = GgufType::Uint8;
  std::variant<uint64_t, int64_t, double, bool, std::string_view, GgufArray>
      value; // by type: unsigned, signed, float, …
};

struct GgufTensor {
  std::string_view name;
  uint32_t ggml_type = 0;
  std::optional<uint32_t> format; // quire_format; nothing: a type that Quire can't compute with
  std::vector<uint64_t> shape;    // outermost first: the file's dimensions reversed
  uint64_t offset = 0;            // in the file
  uint64_t bytes = 0;
};

class GgufFile {
 public:
  static std::unique_ptr<GgufFile> open(std::shared_ptr<const MappedFile> file);
  // Of bytes that outlive this; `name` for errors.
  static std::unique_ptr<GgufFile> parse(std::span<const std::byte> bytes, const std::string& name);

  uint32_t version() const { return version_; }
  uint64_t alignment() const { return alignment_; }
  uint64_t data_offset() const { return data_offset_; }
  const std::string& name() const { return name_; } // the file's
  const std::shared_ptr<const MappedFile>& file() const { return file_; }
  std::span<const GgufTensor> tensors() const { return tensors_; } // in the header's order
  std::span<const std::byte> data(const GgufTensor& tensor) const {
    return bytes_.subspan(tensor.offset, tensor.bytes);
  }

  // Metadata: the value if the key is there, of that kind and in range; integers are reals too.
  const GgufValue* find(std::string_view key) const;
  std::optional<int64_t> integer(std::string_view key) const;
  std::optional<double> real(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<std::string_view> string(std::string_view key) const;
  const GgufArray* array(std::string_view key) const;
  std::span<const std::pair<std::string_view, GgufValue>> metadata() const { return metadata_; } // in the file's order

 private:
  friend class GgufParser;
  std::string name_;
  std::shared_ptr<const MappedFile> file_;
  std::span<const std::byte> bytes_;
  uint32_t version_ = 0;
  uint64_t alignment_ = 32;
  uint64_t data_offset_ = 0;
  std::vector<std::pair<std::string_view, GgufValue>> metadata_;
  std::unordered_map<std::string_view, size_t> index_; // key → metadata_
  std::vector<GgufTensor> tensors_;
};

// «Q4_K», «IQ2_XS», «type 77»: for errors.
std::string ggml_type_name(uint32_t ggml_type);

} // namespace quire
