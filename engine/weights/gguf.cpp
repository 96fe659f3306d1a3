#include "weights/gguf.hpp"

#include "quire/error.hpp"
#include "quire/plugin.h"
#include "weights/mapped_file.hpp"
#include "weights/sentence.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <unordered_set>

namespace quire {
namespace {

constexpr int max_nesting = 4;
constexpr uint64_t max_key_bytes = 65535; // the specification's
constexpr uint64_t max_name_bytes = 1024; // ours: ggml's own limit is 64
constexpr uint64_t max_alignment = uint64_t(1) << 30;
constexpr uint64_t min_metadata_bytes = 8 + 1 + 4 + 1;       // key, type, the smallest value
constexpr uint64_t min_tensor_bytes = 8 + 1 + 4 + 8 + 4 + 8; // name, dimensions, one dimension, type, offset

struct GgmlType {
  uint32_t id;
  const char* name;
  uint32_t block_elements;
  uint32_t block_bytes;
  int format; // quire_format; -1: of known size, but Quire can't compute with it
};

// Source: ggml's type table, as PyPI `gguf` 0.19 has it.
constexpr GgmlType ggml_types[] = {
    {0, "F32", 1, 4, QUIRE_F32},
    {1, "F16", 1, 2, QUIRE_F16},
    {2, "Q4_0", 32, 18, QUIRE_Q4_0},
    {3, "Q4_1", 32, 20, QUIRE_Q4_1},
    {6, "Q5_0", 32, 22, QUIRE_Q5_0},
    {7, "Q5_1", 32, 24, QUIRE_Q5_1},
    {8, "Q8_0", 32, 34, QUIRE_Q8_0},
    {9, "Q8_1", 32, 40, -1},
    {10, "Q2_K", 256, 84, QUIRE_Q2_K},
    {11, "Q3_K", 256, 110, QUIRE_Q3_K},
    {12, "Q4_K", 256, 144, QUIRE_Q4_K},
    {13, "Q5_K", 256, 176, QUIRE_Q5_K},
    {14, "Q6_K", 256, 210, QUIRE_Q6_K},
    {15, "Q8_K", 256, 292, -1},
    {16, "IQ2_XXS", 256, 66, -1},
    {17, "IQ2_XS", 256, 74, -1},
    {18, "IQ3_XXS", 256, 98, -1},
    {19, "IQ1_S", 256, 50, -1},
    {20, "IQ4_NL", 32, 18, -1},
    {21, "IQ3_S", 256, 110, -1},
    {22, "IQ2_S", 256, 82, -1},
    {23, "IQ4_XS", 256, 136, -1},
    {24, "I8", 1, 1, -1},
    {25, "I16", 1, 2, -1},
    {26, "I32", 1, 4, -1},
    {27, "I64", 1, 8, -1},
    {28, "F64", 1, 8, -1},
    {29, "IQ1_M", 256, 56, -1},
    {30, "BF16", 1, 2, QUIRE_BF16},
    {34, "TQ1_0", 256, 54, -1},
    {35, "TQ2_0", 256, 66, -1},
    {39, "MXFP4", 32, 17, -1},
    {40, "NVFP4", 64, 36, -1},
    {41, "Q1_0", 128, 18, -1},
};

const GgmlType* find_type(uint32_t id) {
  for (const GgmlType& type : ggml_types)
    if (type.id == id) return &type;
  return nullptr;
}

// Bytes of a value of fixed size; 0 for strings, arrays and unknown types.
uint64_t fixed_bytes(GgufType type) {
  switch (type) {
  case GgufType::Uint8:
  case GgufType::Int8:
  case GgufType::Bool:
    return 1;
  case GgufType::Uint16:
  case GgufType::Int16:
    return 2;
  case GgufType::Uint32:
  case GgufType::Int32:
  case GgufType::Float32:
    return 4;
  case GgufType::Uint64:
  case GgufType::Int64:
  case GgufType::Float64:
    return 8;
  case GgufType::String:
  case GgufType::Array:
    return 0;
  }
  return 0;
}

template <class T> T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// A value of fixed size at `from`; a bool is true if it isn't 0.
std::variant<uint64_t, int64_t, double, bool> load_number(GgufType type, const std::byte* from) {
  switch (type) {
  case GgufType::Uint8:
    return uint64_t(load<uint8_t>(from));
  case GgufType::Int8:
    return int64_t(load<int8_t>(from));
  case GgufType::Uint16:
    return uint64_t(load<uint16_t>(from));
  case GgufType::Int16:
    return int64_t(load<int16_t>(from));
  case GgufType::Uint32:
    return uint64_t(load<uint32_t>(from));
  case GgufType::Int32:
    return int64_t(load<int32_t>(from));
  case GgufType::Uint64:
    return load<uint64_t>(from);
  case GgufType::Int64:
    return load<int64_t>(from);
  case GgufType::Float32:
    return double(load<float>(from));
  case GgufType::Float64:
    return load<double>(from);
  default:
    return load<uint8_t>(from) != 0;
  }
}

template <class Variant> std::optional<int64_t> as_integer(const Variant& value) {
  if (const auto* u = std::get_if<uint64_t>(&value))
    return *u <= uint64_t(INT64_MAX) ? std::optional(static_cast<int64_t>(*u)) : std::nullopt;
  if (const auto* i = std::get_if<int64_t>(&value)) return *i;
  return std::nullopt;
}

template <class Variant> std::optional<double> as_real(const Variant& value) {
  if (const auto* d = std::get_if<double>(&value)) return *d;
  if (const auto* u = std::get_if<uint64_t>(&value)) return static_cast<double>(*u);
  if (const auto* i = std::get_if<int64_t>(&value)) return static_cast<double>(*i);
  return std::nullopt;
}

} // namespace

class GgufParser {
 public:
  GgufParser(GgufFile& file, std::span<const std::byte> bytes) : file_(file), bytes_(bytes) {}

