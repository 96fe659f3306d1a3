// Token ids of finished sequences that clients asked to keep, for continuing and branching them.
//
// Ids only: their KV is in the prefix cache for as long as that has room. Bounded: the least recently used are
// forgotten when more than max_tokens are held. Threads: [any]; the lock is held for a lookup or an insertion.
#pragma once

#include "quire/engine.hpp"

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

namespace quire {

class KeptTokens {
 public:
  using Tokens = std::shared_ptr<const std::vector<int32_t>>;
  explicit KeptTokens(uint64_t max_tokens) : max_tokens_(max_tokens) {}

  SequenceHandle add(std::vector<int32_t> tokens, RequestId request, uint32_t choice);
  Tokens find(SequenceHandle handle);                          // null: unknown, released or forgotten
  SequenceHandle of(RequestId request, uint32_t choice) const; // 0: none
  // The first at_token tokens of it, under a handle of their own; 0: unknown or shorter.
  SequenceHandle fork(SequenceHandle handle, uint32_t at_token);
  void release(SequenceHandle handle);

 private:
  struct Entry {
    Tokens tokens;
    std::pair<RequestId, uint32_t> origin; // request 0: a fork
    std::list<SequenceHandle>::iterator recent;
  };
  SequenceHandle insert(Tokens tokens, std::pair<RequestId, uint32_t> origin);
  void erase(SequenceHandle handle);

  const uint64_t max_tokens_;
  mutable std::mutex mutex_;
  uint64_t num_tokens_ = 0;
  SequenceHandle last_ = 0;
  std::unordered_map<SequenceHandle, Entry> entries_;
  std::map<std::pair<RequestId, uint32_t>, SequenceHandle> by_origin_;
  std::list<SequenceHandle> recent_; // most recently used first
};

} // namespace quire
