// Python's text operations that filters and methods have in common.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quire::jinja {

std::string capitalized(std::string_view text);  // str.capitalize()
std::string title_method(std::string_view text); // str.title()
std::string title_filter(std::string_view text); // Jinja's title: words begin after white space and ([{<-
std::string swapped_case(std::string_view text);
// str.replace(); most < 0: all.
std::string replaced(std::string_view text, std::string_view what, std::string_view by, int64_t most);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);
// str.split(): by white space if the separator is empty; most < 0: all.
std::vector<std::string_view> split(std::string_view text, std::string_view separator, int64_t most, bool from_right);
std::string escape_html(std::string_view text);

} // namespace quire::jinja
