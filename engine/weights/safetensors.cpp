#include "weights/safetensors.hpp"

#include "quire/error.hpp"
#include "quire/plugin.h"
#include "weights/sentence.hpp"

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/parse.hpp>

#include <algorithm>
#include <cstring>
#include <unordered_set>

namespace quire {
namespace {

namespace json = boost::json;
using boost::system::error_code;

constexpr uint64_t max_header_bytes = 100'000'000; // the reference implementation's
constexpr size_t max_index_bytes = size_t(256) << 20;
constexpr size_t max_dimensions = 8;

struct Dtype {
  const char* name;
  uint32_t bytes;
  int format; // -1: of known size, but Quire can't compute with it
};
constexpr Dtype dtypes[] = {{"F32", 4, QUIRE_F32}, {"F16", 2, QUIRE_F16}, {"BF16", 2, QUIRE_BF16}, {"F64", 8, -1},
                            {"I64", 8, -1},        {"U64", 8, -1},        {"I32", 4, -1},          {"U32", 4, -1},
                            {"I16", 2, -1},        {"U16", 2, -1},        {"I8", 1, -1},           {"U8", 1, -1},
                            {"BOOL", 1, -1},       {"F8_E4M3", 1, -1},    {"F8_E5M2", 1, -1},      {"F8_E8M0", 1, -1}};

// The header as events: objects are never held as JSON, duplicates are seen.
//   { "__metadata__": {name: string …}, tensor: {"dtype": string, "shape": [u64 …], "data_offsets": [u64, u64]} … }
class HeaderHandler {
 public:
  static constexpr size_t max_object_size = size_t(-1);
  static constexpr size_t max_array_size = size_t(-1);
  static constexpr size_t max_key_size = 65536;
  static constexpr size_t max_string_size = size_t(-1);

  std::vector<SafetensorsTensor> tensors;
  std::string error; // why parsing stopped, if it wasn't the JSON

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }

  bool on_object_begin(error_code& code) {
    if (depth_ == 1) {
      in_metadata_ = key_ == "__metadata__";
      if (!names_.insert(key_).second)
        return fail(code, (in_metadata_ ? "" : "tensor ") + in_quotes(key_) + " occurs twice");
      if (!in_metadata_) {
        tensors.emplace_back().name = key_;
        fields_ = 0;
      }
    } else if (depth_ != 0) {
      return fail(code, where() + " holds an object where none belongs");
    }
    ++depth_;
    return true;
  }

  bool on_object_end(size_t, error_code& code) {
    if (--depth_ == 1 && !in_metadata_ && fields_ != (dtype_field | shape_field | offsets_field))
      return fail(code, where() + " lacks one of dtype, shape and data_offsets");
    return true;
  }

  bool on_array_begin(error_code& code) {
    if (depth_ != 2 || in_metadata_ || array_ || (key_ != "shape" && key_ != "data_offsets"))
      return fail(code, where() + " holds an array where none belongs");
    array_ = key_ == "shape" ? shape_field : offsets_field;
    offsets_read_ = 0;
    return note_field(array_, code);
  }

  bool on_array_end(size_t, error_code& code) {
    if (array_ == offsets_field && offsets_read_ != 2) return fail(code, where() + " must have two data_offsets");
    array_ = 0;
    return true;
  }

  bool on_key_part(json::string_view part, size_t, error_code&) {
    partial_.append(part.data(), part.size());
    return true;
  }
  bool on_key(json::string_view part, size_t, error_code& code) {
    partial_.append(part.data(), part.size());
    key_ = std::move(partial_);
    partial_.clear();
    if (depth_ == 1 && key_.empty()) return fail(code, "a tensor has no name");
    return true;
  }

