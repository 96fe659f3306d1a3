// Programs that are wrong in one way each, and the sentence that says so.
#include "program/validate.hpp"

#include "made_up.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

namespace quire {
namespace {

using test::SmallProgram;

struct WrongProgram {
  const char* name;
  std::function<void(Program&)> spoil;
  std::string sentence;
};

void PrintTo(const WrongProgram& wrong, std::ostream* out) { *out << wrong.name; }

class Validate : public testing::TestWithParam<WrongProgram> {};

TEST(Validate, AcceptsTheSmallNetwork) {
  const SmallProgram small;
  EXPECT_NO_THROW(validate(small.program.view()));
  EXPECT_EQ(small.program.ops.size(), 16u);
}

TEST_P(Validate, NamesOpTensorAndShape) {
  SmallProgram small;
  GetParam().spoil(small.program);
  try {
    validate(small.program.view());
    FAIL() << "it was accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), GetParam().sentence);
  }
}

constexpr float nan = std::numeric_limits<float>::quiet_NaN();

// A second value of the same shape that no op writes.
uint32_t unwritten_copy(Program& p, uint32_t id) {
  quire_value copy = p.values[id - 1];
  copy.name = "unwritten";
  p.values.push_back(copy);
  return static_cast<uint32_t>(p.values.size());
}

const WrongProgram wrong_programs[] = {
    {"UnknownKind", [](Program& p) { p.ops[3].kind = 77; },
     "op 3 (unknown, layer 0) has kind 77, which plugin ABI 1.1 does not have"},
    {"NoKind", [](Program& p) { p.ops[3].kind = 0; },
     "op 3 (none, layer 0) has kind 0, which plugin ABI 1.1 does not have"},
    {"UnknownParameter", [](Program& p) { reinterpret_cast<unsigned char*>(&p.ops[10].u)[sizeof(quire_glu)] = 1; },
     "op 10 (glu, layer 0) uses a parameter that plugin ABI 1.1 does not have"},
    {"InputOutOfRange", [](Program& p) { p.ops[1].in[0] = 99; },
     "op 1 (norm, layer 0): input 0 is value 99, of which there are 21"},
    {"InputMissing", [](Program& p) { p.ops[1].in[0] = 0; }, "op 1 (norm, layer 0): input 0 is missing"},
    {"InputTooMany", [](Program& p) { p.ops[2].in[1] = 1; },
     "op 2 (linear, layer 0): input 1 is given, but it takes 1"},
    {"OutputMissing", [](Program& p) { p.ops[2].out[0] = 0; }, "op 2 (linear, layer 0): output 0 is missing"},
    {"OutputOutOfRange", [](Program& p) { p.ops[2].out[0] = 99; },
     "op 2 (linear, layer 0): output 0 is value 99, of which there are 21"},
    {"ReadBeforeWritten", [](Program& p) { std::swap(p.ops[1], p.ops[2]); },
     "op 1 (linear, layer 0): input `norm2` is read before any op has written it"},
    {"WrittenTwice", [](Program& p) { p.ops[7].out[0] = 2; },
     "op 7 (linear, layer 0): output `norm2` is written a second time"},
    {"WrittenView", [](Program& p) { p.ops[7].out[0] = 4; },
     "op 7 (linear, layer 0): output `v4` is a view: views are read only"},
    {"NeverWritten", [](Program& p) { unwritten_copy(p, 1); }, "value `unwritten` [T, 8] is written by no op"},
    {"ViewOfView", [](Program& p) { p.values[3].parent = 5; }, "value `v4` is a view of a view; give it the root"},
    {"ViewBeyondParent", [](Program& p) { p.values[5].offset = 13; },
     "value `v6` [T, 4] at column 13 is no view of `linear3` [T, 16]"},
    {"ViewOfNothing", [](Program& p) { p.values[3].parent = 99; },
     "value `v4` is a view of value 99, of which there are 21"},
    {"OffsetWithoutParent", [](Program& p) { p.values[0].offset = 4; }, "value `embed1` has an offset but no parent"},
    {"EmptyValue", [](Program& p) { p.values[0].dim = 0; },
     "value `embed1` is [T, 0]: a row must have 1 to 2147483647 elements"},
    {"UnknownRows", [](Program& p) { p.values[0].rows = 9; },
     "value `embed1` has row kind 9, expected T, S or R (0 to 2)"},
    {"UnknownDtype", [](Program& p) { p.values[0].dtype = 9; }, "value `embed1` has dtype 9, expected 0 or 1"},
    {"IntegerInput", [](Program& p) { p.values[0].dtype = QUIRE_INT32; },
     "op 0 (embed, layer 0): output `embed1` is int32, expected real"},
    {"UnknownFormat", [](Program& p) { p.weights[0].format = 99; }, "weight `table` has format 99, which is not known"},
    {"UnknownShard", [](Program& p) { p.weights[0].shard = 9; }, "weight `table` has shard axis 9, which is not known"},
    {"BrokenBlocks", [](Program& p) { p.weights[0].format = QUIRE_Q4_1; },
     "weight `table` is [16, 8] in Q4_1, whose rows are whole blocks of 32"},
    {"TooFewBytes", [](Program& p) { p.weights[0].planes[0].bytes -= 4; },
     "weight `table` [16, 8] in F32 has 508 bytes of data, expected 512"},
    {"NoData", [](Program& p) { p.weights[0].planes[0].data = nullptr; },
     "weight `table` [16, 8] in F32 has 512 bytes of data, expected 512"},
    {"HugeWeight", [](Program& p) { p.weights[0].rows = 1ull << 40; },
     "weight `table` is [1099511627776, 8]: dimensions must be 1 to 2147483647, experts at most 65535"},
    {"TableTooSmall", [](Program& p) { p.vocab_size = 17; },
     "op 0 (embed, layer 0): its table `table` is [16, 8], but the vocabulary has 17 tokens"},
    {"TableMissing", [](Program& p) { p.ops[0].u.embed.table = 0; }, "op 0 (embed, layer 0): its table is missing"},
    {"WeightOutOfRange", [](Program& p) { p.ops[0].u.embed.table = 99; },
     "op 0 (embed, layer 0): its table is weight 99, of which there are 13"},
    {"PositionsTooFew", [](Program& p) { p.ops[0].u.embed.positions = 1; },
     "op 0 (embed, layer 0): its positions `table` is [16, 8], expected [64, 8]"},
    {"NormWeightShape", [](Program& p) { p.ops[1].u.norm.weight = 2; },
     "op 1 (norm, layer 0): its weight `rope.frequencies.0` is [1, 2], expected [1, 8]"},
    {"NormEpsilon", [](Program& p) { p.ops[1].u.norm.epsilon = 0; },
     "op 1 (norm, layer 0): its epsilon is 0.000000, expected more than 0"},
    {"NormEpsilonNaN", [](Program& p) { p.ops[1].u.norm.epsilon = nan; },
     "op 1 (norm, layer 0): its epsilon is not a finite number"},
    {"NormKind", [](Program& p) { p.ops[1].u.norm.kind = 5; }, "op 1 (norm, layer 0): norm kind 5 is not known"},
    {"SumOfOne", [](Program& p) { p.ops[8].in[1] = 0; },
     "op 8 (norm, layer 0): output 1 is the sum of two inputs, but there is one"},
    {"SumOfUnlike", [](Program& p) { p.ops[8].in[1] = 3; },
     "op 8 (norm, layer 0): `linear3` is [T, 16], expected [T, 8] as `embed1`"},
    {"LinearInput",
     [](Program& p) {
       p.ops[2].in[0] = 1;
       p.values[0].dim = 4;
       p.weights[0].cols = 4;
       p.weights[0].planes[0].bytes = 256;
     },
     "op 1 (norm, layer 0): its weight `norm.0` is [1, 8], expected [1, 4]"},
    {"LinearPart", [](Program& p) { p.ops[7].u.linear.weights[0] = 12; },
     "op 7 (linear, layer 0): its weight `down` is [8, 12], expected [8, 8]"},
    {"LinearBias", [](Program& p) { p.ops[7].u.linear.biases[0] = 6; },
     "op 7 (linear, layer 0): its bias `k.bias` is [1, 4], expected [1, 8]"},
    {"LinearNoWeight", [](Program& p) { p.ops[7].u.linear.weights[0] = 0; },
     "op 7 (linear, layer 0): it has no weight"},
    {"LinearGap", [](Program& p) { p.ops[9].u.linear.weights[3] = 10; },
     "op 9 (linear, layer 0): part 3 follows a missing weight"},
    {"LinearOutput", [](Program& p) { p.ops[9].u.linear.weights[1] = 0; },
     "op 9 (linear, layer 0): `linear13` is [T, 24], expected [T, 12]"},
    {"LinearActivation", [](Program& p) { p.ops[7].u.linear.activation = 9; },
     "op 7 (linear, layer 0): activation 9 is not known"},
    {"LinearSoftcap", [](Program& p) { p.ops[7].u.linear.softcap = -1; },
     "op 7 (linear, layer 0): its softcap is negative"},
    {"LinearAdapter", [](Program& p) { p.ops[7].u.linear.adapter_slot = 1; },
     "op 7 (linear, layer 0): it has adapter slot 1, but adapters are not supported yet"},
    {"RopeOdd", [](Program& p) { p.ops[3].u.rope.rotary_dim = 3; },
     "op 3 (rope, layer 0): it rotates 3 elements of `v5` [T, 4], expected an even number, 2 to 4"},
    {"RopeTooMany", [](Program& p) { p.ops[3].u.rope.rotary_dim = 6; },
     "op 3 (rope, layer 0): it rotates 6 elements of `v5` [T, 4], expected an even number, 2 to 4"},
    {"RopeFrequencies", [](Program& p) { p.ops[3].u.rope.rotary_dim = 2; },
     "op 3 (rope, layer 0): its frequencies `rope.frequencies.0` is [1, 2], expected [1, 1]"},
    {"RopeKind", [](Program& p) { p.ops[3].u.rope.kind = 2; }, "op 3 (rope, layer 0): rope kind 2 is not known"},
    {"KvShape",
     [](Program& p) {
       p.ops[4].in[1] = 8;
       p.ops[4].in[0] = 8;
       std::swap(p.ops[4], p.ops[5]);
     },
     "op 5 (kv_store, layer 0): `rope8` is [T, 2, 4], expected [T, 4]"},
    {"KvLayerOutOfRange", [](Program& p) { p.ops[4].u.kv_store.kv_layer = 1; },
     "op 4 (kv_store, layer 0): it names kv layer 1, of which there are 1"},
    {"KvStoredTwice", [](Program& p) { p.ops.insert(p.ops.begin() + 5, p.ops[4]); },
     "op 5 (kv_store, layer 0): kv layer 0 is stored a second time"},
    {"AttendedBeforeStored", [](Program& p) { p.ops.erase(p.ops.begin() + 4); },
     "op 5 (attend, layer 0): kv layer 0 is attended before it is stored"},
    {"KvNeverAttended", [](Program& p) { p.kv_layers.push_back(p.kv_layers[0]); }, "kv layer 1 is never stored"},
    {"KvGroup", [](Program& p) { p.kv_layers[0].group = 3; }, "kv layer 0 is of group 3, of which there are 1"},
    {"KvEmpty", [](Program& p) { p.kv_layers[0].k_dim = 0; },
     "kv layer 0 has 1 heads of 0 and 4 elements: none may be 0, a row at most 2147483647"},
    {"AttendHeads", [](Program& p) { p.kv_layers[0].kv_heads = 3; },
     "op 4 (kv_store, layer 0): `rope7` is [T, 4], expected [T, 3, 4]"},
    {"AttendScale", [](Program& p) { p.ops[6].u.attend.scale = 0; }, "op 6 (attend, layer 0): its scale is 0"},
    {"AttendSinks", [](Program& p) { p.ops[6].u.attend.sinks = 3; },
     "op 6 (attend, layer 0): its sinks `norm.0` is [1, 8], expected [1, 2]"},
    {"GluShapes", [](Program& p) { p.ops[10].in[1] = 13; },
     "op 10 (glu, layer 0): `linear13` is [T, 24], expected [T, 12] as `v14`"},
    {"AddShapes", [](Program& p) { p.ops[12].in[1] = 16; },
     "op 12 (add, layer 0): `glu16` is [T, 12], expected [T, 8] as `norm11`"},
    {"GatherRows", [](Program& p) { p.values[19].rows = QUIRE_TOKENS; },
     "op 14 (gather_rows, layer 0): `gather_rows20` is [T, 8], expected [R, 8]"},
    {"NoOutput", [](Program& p) { p.outputs.clear(); },
     "the program has no output; output 0 must be `logits` [R, vocabulary]"},
    {"OutputName", [](Program& p) { p.outputs[0].name = "scores"; }, "output 0 is `scores`, expected `logits`"},
    {"OutputTwice", [](Program& p) { p.outputs.push_back(p.outputs[0]); }, "output `logits` is named twice"},
    {"OutputShape", [](Program& p) { p.outputs[0].value = 1; }, "output `logits` is `embed1` [T, 8], expected [R, 16]"},
    {"OutputView",
     [](Program& p) {
       p.outputs.push_back({"hidden", 4});
     },
     "output `hidden` is the view `v4`; give it a value of its own"},
    {"OutputNothing",
     [](Program& p) {
       p.outputs.push_back({"hidden", 0});
     },
     "output `hidden` is value 0, of which there are 21"},
    {"NoContext", [](Program& p) { p.max_context = 0; }, "the program's longest context is 0"},
    {"NoVocabulary", [](Program& p) { p.vocab_size = 0; },
     "the program has no logits: output 0 must be `logits` [R, vocabulary]"},
};

INSTANTIATE_TEST_SUITE_P(Wrong, Validate, testing::ValuesIn(wrong_programs),
                         [](const auto& wrong) { return wrong.param.name; });

// A block of experts, made by `spoil` to be wrong, and the sentence.
std::string sentence_of_experts(const std::function<void(Program&)>& spoil) {
  test::MadeUpConfig config{{{"max_position_embeddings", int64_t{64}}}, {}, false};
  test::MadeUpWeights weights;
  ProgramBuilder recorder(test::made_up_source(config, weights));
  Builder b(recorder.table());
  const Weight table = b.matrix("table", 16, 8), positions = b.matrix("positions", 64, 8);
  const Value x = b.embed(table, 1, positions);                 // op 0, value 1
  const Value scores = b.linear(x, {b.matrix("router", 6, 8)}); // op 1, value 2
  quire_route route{};
  route.top_k = 2;
  route.groups = 3;
  route.top_groups = 2;
  route.bias = b.vector("router.bias", 6).id;
  const auto [chosen, ids] = b.route(scores, route); // op 2, values 4 and 3
  const Value up =
      b.expert_linear(x, ids, b.experts("up", 6, 12, 8), b.matrix("up.bias", 6, 12));   // op 3, value 5 [T, 2, 12]
  const Value down = b.expert_linear(up, ids, b.experts("down", 6, 8, 12), {}, chosen); // op 4, value 6 [T, 8]
  const Value y = b.mul(b.mul(down, b.vector("scale", 1)), x);                          // ops 5 and 6
  b.output("logits", b.linear(b.gather_rows(y), {b.matrix("head", 16, 8)}));            // ops 7 and 8
  try {
    Program program = recorder.finish();
    spoil(program);
    validate(program.view());
    return "";
  } catch (const Error& error) {
    return error.what();
  }
}

TEST(ValidateExperts, AcceptsABlockOfExperts) {
  EXPECT_EQ(sentence_of_experts([](Program&) {}), "");
}

TEST(ValidateExperts, NamesWhatIsWrong) {
  const auto is = [](const char* sentence, const std::function<void(Program&)>& spoil) {
    EXPECT_EQ(sentence_of_experts(spoil), sentence);
  };
  is("op 0 (embed, layer 0): its positions `positions` is [64, 8], expected [65, 8]",
     [](Program& p) { p.max_context = 65; });
  is("op 2 (route, layer 0): it chooses 0 of 6 experts", [](Program& p) { p.ops[2].u.route.top_k = 0; });
  is("op 2 (route, layer 0): it chooses 7 of 6 experts", [](Program& p) { p.ops[2].u.route.top_k = 7; });
  is("op 2 (route, layer 0): it chooses 2 of 6 experts in the best 2 of 4 equal groups, which is not possible",
     [](Program& p) { p.ops[2].u.route.groups = 4; });
  is("op 2 (route, layer 0): it has top groups but no groups", [](Program& p) { p.ops[2].u.route.groups = 0; });
  is("op 2 (route, layer 0): its bias `router` is [6, 8], expected [1, 6]",
     [](Program& p) { p.ops[2].u.route.bias = 3; });
  is("op 2 (route, layer 0): scoring 5 is not known", [](Program& p) { p.ops[2].u.route.scoring = 5; });
  is("op 3 (expert_linear, layer 0): input `route4` is real, expected int32", [](Program& p) { p.ops[3].in[1] = 4; });
  is("op 3 (expert_linear, layer 0): its weight `router` is [6, 8], expected [experts, N, K]",
     [](Program& p) { p.ops[3].u.expert_linear.weight = 3; });
  is("op 3 (expert_linear, layer 0): its bias `positions` is [64, 8], expected [6, 12]",
     [](Program& p) { p.ops[3].u.expert_linear.bias = 2; });
  is("op 4 (expert_linear, layer 0): `embed1` is [T, 8], expected [T, 12] or [T, 2, 12] for weight `down` [6, 8, 12]",
     [](Program& p) { p.ops[4].in[0] = 1; });
  is("op 4 (expert_linear, layer 0): `expert_linear6` is [T, 8], expected [T, 16]",
     [](Program& p) { p.ops[4].in[2] = 0; });
  is("op 5 (mul, layer 0): it takes either a second input or a weight", [](Program& p) { p.ops[5].in[1] = 1; });
  is("op 5 (mul, layer 0): its weight `router.bias` is [1, 6], expected [1, 8]",
     [](Program& p) { p.ops[5].u.mul.weight = 4; });
  is("op 8 (collective, layer 0): collective kind 3 is not known", [](Program& p) {
    p.ops[8].kind = QUIRE_OP_COLLECTIVE;
    std::memset(&p.ops[8].u, 0, sizeof(p.ops[8].u));
    p.ops[8].u.collective.kind = 3;
  });
}

} // namespace
} // namespace quire
