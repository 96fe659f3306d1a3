// Which kernel runs a linear of fp16 weights at so many rows: what was timed on this chip (linear_tuning.hpp), and the
// file that remembers it.
//
// The file is lines of text: its format's version, the chip, the library's version, a line a choice, and last the
// number of choices and a checksum. It is taken whole or not at all: another chip's or library's, a torn or altered one
// is as good as none. Errors: load() and save() say what is wrong, nothing throws. Threads: one at a time.
#pragma once

#include "matrix_library.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace quire::cuda {

// What a linear does with its sums besides storing them; the library's product leaves it to a kernel of ours.
enum class LinearTail : uint32_t { none, finish, glu };

// [rows, K] times W [N, K] transposed, W and the input in fp16.
struct LinearShape {
  uint32_t outputs = 0; // N, of all parts
  uint32_t cols = 0;    // K
  Type out = Type::f16; // of the product
  LinearTail tail = LinearTail::none;
  friend auto operator<=>(const LinearShape&, const LinearShape&) = default;
};

struct LinearChoice {
  bool own = false;             // linear() with a kernel of its own choosing
  LibraryAlgorithm algorithm{}; // else the library's
  double seconds = 0;           // a launch and its tail, as timed
};

// Rows up to which our own kernels are always taken.
inline constexpr uint32_t kUntimedRows = 4;

// The counts of rows that are timed, rising: the buckets of decode steps, then 1, 1.5, 2, 3, 4, … powers of two, and
// most_rows itself.
std::vector<uint32_t> timed_rows(uint32_t most_sequences, uint32_t most_rows);

class LinearChoices {
 public:
  // That of the least timed count that holds the rows; null where there is none, or it is more than half as large again
  // and so tells nothing.
  const LinearChoice* find(const LinearShape& shape, uint32_t rows) const;
  const LinearChoice* at(const LinearShape& shape, uint32_t rows) const; // of exactly that count
  void put(const LinearShape& shape, uint32_t rows, const LinearChoice& choice) { choices_[shape][rows] = choice; }
  size_t size() const;

 private:
  friend struct LinearChoiceFile;
  std::map<LinearShape, std::map<uint32_t, LinearChoice>> choices_;
};

// What choices hold for.
struct LinearChoiceFile {
  std::string chip; // its name
  int compute_capability = 0;
  uint32_t multiprocessors = 0;
  uint64_t library_version = 0;

  std::string text(const LinearChoices& choices) const;
  // Adds the choices of the text; if it can't be used, none, and what is wrong with it is returned.
  std::string parse(std::string_view text, LinearChoices& choices) const;

  // In a folder. One file a chip and library version.
  std::string path(const std::string& folder) const;
  std::string load(const std::string& path, LinearChoices& choices) const; // "" also where there is no file
  // What others have added to the file meanwhile stays. Written aside and renamed.
  std::string save(const std::string& path, const LinearChoices& choices) const;
};

} // namespace quire::cuda
