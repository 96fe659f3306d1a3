#include "program/builder.hpp"

#include "program/rope.hpp"
#include "program/validate.hpp"
#include "quire/error.hpp"
#include "quire/plugin_check.hpp"

#include <cstring>
#include <map>
#include <optional>
#include <utility>

namespace quire {
namespace {

constexpr size_t max_ops = 1 << 20; // no network is that deep; a configuration may claim it

std::string shape_text(const quire_weight& weight) {
  std::string text = "[";
  if (weight.experts != 0) text += std::to_string(weight.experts) + ", ";
  return text + std::to_string(weight.rows) + ", " + std::to_string(weight.cols) + "]";
}

} // namespace

struct ProgramBuilder::State {
  ProgramSource source;
  Program program;
  quire_builder table{};
  quire_status failure{};                               // of the first wrong call
  std::string sentence;                                 // its message, whole: a status holds 251 bytes
  std::map<std::string, uint32_t, std::less<>> weights; // id by name
  std::map<std::pair<double, uint32_t>, std::pair<uint32_t, float>>
      rotations; // id and magnitude by theta and rotary_dim
  std::optional<RopeScaling> scaling;

  uint32_t weight(const quire_weight& wanted, bool optional);
  uint32_t constant(const std::string& name, std::span<const float> data);
  uint32_t rope(double theta, uint32_t rotary_dim, float* magnitude);
  uint32_t value(const quire_value& given);
  uint32_t kv_group(const quire_kv_group& group);
  uint32_t kv_layer(const quire_kv_layer& layer);
  void op(const quire_op* given, uint32_t op_size);
  void output(const char* name, uint32_t value_id);

