// Orca's reservations as the paper's baselines have them: one chunk a sequence, taken whole at admission, from a buddy
// pool over the slots. Chunks are counted in blocks; block size 1 gives slots exactly. A chunk comes back when the last
// ticket that may touch it is done.
#include <algorithm>
#include <bit>
#include <vector>

#include "kv/buddy.hpp"
#include "kv/policy_impl.hpp"

namespace quire {

namespace {

class Contiguous final : public AllocationPolicy {
 public:
  Contiguous(const PolicyOptions& options, BlockPool& pool)
      : options_(options), pool_(pool), buddy_(pool.num_blocks()) {}

  bool contiguous() const override { return true; }

  Admission can_admit(const Need& need) const override {
    if (slots(need) < std::uint64_t{need.tokens} + need.output_tokens || chunk(need) > buddy_.largest())
      return Admission::never;
    return buddy_.can_allocate(static_cast<std::uint32_t>(chunk(need))) ? Admission::now : Admission::later;
  }

  void admit(const Need& need, Grant& grant) override {
    grant.num_blocks = static_cast<std::uint32_t>(chunk(need));
    grant.num_reserved = static_cast<std::uint32_t>(slots(need));
    grant.first = buddy_.allocate(grant.num_blocks);
    assert(grant.first != BuddyPool::kNone);
  }

  bool can_allocate(const Grant& grant, std::uint32_t index, std::uint32_t count) const override {
    if (index + count > grant.num_blocks) return false;
    for (std::uint32_t i = index; i < index + count;
         ++i) // the sequence's own block, dropped by a truncation, may still drain
      if (pool_.draining(grant.first + i)) return false;
    return true;
  }

  BlockId allocate(Grant& grant, std::uint32_t index) override {
    assert(index < grant.num_blocks);
    pool_.claim(grant.first + index);
    return grant.first + index;
  }

  void close(Grant& grant, Ticket last) override {
    if (grant.first != kNoBlock) {
      if (last > done_)
        leaving_.push_back({last, grant.first, grant.num_blocks});
      else
        buddy_.free(grant.first, grant.num_blocks);
    }
    grant = {};
  }

  void tickets_done(Ticket ticket) override {
    done_ = ticket;
    std::erase_if(leaving_, [&](const Leaving& chunk) {
      if (chunk.last > done_) return false;
      buddy_.free(chunk.first, chunk.num_blocks);
      return true;
    });
  }

  void queue_empty() override {
    for (const Leaving& chunk : leaving_) buddy_.free(chunk.first, chunk.num_blocks);
    leaving_.clear();
  }

 private:
  struct Leaving {
    Ticket last;
    BlockId first;
    std::uint32_t num_blocks;
  };

  std::uint64_t slots(const Need& need) const {
    const std::uint64_t longest = options_.max_length, known = need.tokens, output = need.output_tokens;
    switch (options_.kind) {
    case PolicyKind::max:
      return longest;
    case PolicyKind::pow2: // no more than the longest sequence, but for one that is longer
      return std::max(std::min(known + std::bit_ceil(output), longest), known + output);
    default:
      return known + output;
    }
  }
  std::uint64_t chunk(const Need& need) const {
    return std::bit_ceil((slots(need) + options_.block_size - 1) / options_.block_size);
  }

  PolicyOptions options_;
  BlockPool& pool_;
  BuddyPool buddy_;
  std::vector<Leaving> leaving_;
  Ticket done_ = 0;
};

} // namespace

std::unique_ptr<AllocationPolicy> make_contiguous(const PolicyOptions& options, BlockPool& pool) {
  return std::make_unique<Contiguous>(options, pool);
}

} // namespace quire
