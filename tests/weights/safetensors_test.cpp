// safetensors files that are right, and the ways in which they can lie (hazards 27 to 30, 32).
#include "weights/safetensors.hpp"

#include "quire/plugin.h"
#include "support/expect_error.hpp"
#include "support/safetensors_writer.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace quire {
namespace {

using test::safetensors;
using test::SafetensorsWriter;

std::vector<SafetensorsTensor> parse(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  const std::vector<std::byte> exact(bytes.begin(), bytes.end());
  return parse_safetensors(exact, "m.safetensors");
}

SafetensorsWriter small() {
  SafetensorsWriter writer;
  writer.tensor("a", "F32", {2, 3}, std::string(24, 'a')).tensor("b", "BF16", {4}, std::string(8, 'b'));
  writer.tensor("c", "I64", {}, std::string(8, 'c')).tensor("e", "F16", {0, 7}, "");
  return writer;
}

// One tensor `x` with these words in its object, over 8 bytes of data.
std::string with(const std::string& words) { return safetensors("{\"x\":{" + words + "}}", std::string(8, 'd')); }

TEST(Safetensors, TensorsLieWhereTheHeaderSays) {
  const std::string text = small().bytes();
  const auto tensors = parse(text);
  ASSERT_EQ(tensors.size(), 4u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].format, QUIRE_F32);
  EXPECT_EQ(tensors[0].shape, (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(tensors[0].bytes, 24u);
  EXPECT_EQ(tensors[1].format, QUIRE_BF16);
  EXPECT_EQ(tensors[2].dtype, "I64");
  EXPECT_FALSE(tensors[2].format);
  for (const auto& tensor : tensors)
    EXPECT_EQ(text.substr(tensor.offset, tensor.bytes), std::string(tensor.bytes, tensor.name[0]));
}

TEST(Safetensors, MetadataAndPaddingArePassedOver) {
  const std::string words = "\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]";
  EXPECT_EQ(parse(safetensors("{\"__metadata__\":{\"format\":\"pt\",\"note\":\"\\u00e4\"},\"x\":{" + words + "}}   ",
                              "12345678"))
                .size(),
            1u);
  EXPECT_TRUE(parse(safetensors("{}")).empty());
  // In any order of names and fields.
  EXPECT_EQ(parse(safetensors("{\"z\":{\"data_offsets\":[4,8],\"dtype\":\"U8\",\"shape\":[4]},"
                              "\"a\":{\"shape\":[4],\"data_offsets\":[0,4],\"dtype\":\"U8\"}}",
                              "12345678"))[0]
                .name,
            "a");
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const std::string whole = small().bytes();
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_ERROR(parse(whole.substr(0, size)), "m.safetensors: ");
}

TEST(Safetensors, HeaderLengthIsBounded) {
  EXPECT_ERROR(parse(safetensors("{}", "", 100)), "claims 100 bytes where 2 are left");
  EXPECT_ERROR(parse(safetensors("{}", "", 100'000'001)), "more than the 100000000 allowed");
  EXPECT_ERROR(parse(safetensors("{}", "", UINT64_MAX - 1)), "more than the 100000000 allowed");
  EXPECT_ERROR(parse(safetensors("", "")), "no JSON object");
  EXPECT_ERROR(parse(safetensors("[]", "")), "no JSON object");
  EXPECT_ERROR(parse("PK\3\4 and so on, the start of a zip file"), "no safetensors file");
}

TEST(Safetensors, JsonIsCheckedToItsEnd) {
  EXPECT_ERROR(parse(safetensors("{\"x\":")), "not valid JSON");
  EXPECT_ERROR(parse(safetensors("{} x")), "");
  EXPECT_ERROR(parse(safetensors("{\"\xff\":{}}")), "not valid JSON");
  std::string deep = "{\"x\":";
  for (int i = 0; i < 100000; ++i) deep += "[";
  EXPECT_ERROR(parse(safetensors(deep)), "m.safetensors: ");
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"x\":";
  EXPECT_ERROR(parse(safetensors(objects)), "m.safetensors: ");
}

TEST(Safetensors, FieldsAreWhatTheyMustBe) {
  EXPECT_NO_THROW(parse(with("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]")));
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[2]")), "`x` lacks");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"data_offsets\":[0,8]")), "`x` lacks");
  EXPECT_ERROR(parse(with("")), "`x` lacks");
  EXPECT_ERROR(parse(with("\"dtype\":3,\"shape\":[2],\"data_offsets\":[0,8]")), "`x`");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]")), "natural numbers");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]")), "natural numbers");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[1e99],\"data_offsets\":[0,8]")), "natural numbers");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":2,\"data_offsets\":[0,8]")), "`x`");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[[2]],\"data_offsets\":[0,8]")), "array where none belongs");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]")), "two data_offsets");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8,8]")), "two data_offsets");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[null,8]")), "natural numbers");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"more\":{}")),
               "object where none belongs");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"more\":1")), "`x`");
  EXPECT_ERROR(parse(with("\"dtype\":\"Q4\",\"shape\":[2],\"data_offsets\":[0,8]")), "unknown dtype `Q4`",
               "convert it");
  EXPECT_ERROR(parse(with("\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,8],\"data_offsets\":[0,8]")),
               "more than 8 dimensions");
  EXPECT_ERROR(parse(safetensors("{\"x\":1}")), "m.safetensors: ");
  EXPECT_ERROR(parse(safetensors("{\"__metadata__\":{\"a\":1}}")), "`__metadata__`");
}