  // F32 [1, data.size()], copied.
  uint32_t add_vector(const std::string& name, std::span<const float> data);
  void divide_by_file_factors(std::vector<float>& frequencies, uint32_t rotary_dim);
  std::vector<float> file_vector(const char* name, uint32_t count);
};

uint32_t ProgramBuilder::State::weight(const quire_weight& wanted, bool optional) {
  if (wanted.name == nullptr || *wanted.name == '\0') throw Error("a weight has no name");
  if (wanted.rows == 0 || wanted.cols == 0)
    throw Error("weight `" + std::string(wanted.name) + "` has shape " + shape_text(wanted) + ": a dimension is 0");
  if (const auto known = weights.find(wanted.name); known != weights.end()) {
    const quire_weight& first = program.weight(known->second);
    if (first.experts != wanted.experts || first.rows != wanted.rows || first.cols != wanted.cols)
      throw Error("weight `" + std::string(wanted.name) + "` was asked for as " + shape_text(first) + " and as " +
                  shape_text(wanted));
    return known->second;
  }
  quire_weight bound = wanted;
  if (!source.bind(bound, optional)) return 0;
  bound.name = program.keep(wanted.name);
  program.weights.push_back(bound);
  const auto id = static_cast<uint32_t>(program.weights.size());
  weights.emplace(wanted.name, id);
  return id;
}

uint32_t ProgramBuilder::State::add_vector(const std::string& name, std::span<const float> data) {
  const std::span<std::byte> memory = program.allocate(data.size_bytes());
  std::memcpy(memory.data(), data.data(), data.size_bytes());
  quire_weight weight{};
  weight.name = program.keep(name);
  weight.format = QUIRE_F32;
  weight.rows = 1;
  weight.cols = data.size();
  weight.planes[0] = {memory.data(), memory.size()};
  program.weights.push_back(weight);
  const auto id = static_cast<uint32_t>(program.weights.size());
  weights.emplace(name, id);
  return id;
}

uint32_t ProgramBuilder::State::constant(const std::string& name, std::span<const float> data) {
  if (name.empty() || data.empty()) throw Error("a constant has no name or no elements");
  if (const auto known = weights.find(name); known != weights.end()) {
    const quire_weight& first = program.weight(known->second);
    if (first.format != QUIRE_F32 || first.planes[0].bytes != data.size_bytes() ||
        std::memcmp(first.planes[0].data, data.data(), data.size_bytes()) != 0)
      throw Error("constant `" + name + "` was given twice with different elements");
    return known->second;
  }
  return add_vector(name, data);
}

// A vector [1, count] of the file's own, or empty.
std::vector<float> ProgramBuilder::State::file_vector(const char* name, uint32_t count) {
  quire_weight wanted{};
  wanted.name = name;
  wanted.rows = 1;
  wanted.cols = count;
  if (!source.bind(wanted, true)) return {};
  if (wanted.format != QUIRE_F32) throw Error("tensor `" + std::string(name) + "` is not F32");
  std::vector<float> elements(count);
  std::memcpy(elements.data(), wanted.planes[0].data, count * sizeof(float));
  return elements;
}

uint32_t ProgramBuilder::State::rope(double theta, uint32_t rotary_dim, float* magnitude) {
  if (rotary_dim < 2 || rotary_dim % 2 != 0)
    throw Error(source.config_name + ": the rotary dimension is " + std::to_string(rotary_dim) +
                ", expected an even number of at least 2");
  if (const auto known = rotations.find({theta, rotary_dim}); known != rotations.end()) {
    *magnitude = known->second.second;
    return known->second.first;
  }
  if (!scaling) scaling = read_rope_scaling(source.config, source.config_name);
  if (source.config.from_gguf != 0 && scaling->kind == RopeScalingKind::longrope && scaling->long_factor.empty()) {
    scaling->long_factor = file_vector("rope_factors_long.weight", rotary_dim / 2);
    scaling->short_factor = file_vector("rope_factors_short.weight", rotary_dim / 2);
  }
  std::vector<float> frequencies = rope_frequencies(*scaling, theta, rotary_dim, source.context, source.config_name);
  // GGUF holds llama3's scaling as divisors of the plain frequencies.
  if (source.config.from_gguf != 0 && scaling->kind != RopeScalingKind::llama3) {
    const std::vector<float> divisors = file_vector("rope_freqs.weight", rotary_dim / 2);
    for (size_t i = 0; i < divisors.size(); ++i) {
      if (!(divisors[i] > 0)) throw Error("tensor `rope_freqs.weight` has an element that is not more than 0");
      frequencies[i] /= divisors[i];
    }
  }
  *magnitude = static_cast<float>(scaling->magnitude);
  const std::string name = "rope.frequencies." + std::to_string(rotations.size());
  const uint32_t id = add_vector(name, frequencies);
  rotations.emplace(std::pair(theta, rotary_dim), std::pair(id, *magnitude));
  return id;
}

uint32_t ProgramBuilder::State::value(const quire_value& given) {
  if (given.name == nullptr) throw Error("a value has no name");
  quire_value value = given;
  value.name = program.keep(given.name);
  program.values.push_back(value);
  return static_cast<uint32_t>(program.values.size());
}

uint32_t ProgramBuilder::State::kv_group(const quire_kv_group& group) {
  for (size_t i = 0; i < program.kv_groups.size(); ++i)
    if (program.kv_groups[i].window == group.window) return static_cast<uint32_t>(i + 1);
  if (program.kv_groups.size() == QUIRE_MAX_GROUPS)
    throw Error("the model has more than " + std::to_string(QUIRE_MAX_GROUPS) + " different attention windows");
  program.kv_groups.push_back(group);
  return static_cast<uint32_t>(program.kv_groups.size());
}

uint32_t ProgramBuilder::State::kv_layer(const quire_kv_layer& layer) {
  program.kv_layers.push_back(layer);
  return static_cast<uint32_t>(program.kv_layers.size());
}

void ProgramBuilder::State::op(const quire_op* given, uint32_t op_size) {
  if (program.ops.size() == max_ops) throw Error("the program has more than " + std::to_string(max_ops) + " ops");
  const auto index = static_cast<uint32_t>(program.ops.size());
  const auto known = known_part<quire_op>(given, op_size, "op " + std::to_string(index));
  check_op(known, index);
  program.ops.push_back(known);
}

void ProgramBuilder::State::output(const char* name, uint32_t value_id) {
  if (name == nullptr || *name == '\0') throw Error("an output has no name");
  const quire_output output{program.keep(name), value_id};
  // The logits lead, whatever was named before them.
  if (std::string_view(name) == "logits")
    program.outputs.insert(program.outputs.begin(), output);
  else
    program.outputs.push_back(output);
}

namespace {

// A builder call: nothing after the first failure, and no exception across the ABI.
template <class State, class Call> uint32_t recorded(void* self, quire_status* status, Call&& call) noexcept {
  auto& state = *static_cast<State*>(self);
  if (state.failure.code == QUIRE_OK) {
    try {
      const uint32_t id = call(state);
      *status = {};
      return id;
    } catch (const std::exception& error) {
      set_status_from_exception(&state.failure);
      if (dynamic_cast<const Error*>(&error) != nullptr) state.failure.code = QUIRE_INVALID;
      state.sentence = error.what();
    } catch (...) {
      set_status_from_exception(&state.failure);
      state.sentence = state.failure.message;
    }
  }
  *status = state.failure;
  return 0;
}

} // namespace

ProgramBuilder::ProgramBuilder(ProgramSource source) : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.source = std::move(source);
  state.program.name = state.source.name;
  if (state.source.owner) state.program.keep_alive(state.source.owner);

