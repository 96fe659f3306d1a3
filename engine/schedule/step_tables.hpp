// The block tables of a step's sequences as the backend reads them, behind each other, kept from step to step.
//
// A decode step's tables are those of the step before, but for a block more here and there and a sequence that has
// come or gone: a step over hundreds of sequences looks at what has changed and not at some thousand block ids
// elsewhere. Each table has room to grow into: what lies behind a sequence's blocks may be any block. Where entries
// that were there have changed (so it is with a window, once a block is behind it), what follows is copied anew. Owned
// by the engine thread.
//
// Invariants: the capacities of places_ add up to the size of each group's table, and all groups' are of one size;
// entries behind a place's size are 0, which every pool has. All calls are of one KvManager, whose versions tell what a
// place holds.
//
//   begin(groups); add(…) for each of the step's sequences in their order; end().
#pragma once

#include "kv/kv_manager.hpp"
#include "schedule/column.hpp"

#include <array>
#include <cstdint>
#include <vector>

namespace quire {

class StepTables {
 public:
  void begin(uint32_t num_groups);
  // The next sequence, which has at most max_tokens in its life. Where its entries end, in every group.
  uint32_t add(const KvManager& kv, KvSeq seq, uint32_t max_tokens);
  void end();
  const uint32_t* table(uint32_t group) const { return tables_[group].data(); }

 private:
  struct Place {
    uint64_t version;  // KvManager's, of what is here
    uint32_t size;     // entries that are a sequence's
    uint32_t capacity; // room for so many
  };

  void find(uint64_t version);
  // `count` entries more, or fewer, at `at`.
  void widen(uint32_t at, uint32_t count);
  void narrow(uint32_t at, uint32_t count);

  std::vector<Place> places_;
  size_t next_ = 0;    // of places_: the sequence to come
  uint32_t start_ = 0; // of its entries
  uint32_t num_groups_ = 0;
  std::array<Column<uint32_t>, QUIRE_MAX_GROUPS> tables_;
};

} // namespace quire
