#include "kv/transfers.hpp"

#include <cassert>
#include <utility>

namespace quire {

Transfers::Transfers(std::span<const std::uint32_t> blocks_of_group) {
  for (const std::uint32_t blocks : blocks_of_group) pending_.emplace_back(blocks, kNothing);
}

quire_block_copy* Transfers::find_to(std::vector<quire_block_copy>& list, std::uint32_t group, BlockId to) {
  for (auto copy = list.rbegin(); copy != list.rend(); ++copy)
    if (copy->group == group && copy->to == to) return &*copy;
  assert(!"a pending block has a transfer");
  return nullptr;
}

void Transfers::copy(std::uint32_t group, BlockId from, BlockId to) {
  assert(!pending(group, to) && from != to);
  if (pending_[group][from] == kSwapIn) {
    swap_in(group, pending_slot(group, from), to);
    return;
  }
  if (pending_[group][from] == kCopy) from = find_to(list_.copies, group, from)->from;
  list_.copies.push_back({group, from, to});
  pending_[group][to] = kCopy;
}

void Transfers::swap_in(std::uint32_t group, BlockId slot, BlockId to) {
  assert(!pending(group, to));
  list_.swap_in.push_back({group, slot, to});
  pending_[group][to] = kSwapIn;
}

void Transfers::swap_out(std::uint32_t group, BlockId block, BlockId slot) {
  assert(pending_[group][block] != kSwapIn);
  if (pending_[group][block] == kCopy) block = find_to(list_.copies, group, block)->from;
  list_.swap_out.push_back({group, block, slot});
}

BlockId Transfers::pending_slot(std::uint32_t group, BlockId block) const {
  if (pending_[group][block] != kSwapIn) return kNoBlock;
  return find_to(const_cast<std::vector<quire_block_copy>&>(list_.swap_in), group, block)->from;
}

void Transfers::drop_pending(std::uint32_t group, BlockId block) {
  auto& list = pending_[group][block] == kCopy ? list_.copies : list_.swap_in;
  quire_block_copy* copy = find_to(list, group, block);
  *copy = list.back();
  list.pop_back();
  pending_[group][block] = kNothing;
}

void Transfers::take(KvTransfers& out) {
  for (const auto& copy : list_.copies) pending_[copy.group][copy.to] = kNothing;
  for (const auto& copy : list_.swap_in) pending_[copy.group][copy.to] = kNothing;
  out.clear();
  std::swap(out, list_);
}

} // namespace quire
