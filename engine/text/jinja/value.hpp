// Values of the template language: Python's, as far as Jinja2 templates meet them. Texts, sequences and dicts are
// shared and never change (the sandbox forbids the methods that would), so that values nest without cycles; only
// namespaces change. One thread at a time for a rendering's values; constants of a parsed template are shared by all.
#pragma once

#include "text/jinja/runtime.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace quire::jinja {

__extension__ typedef __int128 Integer; // holds every number of a JSON document; beyond it, arithmetic fails

struct Text;
struct Sequence;
struct Dict;
class Object; // namespace, loop, macro, function: see object.hpp

struct Undefined {
  std::shared_ptr<const Text> name; // of the variable or attribute; null: unknown
  bool attribute = false;
};
struct None {};

class Value {
 public:
  using Storage = std::variant<Undefined, None, bool, Integer, double, std::shared_ptr<const Text>,
                               std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>, std::shared_ptr<Object>>;

  Value() = default;                                                           // undefined
  Value(Undefined value) : storage_(std::move(value)) {}                       // NOLINT(google-explicit-constructor)
  Value(std::shared_ptr<const Text> value) : storage_(std::move(value)) {}     // NOLINT(google-explicit-constructor)
  Value(std::shared_ptr<const Sequence> value) : storage_(std::move(value)) {} // NOLINT(google-explicit-constructor)
  Value(std::shared_ptr<const Dict> value) : storage_(std::move(value)) {}     // NOLINT(google-explicit-constructor)
  Value(std::shared_ptr<Object> value) : storage_(std::move(value)) {}         // NOLINT(google-explicit-constructor)
  static Value none() { return Value(std::in_place_type<None>, None{}); }
  static Value boolean(bool value) { return Value(std::in_place_type<bool>, value); }
  static Value integer(Integer value) { return Value(std::in_place_type<Integer>, value); }
  static Value real(double value) { return Value(std::in_place_type<double>, value); }

  bool is_undefined() const { return std::holds_alternative<Undefined>(storage_); }
  bool is_none() const { return std::holds_alternative<None>(storage_); }
  bool is_boolean() const { return std::holds_alternative<bool>(storage_); }
  bool is_integer() const { return std::holds_alternative<Integer>(storage_); } // not a boolean
  bool is_real() const { return std::holds_alternative<double>(storage_); }
  bool is_number() const { return is_boolean() || is_integer() || is_real(); }
  bool is_text() const { return std::holds_alternative<std::shared_ptr<const Text>>(storage_); }
  bool is_sequence() const { return std::holds_alternative<std::shared_ptr<const Sequence>>(storage_); }
  bool is_dict() const { return std::holds_alternative<std::shared_ptr<const Dict>>(storage_); }

  // Null if the value is something else.
  const Text* text() const { return pointer<const Text>(); }
  const Sequence* sequence() const { return pointer<const Sequence>(); }
  const Dict* dict() const { return pointer<const Dict>(); }
  Object* object() const { return pointer<Object>(); }
  const Undefined* undefined() const { return std::get_if<Undefined>(&storage_); }
  // Of a boolean or integer; null otherwise.
  bool as_integer(Integer& out) const;
  // Of any number.
  bool as_real(double& out) const;

  const Storage& storage() const { return storage_; }
  std::string_view string() const; // the bytes of a text; precondition: is_text()

 private:
  template <typename T> Value(std::in_place_type_t<T> type, T value) : storage_(type, value) {}
  template <typename T> T* pointer() const {
    const auto* held = std::get_if<std::shared_ptr<T>>(&storage_);
    return held ? held->get() : nullptr;
  }
  Storage storage_;
};

struct Text {
  Text(Runtime* runtime, std::string content)
      : charge(runtime, sizeof(Text) + content.size()), bytes(std::move(content)) {}
  Charge charge;
  std::string bytes;     // UTF-8; stray bytes count as one character each
  size_t length() const; // in characters
  bool single_bytes() const { return length() == bytes.size(); }

 private:
  mutable size_t length_ =
      SIZE_MAX; // not counted yet. Constants are counted when they are made, before threads share them
};

struct Sequence {
  enum class Kind { list, tuple, range, keys, values, items, generator };
  Sequence(Runtime* runtime, std::vector<Value> content, Kind which);
  Charge charge;
  std::vector<Value> items;
  Kind kind;
  std::string described;     // of a range: what str() shows
  int height;                // levels of values below this one, bounded
  mutable bool used = false; // a generator gives its items once
  // Lists and tuples can be indexed, sliced and compared.
  bool is_plain() const { return kind == Kind::list || kind == Kind::tuple; }
};

struct Dict {
  using Entry = std::pair<Value, Value>;
  // Keys are hashable; of equal keys the last value stays, at the place of the first.
  Dict(Runtime* runtime, std::vector<Entry> content);
  Charge charge;
  std::vector<Entry> entries; // in order of insertion
  int height;
  const Value* find(std::string_view key) const; // null: not there
  const Value* find(const Value& key) const;

 private:
  std::unordered_map<std::string_view, size_t> index_; // of text keys, once there are many
};

constexpr int max_height = 200; // of nested sequences and dicts

Value make_text(Runtime* runtime, std::string bytes);
Value make_sequence(Runtime* runtime, std::vector<Value> items, Sequence::Kind kind = Sequence::Kind::list);
Value make_dict(Runtime* runtime, std::vector<Dict::Entry> entries);
// A JSON document: objects keep their order. Throws Failure if it nests deeper than max_height.
Value from_json(Runtime* runtime, const boost::json::value& json, int levels = 0);

} // namespace quire::jinja
