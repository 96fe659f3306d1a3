// Filters over items (jinja2.filters). Those that are generators there give a generator here: it is true, has no
// length, and is used up once.
#include "text/jinja/filters.hpp"

#include <algorithm>
#include <utility>

namespace quire::jinja {
namespace {

// Compares what a key function makes of items, computed once each; Python's sort: stable, also in reverse.
std::vector<Value> sorted(Interpreter& in, std::vector<Value> items, const std::vector<Value>& keys, bool reverse) {
  std::vector<size_t> order(items.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return reverse ? less(in.runtime(), keys[b], keys[a]) : less(in.runtime(), keys[a], keys[b]);
  });
  std::vector<Value> result;
  result.reserve(items.size());
  for (const size_t i : order) result.push_back(std::move(items[i]));
  return result;
}

Value sort(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("sort", arguments);
  const bool reverse = parameters.flag("reverse", false), case_sensitive = parameters.flag("case_sensitive", false);
  const Value path = parameters.value_or("attribute", Value::none());
  parameters.finish();
  std::vector<AttributeGetter> getters; // "a,b": by a, then by b
  if (path.is_text()) {
    for (std::string_view rest = path.string();;) {
      const size_t comma = rest.find(',');
      getters.emplace_back(in, in.text(std::string(rest.substr(0, comma))));
      if (comma == rest.npos) break;
      rest.remove_prefix(comma + 1);
    }
  } else {
    getters.emplace_back(in, path);
  }
  std::vector<Value> items = items_of(in.runtime(), subject), keys;
  for (const Value& item : items) {
    std::vector<Value> key;
    for (const AttributeGetter& getter : getters) {
      Value part = getter(item);
      key.push_back(case_sensitive ? std::move(part) : ignoring_case(in, part));
    }
    keys.push_back(key.size() == 1 ? std::move(key[0]) : in.list(std::move(key)));
  }
  return in.list(sorted(in, std::move(items), keys, reverse));
}

Value dictsort(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("dictsort", arguments);
  const bool case_sensitive = parameters.flag("case_sensitive", false);
  const std::string by = in.str(parameters.value_or("by", in.text("key")));
  const bool reverse = parameters.flag("reverse", false);
  parameters.finish();
  if (by != "key" && by != "value") fail("dictsort: by must be 'key' or 'value'");
  if (!subject.is_dict()) fail("dictsort needs a mapping, not '" + std::string(type_name(subject)) + "'");
  std::vector<Value> items, keys;
  for (const auto& [key, value] : subject.dict()->entries) {
    items.push_back(in.tuple({key, value}));
    const Value& part = by == "key" ? key : value;
    keys.push_back(case_sensitive ? part : ignoring_case(in, part));
  }
  return in.list(sorted(in, std::move(items), keys, reverse));
}

Value unique(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("unique", arguments);
  const bool case_sensitive = parameters.flag("case_sensitive", false);
  const AttributeGetter getter(in, parameters.value_or("attribute", Value::none()));
  parameters.finish();
  std::vector<Value> kept, seen;
  for (const Value& item : items_of(in.runtime(), subject)) {
    Value key = getter(item);
    if (!case_sensitive) key = ignoring_case(in, key);
    if (std::any_of(seen.begin(), seen.end(), [&](const Value& other) { return equal(&in.runtime(), other, key); }))
      continue;
    seen.push_back(std::move(key));
    kept.push_back(item);
  }
  return in.generator(std::move(kept));
}

Value groupby(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("groupby", arguments);
  const AttributeGetter getter(in, parameters.required("attribute"));
  const Value otherwise = parameters.value_or("default", Value::none());
  const bool case_sensitive = parameters.flag("case_sensitive", false);
  parameters.finish();
  const auto key_of = [&](const Value& item) {
    Value key = getter(item);
    return key.is_undefined() && !otherwise.is_none() ? otherwise : key;
  };
  std::vector<Value> items = items_of(in.runtime(), subject), keys;
  for (const Value& item : items) keys.push_back(case_sensitive ? key_of(item) : ignoring_case(in, key_of(item)));
  items = sorted(in, std::move(items), keys, false);
  std::vector<Value> groups;
  for (size_t begin = 0; begin < items.size();) {
    const Value key = key_of(items[begin]), compared = case_sensitive ? key : ignoring_case(in, key);
    size_t end = begin;
    std::vector<Value> members;
    for (; end < items.size(); ++end) {
      const Value other = key_of(items[end]);
      if (!equal(&in.runtime(), case_sensitive ? other : ignoring_case(in, other), compared)) break;
      members.push_back(items[end]);
    }
    groups.push_back(in.tuple({key, in.list(std::move(members))}));
    begin = end;
  }
  return in.list(std::move(groups));
}

Value extreme(Interpreter& in, const Value& subject, Arguments& arguments, bool largest) {
  Parameters parameters(largest ? "max" : "min", arguments);
  const bool case_sensitive = parameters.flag("case_sensitive", false);
  const AttributeGetter getter(in, parameters.value_or("attribute", Value::none()));
  parameters.finish();
  Value best, best_key;
  bool first = true;
  for (const Value& item : items_of(in.runtime(), subject)) {
    Value key = getter(item);
    if (!case_sensitive) key = ignoring_case(in, key);
    if (first || (largest ? less(in.runtime(), best_key, key) : less(in.runtime(), key, best_key)))
      best = item, best_key = key;
    first = false;
  }
  return best;
}
Value max(Interpreter& in, const Value& subject, Arguments& arguments) { return extreme(in, subject, arguments, true); }
Value min(Interpreter& in, const Value& subject, Arguments& arguments) {
  return extreme(in, subject, arguments, false);
}

Value sum(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("sum", arguments);
  const AttributeGetter getter(in, parameters.value_or("attribute", Value::none()));
  Value total = parameters.value_or("start", Value::integer(0));
  parameters.finish();
  for (const Value& item : items_of(in.runtime(), subject))
    total = arithmetic(in.runtime(), Operator::add, total, getter(item));
  return total;
}

// The function of map(): attribute=…, or a filter's name and its arguments.
Value map(Interpreter& in, const Value& subject, Arguments& arguments) {
  std::vector<Value> mapped;
  const auto named = std::find_if(arguments.keyword.begin(), arguments.keyword.end(),
                                  [](const auto& k) { return k.first == "attribute"; });
  if (arguments.positional.empty() && named != arguments.keyword.end()) {
    Parameters parameters("map", arguments);
    const AttributeGetter getter(in, parameters.required("attribute"));
    const Value otherwise = parameters.value_or("default", Value::none());
    parameters.finish();
    for (const Value& item : items_of(in.runtime(), subject)) {
      Value value = getter(item);
      mapped.push_back(value.is_undefined() && !otherwise.is_none() ? otherwise : std::move(value));
    }
    return in.generator(std::move(mapped));
  }
  if (arguments.positional.empty()) fail("map needs a filter's name or attribute=");
  const std::string name = in.str(arguments.positional[0]);
  const Filter filter = find_filter(name);
  if (!filter) fail("there is no filter named '" + name + "'");
  arguments.positional.erase(arguments.positional.begin());
  for (const Value& item : items_of(in.runtime(), subject)) {
    const Level level(in.runtime());
    Arguments copy = arguments;
    mapped.push_back(filter(in, item, copy));
  }
  return in.generator(std::move(mapped));
}

// Keeps the items for which the test, or the item's truth, is `wanted`.
Value choose(Interpreter& in, const Value& subject, Arguments& arguments, bool by_attribute, bool wanted) {
  size_t used = 0;
  Value path;
  if (by_attribute) {
    if (arguments.positional.empty()) fail("an attribute's name is missing");
    path = arguments.positional[used++];
  }
  const AttributeGetter getter(in, path);
  Test test = nullptr;
  if (used < arguments.positional.size()) {
    const std::string name = in.str(arguments.positional[used++]);
    test = find_test(name);
    if (!test) fail("there is no test named '" + name + "'");
  }
  arguments.positional.erase(arguments.positional.begin(), arguments.positional.begin() + static_cast<ptrdiff_t>(used));
  std::vector<Value> kept;
  for (const Value& item : items_of(in.runtime(), subject)) {
    const Level level(in.runtime());
    const Value value = getter(item);
    Arguments copy = arguments;
    if ((test ? test(in, value, copy) : truth(value)) == wanted) kept.push_back(item);
  }
  return in.generator(std::move(kept));
}
Value select(Interpreter& in, const Value& s, Arguments& a) { return choose(in, s, a, false, true); }
Value reject(Interpreter& in, const Value& s, Arguments& a) { return choose(in, s, a, false, false); }
Value selectattr(Interpreter& in, const Value& s, Arguments& a) { return choose(in, s, a, true, true); }
Value rejectattr(Interpreter& in, const Value& s, Arguments& a) { return choose(in, s, a, true, false); }

Value list(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("list", arguments).finish();
  return in.list(items_of(in.runtime(), subject));
}

Value items(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("items", arguments).finish();
  std::vector<Value> pairs;
  if (const Dict* dict = subject.dict()) {
    for (const auto& [key, value] : dict->entries) pairs.push_back(in.tuple({key, value}));
  } else if (!subject.is_undefined()) {
    fail("items needs a mapping, not '" + std::string(type_name(subject)) + "'");
  }
  return in.generator(std::move(pairs));
}

Value first(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("first", arguments).finish();
  const std::vector<Value> all = items_of(in.runtime(), subject);
  return all.empty() ? Value() : all.front();
}

Value last(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("last", arguments).finish();
  if (const Sequence* sequence = subject.sequence(); sequence && sequence->kind == Sequence::Kind::generator)
    fail("last: a 'generator' object is not reversible");
  const std::vector<Value> all = items_of(in.runtime(), subject);
  return all.empty() ? Value() : all.back();
}

Value reverse(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters("reverse", arguments).finish();
  std::vector<Value> all = items_of(in.runtime(), subject);
  std::reverse(all.begin(), all.end());
  if (!subject.is_text()) return in.generator(std::move(all));
  std::string text;
  for (const Value& c : all) text += c.string();
  return in.text(std::move(text));
}

Value batch(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("batch", arguments);
  const Integer count = whole_number(parameters.required("linecount"), "batch: linecount");
  const Value fill = parameters.value_or("fill_with", Value::none());
  parameters.finish();
  std::vector<Value> batches, row;
  for (const Value& item : items_of(in.runtime(), subject)) {
    if (static_cast<Integer>(row.size()) == count) batches.push_back(in.list(std::exchange(row, {})));
    row.push_back(item);
  }
  if (!row.empty()) {
    while (!fill.is_none() && static_cast<Integer>(row.size()) < count) {
      in.runtime().step();
      in.runtime().check_size(row.size() * sizeof(Value));
      row.push_back(fill);
    }
    batches.push_back(in.list(std::move(row)));
  }
  return in.generator(std::move(batches));
}

Value slice(Interpreter& in, const Value& subject, Arguments& arguments) {
  Parameters parameters("slice", arguments);
  const Integer slices = whole_number(parameters.required("slices"), "slice: slices");
  const Value fill = parameters.value_or("fill_with", Value::none());
  parameters.finish();
  if (slices == 0) fail("division by zero");
  const std::vector<Value> all = items_of(in.runtime(), subject);
  const Integer each = static_cast<Integer>(all.size()) / slices, longer = static_cast<Integer>(all.size()) % slices;
  std::vector<Value> result;
  size_t at = 0;
  for (Integer i = 0; i < slices; ++i) {
    in.runtime().step();
    std::vector<Value> part;
    for (Integer n = each + (i < longer ? 1 : 0); n > 0; --n) part.push_back(all[at++]);
    if (!fill.is_none() && i >= longer) part.push_back(fill);
    result.push_back(in.list(std::move(part)));
  }
  return in.generator(std::move(result));
}

} // namespace

const std::vector<FilterRow>& sequence_filters() {
  static const std::vector<FilterRow> rows = {{"sort", sort},
                                              {"dictsort", dictsort},
                                              {"unique", unique},
                                              {"groupby", groupby},
                                              {"max", max},
                                              {"min", min},
                                              {"sum", sum},
                                              {"map", map},
                                              {"select", select},
                                              {"reject", reject},
                                              {"items", items},
                                              {"first", first},
                                              {"selectattr", selectattr},
                                              {"rejectattr", rejectattr},
                                              {"last", last},
                                              {"reverse", reverse},
                                              {"batch", batch},
                                              {"slice", slice},
                                              {"list", list}};
  return rows;
}

} // namespace quire::jinja
