// GGUF files that are right, and all the ways in which they can lie (hazards 27 to 30).
#include "weights/gguf.hpp"

#include "support/expect_error.hpp"
#include "support/gguf_writer.hpp"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <limits>

namespace quire {
namespace {

using test::gguf_string;
using test::GgufWriter;
using test::raw;

std::span<const std::byte> as_bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

// Parses a copy that ends where the allocation ends, so that a sanitizer sees every byte read behind it.
std::unique_ptr<GgufFile> parse(const std::string& text) {
  static std::vector<std::unique_ptr<std::vector<std::byte>>> kept;
  const auto bytes = as_bytes(text);
  kept.push_back(std::make_unique<std::vector<std::byte>>(bytes.begin(), bytes.end()));
  return GgufFile::parse(*kept.back(), "m.gguf");
}

GgufWriter small() {
  GgufWriter writer;
  writer.string("general.architecture", "llama").uint32("llama.block_count", 2);
  writer.zeros("a", {8, 3}).tensor("b", {32, 2}, 2, std::string(36, 'x')).zeros("c", {5});
  return writer;
}

TEST(Gguf, TensorsLieWhereTheHeaderSays) {
  for (const uint32_t version : {2u, 3u}) {
    GgufWriter writer = small();
    writer.version = version;
    const std::string text = writer.bytes();
    const auto file = GgufFile::parse(as_bytes(text), "m.gguf");
    EXPECT_EQ(file->version(), version);
    ASSERT_EQ(file->tensors().size(), 3u);
    const GgufTensor& a = file->tensors()[0];
    const GgufTensor& b = file->tensors()[1];
    EXPECT_EQ(a.name, "a");
    EXPECT_EQ(a.shape, (std::vector<uint64_t>{3, 8}));
    EXPECT_EQ(a.format, QUIRE_F32);
    EXPECT_EQ(a.bytes, 96u);
    EXPECT_EQ(a.offset, file->data_offset());
    EXPECT_EQ(b.format, QUIRE_Q4_0);
    EXPECT_EQ(b.bytes, 36u);
    EXPECT_EQ(b.offset, file->data_offset() + 96);
    EXPECT_EQ(file->data_offset() % 32, 0u);
    for (const std::byte byte : file->data(b)) EXPECT_EQ(byte, std::byte('x'));
  }
}

TEST(Gguf, MetadataHasEveryType) {
  GgufWriter writer;
  writer.metadata("u8", GgufType::Uint8, raw(uint8_t(200))).metadata("i8", GgufType::Int8, raw(int8_t(-100)));
  writer.metadata("u16", GgufType::Uint16, raw(uint16_t(60000))).metadata("i16", GgufType::Int16, raw(int16_t(-3)));
  writer.metadata("u32", GgufType::Uint32, raw(4000000000u)).metadata("i32", GgufType::Int32, raw(int32_t(-4)));
  writer.metadata("u64", GgufType::Uint64, raw(UINT64_MAX)).metadata("i64", GgufType::Int64, raw(int64_t(INT64_MIN)));
  writer.metadata("f32", GgufType::Float32, raw(1.5f)).metadata("f64", GgufType::Float64, raw(-2.25));
  writer.boolean("yes", true).string("text", "Grüße");
  writer.array("numbers", GgufType::Int32, std::vector<int32_t>{1, -2, 3});
  writer.array("floats", GgufType::Float32, std::vector<float>{0.5f});
  writer.array("flags", GgufType::Bool, std::vector<uint8_t>{1, 0});
  writer.array("words", GgufType::String, std::vector<std::string>{"x", "", "yz"});
  writer.metadata("nested", GgufType::Array,
                  raw(uint32_t(9)) + raw(uint64_t(2)) + raw(uint32_t(4)) + raw(uint64_t(1)) + raw(uint32_t(7)) +
                      raw(uint32_t(8)) + raw(uint64_t(1)) + gguf_string("deep"));
  const auto file = parse(writer.bytes());
  EXPECT_EQ(file->integer("u8"), 200);
  EXPECT_EQ(file->integer("i8"), -100);
  EXPECT_EQ(file->integer("u16"), 60000);
  EXPECT_EQ(file->integer("i16"), -3);
  EXPECT_EQ(file->integer("u32"), 4000000000);
  EXPECT_EQ(file->integer("i32"), -4);
  EXPECT_EQ(file->integer("u64"), std::nullopt) << "does not fit";
  EXPECT_EQ(file->real("u64"), 0x1p64);
  EXPECT_EQ(file->integer("i64"), INT64_MIN);
  EXPECT_EQ(file->real("f32"), 1.5);
  EXPECT_EQ(file->integer("f32"), std::nullopt);
  EXPECT_EQ(file->real("f64"), -2.25);
  EXPECT_EQ(file->boolean("yes"), true);
  EXPECT_EQ(file->integer("yes"), std::nullopt);
  EXPECT_EQ(file->string("text"), "Grüße");
  EXPECT_EQ(file->string("yes"), std::nullopt);
  EXPECT_EQ(file->array("numbers")->integer(1), -2);
  EXPECT_EQ(file->array("numbers")->integer(3), std::nullopt);
  EXPECT_EQ(file->array("floats")->real(0), 0.5);
  EXPECT_EQ(file->array("flags")->boolean(0), true);
  EXPECT_EQ(file->array("words")->string(2), "yz");
  EXPECT_EQ(file->array("words")->integer(0), std::nullopt);
  EXPECT_EQ(file->array("nested")->array(0)->integer(0), 7);
  EXPECT_EQ(file->array("nested")->array(1)->string(0), "deep");
  EXPECT_EQ(file->array("text"), nullptr);
  EXPECT_EQ(file->find("absent"), nullptr);
}

TEST(Gguf, EveryTruncationIsAnError) {
  GgufWriter writer = small();
  writer.array("tokens", GgufType::String, std::vector<std::string>{"one", "two"});
  const std::string whole = writer.bytes();
  EXPECT_NO_THROW(parse(whole));
  for (size_t size = 0; size < whole.size(); ++size) EXPECT_ERROR(parse(whole.substr(0, size)), "m.gguf: ");
}

TEST(Gguf, OtherFilesAndVersionsAreRefused) {
  GgufWriter writer = small();
  writer.magic = "GGML";
  EXPECT_ERROR(parse(writer.bytes()), "no GGUF file");
  writer.magic = "GGUF";
  for (const uint32_t version : {0u, 1u, 4u}) {
    writer.version = version;
    EXPECT_ERROR(parse(writer.bytes()), "version " + std::to_string(version), "convert it");
  }
  writer.version = 3u << 24;
  EXPECT_ERROR(parse(writer.bytes()), "big-endian");
}

TEST(Gguf, HugeCountsAreRefusedBeforeMemoryIsTaken) {
  for (const uint64_t count : {uint64_t(1000), uint64_t(1) << 32, uint64_t(1) << 61, UINT64_MAX}) {
    GgufWriter writer = small();
    writer.num_tensors = count;
    EXPECT_ERROR(parse(writer.bytes()), "the list of tensors claims", "truncated or damaged");
    writer = small();
    writer.num_metadata = count;
    EXPECT_ERROR(parse(writer.bytes()), "the metadata claims");
    writer = small();
    writer.metadata("text", GgufType::String, raw(count) + "abc");
    EXPECT_ERROR(parse(writer.bytes()), "a metadata string claims");
    for (const GgufType type : {GgufType::Uint8, GgufType::Float64, GgufType::String, GgufType::Array}) {
      writer = small();
      writer.metadata("list", GgufType::Array, raw(uint32_t(type)) + raw(count));
      EXPECT_ERROR(parse(writer.bytes()), "`list`", "claims");
    }
    writer = GgufWriter();
    writer.metadata("x", GgufType::Uint8, "x");
    std::string text = writer.bytes();
    text.replace(24, 8, raw(count)); // the key's length
    EXPECT_ERROR(parse(text), "a metadata key");
  }
}

TEST(Gguf, SizesThatOverflowAreRefused) {
  const uint64_t big = uint64_t(1) << 32;
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {big, big}, 0, "").bytes()), "`x` is [4294967296, 4294967296]");
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {big, big / 2}, 0, "").bytes()), "more than any file holds");
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {uint64_t(1) << 62, 4}, 0, "").bytes()), "more than any file holds");
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {32, big, big, big}, 2, "").bytes()), "more than any file holds");
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {uint64_t(1) << 63, 1}, 24, "").bytes()), "dimension of");
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {UINT64_MAX - 31, 1}, 2, "").bytes()), "dimension of");
  // The product wraps to 0 in 64 bits: four dimensions of 2^16 and 4 bytes an element.
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {65536, 65536, 65536, 65536}, 0, "").bytes()),
               "more than any file holds");
}

