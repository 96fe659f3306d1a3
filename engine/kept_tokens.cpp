#include "kept_tokens.hpp"

namespace quire {

SequenceHandle KeptTokens::insert(Tokens tokens, std::pair<RequestId, uint32_t> origin) {
  const SequenceHandle handle = ++last_;
  num_tokens_ += tokens->size();
  recent_.push_front(handle);
  entries_[handle] = {std::move(tokens), origin, recent_.begin()};
  if (origin.first) by_origin_[origin] = handle;
  while (num_tokens_ > max_tokens_ && recent_.size() > 1) erase(recent_.back());
  return handle;
}

void KeptTokens::erase(SequenceHandle handle) {
  const auto found = entries_.find(handle);
  if (found == entries_.end()) return;
  num_tokens_ -= found->second.tokens->size();
  if (found->second.origin.first) by_origin_.erase(found->second.origin);
  recent_.erase(found->second.recent);
  entries_.erase(found);
}

SequenceHandle KeptTokens::add(std::vector<int32_t> tokens, RequestId request, uint32_t choice) {
  auto shared = std::make_shared<const std::vector<int32_t>>(std::move(tokens));
  std::lock_guard lock(mutex_);
  return insert(std::move(shared), {request, choice});
}

KeptTokens::Tokens KeptTokens::find(SequenceHandle handle) {
  std::lock_guard lock(mutex_);
  const auto found = entries_.find(handle);
  if (found == entries_.end()) return nullptr;
  recent_.splice(recent_.begin(), recent_, found->second.recent);
  return found->second.tokens;
}

SequenceHandle KeptTokens::of(RequestId request, uint32_t choice) const {
  std::lock_guard lock(mutex_);
  const auto found = by_origin_.find({request, choice});
  return found == by_origin_.end() ? 0 : found->second;
}

SequenceHandle KeptTokens::fork(SequenceHandle handle, uint32_t at_token) {
  const Tokens tokens = find(handle);
  if (!tokens || at_token == 0 || at_token > tokens->size()) return 0;
  auto prefix = std::make_shared<const std::vector<int32_t>>(tokens->begin(), tokens->begin() + at_token);
  std::lock_guard lock(mutex_);
  return insert(std::move(prefix), {0, 0});
}

void KeptTokens::release(SequenceHandle handle) {
  std::lock_guard lock(mutex_);
  erase(handle);
}

} // namespace quire
