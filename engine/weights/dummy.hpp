// Made-up weights for `--load-format dummy`: seeded, cheap, and of sane size, so that a shape can be measured whose
// weights no machine has.
//
// Matrices hold N(0, 0.02), norms 1 + N(0, 0.02). One pattern of about four million elements a format is drawn (and
// quantised) once; row r of a tensor is two stretches of it, at places that depend on the seed, the tensor's name and
// r: no two rows of a tensor are alike below 10^10 rows, and any row can be made by itself. Vectors are F32 in a block
// format's model; rows that are no whole blocks are Q8_0, else BF16. Filling costs about what memcpy does, on all
// cores. Errors: quire::Error where memory does not suffice. Threads: [load].
#pragma once

#include "weights/config.hpp"
#include "weights/model_files.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quire {

class DummyWeights {
 public:
  // config outlives this. in_memory false: entries have no data, fill() makes it.
  DummyWeights(const Config& config, uint32_t format, uint64_t seed, bool in_memory);
  ~DummyWeights();

  // The tensor, made on first use; an optional one only where the configuration implies it, else nullptr.
  const TensorEntry* weight(std::string_view name, std::span<const uint64_t> shape, bool optional);
  // In the order of first use.
  const std::vector<const TensorEntry*>& made() const { return made_; }
  uint64_t total_bytes() const { return total_bytes_; }
  // Rows first … first + count - 1 of a tensor [rows, cols] (leading dimensions merged), as weight() makes them, into
  // out.
  void fill(const TensorEntry& tensor, uint64_t first, uint64_t count, std::byte* out) const;

 private:
  struct Pattern;
  struct Made;
  void make(Made& made) const;
  bool implied(std::string_view name) const;
  uint32_t format_for(std::span<const uint64_t> shape) const;
  const Pattern& pattern(uint32_t format, bool norm) const;

  const Config& config_;
  uint32_t format_;
  uint64_t seed_;
  bool in_memory_;
  uint64_t total_bytes_ = 0;
  std::map<std::string, std::unique_ptr<Made>, std::less<>> tensors_;
  std::vector<const TensorEntry*> made_;
  mutable std::map<std::pair<uint32_t, bool>, std::unique_ptr<Pattern>> patterns_;
};

} // namespace quire