TEST(Gguf, OffsetsOutsideTheFileAreRefused) {
  const std::string data(64, 'd');
  for (const uint64_t offset : {uint64_t(32), uint64_t(96), uint64_t(1) << 40, UINT64_MAX - 31, uint64_t(1) << 63})
    EXPECT_ERROR(parse(GgufWriter().tensor("x", {16}, 0, data, offset).bytes()), "tensor `x`", "the file has only");
}

TEST(Gguf, OverlappingTensorsAreRefused) {
  GgufWriter writer;
  writer.zeros("a", {16}).zeros("b", {16}).tensor("c", {8}, 0, "", 32);
  EXPECT_ERROR(parse(writer.bytes()), "`a` and `c` overlap");
  GgufWriter same;
  same.zeros("a", {8}).tensor("b", {8}, 0, "", 0);
  EXPECT_ERROR(parse(same.bytes()), "overlap");
}

TEST(Gguf, MisalignedOffsetsAreRefused) {
  GgufWriter writer;
  writer.zeros("a", {64}).tensor("b", {8}, 0, std::string(64, 'x'), 260);
  EXPECT_ERROR(parse(writer.bytes()), "`b` lies at offset 260", "alignment 32");
  GgufWriter wide;
  wide.alignment = 64;
  wide.uint32("general.alignment", 64).zeros("a", {8}).tensor("b", {8}, 0, std::string(64, 'x'), 32);
  EXPECT_ERROR(parse(wide.bytes()), "alignment 64");
}

