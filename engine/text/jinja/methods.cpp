// Methods of lists, tuples and mappings, and which names the sandbox forbids.
#include "text/jinja/methods.hpp"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>

namespace quire::jinja {
namespace {

Value dict_items(Interpreter& in, const Value& self, Arguments& arguments) {
  Parameters("items", arguments).finish();
  std::vector<Value> pairs;
  for (const auto& [key, value] : self.dict()->entries) pairs.push_back(in.tuple({key, value}));
  return make_sequence(&in.runtime(), std::move(pairs), Sequence::Kind::items);
}

Value dict_keys(Interpreter& in, const Value& self, Arguments& arguments) {
  Parameters("keys", arguments).finish();
  std::vector<Value> keys;
  for (const auto& entry : self.dict()->entries) keys.push_back(entry.first);
  return make_sequence(&in.runtime(), std::move(keys), Sequence::Kind::keys);
}

Value dict_values(Interpreter& in, const Value& self, Arguments& arguments) {
  Parameters("values", arguments).finish();
  std::vector<Value> values;
  for (const auto& entry : self.dict()->entries) values.push_back(entry.second);
  return make_sequence(&in.runtime(), std::move(values), Sequence::Kind::values);
}

Value dict_get(Interpreter& in, const Value& self, Arguments& arguments) {
  Parameters parameters("get", arguments);
  const Value key = parameters.required("key");
  Value otherwise = parameters.value_or("default", Value::none());
  parameters.finish();
  if (!key.is_text()) in.runtime().step(static_cast<int64_t>(self.dict()->entries.size()));
  const Value* found = self.dict()->find(key);
  return found ? *found : otherwise;
}

Value copy(Interpreter&, const Value& self, Arguments& arguments) {
  Parameters("copy", arguments).finish();
  return self; // values never change
}

Value list_index(Interpreter& in, const Value& self, Arguments& arguments) {
  Parameters parameters("index", arguments);
  const Value wanted = parameters.required("value");
  const Integer size = length_of(self);
  const auto bound = [&](std::string_view name, Integer otherwise) {
    const Integer at = parameters.integer(name, otherwise);
    return std::clamp<Integer>(at < 0 ? at + size : at, 0, size);
  };
  const Integer begin = bound("start", 0), end = bound("stop", size);
  parameters.finish();
  for (Integer i = begin; i < end; ++i)
    if (equal(&in.runtime(), self.sequence()->items[static_cast<size_t>(i)], wanted)) return Value::integer(i);
  fail("index: the value is not in the list");
}

Value list_count(Interpreter& in, const Value& self, Arguments& arguments) {
  Parameters parameters("count", arguments);
  const Value wanted = parameters.required("value");
  parameters.finish();
  Integer count = 0;
  for (const Value& item : self.sequence()->items) count += equal(&in.runtime(), item, wanted);
  return Value::integer(count);
}

// What the immutable sandbox refuses (jinja2.sandbox): calling it would change the value.
Value forbidden(Interpreter&, const Value& self, Arguments&) {
  fail("the sandbox forbids methods that change a '" + std::string(type_name(self)) + "'; use + or a namespace");
}

using Table = std::unordered_map<std::string_view, Function::Body>;

Function::Body find_in(const Table& table, std::string_view name) {
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

} // namespace

Function::Body find_method(const Value& object, std::string_view name) {
  static const Table dict = {{"items", dict_items},    {"keys", dict_keys},   {"values", dict_values},
                             {"get", dict_get},        {"copy", copy},        {"pop", forbidden},
                             {"popitem", forbidden},   {"update", forbidden}, {"clear", forbidden},
                             {"setdefault", forbidden}};
  static const Table list = {{"index", list_index}, {"count", list_count}, {"copy", copy},        {"append", forbidden},
                             {"extend", forbidden}, {"insert", forbidden}, {"pop", forbidden},    {"remove", forbidden},
                             {"clear", forbidden},  {"sort", forbidden},   {"reverse", forbidden}};
  static const Table tuple = {{"index", list_index}, {"count", list_count}};
  if (object.is_text()) return find_text_method(name);
  if (object.is_dict()) return find_in(dict, name);
  if (const Sequence* sequence = object.sequence()) {
    if (sequence->kind == Sequence::Kind::list) return find_in(list, name);
    if (sequence->kind == Sequence::Kind::tuple || sequence->kind == Sequence::Kind::range) return find_in(tuple, name);
  }
  return nullptr;
}

} // namespace quire::jinja
