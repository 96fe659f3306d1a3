// The two families behind make_policy. Internal to engine/kv.
#pragma once

#include "kv/policy.hpp"

namespace quire {

std::unique_ptr<AllocationPolicy> make_paged(const PolicyOptions& options, BlockPool& pool);
std::unique_ptr<AllocationPolicy> make_contiguous(const PolicyOptions& options, BlockPool& pool);

} // namespace quire
