#include "support/logit_goldens.hpp"

#include "support/random.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace quire::tests {
namespace {

static_assert(std::endian::native == std::endian::little, "the goldens are read as they lie in memory");

class Reader {
 public:
  explicit Reader(const std::string& file) : file_(file) {
    std::ifstream in(file, std::ios::binary);
    if (!in) throw std::runtime_error(file + " can't be opened: make it by tests/reference/make_logits.py");
    bytes_.assign(std::istreambuf_iterator<char>(in), {});
  }
  template <class T> void read(T* into, size_t count) {
    if (bytes_.size() - at_ < count * sizeof(T)) throw std::runtime_error(file_ + " is truncated");
    std::memcpy(into, bytes_.data() + at_, count * sizeof(T));
    at_ += count * sizeof(T);
  }
  uint32_t count() {
    uint32_t value = 0;
    read(&value, 1);
    return value;
  }

 private:
  std::string file_;
  std::vector<char> bytes_;
  size_t at_ = 0;
};

} // namespace

LogitGoldens read_logit_goldens(const std::string& file) {
  Reader reader(file);
  char magic[8];
  reader.read(magic, 8);
  if (std::memcmp(magic, "QLOGITS1", 8) != 0) throw std::runtime_error(file + " is no file of logit goldens");
  LogitGoldens goldens;
  goldens.vocab = reader.count();
  goldens.prompts.resize(reader.count());
  for (GoldenPrompt& prompt : goldens.prompts) {
    prompt.prompt_tokens = reader.count();
    prompt.ids.resize(reader.count());
    reader.read(prompt.ids.data(), prompt.ids.size());
    prompt.rows.resize(reader.count());
    for (GoldenRow& row : prompt.rows) {
      row.position = reader.count();
      reader.read(&row.rms, 1);
      reader.read(row.ids.data(), row.ids.size());
      reader.read(row.logits.data(), row.logits.size());
      reader.read(row.sums.data(), row.sums.size());
    }
  }
  return goldens;
}

RowError::RowError(uint32_t vocab) : signs_(vocab) {
  Random random(0);
  for (uint64_t& signs : signs_) signs = random.bits();
}

double RowError::operator()(std::span<const float> row, const GoldenRow& golden) const {
  std::array<double, 64> sums{};
  for (size_t i = 0; i < row.size(); ++i)
    for (size_t s = 0; s < sums.size(); ++s) {
      const double value = row[i];
      sums[s] += signs_[i] >> s & 1 ? -value : value;
    }
  double squares = 0;
  for (size_t s = 0; s < sums.size(); ++s) squares += (sums[s] - golden.sums[s]) * (sums[s] - golden.sums[s]);
  return std::sqrt(squares / static_cast<double>(sums.size() * row.size())) / golden.rms;
}

} // namespace quire::tests
