#include "text/bpe.hpp"

#include "text/sentence_piece.hpp"
#include "text/utf8.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

namespace quire {

void PairTable::grow(size_t slots) {
  std::vector<Slot> old = std::move(slots_);
  slots_.assign(slots, {});
  mask_ = slots - 1;
  shift_ = 64 - std::countr_zero(slots);
  for (const Slot& slot : old) {
    if (slot.key == empty) continue;
    size_t i = slot_of(slot.key);
    while (slots_[i].key != empty) i = (i + 1) & mask_;
    slots_[i] = slot;
  }
}

void PairTable::reserve(size_t pairs) {
  const size_t slots = std::bit_ceil(std::max<size_t>(2, pairs * 2));
  if (slots > slots_.size()) grow(slots);
}

void PairTable::add(int32_t left, int32_t right, Merge merge) {
  if (2 * (size_ + 1) > slots_.size()) grow(slots_.size() * 2);
  const uint64_t key = key_of(left, right);
  size_t i = slot_of(key);
  while (slots_[i].key != empty) {
    if (slots_[i].key == key) return;
    i = (i + 1) & mask_;
  }
  slots_[i] = {key, merge};
  ++size_;
}

namespace {

constexpr size_t short_word = 48; // symbols up to which a scan for the best pair beats the heap

// One pair of neighbours on the heap; stale once either of them has merged.
struct Candidate {
  uint32_t rank, at;
  int32_t left, right;
  bool operator<(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
};

} // namespace

void Bpe::append_bytes(std::string_view bytes, std::vector<int32_t>& ids) const {
  bool all = true;
  for (const char byte : bytes) all = all && byte_ids[static_cast<uint8_t>(byte)] >= 0;
  if (all) {
    for (const char byte : bytes) ids.push_back(byte_ids[static_cast<uint8_t>(byte)]);
  } else if (unknown && !(fuse_unknown && !ids.empty() && ids.back() == *unknown)) {
    ids.push_back(*unknown);
  }
}

void Bpe::split(std::string_view word, std::vector<int32_t>& symbol_ids) const {
  if (symbols == Symbols::bytes) {
    for (size_t i = 0; i < word.size(); ++i) append_bytes(word.substr(i, 1), symbol_ids);
    return;
  }
  for (size_t at = 0; at < word.size();) {
    const Utf8Step step = utf8_step(word, at);
    const auto found = step.kind == Utf8Step::valid ? characters.find(step.code) : characters.end();
    if (found != characters.end())
      symbol_ids.push_back(found->second);
    else
      append_bytes(word.substr(at, step.size), symbol_ids);
    at += step.size;
  }
}

void Bpe::merge_short(int32_t* symbol_ids, size_t& count) const {
  PairTable::Merge merges[short_word]; // [i]: of symbols i and i + 1
  for (size_t i = 0; i + 1 < count; ++i) merges[i] = pairs.find(symbol_ids[i], symbol_ids[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i)
      if (merges[i].rank < merges[best].rank) best = i;
    if (merges[best].rank == PairTable::Merge::none) return;
    symbol_ids[best] = merges[best].id;
    --count;
    std::memmove(symbol_ids + best + 1, symbol_ids + best + 2, (count - best - 1) * sizeof *symbol_ids);
    std::copy(merges + best + 1, merges + count, merges + best);
    if (best > 0) merges[best - 1] = pairs.find(symbol_ids[best - 1], symbol_ids[best]);
    if (best + 1 < count) merges[best] = pairs.find(symbol_ids[best], symbol_ids[best + 1]);
  }
}

void Bpe::merge_long(std::vector<int32_t>& symbol_ids) const {
  const auto count = static_cast<uint32_t>(symbol_ids.size());
  std::vector<uint32_t> next(count), previous(count);
  std::vector<Candidate> heap;
  const auto candidate = [&](uint32_t at, uint32_t right_at) {
    const PairTable::Merge merge = pairs.find(symbol_ids[at], symbol_ids[right_at]);
    return Candidate{merge.rank, at, symbol_ids[at], symbol_ids[right_at]};
  };
  for (uint32_t i = 0; i < count; ++i) {
    next[i] = i + 1;
    previous[i] = i - 1; // of the first: UINT32_MAX
    if (i + 1 == count) break;
    if (const Candidate c = candidate(i, i + 1); c.rank != PairTable::Merge::none) heap.push_back(c);
  }
  std::make_heap(heap.begin(), heap.end());
  const auto push = [&](const Candidate& c) {
    if (c.rank == PairTable::Merge::none) return;
    heap.push_back(c);
    std::push_heap(heap.begin(), heap.end());
  };
  while (!heap.empty()) {
    const Candidate best = heap.front();
    std::pop_heap(heap.begin(), heap.end());
    heap.pop_back();
    const uint32_t at = best.at, right = next[at];
    if (symbol_ids[at] != best.left || right >= count || symbol_ids[right] != best.right) continue;
    symbol_ids[at] = pairs.find(best.left, best.right).id;
    symbol_ids[right] = -1; // gone
    next[at] = next[right];
    if (next[at] < count) previous[next[at]] = at;
    if (previous[at] != UINT32_MAX) push(candidate(previous[at], at));
    if (next[at] < count) push(candidate(at, next[at]));
  }
  std::erase(symbol_ids, -1);
}

void Bpe::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  if (!whole.empty()) {
    if (const auto found = whole.find(word); found != whole.end()) {
      ids.push_back(found->second);
      return;
    }
  }
  const auto emit = [&](const int32_t* symbol_ids, size_t count) {
    for (size_t i = 0; i < count; ++i) {
      if (symbol_ids[i] >= first_inner)
        append_bytes(inner[static_cast<size_t>(symbol_ids[i] - first_inner)], ids);
      else
        ids.push_back(symbol_ids[i]);
    }
  };
  if (symbols == Symbols::bytes && word.size() <= short_word) {
    int32_t symbol_ids[short_word];
    size_t count = 0;
    bool all = true;
    for (const char byte : word) {
      symbol_ids[count++] = byte_ids[static_cast<uint8_t>(byte)];
      all = all && symbol_ids[count - 1] >= 0;
    }
    if (all) {
      merge_short(symbol_ids, count);
      ids.insert(ids.end(), symbol_ids, symbol_ids + count);
      return;
    }
  }
  std::vector<int32_t> symbol_ids;
  symbol_ids.reserve(word.size());
  split(word, symbol_ids);
  size_t count = symbol_ids.size();
  if (count <= short_word) {
    merge_short(symbol_ids.data(), count);
    emit(symbol_ids.data(), count);
  } else if (pairs.size() == 0) {
    emit(symbol_ids.data(), count);
  } else {
    merge_long(symbol_ids);
    emit(symbol_ids.data(), symbol_ids.size());
  }
}

void Bpe::encode(std::string_view piece, std::vector<int32_t>& ids) const {
  assert(piece.size() <= size_t{1} << 30);
  if (!cuts_before_space_mark) return encode_word(piece, ids);
  size_t begin = 0;
  bool after_mark = true;
  for (size_t at = 0; at < piece.size();) {
    const bool mark = piece.substr(at).starts_with(space_mark);
    if (mark && !after_mark) {
      encode_word(piece.substr(begin, at - begin), ids);
      begin = at;
    }
    after_mark = mark;
    at += mark ? space_mark.size() : 1;
  }
  if (begin < piece.size()) encode_word(piece.substr(begin), ids);
}

} // namespace quire
