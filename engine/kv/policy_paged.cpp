// Any free block, when a token needs it. Blocks for a prompt are promised at admission and taken as its chunks run, so
// that two admissions don't count on the same free block. Growth beyond the prompt takes what is free: the watermark is
// the cushion, preemption the remedy.
#include <algorithm>

#include "kv/policy_impl.hpp"

namespace quire {

namespace {

class Paged final : public AllocationPolicy {
 public:
  Paged(const PolicyOptions& options, BlockPool& pool) : pool_(pool), watermark_(options.watermark_blocks) {}

  bool contiguous() const override { return false; }

  Admission can_admit(const Need& need) const override {
    const std::uint64_t wanted = std::uint64_t{need.blocks} + need.revived;
    if (wanted > pool_.num_blocks()) return Admission::never;
    // Alone in the pool, a sequence may use all of it: nothing else would ever make room.
    const bool alone = promised_ == 0 && pool_.num_referenced() == 0 && pool_.num_draining() == 0;
    return wanted + promised_ + (alone ? 0 : watermark_) <= pool_.num_free() ? Admission::now : Admission::later;
  }

  void admit(const Need& need, Grant& grant) override {
    grant.promised = need.blocks;
    promised_ += need.blocks;
  }

  bool can_allocate(const Grant&, std::uint32_t, std::uint32_t count) const override {
    return count <= pool_.num_free();
  }

  BlockId allocate(Grant& grant, std::uint32_t) override {
    if (grant.promised) {
      --grant.promised;
      --promised_;
    }
    return pool_.allocate();
  }

  void close(Grant& grant, Ticket) override {
    promised_ -= grant.promised;
    grant = {};
  }

  void tickets_done(Ticket) override {}
  void queue_empty() override {}

 private:
  BlockPool& pool_;
  std::uint32_t watermark_;
  std::uint64_t promised_ = 0; // sum of the grants
};

} // namespace

std::unique_ptr<AllocationPolicy> make_paged(const PolicyOptions& options, BlockPool& pool) {
  return std::make_unique<Paged>(options, pool);
}

} // namespace quire