  void parse() {
    const auto [num_tensors, num_metadata] = header();
    for (uint64_t i = 0; i < num_metadata; ++i) metadata(i);
    alignment();
    for (uint64_t i = 0; i < num_tensors; ++i) tensor(i);
    place_tensors();
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { throw Error(file_.name_ + ": " + what); }

  uint64_t left() const { return bytes_.size() - at_; }

  template <class T> T take(const char* what) {
    if (left() < sizeof(T)) truncated(what);
    const T value = load<T>(bytes_.data() + at_);
    at_ += sizeof(T);
    return value;
  }

  [[noreturn]] void truncated(const char* what) const {
    fail("the file ends at byte " + std::to_string(bytes_.size()) + ", within " + what +
         ": it is truncated or damaged; fetch it again");
  }

  std::string_view take_string(const char* what, uint64_t max_bytes = std::numeric_limits<uint64_t>::max()) {
    const auto size = take<uint64_t>(what);
    if (size > left())
      fail(std::string(what) + " claims " + std::to_string(size) + " bytes where " + std::to_string(left()) +
           " are left: the file is truncated or damaged; fetch it again");
    if (size > max_bytes)
      fail(std::string(what) + " has " + std::to_string(size) + " bytes, more than the " + std::to_string(max_bytes) +
           " allowed: the file is damaged; fetch it again");
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data() + at_), size);
    at_ += size;
    return text;
  }

  // A count of things of at least `min_bytes` each must fit in what is left.
  void check_count(uint64_t count, uint64_t min_bytes, const std::string& what) const {
    if (count > left() / min_bytes)
      fail(what + " claims " + std::to_string(count) + " entries, which do not fit in the " + std::to_string(left()) +
           " bytes left: the file is truncated or damaged; fetch it again");
  }

  std::pair<uint64_t, uint64_t> header() {
    if (left() < 4 || std::memcmp(bytes_.data(), "GGUF", 4) != 0)
      fail("it does not begin with «GGUF»: this is no GGUF file");
    at_ = 4;
    file_.version_ = take<uint32_t>("the header");
    if (file_.version_ != 0 && (file_.version_ & 0xffffu) == 0)
      fail("it is big-endian GGUF, which Quire does not read: convert it to little-endian");
    if (file_.version_ != 2 && file_.version_ != 3)
      fail("it is GGUF version " + std::to_string(file_.version_) +
           ", and Quire reads versions 2 and 3: convert it with a "
           "current tool");
    const auto num_tensors = take<uint64_t>("the header");
    const auto num_metadata = take<uint64_t>("the header");
    check_count(num_metadata, min_metadata_bytes, "the metadata");
    check_count(num_tensors, min_tensor_bytes, "the list of tensors");
    return {num_tensors, num_metadata};
  }

  void metadata(uint64_t i) {
    const std::string_view key = take_string("a metadata key", max_key_bytes);
    if (key.empty()) fail("metadata key " + std::to_string(i) + " is empty: the file is damaged; fetch it again");
    const auto type = take<uint32_t>("the metadata");
    GgufValue value;
    value.type = static_cast<GgufType>(type);
    if (value.type == GgufType::String) {
      value.value = take_string("a metadata string");
    } else if (value.type == GgufType::Array) {
      value.value = take_array(key, 1);
    } else if (const uint64_t bytes = fixed_bytes(value.type)) {
      if (left() < bytes) truncated("the metadata");
      std::visit([&](auto number) { value.value = number; }, load_number(value.type, bytes_.data() + at_));
      at_ += bytes;
    } else {
      unknown_type(key, type);
    }
    if (!file_.index_.emplace(key, file_.metadata_.size()).second)
      fail("the metadata key " + in_quotes(key) +
           " occurs twice: the file is damaged or made to mislead; fetch it again");
    file_.metadata_.emplace_back(key, std::move(value));
  }

