// The tokens of a model by id and by spelling. Immutable once built; [any] thread.
#pragma once

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace quire {

class Vocabulary {
 public:
  static constexpr size_t max_size = size_t{1}
                                     << 24; // ids beyond it are an error at load, before memory is taken for them

  enum class Kind : uint8_t {
    absent, // no token has this id
    normal, // the model's own: what merging makes
    byte,   // one byte, where the text has no other token
    added,  // found in the text as it is spelled
    special // added, and a control token
  };

  // The tokens [0, size); absent until set.
  void resize(size_t size) { entries_.resize(size); }
  // text: the spelling; bytes: what it stands for. The first token of a spelling is the one that id_of finds.
  void set(int32_t id, std::string text, std::string bytes, Kind kind) {
    Entry& entry = entries_[static_cast<size_t>(id)];
    assert(entry.kind == Kind::absent);
    entry = {std::move(text), std::move(bytes), kind};
  }
  void set_byte(int32_t id, char byte) {
    entries_[static_cast<size_t>(id)].bytes.assign(1, byte);
    entries_[static_cast<size_t>(id)].kind = Kind::byte;
  }
  void set_kind(int32_t id, Kind kind) { entries_[static_cast<size_t>(id)].kind = kind; }
  // After the last set(): views into the entries are kept.
  void index() {
    ids_.reserve(entries_.size());
    for (size_t id = 0; id < entries_.size(); ++id)
      if (entries_[id].kind != Kind::absent) ids_.emplace(entries_[id].text, static_cast<int32_t>(id));
  }

  int32_t size() const { return static_cast<int32_t>(entries_.size()); }
  bool has(int32_t id) const { return id >= 0 && id < size() && kind(id) != Kind::absent; }
  // Precondition of these: 0 <= id < size().
  const std::string& text(int32_t id) const { return entries_[static_cast<size_t>(id)].text; }
  const std::string& bytes(int32_t id) const { return entries_[static_cast<size_t>(id)].bytes; }
  Kind kind(int32_t id) const { return entries_[static_cast<size_t>(id)].kind; }

  std::optional<int32_t> id_of(std::string_view text) const {
    const auto found = ids_.find(text);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  struct Entry {
    std::string text, bytes;
    Kind kind = Kind::absent;
  };
  std::vector<Entry> entries_;
  std::unordered_map<std::string_view, int32_t> ids_;
};

} // namespace quire
