#include "schedule/step_tables.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace quire {
namespace {

constexpr uint32_t kGrain = 16;    // entries: tables are whole cache lines
constexpr size_t kMostLeaving = 4; // sequences that are looked past for the next one

uint32_t round_up(uint32_t entries) { return (entries + kGrain - 1) / kGrain * kGrain; }

} // namespace

void StepTables::begin(uint32_t num_groups) {
  if (num_groups != num_groups_) {
    places_.clear();
    for (auto& table : tables_) table.clear();
  }
  num_groups_ = num_groups;
  next_ = 0;
  start_ = 0;
}

uint32_t StepTables::add(const KvManager& kv, KvSeq seq, uint32_t max_tokens) {
  const uint64_t version = kv.table_version(seq);
  const auto size = static_cast<uint32_t>(kv.table(seq, 0).size());
  if (next_ < places_.size() && places_[next_].version != version) find(version);
  const bool known = next_ < places_.size();
  if (!known || places_[next_].capacity < size) {
    const uint32_t block_size = kv.config().block_size, most = max_tokens / block_size + (max_tokens % block_size != 0);
    const uint32_t capacity = std::max(size, std::min(round_up(size), most));
    const uint32_t before = known ? places_[next_].capacity : 0;
    if (!known) places_.push_back({version, 0, 0});
    widen(start_ + before, capacity - before);
    places_[next_].capacity = capacity;
  }
  Place& place = places_[next_];
  if (place.size < size) {
    for (uint32_t g = 0; g < num_groups_; ++g)
      std::memcpy(tables_[g].data() + start_ + place.size, kv.table(seq, g).data() + place.size,
                  (size - place.size) * sizeof(BlockId));
    place.size = size;
  }
  assert(place.size == size);
  for (uint32_t g = 0; g < num_groups_; ++g)
    assert(std::equal(kv.table(seq, g).begin(), kv.table(seq, g).end(), tables_[g].data() + start_));
  start_ += place.capacity;
  ++next_;
  return start_;
}

void StepTables::end() {
  places_.resize(next_);
  for (uint32_t g = 0; g < num_groups_; ++g) tables_[g].cut(start_);
}

// Makes the next place that of this version, or the end.
void StepTables::find(uint64_t version) {
  uint32_t leaving = 0; // entries
  for (size_t i = next_; i < std::min(places_.size(), next_ + kMostLeaving + 1); leaving += places_[i++].capacity) {
    if (places_[i].version != version) continue;
    narrow(start_, leaving);
    places_.erase(places_.begin() + static_cast<std::ptrdiff_t>(next_),
                  places_.begin() + static_cast<std::ptrdiff_t>(i));
    return;
  }
  end();
}

void StepTables::widen(uint32_t at, uint32_t count) {
  for (uint32_t g = 0; g < num_groups_; ++g) {
    Column<uint32_t>& table = tables_[g];
    const size_t behind = table.size() - at;
    table.grow(count);
    std::memmove(table.data() + at + count, table.data() + at, behind * sizeof(uint32_t));
    std::fill_n(table.data() + at, count, 0u);
  }
}

void StepTables::narrow(uint32_t at, uint32_t count) {
  for (uint32_t g = 0; g < num_groups_; ++g) {
    Column<uint32_t>& table = tables_[g];
    const size_t behind = table.size() - at - count;
    std::memmove(table.data() + at, table.data() + at + count, behind * sizeof(uint32_t));
    table.cut(table.size() - count);
  }
}

} // namespace quire