  [[noreturn]] void unknown_type(std::string_view key, uint32_t type) const {
    fail("the metadata key " + in_quotes(key) + " has a value of unknown type " + std::to_string(type) +
         ": the file is damaged or newer than Quire");
  }

  GgufArray take_array(std::string_view key, int depth) {
    if (depth > max_nesting)
      fail("the metadata key " + in_quotes(key) + " nests arrays more than " + std::to_string(max_nesting) +
           " deep: the file is damaged or made to mislead");
    const auto type = take<uint32_t>("a metadata array");
    GgufArray array;
    array.type = static_cast<GgufType>(type);
    array.count = take<uint64_t>("a metadata array");
    const std::string what = "the array " + in_quotes(key);
    if (array.type == GgufType::String) {
      check_count(array.count, 8, what);
      array.strings.reserve(array.count);
      for (uint64_t i = 0; i < array.count; ++i) array.strings.push_back(take_string("a string of a metadata array"));
    } else if (array.type == GgufType::Array) {
      check_count(array.count, 12, what);
      for (uint64_t i = 0; i < array.count; ++i) array.arrays.push_back(take_array(key, depth + 1));
    } else if (const uint64_t bytes = fixed_bytes(array.type)) {
      check_count(array.count, bytes, what);
      array.numbers = bytes_.subspan(at_, array.count * bytes);
      at_ += array.count * bytes;
    } else {
      unknown_type(key, type);
    }
    return array;
  }

  void alignment() {
    if (!file_.find("general.alignment")) return;
    const int64_t value = file_.integer("general.alignment").value_or(0);
    if (value < 1 || uint64_t(value) > max_alignment || (value & (value - 1)) != 0)
      fail("`general.alignment` must be a power of two: the file is damaged; fetch it again");
    file_.alignment_ = static_cast<uint64_t>(value);
  }

  void tensor(uint64_t i) {
    GgufTensor tensor;
    tensor.name = take_string("the name of a tensor", max_name_bytes);
    if (tensor.name.empty()) fail("tensor " + std::to_string(i) + " has no name: the file is damaged; fetch it again");
    const std::string what = "tensor " + in_quotes(tensor.name);
    if (!names_.insert(tensor.name).second)
      fail(what + " occurs twice: the file is damaged or made to mislead; fetch it again");
    const auto dimensions = take<uint32_t>("the list of tensors");
    if (dimensions < 1 || dimensions > 4)
      fail(what + " has " + std::to_string(dimensions) +
           " dimensions, 1 to 4 are allowed: the file is damaged; fetch it again");
    tensor.shape.resize(dimensions);
    for (uint32_t d = 0; d < dimensions; ++d) {
      const auto size = take<uint64_t>("the list of tensors");
      if (size < 1 || size > uint64_t(INT64_MAX))
        fail(what + " has a dimension of " + std::to_string(size) + ": the file is damaged; fetch it again");
      tensor.shape[dimensions - 1 - d] = size;
    }
    tensor.ggml_type = take<uint32_t>("the list of tensors");
    tensor.offset = take<uint64_t>("the list of tensors"); // from data_offset_, until place_tensors
    tensor.bytes = tensor_bytes(tensor, what);
    file_.tensors_.push_back(std::move(tensor));
  }

  uint64_t tensor_bytes(GgufTensor& tensor, const std::string& what) const {
    const GgmlType* type = find_type(tensor.ggml_type);
    if (!type)
      fail(what + " is of unknown type " + std::to_string(tensor.ggml_type) +
           ": the file is damaged or newer than Quire");
    if (type->format >= 0) tensor.format = static_cast<uint32_t>(type->format);
    const uint64_t row = tensor.shape.back();
    if (row % type->block_elements != 0)
      fail(what + " has rows of " + std::to_string(row) + " elements, which are no whole " + type->name +
           " blocks of " + std::to_string(type->block_elements) + ": the file is damaged; fetch it again");
    uint64_t bytes = row / type->block_elements;
    bool overflow = __builtin_mul_overflow(bytes, type->block_bytes, &bytes);
    for (size_t d = 0; d + 1 < tensor.shape.size(); ++d)
      overflow |= __builtin_mul_overflow(bytes, tensor.shape[d], &bytes);
    if (overflow || bytes > uint64_t(INT64_MAX))
      fail(what + " is " + shape_text(tensor.shape) +
           ", more than any file holds: the file is damaged; fetch it again");
    return bytes;
  }

