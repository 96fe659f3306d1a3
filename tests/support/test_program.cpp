#include "support/test_program.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace quire::tests {

uint32_t TestProgram::random_weight(uint32_t format, uint64_t experts, uint64_t rows, uint64_t cols, double deviation,
                                    Random& random) {
  const uint64_t count = std::max<uint64_t>(experts, 1) * rows * cols;
  quire_weight weight{};
  weight.name = keep("weight." + std::to_string(weights.size() + 1));
  weight.format = format;
  weight.experts = experts;
  weight.rows = rows;
  weight.cols = cols;
  const auto bytes = allocate(format_row_bytes(format, count));
  fill_random_blocks(format, count, deviation, random, reinterpret_cast<uint8_t*>(bytes.data()));
  weight.planes[0] = {bytes.data(), bytes.size()};
  weights.push_back(weight);
  return static_cast<uint32_t>(weights.size());
}

uint32_t TestProgram::matrix(uint64_t rows, uint64_t cols, const std::vector<float>& elements) {
  quire_weight weight{};
  weight.name = keep("weight." + std::to_string(weights.size() + 1));
  weight.format = QUIRE_F32;
  weight.rows = rows;
  weight.cols = cols;
  const auto bytes = allocate(elements.size() * sizeof(float));
  std::memcpy(bytes.data(), elements.data(), bytes.size());
  weight.planes[0] = {bytes.data(), bytes.size()};
  weights.push_back(weight);
  return static_cast<uint32_t>(weights.size());
}

uint32_t TestProgram::tensor(uint32_t rows, uint32_t heads, uint32_t dim, uint32_t dtype) {
  quire_value value{};
  value.name = keep("value." + std::to_string(values.size() + 1));
  value.rows = rows;
  value.heads = heads;
  value.dim = dim;
  value.dtype = dtype;
  values.push_back(value);
  return static_cast<uint32_t>(values.size());
}

uint32_t TestProgram::view(uint32_t parent, uint32_t heads, uint32_t dim, uint32_t offset) {
  const uint32_t id = tensor(value(parent).rows, heads, dim, value(parent).dtype);
  values[id - 1].parent = parent;
  values[id - 1].offset = offset;
  return id;
}

quire_op& TestProgram::op(uint32_t kind, std::initializer_list<uint32_t> in, std::initializer_list<uint32_t> out) {
  quire_op& op = ops.emplace_back();
  std::memset(&op, 0, sizeof(op));
  op.kind = kind;
  std::copy(in.begin(), in.end(), op.in);
  std::copy(out.begin(), out.end(), op.out);
  return op;
}

void TestProgram::extra_output(uint32_t value) {
  std::string label = "extra.";
  label += std::to_string(outputs.size());
  add_output(label.c_str(), value);
}

uint32_t TestProgram::embed(uint32_t table) {
  const uint32_t out = tensor(QUIRE_TOKENS, 1, static_cast<uint32_t>(weight(table).cols));
  op(QUIRE_OP_EMBED, {}, {out}).u.embed.table = table;
  return out;
}

uint32_t TestProgram::input(uint32_t width, Random& random, double deviation, double mean) {
  std::vector<float> rows = random.normals(size_t{vocab_size} * width, deviation, mean);
  std::fill(rows.end() - width, rows.end(), std::numeric_limits<float>::quiet_NaN());
  return embed(matrix(vocab_size, width, rows));
}

uint32_t TestProgram::gather_rows(uint32_t from) {
  const quire_value& v = value(from);
  const uint32_t out = tensor(QUIRE_OUTPUTS, v.heads, v.dim, v.dtype);
  op(QUIRE_OP_GATHER_ROWS, {from}, {out});
  return out;
}

void TestProgram::add_plain_logits(Random& random) {
  constexpr uint32_t small = 1024, inner = 32;
  uint32_t logits = gather_rows(input(vocab_size <= small ? vocab_size : inner, random));
  if (vocab_size > small) {
    const uint32_t hidden = logits;
    logits = tensor(QUIRE_OUTPUTS, 1, vocab_size);
    op(QUIRE_OP_LINEAR, {hidden}, {logits}).u.linear.weights[0] =
        random_weight(QUIRE_F32, 0, vocab_size, inner, 1, random);
  }
  outputs.insert(outputs.begin(), {keep("logits"), logits});
}

} // namespace quire::tests
