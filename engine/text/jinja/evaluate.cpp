// Expressions.
#include "text/jinja/interpreter.hpp"

#include <algorithm>
#include <utility>

namespace quire::jinja {

void Interpreter::fail_undefined(const Value& value) const {
  const Undefined* undefined = value.undefined();
  if (!undefined->name) fail("a value is undefined");
  fail((undefined->attribute ? "there is no attribute '" : "'") + undefined->name->bytes +
       (undefined->attribute ? "'" : "' is undefined"));
}

Value Interpreter::evaluate(const Expression& e) {
  const Level level(runtime_);
  runtime_.step();
  switch (e.kind) {
  case Expression::Kind::constant:
    return e.value;
  case Expression::Kind::name:
    return evaluate_name(e.symbol);
  case Expression::Kind::list:
  case Expression::Kind::tuple: {
    std::vector<Value> items;
    items.reserve(e.items.size());
    for (const auto& item : e.items) items.push_back(evaluate(*item));
    return e.kind == Expression::Kind::list ? list(std::move(items)) : tuple(std::move(items));
  }
  case Expression::Kind::dict: {
    std::vector<Dict::Entry> entries;
    for (size_t i = 0; i < e.items.size(); i += 2) {
      Value key = evaluate(*e.items[i]);
      if (key.is_dict() || (key.is_sequence() && key.sequence()->kind != Sequence::Kind::tuple))
        fail("unhashable type: '" + std::string(type_name(key)) + "'");
      Value value = evaluate(*e.items[i + 1]);
      entries.emplace_back(std::move(key), std::move(value));
    }
    return make_dict(&runtime_, std::move(entries));
  }
  case Expression::Kind::attribute: {
    const Value object = evaluate(*e.items[0]);
    line_ = e.line;
    return attribute(object, e.value);
  }
  case Expression::Kind::item: {
    const Value object = evaluate(*e.items[0]);
    const Value key = evaluate(*e.items[1]);
    line_ = e.line;
    return item(object, key);
  }
  case Expression::Kind::slice:
    return evaluate_slice(e);
  case Expression::Kind::call:
    return evaluate_call(e);
  case Expression::Kind::filter: {
    const Value subject = evaluate(*e.items[0]);
    Arguments arguments = evaluate_arguments(*e.arguments);
    line_ = e.line;
    return e.filter(*this, subject, arguments);
  }
  case Expression::Kind::test: {
    const Value subject = evaluate(*e.items[0]);
    Arguments arguments = evaluate_arguments(*e.arguments);
    line_ = e.line;
    return Value::boolean(e.test(*this, subject, arguments));
  }
  case Expression::Kind::arithmetic: {
    const Value left = evaluate(*e.items[0]);
    const Value right = evaluate(*e.items[1]);
    line_ = e.line;
    if (left.is_undefined()) fail_undefined(left);
    if (right.is_undefined()) fail_undefined(right);
    return arithmetic(runtime_, e.op, left, right);
  }
  case Expression::Kind::concatenate: {
    std::string joined;
    for (const auto& item : e.items) append_str(runtime_, evaluate(*item), joined);
    return text(std::move(joined));
  }
  case Expression::Kind::compare:
    return evaluate_compare(e);
  case Expression::Kind::negate:
  case Expression::Kind::positive: {
    const Value value = evaluate(*e.items[0]);
    if (value.is_undefined()) fail_undefined(value);
    return e.kind == Expression::Kind::negate ? negate(value) : positive(value);
  }
  case Expression::Kind::logical_not:
    return Value::boolean(!truth(evaluate(*e.items[0])));
  case Expression::Kind::logical_and: {
    Value left = evaluate(*e.items[0]);
    return truth(left) ? evaluate(*e.items[1]) : left;
  }
  case Expression::Kind::logical_or: {
    Value left = evaluate(*e.items[0]);
    return truth(left) ? left : evaluate(*e.items[1]);
  }
  case Expression::Kind::conditional:
    if (truth(evaluate(*e.items[1]))) return evaluate(*e.items[0]);
    return e.items[2] ? evaluate(*e.items[2]) : Value();
  }
  return {};
}

Value Interpreter::evaluate_name(int symbol) {
  if (symbol == block_text_symbol) return block_text_;
  for (Scope* scope = scope_.get(); scope; scope = scope->outer.get())
    if (const Value* value = scope->find(symbol)) return *value;
  const std::string& name = program_.symbols[static_cast<size_t>(symbol)];
  if (const auto body = find_global(name))
    return Value(std::static_pointer_cast<Object>(std::make_shared<Function>(name, body)));
  return Value(Undefined{std::make_shared<const Text>(nullptr, name), false});
}

Arguments Interpreter::evaluate_arguments(const CallArguments& arguments) {
  Arguments values;
  values.positional.reserve(arguments.positional.size());
  for (const auto& argument : arguments.positional) values.positional.push_back(evaluate(*argument));
  for (const auto& [name, argument] : arguments.keyword) values.keyword.emplace_back(name, evaluate(*argument));
  if (arguments.star)
    for (Value& item : items_of(runtime_, evaluate(*arguments.star))) values.positional.push_back(std::move(item));
  if (arguments.double_star) {
    const Value named = evaluate(*arguments.double_star);
    if (!named.is_dict()) fail("the argument after ** must be a mapping, not '" + std::string(type_name(named)) + "'");
    for (const Dict::Entry& entry : named.dict()->entries) {
      if (!entry.first.is_text()) fail("the names of arguments after ** must be strings");
      // The name is viewed: the value that holds it is kept with it.
      values.keyword.emplace_back(entry.first.string(), entry.second);
      values.kept.push_back(named);
    }
  }
  return values;
}

Value Interpreter::evaluate_call(const Expression& e) {
  const Expression& called = *e.items[0];
  // A method is called without making a value of it first.
  if (called.kind == Expression::Kind::attribute) {
    const Value self = evaluate(*called.items[0]);
    line_ = called.line;
    if (!self.object()) {
      if (const auto method = find_method(self, called.value.string())) {
        Arguments arguments = evaluate_arguments(*e.arguments);
        line_ = e.line;
        return method(*this, self, arguments);
      }
    }
    const Value callable = attribute(self, called.value);
    Arguments arguments = evaluate_arguments(*e.arguments);
    line_ = e.line;
    return call(callable, std::move(arguments));
  }
  const Value callable = evaluate(called);
  Arguments arguments = evaluate_arguments(*e.arguments);
  line_ = e.line;
  return call(callable, std::move(arguments));
}

Value Interpreter::call(const Value& callable, Arguments&& arguments) {
  if (callable.is_undefined()) fail_undefined(callable);
  Object* object = callable.object();
  if (!object || !object->callable()) fail("'" + std::string(type_name(callable)) + "' object is not callable");
  return object->call(*this, std::move(arguments));
}

Value Interpreter::attribute(const Value& object, const Value& name) {
  if (object.is_undefined()) fail_undefined(object);
  if (Object* o = object.object()) {
    if (auto value = o->attribute(*this, name.string())) return std::move(*value);
  } else if (const auto method = find_method(object, name.string())) {
    return Value(std::static_pointer_cast<Object>(std::make_shared<Function>("method", method, object)));
  } else if (const Dict* dict = object.dict()) {
    if (const Value* value = dict->find(name.string())) return *value;
  }
  return Value(Undefined{std::get<std::shared_ptr<const Text>>(name.storage()), true});
}

Value Interpreter::item(const Value& object, const Value& key) {
  if (object.is_undefined()) fail_undefined(object);
  if (const Dict* dict = object.dict()) {
    if (!key.is_text()) runtime_.step(static_cast<int64_t>(dict->entries.size()));
    if (const Value* value = dict->find(key)) return *value;
  } else if (Integer index; key.as_integer(index)) {
    const Sequence* sequence = object.sequence();
    if (object.text() || (sequence && (sequence->is_plain() || sequence->kind == Sequence::Kind::range))) {
      const int64_t length = length_of(object);
      if (index < 0) index += length;
      if (index >= 0 && index < length) {
        if (sequence) return sequence->items[static_cast<size_t>(index)];
        runtime_.copying(object.string().size());
        return text(std::string(character_at(*object.text(), static_cast<size_t>(index))));
      }
    }
  }
  if (key.is_text()) return attribute(object, key);
  return {};
}

Value Interpreter::evaluate_slice(const Expression& e) {
  const Value object = evaluate(*e.items[0]);
  if (object.is_undefined()) fail_undefined(object);
  Integer bounds[3] = {0, 0, 1};
  bool given[3] = {};
  for (int i = 0; i < 3; ++i) {
    if (!e.items[static_cast<size_t>(i) + 1]) continue;
    const Value bound = evaluate(*e.items[static_cast<size_t>(i) + 1]);
    if (bound.is_none()) continue;
    given[i] = true;
    bounds[i] = whole_number(bound, "a slice's bound");
  }
  line_ = e.line;
  const Sequence* sequence = object.sequence();
  if (!object.text() && !(sequence && (sequence->is_plain() || sequence->kind == Sequence::Kind::range))) return {};
  const Integer length = length_of(object), step = bounds[2];
  if (step == 0) fail("a slice's step is zero");
  // Python's slice.indices().
  const Integer low = step > 0 ? 0 : -1, high = step > 0 ? length : length - 1;
  const auto place = [&](int i, Integer otherwise) {
    if (!given[i]) return otherwise;
    const Integer at = bounds[i] < 0 ? bounds[i] + length : bounds[i];
    return std::clamp(at, low, high);
  };
  const Integer first = place(0, step > 0 ? low : high), last = place(1, step > 0 ? high : low);
  std::vector<size_t> places;
  for (Integer at = first; step > 0 ? at < last : at > last; at += step) places.push_back(static_cast<size_t>(at));
  runtime_.step(static_cast<int64_t>(places.size()));
  if (const Text* text_value = object.text()) {
    runtime_.copying(text_value->bytes.size());
    std::string out;
    if (text_value->single_bytes()) {
      for (const size_t at : places) out += text_value->bytes[at];
    } else {
      const auto all = characters(*text_value);
      for (const size_t at : places) out += all[at];
    }
    return text(std::move(out));
  }
  std::vector<Value> items;
  items.reserve(places.size());
  for (const size_t at : places) items.push_back(sequence->items[at]);
  return sequence->kind == Sequence::Kind::tuple ? tuple(std::move(items)) : list(std::move(items));
}

bool Interpreter::compare(Comparison comparison, const Value& a, const Value& b) {
  const auto defined = [&] {
    if (a.is_undefined()) fail_undefined(a);
    if (b.is_undefined()) fail_undefined(b);
  };
  switch (comparison) {
  case Comparison::equal:
    return equal(&runtime_, a, b);
  case Comparison::not_equal:
    return !equal(&runtime_, a, b);
  case Comparison::less:
    return defined(), less(runtime_, a, b);
  case Comparison::less_equal:
    return defined(), less(runtime_, a, b) || equal(&runtime_, a, b);
  case Comparison::greater:
    return defined(), less(runtime_, b, a);
  case Comparison::greater_equal:
    return defined(), less(runtime_, b, a) || equal(&runtime_, a, b);
  case Comparison::in:
    return contains(runtime_, b, a);
  case Comparison::not_in:
    return !contains(runtime_, b, a);
  }
  return false;
}

Value Interpreter::evaluate_compare(const Expression& e) {
  Value left = evaluate(*e.items[0]);
  for (size_t i = 0; i < e.comparisons.size(); ++i) {
    Value right = evaluate(*e.items[i + 1]);
    line_ = e.line;
    if (!compare(e.comparisons[i], left, right)) return Value::boolean(false);
    left = std::move(right);
  }
  return Value::boolean(true);
}

} // namespace quire::jinja
