// What the chat template tests and their goldens have in common.
#pragma once

#include "text/chat_template.hpp"
#include "text/generated_texts.hpp"

#include <boost/json/value.hpp>

#include <charconv>
#include <ctime>
#include <string>
#include <string_view>

namespace quire::test {

// "length:fnv1a" as chat_template_oracle.py writes it.
inline std::string digest(std::string_view text) {
  uint64_t hash = fnv1a_start;
  for (const char byte : text) hash = fnv1a(hash, static_cast<uint8_t>(byte));
  char hexadecimal[17] = {};
  for (int i = 0; i < 16; ++i) hexadecimal[i] = "0123456789abcdef"[(hash >> (60 - 4 * i)) & 15];
  return std::to_string(text.size()) + ":" + hexadecimal;
}

// [year, month, day, hour, minute, second] of local time.
inline std::chrono::system_clock::time_point local_time(const boost::json::value& fields) {
  std::tm time{};
  const auto field = [&](size_t i) { return static_cast<int>(fields.at(i).to_number<int64_t>()); };
  time.tm_year = field(0) - 1900;
  time.tm_mon = field(1) - 1;
  time.tm_mday = field(2);
  time.tm_hour = field(3);
  time.tm_min = field(4);
  time.tm_sec = field(5);
  time.tm_isdst = -1;
  return std::chrono::system_clock::from_time_t(std::mktime(&time));
}

} // namespace quire::test
