#include "text/byte_level.hpp"

#include "text/utf8.hpp"

namespace quire {

ByteLevel::ByteLevel() {
  byte_of_.fill(-1);
  char16_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    char_of_[byte] = prints ? static_cast<char16_t>(byte) : next++;
    byte_of_[char_of_[byte]] = static_cast<int16_t>(byte);
  }
}

void ByteLevel::spell(std::string_view bytes, std::string& out) const {
  for (const char byte : bytes) append_utf8(out, char_of_[static_cast<uint8_t>(byte)]);
}

bool ByteLevel::unspell(std::string_view spelling, std::string& out) const {
  const size_t before = out.size();
  for (size_t at = 0; at < spelling.size();) {
    const Utf8Step step = utf8_step(spelling, at);
    if (step.kind != Utf8Step::valid || step.code >= byte_of_.size() || byte_of_[step.code] < 0) {
      out.resize(before);
      return false;
    }
    out += static_cast<char>(byte_of_[step.code]);
    at += step.size;
  }
  return true;
}

} // namespace quire
