#include "text/jinja/value.hpp"

#include "text/jinja/python.hpp"
#include "text/utf8.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <algorithm>

namespace quire::jinja {
namespace {

constexpr size_t indexed_entries = 16; // a dict of more has an index

int height_of(const Value& value) {
  if (const Sequence* sequence = value.sequence()) return sequence->height;
  if (const Dict* dict = value.dict()) return dict->height;
  return 0;
}

int checked_height(int below) {
  if (below + 1 > max_height) throw Failure{"values nest deeper than " + std::to_string(max_height) + " levels", false};
  return below + 1;
}

} // namespace

bool Value::as_integer(Integer& out) const {
  if (const auto* number = std::get_if<Integer>(&storage_))
    out = *number;
  else if (const auto* boolean = std::get_if<bool>(&storage_))
    out = *boolean ? 1 : 0;
  else
    return false;
  return true;
}

bool Value::as_real(double& out) const {
  if (Integer whole; as_integer(whole))
    out = static_cast<double>(whole);
  else if (const auto* number = std::get_if<double>(&storage_))
    out = *number;
  else
    return false;
  return true;
}

std::string_view Value::string() const { return text()->bytes; }

size_t Text::length() const {
  if (length_ == SIZE_MAX) {
    size_t count = 0;
    for (size_t at = 0; at < bytes.size(); ++count) {
      const Utf8Step step = utf8_step(bytes, at);
      at += step.kind == Utf8Step::valid ? step.size : 1;
    }
    length_ = count;
  }
  return length_;
}

Sequence::Sequence(Runtime* runtime, std::vector<Value> content, Kind which)
    : charge(runtime, sizeof(Sequence) + content.size() * sizeof(Value)), items(std::move(content)), kind(which) {
  int below = 0;
  for (const Value& item : items) below = std::max(below, height_of(item));
  height = checked_height(below);
}

Dict::Dict(Runtime* runtime, std::vector<Entry> content)
    : charge(runtime, sizeof(Dict) + content.size() * (sizeof(Entry) + 32)) {
  int below = 0;
  const bool many = content.size() > indexed_entries;
  entries.reserve(content.size());
  for (Entry& entry : content) {
    below = std::max({below, height_of(entry.first), height_of(entry.second)});
    if (runtime && !entry.first.is_text()) runtime->step(1 + static_cast<int64_t>(entries.size()));
    if (Value* there = const_cast<Value*>(find(entry.first))) {
      *there = std::move(entry.second);
      continue;
    }
    if (many && entry.first.is_text()) index_.emplace(entry.first.string(), entries.size());
    entries.push_back(std::move(entry));
  }
  height = checked_height(below);
}

const Value* Dict::find(std::string_view key) const {
  if (!index_.empty()) {
    const auto found = index_.find(key);
    return found == index_.end() ? nullptr : &entries[found->second].second;
  }
  for (const Entry& entry : entries)
    if (entry.first.is_text() && entry.first.string() == key) return &entry.second;
  return nullptr;
}

const Value* Dict::find(const Value& key) const {
  if (key.is_text()) return find(key.string());
  for (const Entry& entry : entries)
    if (!entry.first.is_text() && equal(nullptr, entry.first, key)) return &entry.second;
  return nullptr;
}

Value make_text(Runtime* runtime, std::string bytes) {
  return Value(std::make_shared<const Text>(runtime, std::move(bytes)));
}

Value make_sequence(Runtime* runtime, std::vector<Value> items, Sequence::Kind kind) {
  return Value(std::make_shared<const Sequence>(runtime, std::move(items), kind));
}

Value make_dict(Runtime* runtime, std::vector<Dict::Entry> entries) {
  return Value(std::make_shared<const Dict>(runtime, std::move(entries)));
}

Value from_json(Runtime* runtime, const boost::json::value& json, int levels) {
  if (levels > max_height) checked_height(levels);
  if (runtime) runtime->step();
  switch (json.kind()) {
  case boost::json::kind::null:
    return Value::none();
  case boost::json::kind::bool_:
    return Value::boolean(json.get_bool());
  case boost::json::kind::int64:
    return Value::integer(json.get_int64());
  case boost::json::kind::uint64:
    return Value::integer(static_cast<Integer>(json.get_uint64()));
  case boost::json::kind::double_:
    return Value::real(json.get_double());
  case boost::json::kind::string:
    return make_text(runtime, std::string(json.get_string().data(), json.get_string().size()));
  case boost::json::kind::array: {
    std::vector<Value> items;
    items.reserve(json.get_array().size());
    for (const auto& item : json.get_array()) items.push_back(from_json(runtime, item, levels + 1));
    return make_sequence(runtime, std::move(items));
  }
  case boost::json::kind::object:
    break;
  }
  std::vector<Dict::Entry> entries;
  entries.reserve(json.get_object().size());
  for (const auto& [key, member] : json.get_object())
    entries.emplace_back(make_text(runtime, std::string(key.data(), key.size())),
                         from_json(runtime, member, levels + 1));
  return make_dict(runtime, std::move(entries));
}

} // namespace quire::jinja