  const quire_config& config = state.source.config;
  int64_t context = 0;
  if (config.integer(config.self, "max_position_embeddings", &context) == 0 &&
      config.integer(config.self, "n_positions", &context) == 0)
    throw Error(state.source.config_name + ": `max_position_embeddings` is missing: the longest context is not known");
  if (context < 1 || context > UINT32_MAX)
    throw Error(state.source.config_name + ": `max_position_embeddings` is " + std::to_string(context) +
                ", expected 1 to 4294967295");
  state.program.max_context = static_cast<uint32_t>(context);
  if (state.source.context == 0) state.source.context = state.program.max_context;

  quire_builder& table = state.table;
  table.struct_size = sizeof(quire_builder);
  table.self = state_.get();
  table.weight = [](void* self, const quire_weight* wanted, int32_t optional, quire_status* status) noexcept {
    return recorded<State>(self, status, [&](State& s) { return s.weight(*wanted, optional != 0); });
  };
  table.constant = [](void* self, const char* name, const float* data, uint64_t count, quire_status* status) noexcept {
    return recorded<State>(self, status, [&](State& s) { return s.constant(name, {data, count}); });
  };
  table.rope_frequencies = [](void* self, double theta, uint32_t rotary_dim, float* magnitude,
                              quire_status* status) noexcept {
    return recorded<State>(self, status, [&](State& s) { return s.rope(theta, rotary_dim, magnitude); });
  };
  table.value = [](void* self, const quire_value* value, quire_status* status) noexcept {
    return recorded<State>(self, status, [&](State& s) { return s.value(*value); });
  };
  table.kv_group = [](void* self, const quire_kv_group* group, quire_status* status) noexcept {
    return recorded<State>(self, status, [&](State& s) { return s.kv_group(*group); });
  };
  table.kv_layer = [](void* self, const quire_kv_layer* layer, quire_status* status) noexcept {
    return recorded<State>(self, status, [&](State& s) { return s.kv_layer(*layer); });
  };
  table.op = [](void* self, const quire_op* op, uint32_t op_size, quire_status* status) noexcept {
    recorded<State>(self, status, [&](State& s) { return s.op(op, op_size), 0u; });
  };
  table.output = [](void* self, const char* name, uint32_t value, quire_status* status) noexcept {
    recorded<State>(self, status, [&](State& s) { return s.output(name, value), 0u; });
  };
}

ProgramBuilder::~ProgramBuilder() = default;

const quire_builder& ProgramBuilder::table() const { return state_->table; }
bool ProgramBuilder::failed() const { return state_->failure.code != QUIRE_OK; }

Program ProgramBuilder::finish() {
  State& state = *state_;
  if (state.failure.code != QUIRE_OK) throw Error(state.sentence);
  Program program = std::move(state.program);
  state.sentence = "the program is finished";
  set_status(&state.failure, QUIRE_INVALID, state.sentence.c_str());
  if (!program.outputs.empty() && program.outputs[0].value >= 1 && program.outputs[0].value <= program.values.size()) {
    const quire_value& logits = program.value(program.outputs[0].value);
    program.vocab_size = logits.heads * logits.dim;
  }
  validate(program.view());
  return program;
}

Program build_program(const quire_model& model, const std::string& plugin_id, ProgramSource source) {
  const quire_config config = source.config;
  ProgramBuilder builder(std::move(source));
  CallStatus status;
  model.build(model.self, &config, &builder.table(), status);
  try {
    // The builder's own sentence is whole, and stands even if the plugin forgot it.
    if (!status.ok() && !builder.failed()) throw Error(status.message());
    return builder.finish();
  } catch (const Error& error) {
    throw Error("model plugin " + plugin_id + ": " + error.what());
  }
}

} // namespace quire
