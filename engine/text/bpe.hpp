// Byte-pair encoding of one piece of text: symbols (bytes or characters) of which neighbours merge, the pair of the
// lowest rank first and of equal ranks the leftmost, until no pair has a rank (Sennrich et al. 2016, arXiv:1508.07909,
// section 3.2; SentencePiece's BPE orders by score instead of rank, which is the same with ranks made of the scores).
// O(n log n) in the piece's length. Immutable once built; [any] thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace quire {

// (left id, right id) → (rank, merged id): open addressing.
class PairTable {
 public:
  struct Merge {
    uint32_t rank = none; // none: the pair does not merge
    int32_t id = -1;
    static constexpr uint32_t none = UINT32_MAX;
  };
  void reserve(size_t pairs);
  // The first of equal pairs stays. Ids are not negative.
  void add(int32_t left, int32_t right, Merge merge);
  Merge find(int32_t left, int32_t right) const {
    const uint64_t key = key_of(left, right);
    for (size_t i = slot_of(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return slots_[i].merge;
      if (slots_[i].key == empty) return {};
    }
  }
  size_t size() const { return size_; }

 private:
  struct Slot {
    uint64_t key = empty;
    Merge merge;
  };
  static constexpr uint64_t empty = UINT64_MAX;
  static uint64_t key_of(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  size_t slot_of(uint64_t key) const { return (key * 0x9E3779B97F4A7C15u) >> shift_; } // Fibonacci hashing
  void grow(size_t slots);

  std::vector<Slot> slots_ = std::vector<Slot>(2);
  size_t mask_ = 1, size_ = 0;
  int shift_ = 63;
};

class Bpe {
 public:
  enum class Symbols { bytes, characters };

  Symbols symbols = Symbols::bytes;
  PairTable pairs;
  std::array<int32_t, 256>
      byte_ids; // the token of a byte, -1: none. `characters`: for those without a token (byte fallback)
  std::unordered_map<char32_t, int32_t> characters; // the symbol of a character
  // Characters that are no token but part of some: symbols from first_inner on, written as their bytes' tokens if they
  // stay alone.
  int32_t first_inner = INT32_MAX;
  std::vector<std::string> inner; // [id - first_inner] UTF-8
  std::optional<int32_t> unknown; // for what has neither; without one it is left out
  bool fuse_unknown = false;      // neighbouring unknowns become one
  // Whole pieces that are tokens need no merging (tokenizer.json's ignore_merges); empty otherwise.
  std::unordered_map<std::string_view, int32_t> whole;
  // Nothing merges across a place where a character other than U+2581 is followed by U+2581, so that a piece may be cut
  // there.
  bool cuts_before_space_mark = false;

  Bpe() { byte_ids.fill(-1); }
  // Appends the piece's ids. Precondition: at most 2^30 bytes.
  void encode(std::string_view piece, std::vector<int32_t>& ids) const;

 private:
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;
  void split(std::string_view word, std::vector<int32_t>& symbol_ids) const;
  void merge_short(int32_t* symbol_ids, size_t& count) const;
  void merge_long(std::vector<int32_t>& symbol_ids) const;
  void append_bytes(std::string_view bytes, std::vector<int32_t>& ids) const;
};

} // namespace quire
