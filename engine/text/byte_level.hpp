// GPT-2's spelling of bytes: in a byte-level vocabulary every byte is written as one printable character, so that no
// token holds white space or control characters (Radford et al. 2019, "Language Models are Unsupervised Multitask
// Learners"; the released encoder's bytes_to_unicode). The 188 bytes that print in Latin-1 stand for themselves; the
// other 68 are U+0100, U+0101 … in order. [any] thread.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace quire {

class ByteLevel {
 public:
  ByteLevel();
  // Appends the spelling of raw bytes.
  void spell(std::string_view bytes, std::string& out) const;
  // Appends the bytes of a spelling; false (and nothing appended) if a character in it spells no byte.
  bool unspell(std::string_view spelling, std::string& out) const;

 private:
  std::array<char16_t, 256> char_of_;
  std::array<int16_t, 0x144> byte_of_; // -1: no byte
};

} // namespace quire