TEST(Safetensors, NamesAndFieldsOccurOnce) {
  const std::string x = "\"x\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}";
  EXPECT_ERROR(parse(safetensors("{" + x + "," + x + "}", "1234")), "tensor `x` occurs twice");
  EXPECT_ERROR(parse(safetensors("{\"__metadata__\":{},\"__metadata__\":{}}")), "`__metadata__` occurs twice");
  EXPECT_ERROR(parse(with("\"dtype\":\"U8\",\"shape\":[8],\"shape\":[8],\"data_offsets\":[0,8]")), "`shape` twice");
  EXPECT_ERROR(parse(with("\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]")), "`dtype` twice");
}

TEST(Safetensors, SizesThatOverflowOrMismatchAreRefused) {
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]")), "[3] of F32 but has 8 bytes");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[4611686018427387906],\"data_offsets\":[0,8]")),
               "but has 8 bytes");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]")),
               "but has 0 bytes");
  EXPECT_ERROR(parse(with("\"dtype\":\"F32\",\"shape\":[18446744073709551615],\"data_offsets\":[0,8]")),
               "but has 8 bytes");
}

TEST(Safetensors, OffsetsCoverTheDataOnce) {
  const auto two = [](const char* first, const char* second, size_t data) {
    return safetensors(std::string("{\"p\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":") + first +
                           "},\"q\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":" + second + "}}",
                       std::string(data, 'd'));
  };
  EXPECT_NO_THROW(parse(two("[4,8]", "[0,4]", 8)));
  EXPECT_ERROR(parse(two("[0,4]", "[2,6]", 8)), "`q` overlaps");
  EXPECT_ERROR(parse(two("[0,4]", "[0,4]", 8)), "overlaps");
  EXPECT_ERROR(parse(two("[0,4]", "[5,9]", 9)), "`q` follows a hole");
  EXPECT_ERROR(parse(two("[1,5]", "[5,9]", 9)), "`p` follows a hole");
  EXPECT_ERROR(parse(two("[0,4]", "[4,8]", 9)), "1 bytes at its end belong to no tensor");
  EXPECT_ERROR(parse(two("[0,4]", "[4,8]", 7)), "`q` lies at bytes 4 to 8 of 7");
  EXPECT_ERROR(parse(two("[4,0]", "[4,8]", 8)), "`p`");
  EXPECT_ERROR(parse(two("[18446744073709551612,18446744073709551615]", "[0,4]", 8)), "`p`");
}

TEST(Safetensors, ShardsArePlainNames) {
  const auto shards =
      parse_safetensors_index("{\"metadata\":{},\"weight_map\":{\"a\":\"model-00001-of-00002.safetensors\"}}", "index");
  EXPECT_EQ(shards.at("a"), "model-00001-of-00002.safetensors");
  for (const char* name : {"../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\\\x.safetensors", "x.bin",
                           "", "..", "a\\u0000/x.safetensors"})
    EXPECT_ERROR(parse_safetensors_index("{\"weight_map\":{\"a\":\"" + std::string(name) + "\"}}", "index"), "`a`",
                 "no plain name");
  EXPECT_ERROR(parse_safetensors_index("{\"weight_map\":{\"a\":3}}", "index"), "no plain name");
  EXPECT_ERROR(parse_safetensors_index("{}", "index"), "`weight_map` is missing");
  EXPECT_ERROR(parse_safetensors_index("[1]", "index"), "`weight_map` is missing");
  EXPECT_ERROR(parse_safetensors_index("{", "index"), "not valid JSON");
}

RC_GTEST_PROP(Safetensors, DamageIsNoticedOrHarmless, ()) {
  std::string text = small().bytes();
  const int flips = *rc::gen::inRange(1, 4);
  for (int i = 0; i < flips; ++i) {
    const auto at = *rc::gen::inRange<size_t>(0, text.size());
    text[at] = static_cast<char>(text[at] ^ (1 << *rc::gen::inRange(0, 8)));
  }
  try {
    for (const SafetensorsTensor& tensor : parse(text)) RC_ASSERT(tensor.offset + tensor.bytes <= text.size());
  } catch (const Error&) {
  }
}

} // namespace
} // namespace quire
