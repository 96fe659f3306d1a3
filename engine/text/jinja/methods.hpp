// Methods of values by name. Private to the interpreter.
#pragma once

#include "text/jinja/interpreter.hpp"

#include <string_view>

namespace quire::jinja {

Function::Body find_text_method(std::string_view name); // methods_text.cpp

} // namespace quire::jinja
