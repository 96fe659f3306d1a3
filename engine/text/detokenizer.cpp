#include "text/detokenizer.hpp"

#include "text/utf8.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

namespace quire {

Detokenizer::Detokenizer(std::shared_ptr<const Tokenizer> tokenizer, DecodeOptions options, bool at_start)
    : tokenizer_(std::move(tokenizer)), options_(options),
      strip_space_(at_start && tokenizer_->strips_leading_space()) {}

void Detokenizer::push(int32_t id, std::string& out) {
  if (options_.skip_special && tokenizer_->is_special(id)) return;
  std::string_view bytes = tokenizer_->token_bytes(id);
  if (bytes.empty()) return;
  if (strip_space_ && bytes.front() == ' ') bytes.remove_prefix(1);
  strip_space_ = false;

  // The waiting bytes and this token's first three decide about the waiting ones; the rest of the token is read in
  // place.
  size_t at = 0;
  while (pending_size_ > 0 && at < bytes.size()) {
    pending_[pending_size_++] = bytes[at++];
    const Utf8Step step = utf8_step({pending_, static_cast<size_t>(pending_size_)}, 0);
    if (step.kind == Utf8Step::truncated) continue;
    if (step.kind == Utf8Step::valid) {
      out.append(pending_, static_cast<size_t>(pending_size_));
    } else {
      out += utf8_replacement;
      --at; // the byte that did not fit begins something new
    }
    pending_size_ = 0;
  }
  while (at < bytes.size()) {
    const size_t valid = utf8_valid_prefix(bytes.substr(at));
    out.append(bytes, at, valid);
    at += valid;
    if (at == bytes.size()) break;
    const Utf8Step step = utf8_step(bytes, at);
    if (step.kind == Utf8Step::truncated) {
      pending_size_ = step.size;
      std::copy_n(bytes.data() + at, step.size, pending_);
    } else {
      out += utf8_replacement;
    }
    at += step.size;
  }
}

std::string Detokenizer::push(int32_t id) {
  std::string out;
  push(id, out);
  return out;
}

std::string Detokenizer::flush() {
  return std::exchange(pending_size_, 0) > 0 ? std::string(utf8_replacement) : std::string();
}

} // namespace quire