TEST(Gguf, AlignmentIsAPowerOfTwo) {
  for (const uint32_t alignment : {0u, 3u, 48u, 0x80000000u})
    EXPECT_ERROR(parse(GgufWriter().uint32("general.alignment", alignment).bytes()), "general.alignment");
  EXPECT_ERROR(parse(GgufWriter().string("general.alignment", "32").bytes()), "general.alignment");
  GgufWriter writer;
  writer.alignment = 256;
  writer.uint32("general.alignment", 256).zeros("a", {8}).zeros("b", {8});
  EXPECT_EQ(parse(writer.bytes())->tensors()[1].offset % 256, 0u);
}

TEST(Gguf, NamesOccurOnce) {
  EXPECT_ERROR(parse(GgufWriter().uint32("k", 1).uint32("k", 1).bytes()), "`k` occurs twice");
  EXPECT_ERROR(parse(GgufWriter().zeros("t", {8}).zeros("t", {8}).bytes()), "`t` occurs twice");
  EXPECT_ERROR(parse(GgufWriter().uint32("", 1).bytes()), "is empty");
  EXPECT_ERROR(parse(GgufWriter().zeros("", {8}).bytes()), "has no name");
  EXPECT_ERROR(parse(GgufWriter().zeros(std::string(2000, 'n'), {8}).bytes()), "more than the 1024 allowed");
  EXPECT_ERROR(parse(GgufWriter().uint32(std::string(70000, 'n'), 8).bytes()), "more than the 65535 allowed");
}

TEST(Gguf, NamesFromTheFileAreMadePrintable) {
  EXPECT_ERROR(parse(GgufWriter().zeros("a\nb`\x1b[31m\xff", {8}).zeros("a\nb`\x1b[31m\xff", {8}).bytes()),
               "`a?b??[31m?`");
}

TEST(Gguf, TypesAndDimensionsAreKnown) {
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {8}, 4, std::string(64, ' ')).bytes()), "unknown type 4");
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {8}, 9999, std::string(64, ' ')).bytes()), "unknown type 9999");
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {}, 0, std::string(64, ' ')).bytes()), "0 dimensions");
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {1, 1, 1, 1, 1}, 0, std::string(64, ' ')).bytes()), "5 dimensions");
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {8, 0}, 0, std::string(64, ' ')).bytes()), "dimension of 0");
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {48}, 2, std::string(64, ' ')).bytes()), "no whole Q4_0 blocks of 32");
  EXPECT_ERROR(parse(GgufWriter().tensor("x", {32, 8}, 12, std::string(144, ' ')).bytes()),
               "no whole Q4_K blocks of 256");
  EXPECT_ERROR(parse(GgufWriter().metadata("k", GgufType(13), raw(uint64_t(0))).bytes()), "`k`", "unknown type 13");
  EXPECT_ERROR(parse(GgufWriter().metadata("k", GgufType::Array, raw(uint32_t(77)) + raw(uint64_t(0))).bytes()),
               "unknown type 77");
  const auto file =
      parse(GgufWriter().tensor("x", {256}, 16, std::string(66, ' ')).bytes()); // IQ2_XXS: known, not computable
  EXPECT_FALSE(file->tensors()[0].format);
  EXPECT_EQ(ggml_type_name(16), "IQ2_XXS");
}

TEST(Gguf, ArraysNestToALimit) {
  const auto nested = [](int depth) {
    std::string bytes;
    for (int i = 1; i < depth; ++i) bytes += raw(uint32_t(9)) + raw(uint64_t(1));
    return GgufWriter().metadata("deep", GgufType::Array, bytes + raw(uint32_t(0)) + raw(uint64_t(1)) + "x").bytes();
  };
  EXPECT_NO_THROW(parse(nested(4)));
  EXPECT_ERROR(parse(nested(5)), "`deep`", "nests arrays");
  EXPECT_ERROR(parse(nested(100000)), "nests arrays");
}

// Whatever bits flip, the parser answers or refuses; it neither crashes nor gives a tensor that leaves the file.
RC_GTEST_PROP(Gguf, DamageIsNoticedOrHarmless, ()) {
  std::string text = small().bytes();
  const int flips = *rc::gen::inRange(1, 4);
  for (int i = 0; i < flips; ++i) {
    const auto at = *rc::gen::inRange<size_t>(0, text.size());
    text[at] = static_cast<char>(text[at] ^ (1 << *rc::gen::inRange(0, 8)));
  }
  try {
    const std::vector<std::byte> exact(as_bytes(text).begin(), as_bytes(text).end());
    const auto file = GgufFile::parse(exact, "m.gguf");
    for (const GgufTensor& tensor : file->tensors()) RC_ASSERT(tensor.offset + tensor.bytes <= text.size());
  } catch (const Error&) {
  }
}

} // namespace
} // namespace quire
