#include "linear_choice.hpp"

#include "buckets.hpp"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>

#include <unistd.h>

namespace quire::cuda {
namespace {

// Raised when the text changes, or our own kernels do so much that they should be timed anew.
constexpr std::string_view kFirstLine = "quire linear choices 1";

constexpr std::string_view kTails[] = {"none", "finish", "glu"};

// FNV-1a, 64 bits (Fowler, Noll, Vo).
uint64_t checksum(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  return hash;
}

std::string hex(uint64_t word) {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(word));
  return digits;
}

// Cuts the text up to `end` off its front; what is left of it where there is no `end`.
std::string_view take(std::string_view& text, char end) {
  const size_t at = std::min(text.find(end), text.size());
  const std::string_view first = text.substr(0, at);
  text.remove_prefix(std::min(at + 1, text.size()));
  return first;
}

template <class T> bool read(std::string_view word, T& number, int base = 10) {
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), number, base);
  return error == std::errc() && end == word.data() + word.size();
}

struct Entry {
  LinearShape shape;
  uint32_t rows = 0;
  LinearChoice choice;
};

std::string line_of(const Entry& e) {
  std::string line = std::to_string(e.rows) + " " + std::to_string(e.shape.outputs) + " " +
                     std::to_string(e.shape.cols) + (e.shape.out == Type::f16 ? " f16 " : " f32 ");
  line += kTails[static_cast<uint32_t>(e.shape.tail)];
  line += e.choice.own ? " own" : " ";
  if (!e.choice.own)
    for (const uint64_t word : e.choice.algorithm) line += hex(word);
  return line + " " + std::to_string(std::lround(e.choice.seconds * 1e9)) + "\n"; // ns
}

std::optional<Entry> read_line(std::string_view line) {
  Entry e;
  const std::string_view rows = take(line, ' '), outputs = take(line, ' '), cols = take(line, ' '),
                         out = take(line, ' '), tail = take(line, ' '), kernel = take(line, ' ');
  int64_t nanoseconds = 0;
  if (!read(rows, e.rows) || !read(outputs, e.shape.outputs) || !read(cols, e.shape.cols) || !read(line, nanoseconds) ||
      e.rows == 0 || nanoseconds < 0)
    return std::nullopt;
  if (out != "f16" && out != "f32") return std::nullopt;
  e.shape.out = out == "f16" ? Type::f16 : Type::f32;
  const auto* const found = std::find(std::begin(kTails), std::end(kTails), tail);
  if (found == std::end(kTails)) return std::nullopt;
  e.shape.tail = static_cast<LinearTail>(found - std::begin(kTails));
  e.choice.seconds = static_cast<double>(nanoseconds) * 1e-9;
  e.choice.own = kernel == "own";
  if (e.choice.own) return e;
  if (kernel.size() != 16 * e.choice.algorithm.size()) return std::nullopt;
  for (size_t i = 0; i < e.choice.algorithm.size(); ++i)
    if (!read(kernel.substr(16 * i, 16), e.choice.algorithm[i], 16)) return std::nullopt;
  return e;
}

} // namespace

std::vector<uint32_t> timed_rows(uint32_t most_sequences, uint32_t most_rows) {
  std::vector<uint32_t> counts;
  for (const uint32_t bucket : buckets_up_to(most_sequences))
    if (bucket > kUntimedRows) counts.push_back(bucket);
  const uint32_t beyond = std::max(kUntimedRows, most_sequences);
  for (uint32_t power = 2 * kUntimedRows; power < most_rows; power *= 2)
    for (const uint32_t count : {power, power + power / 2})
      if (count > beyond && count < most_rows) counts.push_back(count);
  if (most_rows > beyond) counts.push_back(most_rows);
  return counts;
}

const LinearChoice* LinearChoices::find(const LinearShape& shape, uint32_t rows) const {
  const auto of_shape = choices_.find(shape);
  if (of_shape == choices_.end()) return nullptr;
  const auto found = of_shape->second.lower_bound(rows);
  return found == of_shape->second.end() || found->first > rows + rows / 2 ? nullptr : &found->second;
}

