#include "text/generated_texts.hpp"

#include "text/shared_files.hpp"
#include "text/utf8.hpp"

#include <boost/json/parse.hpp>

#include <iterator>
#include <string_view>

namespace quire::test {
namespace {

struct Range {
  char32_t low, high;
};
constexpr Range ranges[] = {
    {0x00A1, 0x024F},   {0x0250, 0x02AF},   {0x0300, 0x036F},   {0x0391, 0x03A1},   {0x03B1, 0x03FF},
    {0x0400, 0x052F},   {0x0561, 0x0587},   {0x05D0, 0x05EA},   {0x0621, 0x063A},   {0x0660, 0x0669},
    {0x0905, 0x0939},   {0x093E, 0x094D},   {0x0995, 0x09A8},   {0x0E01, 0x0E3A},   {0x0E40, 0x0E5B},
    {0x10D0, 0x10FF},   {0x1100, 0x11FF},   {0x1780, 0x17DD},   {0x1E00, 0x1EFF},   {0x2010, 0x2027},
    {0x2030, 0x205E},   {0x2070, 0x2071},   {0x2074, 0x208E},   {0x20A0, 0x20BF},   {0x2100, 0x218B},
    {0x2190, 0x23FF},   {0x2460, 0x24FF},   {0x2500, 0x27BF},   {0x3001, 0x303F},   {0x3041, 0x3096},
    {0x30A0, 0x30FF},   {0x4E00, 0x9FEF},   {0xAC00, 0xD7A3},   {0xE000, 0xE0FF},   {0xFB00, 0xFB06},
    {0xFE00, 0xFE0F},   {0xFF01, 0xFF9F},   {0x10400, 0x1044F}, {0x1D400, 0x1D454}, {0x1D7CE, 0x1D7FF},
    {0x1F300, 0x1F64F}, {0x1F680, 0x1F6C5}, {0x1F910, 0x1F93E}, {0x20000, 0x2A6D6}, {0xE0020, 0xE007F},
    {0xF0000, 0xF00FF},
};
constexpr char32_t spaces[] = {0x20,   0x20,   0x20,   0x20,   0x0A,   0x09,   0x0D,   0x0B,
                               0x0C,   0x85,   0xA0,   0x1680, 0x180E, 0x2002, 0x2009, 0x200B,
                               0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0xFEFF, 0x1C,   0x1F};
constexpr std::string_view punctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

} // namespace

TextGenerator::TextGenerator() {
  const auto json = boost::json::parse(read_file(test_data() / "goldens" / "fragments.json"));
  for (const auto& fragment : json.as_array()) fragments_.emplace_back(fragment.as_string());
}

uint64_t TextGenerator::next() {
  state_ += 0x9E3779B97F4A7C15u;
  uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

char32_t TextGenerator::from_ranges() {
  const Range range = ranges[below(std::size(ranges))];
  return range.low + static_cast<char32_t>(below(range.high - range.low + 1));
}

std::string TextGenerator::text(uint64_t index) {
  state_ = index * 0x2545F4914F6CDD1Du;
  std::string out;
  const auto run = [&](uint64_t most, auto character) {
    for (uint64_t count = 1 + below(most); count > 0; --count) append_utf8(out, static_cast<char32_t>(character()));
  };
  for (uint64_t parts = 1 + below(24); parts > 0; --parts) {
    const uint64_t kind = below(16);
    if (kind < 7) {
      out += fragments_[below(fragments_.size())];
      if (below(2)) out += ' ';
    } else if (kind == 7) {
      run(12, [&] { return 0x61 + below(26); });
    } else if (kind == 8) {
      run(9, [&] { return 0x30 + below(10); });
    } else if (kind == 9) {
      run(5, [&] { return spaces[below(std::size(spaces))]; });
    } else if (kind == 10) {
      run(6, [&] { return punctuation[below(punctuation.size())]; });
    } else if (kind == 11) {
      run(8, [&] { return from_ranges(); });
    } else if (kind == 12) {
      const Range range = ranges[below(std::size(ranges))];
      run(12, [&] { return range.low + below(range.high - range.low + 1); });
    } else if (kind == 13) {
      const auto c = static_cast<char32_t>(below(2) ? below(32) : 0x7F + below(33));
      if (c != 0x04 && c != 0x06 && c != 0x13 && c != 0x14 && c != 0x16 && c != 0x1D) append_utf8(out, c);
    } else if (kind == 14) {
      run(20, [&] { return 0x20 + below(95); });
    } else {
      const char32_t c = below(2) ? from_ranges() : static_cast<char32_t>(0x20 + below(95));
      run(70, [&] { return c; });
    }
  }
  return out;
}

} // namespace quire::test
