#include "kv/policy.hpp"

#include <string>

#include "kv/policy_impl.hpp"
#include "quire/error.hpp"

namespace quire {

const char* to_string(PolicyKind kind) {
  switch (kind) {
  case PolicyKind::paged:
    return "paged";
  case PolicyKind::max:
    return "max";
  case PolicyKind::pow2:
    return "pow2";
  case PolicyKind::oracle:
    return "oracle";
  }
  return "unknown";
}

PolicyKind parse_policy(std::string_view word) {
  for (const PolicyKind kind : {PolicyKind::paged, PolicyKind::max, PolicyKind::pow2, PolicyKind::oracle})
    if (word == to_string(kind)) return kind;
  throw Error("unknown KV policy `" + std::string(word) + "`: it must be paged, max, pow2 or oracle");
}

std::unique_ptr<AllocationPolicy> make_policy(const PolicyOptions& options, BlockPool& pool) {
  return options.kind == PolicyKind::paged ? make_paged(options, pool) : make_contiguous(options, pool);
}

} // namespace quire
