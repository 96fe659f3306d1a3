// The batch sizes that decode steps are padded to: each has its own captured graph.
//
// 1, 2, 4, then by 8 to 256, by 16 above. Threads: pure functions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace quire::cuda {

// The smallest bucket that holds n sequences; n where that is beyond `most`.
constexpr uint32_t bucket_for(uint32_t n, uint32_t most) {
  uint32_t bucket = n;
  if (n <= 2)
    bucket = n;
  else if (n <= 4)
    bucket = 4;
  else if (n <= 256)
    bucket = (n + 7) / 8 * 8;
  else
    bucket = (n + 15) / 16 * 16;
  return std::min(bucket, std::max(n, most));
}

// All buckets up to most, rising.
inline std::vector<uint32_t> buckets_up_to(uint32_t most) {
  std::vector<uint32_t> buckets;
  for (uint32_t n = 1; n <= most; ++n)
    if (buckets.empty() || buckets.back() < n) buckets.push_back(bucket_for(n, most));
  return buckets;
}

} // namespace quire::cuda
