#include "weights/dummy.hpp"

#include "quire/error.hpp"
#include "weights/formats.hpp"
#include "weights/model_state.hpp"
#include "weights/sentence.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/mman.h>
#include <thread>

namespace quire {
namespace {

// Sebastiano Vigna's splitmix64: a counter and a mixer.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ull;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

uint64_t hash(std::string_view text, uint64_t seed) { // FNV-1a, mixed
  uint64_t h = 0xcbf29ce484222325ull ^ mix(seed);
  for (const char c : text) h = (h ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  return mix(h);
}

// The sum of four uniform 16-bit numbers: nearly normal, and the same on every machine. Mean 0, standard deviation 1.
float normal(uint64_t random) {
  const int sum = static_cast<int>(random & 0xffff) + static_cast<int>((random >> 16) & 0xffff) +
                  static_cast<int>((random >> 32) & 0xffff) + static_cast<int>(random >> 48);
  return static_cast<float>(sum - 2 * 65535) * (1.0f / 37836.94f); // sqrt(4 (2^32 - 1) / 12)
}

uint64_t rows_of(std::span<const uint64_t> shape) {
  uint64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

bool is_norm(std::string_view name) { return name.ends_with("norm.weight"); }

} // namespace

// `units` blocks (or elements) of `unit_bytes`; a prime number, so that any stride visits all.
struct DummyWeights::Pattern {
  uint64_t units = 0, unit_bytes = 0;
  std::vector<std::byte> bytes;

  Pattern(uint32_t format, bool norm, uint64_t seed) {
    const FormatInfo& info = format_info(format);
    units = norm ? 65537 : info.block_elements == 1 ? 4194301 : info.block_elements == 32 ? 131071 : 16381;
    unit_bytes = info.block_bytes;
    std::vector<float> values(units * info.block_elements);
    uint64_t counter = mix(seed);
    for (float& value : values) value = (norm ? 1.0f : 0.0f) + 0.02f * normal(mix(counter++));
    bytes.resize(units * unit_bytes);
    quantize(format, values.data(), values.size(), bytes.data());
  }

  // count units from place `at` on, wrapping around.
  void copy(uint64_t at, uint64_t count, std::byte* out) const {
    while (count > 0) {
      const uint64_t stretch = std::min(count, units - at);
      std::memcpy(out, bytes.data() + at * unit_bytes, stretch * unit_bytes);
      out += stretch * unit_bytes;
      count -= stretch;
      at = 0;
    }
  }
};

struct DummyWeights::Made {
  TensorEntry entry;
  void* memory = nullptr;
  ~Made() {
    if (memory) munmap(memory, entry.bytes);
  }
};

DummyWeights::DummyWeights(const Config& config, uint32_t format, uint64_t seed, bool in_memory)
    : config_(config), format_(format), seed_(seed), in_memory_(in_memory) {}
DummyWeights::~DummyWeights() = default;

const DummyWeights::Pattern& DummyWeights::pattern(uint32_t format, bool norm) const {
  std::unique_ptr<Pattern>& found = patterns_[{format, norm}];
  if (!found) found = std::make_unique<Pattern>(format, norm, seed_ * 2 + norm);
  return *found;
}

// What checkpoints of this configuration have beyond what every one has.
bool DummyWeights::implied(std::string_view name) const {
  const std::string* type = config_.string("model_type");
  const std::string_view model_type = type ? *type : std::string_view();
  if (name == "lm_head.weight")
    return !config_.boolean("tie_word_embeddings").value_or(model_type.starts_with("gemma"));
  if (name.ends_with(".bias")) {
    if (name.find(".mlp.") != std::string_view::npos) return config_.boolean("mlp_bias").value_or(false);
    if (name.find("self_attn.") == std::string_view::npos) return false;
    if (name.ends_with("o_proj.bias")) return config_.boolean("attention_bias").value_or(false);
    return config_.boolean("attention_bias").value_or(model_type.starts_with("qwen2"));
  }
  if (name.ends_with(".q_norm.weight") || name.ends_with(".k_norm.weight"))
    return model_type.starts_with("qwen3") || model_type.starts_with("gemma3") || model_type == "olmo2";
  return false;
}

uint32_t DummyWeights::format_for(std::span<const uint64_t> shape) const {
  if (!format_info(format_).quantised) return format_;
  if (rows_of(shape) == 1) return QUIRE_F32;
  if (shape.back() % format_info(format_).block_elements == 0) return format_;
  return shape.back() % 32 == 0 ? QUIRE_Q8_0 : QUIRE_BF16;
}

void DummyWeights::fill(const TensorEntry& tensor, uint64_t first, uint64_t count, std::byte* out) const {
  const Pattern& from = pattern(tensor.format, is_norm(tensor.name));
  const uint64_t cols = tensor.shape.back(), bytes = row_bytes(tensor.format, cols);
  const uint64_t row_units = cols / format_info(tensor.format).block_elements, head = row_units / 2;
  const uint64_t h = hash(tensor.name, seed_), p = from.units;
  const uint64_t head_start = h % p, head_stride = 1 + mix(h) % (p - 1);
  const uint64_t tail_start = mix(h + 1) % p, tail_stride = 1 + mix(h + 2) % (p - 1);
  for (uint64_t r = first; r < first + count; ++r, out += bytes) {
    const uint64_t turn = r % p;
    from.copy((head_start + turn * head_stride) % p, head, out);
    from.copy((tail_start + turn * tail_stride + r / p) % p, row_units - head, out + head * from.unit_bytes);
  }
}

const TensorEntry* DummyWeights::weight(std::string_view name, std::span<const uint64_t> shape, bool optional) {
  const auto found = tensors_.find(name);
  if (found != tensors_.end()) return &found->second->entry;
  if (optional && !implied(name)) return nullptr;

  auto made = std::make_unique<Made>();
  TensorEntry& entry = made->entry;
  entry.name = entry.stored_name = name;
  entry.shape.assign(shape.begin(), shape.end());
  entry.format = format_for(shape);
  entry.file = UINT32_MAX;
  const uint64_t rows = rows_of(shape);
  const auto bytes = weight_bytes(entry.format, 1, rows, shape.back());
  if (!bytes || *bytes == 0)
    throw Error(config_.source() + ": tensor " + in_quotes(name) + " would be " + shape_text(shape) +
                ", which is empty or more than any memory holds: correct the configuration");
  entry.bytes = *bytes;
  if (in_memory_) make(*made);
  total_bytes_ += entry.bytes;
  tensors_.emplace(std::string(name), std::move(made));
  made_.push_back(&entry);
  return &entry;
}

// Takes memory for a tensor and fills it, on all cores.
void DummyWeights::make(Made& made) const {
  TensorEntry& entry = made.entry;
  if (entry.bytes > available_memory_bytes())
    throw Error("dummy weights need " + std::to_string(entry.bytes >> 20) + " MiB more for " + in_quotes(entry.name) +
                ", and the machine has " + std::to_string(available_memory_bytes() >> 20) +
                " MiB left: choose a smaller configuration or a smaller format");
  void* memory = mmap(nullptr, entry.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED)
    throw Error("dummy weights: no memory for " + in_quotes(entry.name) + " (" + std::strerror(errno) + ")");
  made.memory = memory;
  entry.data = static_cast<const std::byte*>(memory);
  madvise(memory, entry.bytes, MADV_HUGEPAGE);

  pattern(entry.format, is_norm(entry.name)); // made before the threads share it
  const uint64_t row = row_bytes(entry.format, entry.shape.back()), rows = rows_of(entry.shape);
  const uint64_t cores = std::clamp<uint64_t>(std::thread::hardware_concurrency(), 1, 16);
  const uint64_t num_threads = std::min(cores, std::max<uint64_t>(1, entry.bytes >> 24)); // 16 MiB each, at least
  const auto part = [&](uint64_t i) {
    const uint64_t first = rows * i / num_threads, last = rows * (i + 1) / num_threads;
    fill(entry, first, last - first, static_cast<std::byte*>(memory) + first * row);
  };
  {
    std::vector<std::jthread> threads;
    for (uint64_t i = 1; i < num_threads; ++i) threads.emplace_back(part, i);
    part(0);
  }
  mprotect(memory, entry.bytes, PROT_READ);
}

} // namespace quire
