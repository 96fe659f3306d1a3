// Where the tests of text find what lies outside the repository.
#pragma once

#include "text/gguf_vocabulary.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace quire::test {

inline std::filesystem::path environment_path(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

inline std::filesystem::path shared_data() { return environment_path("QUIRE_SHARED_DATA"); }

inline std::filesystem::path test_data() { return environment_path("QUIRE_TEST_DATA") / "text"; }

inline std::filesystem::path model_file() {
  if (const auto path = environment_path("QUIRE_MODEL"); !path.empty()) return path;
  auto cache = environment_path("XDG_CACHE_HOME");
  if (cache.empty()) cache = environment_path("HOME") / ".cache";
  return cache / "quire" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
}

inline std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path.string());
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

// The vocabulary of a GGUF file.
GgufVocabulary read_vocabulary(const std::filesystem::path& path);

} // namespace quire::test
