// Fuzzes the safetensors parser. sources: engine/weights/safetensors.cpp
// libraries: boost_json
#include "weights/safetensors.hpp"
#include "quire/error.hpp"

#include <cstdint>
#include <cstdlib>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const auto bytes = std::as_bytes(std::span(data, size));
    uint64_t sum = 0;
    for (const quire::SafetensorsTensor& tensor : quire::parse_safetensors(bytes, "fuzz.safetensors"))
      for (const std::byte byte : bytes.subspan(tensor.offset, tensor.bytes)) sum += static_cast<uint64_t>(byte);
    if (sum == UINT64_MAX) std::abort(); // the reads can't be optimised away
  } catch (const quire::Error&) {
  }
  return 0;
}
