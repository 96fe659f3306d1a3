// Fuzzes config.json and the index of shards. sources: engine/weights/config.cpp engine/weights/safetensors.cpp
// libraries: boost_json
#include "weights/config.hpp"
#include "quire/error.hpp"
#include "weights/safetensors.hpp"

#include <cstdint>
#include <cstdlib>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const quire::Config config = quire::Config::from_json(text, "fuzz.json");
    // What is written is read again.
    (void)quire::Config::from_json(config.to_json(), "again.json");
  } catch (const quire::Error&) {
  }
  try {
    for (const auto& [tensor, shard] : quire::parse_safetensors_index(text, "fuzz.index.json"))
      if (shard.find('/') != std::string::npos) std::abort();
  } catch (const quire::Error&) {
  }
  return 0;
}
