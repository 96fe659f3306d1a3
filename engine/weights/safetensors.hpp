// safetensors: a parser that believes nothing, and the index of a sharded checkpoint (source: the format's README).
//
// A file is a header length (u64, little-endian), a JSON header and the data. Checked: the length against the file and
// 100 MB, JSON nesting, duplicate names and fields, dtypes, products of shapes for overflow, offsets (ascending, inside
// the file, of the size that the shape implies, no holes, no overlaps, nothing left over). Errors: quire::Error, one
// sentence that names the file, the tensor and the fix. Threads: immutable once parsed: [any].
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

struct SafetensorsTensor {
  std::string name;
  std::string dtype;              // «BF16»
  std::optional<uint32_t> format; // quire_format; nothing: a dtype that Quire can't compute with
  std::vector<uint64_t> shape;    // outermost first
  uint64_t offset = 0;            // in the file
  uint64_t bytes = 0;
};

// The tensors in the order of their offsets; `bytes` is the whole file.
std::vector<SafetensorsTensor> parse_safetensors(std::span<const std::byte> bytes, const std::string& name);

// `weight_map` of model.safetensors.index.json: tensor → shard. A shard must be a plain file name ending in
// .safetensors: no folder, no «..».
std::map<std::string, std::string> parse_safetensors_index(std::string_view json, const std::string& name);

} // namespace quire
