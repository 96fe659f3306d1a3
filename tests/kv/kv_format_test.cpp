// The words of --kv-format.
#include "kv/kv_format.hpp"
#include "quire/error.hpp"
#include "quire/plugin_check.hpp"

#include <gtest/gtest.h>

#include <string>

namespace quire {

TEST(KvFormat, WordsAreThoseThatPeopleKnow) {
  for (const char* word : {"f8", "fp8", "fp8_e4m3"}) EXPECT_EQ(parse_kv_format(word, "kv_format"), QUIRE_KV_E4M3);
  for (const char* word : {"f16", "bf16", "f32", "f8"})
    EXPECT_STREQ(kv_format_name(parse_kv_format(word, "kv_format")), word);
  try {
    parse_kv_format("fp8_e5m2", "--kv-format");
    ADD_FAILURE() << "another fp8";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "--kv-format is `fp8_e5m2`: it must be f16, bf16, f32 or f8");
  }
}

// A weight's format is none of a cache's, now and when there are more.
TEST(KvFormat, ElementsHaveTheirBytes) {
  EXPECT_EQ(kv_element_bytes(QUIRE_KV_E4M3), 1u);
  EXPECT_EQ(kv_element_bytes(QUIRE_F16), 2u);
  EXPECT_EQ(kv_element_bytes(QUIRE_BF16), 2u);
  EXPECT_EQ(kv_element_bytes(QUIRE_F32), 4u);
  for (uint32_t format = QUIRE_Q4_0; format <= QUIRE_FORMAT_COUNT; ++format) EXPECT_EQ(kv_element_bytes(format), 0u);
}

} // namespace quire
