// Where the build put its plugins; the tests run under meson test, which sets QUIRE_BUILD.
#pragma once

#include "quire/error.hpp"

#include <cstdlib>
#include <filesystem>
#include <string>

namespace quire::test {

inline std::filesystem::path build_root() {
  const char* root = std::getenv("QUIRE_BUILD");
  if (root == nullptr) throw Error("QUIRE_BUILD is not set: run the tests by meson test");
  return root;
}
inline std::filesystem::path plugin_file(const std::string& id) { return build_root() / "plugins" / (id + ".so"); }
inline std::filesystem::path misfit_file(const std::string& name) {
  return build_root() / "tests" / "plugins" / (name + ".so");
}

// A folder of the test's own, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "quire-test-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) throw Error("can't make a temporary folder");
    path_ = std::filesystem::canonical(pattern);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

} // namespace quire::test