  bool on_string_part(json::string_view part, size_t, error_code&) {
    partial_.append(part.data(), part.size());
    return true;
  }
  bool on_string(json::string_view part, size_t, error_code& code) {
    partial_.append(part.data(), part.size());
    const std::string text = std::move(partial_);
    partial_.clear();
    if (depth_ == 2 && in_metadata_) return true;
    if (depth_ != 2 || array_ || key_ != "dtype") return fail(code, where() + " holds a string where none belongs");
    tensors.back().dtype = text;
    return note_field(dtype_field, code);
  }

  bool on_number_part(json::string_view, error_code&) { return true; }
  bool on_int64(int64_t value, json::string_view, error_code& code) {
    return value < 0 ? misplaced(code) : number(static_cast<uint64_t>(value), code);
  }
  bool on_uint64(uint64_t value, json::string_view, error_code& code) { return number(value, code); }
  bool on_double(double, json::string_view, error_code& code) { return misplaced(code); }
  bool on_bool(bool, error_code& code) { return misplaced(code); }
  bool on_null(error_code& code) { return misplaced(code); }
  bool on_comment_part(json::string_view, error_code&) { return true; }
  bool on_comment(json::string_view, error_code&) { return true; }

 private:
  static constexpr int dtype_field = 1, shape_field = 2, offsets_field = 4;

  bool fail(error_code& code, const std::string& why) {
    error = why;
    code = boost::system::errc::make_error_code(boost::system::errc::invalid_argument);
    return false;
  }
  bool misplaced(error_code& code) {
    return fail(
        code,
        where() +
            " holds something other than natural numbers in shape or data_offsets, or a value where none belongs");
  }
  std::string where() const {
    if (in_metadata_) return "`__metadata__`";
    return tensors.empty() ? "the header" : "tensor " + in_quotes(tensors.back().name);
  }
  bool note_field(int field, error_code& code) {
    if (fields_ & field) return fail(code, where() + " has " + in_quotes(key_) + " twice");
    fields_ |= field;
    return true;
  }
  bool number(uint64_t value, error_code& code) {
    if (array_ == shape_field) {
      if (tensors.back().shape.size() == max_dimensions)
        return fail(code, where() + " has more than " + std::to_string(max_dimensions) + " dimensions");
      tensors.back().shape.push_back(value);
      return true;
    }
    if (array_ != offsets_field) return misplaced(code);
    if (offsets_read_ == 0) tensors.back().offset = value;
    if (offsets_read_ == 1) tensors.back().bytes = value; // the end, until the offsets are checked
    if (++offsets_read_ > 2) return fail(code, where() + " must have two data_offsets");
    return true;
  }

  int depth_ = 0;
  int array_ = 0; // the field whose array is open
  int fields_ = 0;
  int offsets_read_ = 0;
  bool in_metadata_ = false;
  std::string key_, partial_;
  std::unordered_set<std::string> names_;
};

[[noreturn]] void fail(const std::string& name, const std::string& what) { throw Error(name + ": " + what); }

// Turns begin and end into offset and bytes; both are from the data's start until the caller adds it.
void check_tensor(SafetensorsTensor& tensor, uint64_t data_bytes, const std::string& name) {
  const std::string what = "tensor " + in_quotes(tensor.name);
  const auto* dtype =
      std::find_if(std::begin(dtypes), std::end(dtypes), [&](const Dtype& d) { return tensor.dtype == d.name; });
  if (dtype == std::end(dtypes))
    fail(name, what + " has the unknown dtype " + in_quotes(tensor.dtype) + ": convert it to F32, F16 or BF16");
  if (dtype->format >= 0) tensor.format = static_cast<uint32_t>(dtype->format);
  const uint64_t end = tensor.bytes;
  if (tensor.offset > end || end > data_bytes)
    fail(name, what + " lies at bytes " + std::to_string(tensor.offset) + " to " + std::to_string(end) + " of " +
                   std::to_string(data_bytes) + " bytes of data: the file is truncated or damaged; fetch it again");
  tensor.bytes = end - tensor.offset;
  uint64_t expected = dtype->bytes;
  bool overflow = false;
  for (const uint64_t size : tensor.shape) overflow |= __builtin_mul_overflow(expected, size, &expected);
  if (overflow || expected != tensor.bytes)
    fail(name, what + " is " + shape_text(tensor.shape) + " of " + tensor.dtype + " but has " +
                   std::to_string(tensor.bytes) + " bytes: the file is damaged; fetch it again");
}

} // namespace