const LinearChoice* LinearChoices::at(const LinearShape& shape, uint32_t rows) const {
  const auto of_shape = choices_.find(shape);
  if (of_shape == choices_.end()) return nullptr;
  const auto found = of_shape->second.find(rows);
  return found == of_shape->second.end() ? nullptr : &found->second;
}

size_t LinearChoices::size() const {
  size_t count = 0;
  for (const auto& [shape, of_shape] : choices_) count += of_shape.size();
  return count;
}

std::string LinearChoiceFile::text(const LinearChoices& choices) const {
  std::string text = std::string(kFirstLine) + "\nchip " + chip + ", " + std::to_string(compute_capability) + ", " +
                     std::to_string(multiprocessors) + "\nlibrary " + std::to_string(library_version) + "\n";
  for (const auto& [shape, of_shape] : choices.choices_)
    for (const auto& [rows, choice] : of_shape) text += line_of({shape, rows, choice});
  return text + "end " + std::to_string(choices.size()) + " " + hex(checksum(text)) + "\n";
}

std::string LinearChoiceFile::parse(std::string_view text, LinearChoices& choices) const {
  const std::string own = this->text({}); // the lines that it must begin with
  const std::string_view head = std::string_view(own).substr(0, own.rfind("end "));
  if (!text.starts_with(std::string(kFirstLine) + "\n")) return "it has another format";
  if (!text.starts_with(head)) return "it is of another chip or library";
  const size_t last = text.rfind("\nend ");
  if (last == std::string_view::npos) return "it is cut off";
  const std::string_view hashed = text.substr(0, last + 1);
  std::string_view end = text.substr(last + 5), lines = hashed.substr(head.size());
  size_t count = 0;
  uint64_t sum = 0;
  if (!read(take(end, ' '), count) || !read(take(end, '\n'), sum, 16) || !end.empty() || sum != checksum(hashed))
    return "its checksum is wrong";
  std::vector<Entry> entries;
  while (!lines.empty()) {
    const std::optional<Entry> entry = read_line(take(lines, '\n'));
    if (!entry) return "its line " + std::to_string(entries.size() + 4) + " can't be read";
    entries.push_back(*entry);
  }
  if (entries.size() != count)
    return "it has " + std::to_string(entries.size()) + " choices and says " + std::to_string(count);
  for (const Entry& entry : entries) choices.put(entry.shape, entry.rows, entry.choice);
  return {};
}

std::string LinearChoiceFile::path(const std::string& folder) const {
  std::string name = "cuda-" + chip + "-" + std::to_string(compute_capability) + "-" + std::to_string(multiprocessors) +
                     "-cublaslt-" + std::to_string(library_version) + ".linears";
  for (char& c : name)
    if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') && c != '.') c = '-';
  return (std::filesystem::path(folder) / name).string();
}

std::string LinearChoiceFile::load(const std::string& path, LinearChoices& choices) const {
  std::ifstream in(path, std::ios::binary);
  if (!in) return {};
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  if (in.bad()) return path + " can't be read";
  const std::string wrong = parse(text, choices);
  return wrong.empty() ? wrong : path + " is not used: " + wrong;
}

std::string LinearChoiceFile::save(const std::string& path, const LinearChoices& choices) const {
  LinearChoices all;
  load(path, all);
  for (const auto& [shape, of_shape] : choices.choices_)
    for (const auto& [rows, choice] : of_shape) all.put(shape, rows, choice);
  std::error_code error;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), error);
  const std::string aside = path + "." + std::to_string(getpid());
  std::ofstream out(aside, std::ios::binary);
  out << text(all);
  out.close();
  if (out) std::filesystem::rename(aside, path, error);
  if (out && !error) return {};
  std::filesystem::remove(aside, error);
  return "the choices of kernels can't be written to " + path;
}

} // namespace quire::cuda
