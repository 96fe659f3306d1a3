// The real model on the reference backend against Hugging Face: a few short prompts; all 24 under QUIRE_FULL=1.
#include "reference/reference.hpp"
#include "support/oracle_check.hpp"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace quire::tests {

TEST(Oracle, SmolLM2EqualsHuggingFace) {
  const char* full = std::getenv("QUIRE_FULL");
  OracleOptions options = oracle_options("reference", full && std::strcmp(full, "1") == 0);
  options.model = find_test_model();
  if (options.model.empty())
    GTEST_SKIP() << "SmolLM2-135M-Instruct.Q4_1.gguf is not there: run ./quickstart.sh, or set QUIRE_MODEL";
  const OracleResult result = check_oracle(reference_plugin(), options);
  std::printf("%s\n", result.summary(options).c_str());
  EXPECT_GT(result.rows, 300u);
  EXPECT_EQ(result.tokens, result.prompts * 64);
  for (const std::string& problem : result.problems) ADD_FAILURE() << problem;
}

} // namespace quire::tests
