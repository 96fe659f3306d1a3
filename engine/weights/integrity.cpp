// A cheap look for damage: no scale of a block and no element of a float tensor may be NaN or infinite.
#include "quire/error.hpp"
#include "weights/blocks.hpp"
#include "weights/formats.hpp"
#include "weights/model_files.hpp"
#include "weights/sentence.hpp"

#include <cstddef>
#include <cstring>

namespace quire {
namespace {

// Whether a 16- or 32-bit float at `from` has all bits of its exponent set.
bool special16(const std::byte* from, uint16_t exponent) {
  uint16_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return (bits & exponent) == exponent;
}
bool special32(const std::byte* from) {
  uint32_t bits;
  std::memcpy(&bits, from, sizeof bits);
  return (bits & 0x7f800000u) == 0x7f800000u;
}

// Where the binary16 fields of a block lie; the second is -1 if there is none.
struct Halves {
  int first = -1, second = -1;
};
Halves halves_of(uint32_t format) {
  using namespace blocks;
  switch (format) {
  case QUIRE_Q4_0:
  case QUIRE_Q5_0:
  case QUIRE_Q8_0:
    return {0, -1};
  case QUIRE_Q4_1:
  case QUIRE_Q5_1:
  case QUIRE_Q4_K:
  case QUIRE_Q5_K:
    return {0, 2};
  case QUIRE_Q2_K:
    return {offsetof(Q2_K, d), offsetof(Q2_K, dmin)};
  case QUIRE_Q3_K:
    return {offsetof(Q3_K, d), -1};
  case QUIRE_Q6_K:
    return {offsetof(Q6_K, d), -1};
  default:
    return {};
  }
}

} // namespace

void ModelFiles::check_finite(const TensorEntry& tensor, const std::string& file) {
  const FormatInfo& info = format_info(tensor.format);
  const uint64_t count = tensor.bytes / info.block_bytes;
  const Halves halves = halves_of(tensor.format);
  for (uint64_t i = 0; i < count; ++i) {
    const std::byte* block = tensor.data + i * info.block_bytes;
    bool special = false;
    if (tensor.format == QUIRE_F32)
      special = special32(block);
    else if (tensor.format == QUIRE_F16)
      special = special16(block, 0x7c00);
    else if (tensor.format == QUIRE_BF16)
      special = special16(block, 0x7f80);
    if (halves.first >= 0) special |= special16(block + halves.first, 0x7c00);
    if (halves.second >= 0) special |= special16(block + halves.second, 0x7c00);
    if (special)
      throw Error(file + ": tensor " + in_quotes(tensor.stored_name) + " holds a NaN or an infinity in row " +
                  std::to_string(i * info.block_elements / tensor.shape.back()) +
                  ": the file is damaged; fetch it again");
  }
}

} // namespace quire