std::vector<SafetensorsTensor> parse_safetensors(std::span<const std::byte> bytes, const std::string& name) {
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes)
    fail(name, "the file ends within its header: it is truncated; fetch it again");
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  const uint64_t rest = bytes.size() - sizeof header_bytes;
  if (header_bytes > max_header_bytes)
    fail(name, "its header claims " + std::to_string(header_bytes) + " bytes, more than the " +
                   std::to_string(max_header_bytes) + " allowed: this is no safetensors file, or it is damaged");
  if (header_bytes > rest)
    fail(name, "its header claims " + std::to_string(header_bytes) + " bytes where " + std::to_string(rest) +
                   " are left: the file is truncated or damaged; fetch it again");
  const json::string_view text(reinterpret_cast<const char*>(bytes.data() + sizeof header_bytes), header_bytes);
  if (text.empty() || text.front() != '{') fail(name, "its header is no JSON object: this is no safetensors file");

  json::parse_options options;
  options.max_depth = 4;
  json::basic_parser<HeaderHandler> parser(options);
  error_code code;
  const size_t read = parser.write_some(false, text.data(), text.size(), code);
  if (!parser.handler().error.empty())
    fail(name, parser.handler().error + ": the file is damaged or made to mislead; fetch it again");
  if (code) fail(name, "its header is not valid JSON (" + code.message() + "): the file is damaged; fetch it again");
  if (text.find_first_not_of(' ', read) != json::string_view::npos)
    fail(name, "something follows the JSON in its header: the file is damaged; fetch it again");

  std::vector<SafetensorsTensor> tensors = std::move(parser.handler().tensors);
  const uint64_t data_offset = sizeof header_bytes + header_bytes;
  const uint64_t data_bytes = rest - header_bytes;
  for (SafetensorsTensor& tensor : tensors) check_tensor(tensor, data_bytes, name);
  std::stable_sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
  });
  uint64_t end = 0;
  for (SafetensorsTensor& tensor : tensors) {
    if (tensor.offset != end)
      fail(name, "tensor " + in_quotes(tensor.name) +
                     (tensor.offset < end ? " overlaps the one before it" : " follows a hole") + " at byte " +
                     std::to_string(std::min(tensor.offset, end)) +
                     " of the data: the file is damaged or made to mislead; fetch it again");
    end += tensor.bytes;
    tensor.offset += data_offset;
  }
  if (end != data_bytes)
    fail(name, std::to_string(data_bytes - end) +
                   " bytes at its end belong to no tensor: the file is damaged; fetch it again");
  return tensors;
}

std::map<std::string, std::string> parse_safetensors_index(std::string_view text, const std::string& name) {
  if (text.size() > max_index_bytes) fail(name, "it is too large for an index of shards");
  json::parse_options options;
  options.max_depth = 4;
  error_code code;
  const json::value value = json::parse(json::string_view(text.data(), text.size()), code, {}, options);
  if (code) fail(name, "it is not valid JSON (" + code.message() + "): fetch it again");
  const json::object* object = value.if_object();
  const json::value* map = object ? object->if_contains("weight_map") : nullptr;
  if (!map || !map->is_object()) fail(name, "`weight_map` is missing: fetch it again");
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, file] : map->get_object()) {
    const json::string* word = file.if_string();
    const std::string shard = word ? std::string(*word) : std::string();
    if (!shard.ends_with(".safetensors") || shard.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos)
      fail(name, "tensor " + in_quotes(tensor) + " is in the shard " + in_quotes(shard) +
                     ", which is no plain name of a .safetensors file in the same folder: correct the index");
    shards.emplace(tensor, shard);
  }
  return shards;
}

} // namespace quire
