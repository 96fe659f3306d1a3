#include "kv/kv_format.hpp"

#include "quire/error.hpp"
#include "quire/plugin.h"

namespace quire {

uint32_t parse_kv_format(const std::string& word, const char* option) {
  if (word == "f16") return QUIRE_F16;
  if (word == "bf16") return QUIRE_BF16;
  if (word == "f32") return QUIRE_F32;
  if (word == "f8" || word == "fp8" || word == "fp8_e4m3") return QUIRE_KV_E4M3;
  throw Error(std::string(option) + " is `" + word + "`: it must be f16, bf16, f32 or f8");
}

const char* kv_format_name(uint32_t kv_format) {
  switch (kv_format) {
  case QUIRE_F16:
    return "f16";
  case QUIRE_BF16:
    return "bf16";
  case QUIRE_F32:
    return "f32";
  case QUIRE_KV_E4M3:
    return "f8";
  default:
    return "?";
  }
}

} // namespace quire
