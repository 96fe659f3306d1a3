// EXPECT_ERROR(statement, parts…): it throws quire::Error with one sentence that holds every part.
#pragma once

#include "quire/error.hpp"

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>
#include <string_view>

namespace quire::test {

template <class Statement>
void expect_error(const char* file, int line, Statement&& statement, std::initializer_list<std::string_view> parts) {
  try {
    statement();
  } catch (const Error& error) {
    const std::string sentence = error.what();
    for (const std::string_view part : parts)
      if (sentence.find(part) == std::string::npos)
        ADD_FAILURE_AT(file, line) << "«" << sentence << "» does not say «" << part << "»";
    if (sentence.find('\n') != std::string::npos) ADD_FAILURE_AT(file, line) << "more than one line: " << sentence;
    return;
  } catch (const std::exception& error) {
    ADD_FAILURE_AT(file, line) << "threw something else: " << error.what();
    return;
  }
  ADD_FAILURE_AT(file, line) << "did not throw";
}

} // namespace quire::test

#define EXPECT_ERROR(statement, ...) ::quire::test::expect_error(__FILE__, __LINE__, [&] { statement; }, {__VA_ARGS__})
