// Unicode normalization forms (UAX 15) and case mapping (chapter 3.13), on tables that make_tables.py writes. Texts are
// UTF-8; bytes that belong to no valid character pass unchanged and take no part. [any] thread.
#pragma once

#include <string>
#include <string_view>

namespace quire::unicode {

enum class Form { nfc, nfd, nfkc, nfkd };

std::string normalize(std::string_view text, Form form);

std::string to_lower(std::string_view text); // one character at a time: no final sigma
std::string to_upper(std::string_view text);
// Appends the mapping of one character.
void append_lower(std::string& out, char32_t code);
void append_upper(std::string& out, char32_t code);
void append_title(std::string& out, char32_t code);
bool changes_case(char32_t code); // has another lower, upper or title case: what str.title() takes for a letter

int combining_class(char32_t code);
bool is_mark(char32_t code); // general category M
// Property White_Space, and what Python's str.isspace() adds to it (U+001C to U+001F).
bool is_white_space(char32_t code);
bool is_python_space(char32_t code);

// Python's str.isalpha(), isdecimal(), isdigit(), isnumeric() and isalnum() of one character.
bool is_alpha(char32_t code);
bool is_decimal(char32_t code);
bool is_digit(char32_t code);
bool is_numeric(char32_t code);
bool is_alphanumeric(char32_t code);
// Python's str.isprintable() of one character.
bool is_printable(char32_t code);

} // namespace quire::unicode
