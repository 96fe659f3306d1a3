// A model as somebody else writes it: logits of the next token from the last one alone.
#include <quire/plugin.hpp>

namespace {

class Bigram : public quire::Model {
 public:
  quire::Value build(const quire::ModelConfig& config, quire::Builder& b) override {
    const uint32_t vocab = config.size("vocab_size"), dim = config.size("hidden_size");
    const quire::Value x = b.embed(b.matrix("embedding.weight", vocab, dim));   // [T, dim]
    return b.linear(b.gather_rows(x), {b.matrix("output.weight", vocab, dim)}); // [R, vocab]
  }
};

} // namespace

QUIRE_MODEL_PLUGIN(Bigram, "bigram", "1.0", "BigramForCausalLM");