  void place_tensors() {
    const uint64_t mask = file_.alignment_ - 1;
    file_.data_offset_ = (at_ + mask) & ~mask;
    const uint64_t size = bytes_.size();
    std::vector<const GgufTensor*> order;
    order.reserve(file_.tensors_.size());
    for (GgufTensor& tensor : file_.tensors_) {
      const std::string what = "tensor " + in_quotes(tensor.name);
      if ((tensor.offset & mask) != 0)
        fail(what + " lies at offset " + std::to_string(tensor.offset) + ", which is no multiple of the alignment " +
             std::to_string(file_.alignment_) + ": the file is damaged; fetch it again");
      uint64_t begin = 0, end = 0;
      if (__builtin_add_overflow(tensor.offset, file_.data_offset_, &begin) ||
          __builtin_add_overflow(begin, tensor.bytes, &end) || end > size)
        fail(what + " has " + std::to_string(tensor.bytes) + " bytes from data offset " +
             std::to_string(tensor.offset) + ", but the file has only " + std::to_string(size) +
             " bytes: it is truncated or damaged; fetch it again");
      tensor.offset = begin;
      order.push_back(&tensor);
    }
    std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < order.size(); ++i)
      if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset)
        fail("tensors " + in_quotes(order[i - 1]->name) + " and " + in_quotes(order[i]->name) +
             " overlap: the file is damaged or made to mislead; fetch it again");
  }

  GgufFile& file_;
  std::span<const std::byte> bytes_;
  uint64_t at_ = 0;
  std::unordered_set<std::string_view> names_;
};

std::unique_ptr<GgufFile> GgufFile::parse(std::span<const std::byte> bytes, const std::string& name) {
  auto file = std::make_unique<GgufFile>();
  file->name_ = name;
  file->bytes_ = bytes;
  GgufParser(*file, bytes).parse();
  return file;
}

std::unique_ptr<GgufFile> GgufFile::open(std::shared_ptr<const MappedFile> file) {
  std::unique_ptr<GgufFile> result;
  try {
    result = parse(file->bytes(), file->file_name());
  } catch (const Error&) {
    file->check_unchanged(); // where the file shrank meanwhile, that is the better sentence
    throw;
  }
  file->check_unchanged();
  result->file_ = std::move(file);
  return result;
}

std::optional<int64_t> GgufArray::integer(uint64_t i) const {
  const uint64_t size = fixed_bytes(type);
  if (i >= count || size == 0) return std::nullopt;
  return as_integer(load_number(type, numbers.data() + i * size));
}

std::optional<double> GgufArray::real(uint64_t i) const {
  const uint64_t size = fixed_bytes(type);
  if (i >= count || size == 0) return std::nullopt;
  return as_real(load_number(type, numbers.data() + i * size));
}

std::optional<bool> GgufArray::boolean(uint64_t i) const {
  if (i >= count || type != GgufType::Bool) return std::nullopt;
  return load<uint8_t>(numbers.data() + i) != 0;
}

std::optional<std::string_view> GgufArray::string(uint64_t i) const {
  return i < strings.size() ? std::optional(strings[i]) : std::nullopt;
}

const GgufArray* GgufArray::array(uint64_t i) const { return i < arrays.size() ? &arrays[i] : nullptr; }

const GgufValue* GgufFile::find(std::string_view key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &metadata_[found->second].second;
}

std::optional<int64_t> GgufFile::integer(std::string_view key) const {
  const GgufValue* value = find(key);
  return value ? as_integer(value->value) : std::nullopt;
}

std::optional<double> GgufFile::real(std::string_view key) const {
  const GgufValue* value = find(key);
  return value ? as_real(value->value) : std::nullopt;
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const GgufValue* value = find(key);
  const bool* found = value ? std::get_if<bool>(&value->value) : nullptr;
  return found ? std::optional(*found) : std::nullopt;
}

std::optional<std::string_view> GgufFile::string(std::string_view key) const {
  const GgufValue* value = find(key);
  const auto* found = value ? std::get_if<std::string_view>(&value->value) : nullptr;
  return found ? std::optional(*found) : std::nullopt;
}

const GgufArray* GgufFile::array(std::string_view key) const {
  const GgufValue* value = find(key);
  return value ? std::get_if<GgufArray>(&value->value) : nullptr;
}

std::string ggml_type_name(uint32_t ggml_type) {
  const GgmlType* type = find_type(ggml_type);
  return type ? type->name : "type " + std::to_string(ggml_type);
}

} // namespace quire
