// The exception of the engine's edges: loading, parsing, configuration. Never thrown in the step loop or across the plugin ABI.
#pragma once

#include <stdexcept>
#include <string>

namespace quire {

// what() is one sentence for the user: it names the file, field or tensor, and the fix.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& sentence) : std::runtime_error(sentence) {}
};

} // namespace quire
