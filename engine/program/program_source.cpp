// Binds a program's weights to a model's files.
#include "program/builder.hpp"

#include "weights/model_files.hpp"

#include <array>
#include <utility>
#include <vector>

namespace quire {
namespace {

// The configuration's key, or product of two, that gives this size: for the sentence of a wrong shape. Empty if none
// does.
std::string size_in_words(const Config& config, uint64_t size) {
  const auto is = [&](const char* key, uint64_t factor = 1) {
    const auto value = config.integer(key);
    return value && *value > 0 && static_cast<uint64_t>(*value) * factor == size;
  };
  for (const char* key : {"hidden_size", "intermediate_size", "moe_intermediate_size", "vocab_size", "head_dim",
                          "num_experts", "num_local_experts"})
    if (is(key)) return key;
  const auto hidden = config.integer("hidden_size"), heads = config.integer("num_attention_heads");
  const int64_t head_dim = config.integer("head_dim").value_or(hidden && heads && *heads > 0 ? *hidden / *heads : 0);
  for (const char* key : {"num_attention_heads", "num_key_value_heads"})
    if (head_dim > 0 && is(key, static_cast<uint64_t>(head_dim))) return std::string(key) + " * head_dim";
  return {};
}

// Where the file's shape and the expected one differ, by the configuration's keys.
std::string reason_of(const ModelFiles& files, const char* name, std::span<const uint64_t> expected) {
  const TensorEntry* tensor = files.find(name);
  if (tensor == nullptr) return {};
  std::string reason;
  const auto is = [&](size_t from_end) {
    return from_end < tensor->shape.size() ? tensor->shape[tensor->shape.size() - 1 - from_end] : 1;
  };
  for (size_t from_end = 0; from_end < expected.size(); ++from_end) {
    const uint64_t size = expected[expected.size() - 1 - from_end];
    if (size == is(from_end)) continue;
    const std::string words = size_in_words(files.config(), size);
    if (!words.empty() && !reason.empty()) reason.insert(0, ", ");
    reason.insert(0, words);
  }
  return reason;
}

} // namespace

ProgramSource program_source(std::shared_ptr<ModelFiles> files, uint32_t context) {
  ProgramSource source;
  source.name = files->name();
  source.config_name = files->config().source();
  source.config = files->quire_configuration();
  source.context = context;
  source.owner = files;
  source.bind = [files = std::move(files)](quire_weight& wanted, bool optional) {
    const std::array<uint64_t, 3> all = {wanted.experts, wanted.rows, wanted.cols};
    const std::span<const uint64_t> shape = std::span(all).subspan(wanted.experts == 0 ? 1 : 0);
    const TensorEntry* tensor = files->weight(wanted.name, shape, optional, reason_of(*files, wanted.name, shape));
    if (tensor == nullptr) return false;
    wanted.format = tensor->format;
    wanted.planes[0] = {tensor->data, tensor->bytes};
    wanted.planes[1] = wanted.planes[2] = {};
    return true;
  };
  return source;
}

} // namespace quire
