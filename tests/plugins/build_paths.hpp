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

} // namespace quire::test
