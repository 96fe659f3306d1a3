// The words for what a KV cache is kept in: f16, bf16, f32 and f8 (also fp8 and fp8_e4m3, as elsewhere).
//
// Errors: quire::Error, one sentence. Threads: pure functions, [any].
#pragma once

#include <cstdint>
#include <string>

namespace quire {

// The format of limits.kv_format; `option` is what the sentence calls it.
uint32_t parse_kv_format(const std::string& word, const char* option);
// «f16»; «?» for what is no format of a cache.
const char* kv_format_name(uint32_t kv_format);

} // namespace quire
