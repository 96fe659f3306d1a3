// Functions that every template has: Jinja2's range, dict, namespace; transformers' raise_exception and strftime_now.
#include "text/jinja/interpreter.hpp"

#include <array>
#include <ctime>
#include <string>
#include <unordered_map>
#include <utility>

namespace quire::jinja {
namespace {

constexpr Integer max_range = 100'000; // jinja2.sandbox.MAX_RANGE

Value range(Interpreter& in, const Value&, Arguments& arguments) {
  Parameters parameters("range", arguments);
  Integer start = whole_number(parameters.required("start"), "range: start"), stop = 0;
  if (Value given; parameters.take("stop", given))
    stop = whole_number(given, "range: stop");
  else
    std::swap(start, stop);
  const Integer step = parameters.integer("step", 1);
  parameters.finish();
  if (step == 0) fail("range: step must not be zero");
  const Integer distance = step > 0 ? stop - start : start - stop, stride = step > 0 ? step : -step;
  const Integer count = distance > 0 ? (distance - 1) / stride + 1 : 0;
  if (count > max_range) fail("range: more than " + integer_text(max_range) + " numbers are not allowed");
  in.runtime().step(static_cast<int64_t>(count));
  std::vector<Value> numbers;
  numbers.reserve(static_cast<size_t>(count));
  for (Integer i = 0; i < count; ++i) numbers.push_back(Value::integer(start + i * step));
  auto sequence = std::make_shared<Sequence>(&in.runtime(), std::move(numbers), Sequence::Kind::range);
  sequence->described =
      "range(" + integer_text(start) + ", " + integer_text(stop) + (step == 1 ? "" : ", " + integer_text(step)) + ")";
  return Value(std::shared_ptr<const Sequence>(std::move(sequence)));
}

// The entries of dict(…): of a mapping or of pairs, and of named arguments.
std::vector<Dict::Entry> entries_of(Interpreter& in, Arguments& arguments, const char* name) {
  std::vector<Dict::Entry> entries;
  if (arguments.positional.size() > 1) fail(std::string(name) + " takes at most one argument without a name");
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (source.is_dict()) {
      entries = source.dict()->entries;
      in.runtime().step(static_cast<int64_t>(entries.size()));
    } else {
      for (const Value& pair : items_of(in.runtime(), source)) {
        const std::vector<Value> both = items_of(in.runtime(), pair);
        if (both.size() != 2) fail(std::string(name) + ": an item is no pair");
        if (both[0].is_dict() || (both[0].is_sequence() && both[0].sequence()->kind != Sequence::Kind::tuple))
          fail("unhashable type: '" + std::string(type_name(both[0])) + "'");
        entries.emplace_back(both[0], both[1]);
      }
    }
  }
  for (auto& [key, value] : arguments.keyword) entries.emplace_back(in.text(std::string(key)), std::move(value));
  return entries;
}

Value dict(Interpreter& in, const Value&, Arguments& arguments) {
  return make_dict(&in.runtime(), entries_of(in, arguments, "dict"));
}

Value make_namespace(Interpreter& in, const Value&, Arguments& arguments) {
  std::vector<Dict::Entry> entries = entries_of(in, arguments, "namespace");
  Value made = in.make_namespace();
  auto& ns = static_cast<Namespace&>(*made.object());
  for (auto& [key, value] : entries) {
    if (!key.is_text()) fail("namespace: a name must be a string");
    ns.set(in.runtime(), key.string(), std::move(value));
  }
  return made;
}

Value raise_exception(Interpreter& in, const Value&, Arguments& arguments) {
  Parameters parameters("raise_exception", arguments);
  const std::string message = in.str(parameters.required("message"));
  parameters.finish();
  throw Failure{message, true};
}

Value strftime_now(Interpreter& in, const Value&, Arguments& arguments) {
  Parameters parameters("strftime_now", arguments);
  const std::string format = in.str(parameters.required("format"));
  parameters.finish();
  if (format.size() > 1000) fail("strftime_now: the format is too long");
  if (format.empty()) return in.text("");
  const std::time_t seconds = std::chrono::system_clock::to_time_t(in.now());
  std::tm local{};
  localtime_r(&seconds, &local);
  std::array<char, 4096> buffer;
  // A first character tells an empty result from one that did not fit.
  const size_t size = std::strftime(buffer.data(), buffer.size(), ("." + format).c_str(), &local);
  if (size == 0) fail("strftime_now: the result is too long");
  return in.text(std::string(buffer.data() + 1, size - 1));
}

} // namespace

Function::Body find_global(std::string_view name) {
  static const std::unordered_map<std::string_view, Function::Body> table = {{"range", range},
                                                                             {"dict", dict},
                                                                             {"namespace", make_namespace},
                                                                             {"raise_exception", raise_exception},
                                                                             {"strftime_now", strftime_now}};
  const auto found = table.find(name);
  return found == table.end() ? nullptr : found->second;
}

} // namespace quire::jinja
