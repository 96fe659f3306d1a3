// Programs for tests as plain data: a quire::Program with one short call an op. Nothing of the engine's builder is
// used, so that a test can also make programs that the builder would refuse.
//
// Ids are 1-based as in the ABI. Shapes stand at each call. Weights are copied into the program.
#pragma once

#include "program/program.hpp"
#include "support/block_formats.hpp"
#include "support/random.hpp"

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace quire::tests {

struct TestProgram : Program {
  TestProgram() { name = "test"; }
  using Program::view;

  // [experts, rows, cols] of random elements with the given standard deviation; experts 0 is a plain matrix.
  uint32_t random_weight(uint32_t format, uint64_t experts, uint64_t rows, uint64_t cols, double deviation,
                         Random& random);
  // F32 [rows, cols] with these elements.
  uint32_t matrix(uint64_t rows, uint64_t cols, const std::vector<float>& elements);
  uint32_t vector(const std::vector<float>& elements) { return matrix(1, elements.size(), elements); }

  uint32_t tensor(uint32_t rows, uint32_t heads, uint32_t dim, uint32_t dtype = QUIRE_REAL);
  uint32_t view(uint32_t parent, uint32_t heads, uint32_t dim, uint32_t offset);

  // Appends an op of this kind with everything else zero.
  quire_op& op(uint32_t kind, std::initializer_list<uint32_t> in, std::initializer_list<uint32_t> out);
  void extra_output(uint32_t value);
  void add_output(const char* label, uint32_t value) { outputs.push_back({keep(label), value}); }

  // out [T, 1, cols of the table].
  uint32_t embed(uint32_t table);
  // Arbitrary activations: token id t brings row t of the elements [vocab_size, width]. The last token is «poison»: a
  // row of NaN.
  uint32_t input(uint32_t width, Random& random, double deviation = 1, double mean = 0);
  uint32_t gather_rows(uint32_t value); // of one head

  // outputs[0] for programs that test something else: rows of a random table [vocab_size, vocab_size], or of a
  // product where that would be large.
  void add_plain_logits(Random& random);

  uint32_t poison_token() const { return vocab_size - 1; }
};

} // namespace quire::tests
