// Numbers out of text, as Python's int() and float() read them.
#pragma once

#include "text/jinja/value.hpp"

#include <string_view>

namespace quire::jinja {

// base 0: by the prefix. False where int() raises ValueError; throws Failure for numbers beyond 127 bits.
bool parse_integer(std::string_view text, int base, Integer& out);
bool parse_real(std::string_view text, double& out);

} // namespace quire::jinja
