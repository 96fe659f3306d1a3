// The host's recorder: what it keeps, what it refuses, and how an error reaches the user.
#include "program/builder.hpp"

#include "made_up.hpp"
#include "program/print.hpp"
#include "quire/plugin.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <sstream>

namespace quire {
namespace {

using test::MadeUpConfig;
using test::MadeUpWeights;

// Records with `body`; the sentence of the error that finish() throws, or "".
std::string sentence_of(const std::function<void(Builder&)>& body,
                        MadeUpConfig config = {{{"max_position_embeddings", int64_t{64}}}, {}, false},
                        MadeUpWeights weights = {}) {
  ProgramBuilder recorder(test::made_up_source(config, weights));
  try {
    Builder b(recorder.table());
    body(b);
  } catch (const Failure&) {
    // The host reads its own record, not what the plugin made of it.
  }
  try {
    recorder.finish();
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(Builder, RecordsTheSmallNetwork) {
  EXPECT_EQ(sentence_of([](Builder& b) { b.output("logits", test::build_small_network(b)); }), "");
}

TEST(Builder, TheSameNameTwiceIsTheSameWeight) {
  MadeUpConfig config{{{"max_position_embeddings", int64_t{64}}}, {}, false};
  MadeUpWeights weights;
  ProgramBuilder recorder(test::made_up_source(config, weights));
  Builder b(recorder.table());
  EXPECT_EQ(b.matrix("w", 4, 8).id, b.matrix("w", 4, 8).id);
  EXPECT_EQ(weights.asked.size(), 1u);
  const float ones[] = {1, 1};
  EXPECT_EQ(b.constant("ones", ones).id, b.constant("ones", ones).id);
  EXPECT_EQ(b.rotation(QUIRE_ROPE_HALF, 10000, 8).frequencies.id,
            b.rotation(QUIRE_ROPE_INTERLEAVED, 10000, 8).frequencies.id);
  EXPECT_NE(b.rotation(QUIRE_ROPE_HALF, 10000, 8).frequencies.id, b.rotation(QUIRE_ROPE_HALF, 5000, 8).frequencies.id);
  EXPECT_EQ(b.kv_layer(1, 8, 8, 16).index, 0u);
  EXPECT_EQ(b.kv_layer(1, 8, 8, 16).index, 1u);
}

TEST(Builder, NamesWhatIsWrong) {
  EXPECT_EQ(sentence_of([](Builder& b) { b.matrix("w", 4, 8), b.matrix("w", 8, 4); }),
            "weight `w` was asked for as [4, 8] and as [8, 4]");
  EXPECT_EQ(sentence_of([](Builder& b) { b.matrix("w", 0, 8); }), "weight `w` has shape [0, 8]: a dimension is 0");
  EXPECT_EQ(sentence_of([](Builder& b) { b.matrix("", 8, 8); }), "a weight has no name");
  EXPECT_EQ(sentence_of([](Builder& b) {
              const float x = 1, y = 2;
              b.constant("c", {&x, 1}), b.constant("c", {&y, 1});
            }),
            "constant `c` was given twice with different elements");
  EXPECT_EQ(sentence_of([](Builder& b) { b.rotation(QUIRE_ROPE_HALF, 10000, 7); }),
            "config.json: the rotary dimension is 7, expected an even number of at least 2");
  EXPECT_EQ(sentence_of([](Builder& b) {
              for (uint32_t window = 1; window < 20; ++window) b.kv_layer(1, 8, 8, window);
            }),
            "the model has more than 8 different attention windows");
  EXPECT_EQ(sentence_of([](Builder& b) { b.matrix("w", 8, 8); },
                        {{{"max_position_embeddings", int64_t{64}}}, {}, false}, {.absent = {"w"}}),
            "model.safetensors: tensor `w` is missing");
  EXPECT_EQ(sentence_of([](Builder&) {}), "the program has no logits: output 0 must be `logits` [R, vocabulary]");
}

TEST(Builder, NeedsToKnowTheLongestContext) {
  MadeUpConfig config;
  MadeUpWeights weights;
  EXPECT_THROW(ProgramBuilder(test::made_up_source(config, weights)), Error);
  config.entries["max_position_embeddings"] = int64_t{0};
  try {
    ProgramBuilder recorder(test::made_up_source(config, weights));
    FAIL() << "it was accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "config.json: `max_position_embeddings` is 0, expected 1 to 4294967295");
  }
}

TEST(Builder, FailsForGoodAtTheFirstWrongCall) {
  MadeUpConfig config{{{"max_position_embeddings", int64_t{64}}}, {}, false};
  MadeUpWeights weights;
  ProgramBuilder recorder(test::made_up_source(config, weights));
  Builder b(recorder.table());
  EXPECT_THROW(b.matrix("w", 0, 8), Failure);
  EXPECT_TRUE(recorder.failed());
  CallStatus status;
  quire_weight good{};
  good.name = "v";
  good.rows = good.cols = 1;
  EXPECT_EQ(recorder.table().weight(recorder.table().self, &good, 0, status), 0u);
  EXPECT_EQ(status.code(), QUIRE_INVALID);
  EXPECT_STREQ(status.message(), "weight `w` has shape [0, 8]: a dimension is 0");
  EXPECT_TRUE(weights.asked.empty());
}

TEST(Builder, RefusesAnOpFromTheFuture) {
  // A newer giver's op is longer; what this host does not know must be zero.
  struct FutureOp {
    quire_op op;
    uint32_t more;
  };
  MadeUpConfig config{{{"max_position_embeddings", int64_t{64}}}, {}, false};
  for (const uint32_t more : {0u, 7u}) {
    MadeUpWeights weights;
    ProgramBuilder recorder(test::made_up_source(config, weights));
    FutureOp future;
    std::memset(&future, 0, sizeof(future));
    future.op.kind = QUIRE_OP_ADD;
    future.more = more;
    CallStatus status;
    recorder.table().op(recorder.table().self, &future.op, sizeof(future), status);
    EXPECT_EQ(status.ok(), more == 0) << status.message();
    if (more != 0) {
      EXPECT_STREQ(status.message(), "op 0 uses a field that plugin ABI 1.1 does not have: update what reads it");
    }
  }
}

TEST(Builder, AWholeSentenceReachesTheUserThoughAStatusIsShort) {
  const std::string name(400, 'x');
  const std::string sentence = sentence_of([&](Builder& b) { b.matrix(name, 0, 8); });
  EXPECT_EQ(sentence, "weight `" + name + "` has shape [0, 8]: a dimension is 0");
}

TEST(Builder, GgufFactorsDivideTheFrequencies) {
  MadeUpConfig config{{{"max_position_embeddings", int64_t{64}}}, {}, true};
  MadeUpWeights weights;
  const float factors[] = {1, 8};
  ProgramSource source = test::made_up_source(config, weights);
  source.bind = [&](quire_weight& wanted, bool optional) {
    if (std::string_view(wanted.name) != "rope_freqs.weight") return weights.bind(wanted, optional);
    EXPECT_TRUE(optional);
    EXPECT_EQ(wanted.cols, 2u);
    wanted.format = QUIRE_F32;
    wanted.planes[0] = {factors, sizeof(factors)};
    return true;
  };
  ProgramBuilder recorder(std::move(source));
  Builder b(recorder.table());
  b.output("logits", test::build_small_network(b));
  const Program program = recorder.finish();
  const quire_weight& frequencies = program.weight(program.ops[3].u.rope.frequencies);
  ASSERT_EQ(frequencies.cols, 2u);
  const auto* f = static_cast<const float*>(frequencies.planes[0].data);
  EXPECT_FLOAT_EQ(f[0], 1.0f);
  EXPECT_FLOAT_EQ(f[1], 0.01f / 8);
}

TEST(Builder, ListingEqualsTheGolden) {
  const test::SmallProgram small;
  const char* folder = std::getenv("QUIRE_TEST_DATA");
  ASSERT_NE(folder, nullptr);
  std::ifstream file(std::string(folder) + "/program/goldens/small_network.txt");
  std::stringstream golden;
  golden << file.rdbuf();
  EXPECT_EQ(print_program(small.program.view()), golden.str());
}

TEST(Builder, BytesAreReadable) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(1023), "1023 B");
  EXPECT_EQ(bytes_text(1536), "1.50 KiB");
  EXPECT_EQ(bytes_text(90519552), "86.33 MiB");
  EXPECT_EQ(bytes_text(UINT64_MAX), "16777216.00 TiB");
}

// A model plugin in this process.
class Broken : public Model {
 public:
  Value build(const ModelConfig& config, Builder&) override {
    config.size("hidden_size");
    throw std::runtime_error("not reached");
  }
};

TEST(Builder, BuildProgramNamesThePluginAndTheKey) {
  const quire_model model{sizeof(quire_model), nullptr, nullptr, &glue::ModelGlue<Broken>::build};
  MadeUpConfig config{{{"max_position_embeddings", int64_t{64}}}, {}, false};
  MadeUpWeights weights;
  try {
    build_program(model, "broken", test::made_up_source(config, weights));
    FAIL() << "it was accepted";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "model plugin broken: the model's configuration has no `hidden_size`, or it is not an integer");
  }
}

} // namespace
} // namespace quire
