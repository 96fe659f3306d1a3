// C++ glue for plugin authors: derive from quire::Model, quire::Sampler or quire::Backend and export the class with one
// macro, QUIRE_MODEL_PLUGIN, QUIRE_SAMPLER_PLUGIN or QUIRE_BACKEND_PLUGIN. The trampolines here are noexcept: an
// exception becomes a status.
//
// Nothing runs when the library is loaded: tables are constants, and the plugin's one object is made at its first call.
// Header only; needs plugin.h and the standard library. model.hpp, which this includes, holds what a model file is
// written with. Errors: throw quire::Failure(QUIRE_UNSUPPORTED, "sentence") for a code of your own; any other exception
// arrives as QUIRE_FAILED with its what(), std::bad_alloc as QUIRE_OUT_OF_MEMORY. Threads: as marked in plugin.h for
// each verb.
#pragma once

#include <quire/model.hpp>
#include <quire/plugin.h>
#include <quire/plugin_check.hpp>

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>

namespace quire {
inline namespace authoring {

// ---- Model ----

class Model {
 public:
  virtual ~Model() = default;
  // Emits the network of the configuration, once. The returned logits become output 0. [load]
  virtual Value build(const ModelConfig& config, Builder& builder) = 0;
};

// ---- Sampler ----

// What a request asks of a sampler: its seed, and numbers by name. Valid while the sampler is constructed; don't keep
// it.
class SamplerRequest {
 public:
  explicit SamplerRequest(const quire_sampler_request& request) : request_(request) {}
  uint64_t seed() const noexcept { return request_.seed; }
  uint32_t choice() const noexcept { return request_.choice; } // index within the request
  uint32_t vocab_size() const noexcept { return request_.vocab_size; }
  std::optional<double> number(const char* key) const {
    double value = 0;
    if (request_.number == nullptr || request_.number(request_.host, key, &value) == 0) return std::nullopt;
    return value;
  }
  double number(const char* key, double fallback) const { return number(key).value_or(fallback); }

 private:
  const quire_sampler_request& request_;
};

// The state of one sequence. Derive, with a constructor from const SamplerRequest&; where the class can be copied, its
// sequences can be forked. [any], one call a state at a time.
class Sampler {
 public:
  virtual ~Sampler() = default;
  // logits [vocab], penalties, bias and mask already applied (-infinity: not allowed); may be overwritten. Returns the
  // token for `position`.
  virtual int32_t choose(std::span<float> logits, uint32_t position) = 0;
};

// ---- Backend ----

// One device, one queue. The verbs are those of quire_backend, where their contracts stand; structs arrive at the sizes
// of this header.
class Instance {
 public:
  virtual ~Instance() = default; // waits for the device
  virtual quire_memory_info memory() = 0;
  virtual uint32_t compile(const quire_program& program, const quire_limits& limits) = 0;
  virtual uint64_t kv_block_bytes(uint32_t program, uint32_t group) = 0;
  virtual void kv_create(const quire_kv_config& config) = 0;
  virtual uint64_t submit(const quire_step& step) = 0;
  virtual void sample(uint64_t ticket, std::span<const quire_sampling_row> rows) = 0;
  virtual void wait(uint64_t ticket, std::span<quire_sampled_row> rows) = 0;
  virtual void copy_blocks(std::span<const quire_block_copy> copies) = 0;
  virtual void swap_out(std::span<const quire_block_copy> copies) = 0;
  virtual void swap_in(std::span<const quire_block_copy> copies) = 0;
  virtual void read_output(uint32_t program, uint32_t index, std::span<std::byte> out) = 0;
  virtual uint32_t profile(const quire_step&, uint32_t /*repetitions*/, std::span<quire_op_time>) {
    throw Failure(QUIRE_UNSUPPORTED, "this backend can't time single launches");
  }
  virtual void ceilings(double& /*bytes_per_second*/, double& /*flops_per_second*/) {
    throw Failure(QUIRE_UNSUPPORTED, "this backend can't measure its device's ceilings");
  }
  virtual bool idle(uint32_t /*microseconds*/) { return false; }
  virtual uint32_t counters(std::span<quire_counter>) { return 0; } // how many there are; writes those that fit
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual uint32_t device_count() = 0;                                               // [any]
  virtual quire_device_info device_info(uint32_t device) = 0;                        // [any]
  virtual std::unique_ptr<Instance> create(const quire_create_options& options) = 0; // [load]
};

} // namespace authoring

// ---- Trampolines ----

namespace glue {

// Runs body; an exception becomes the status and the result that means failure.
template <class Body, class Result = std::invoke_result_t<Body>>
Result guarded(quire_status* status, Body&& body) noexcept {
  status->code = QUIRE_OK;
  try {
    return body();
  } catch (...) {
    set_status_from_exception(status);
  }
  if constexpr (!std::is_void_v<Result>) return Result{};
}

// The plugin's one object, made at the first call; if its constructor throws, the next call tries again. It lives as
// long as the process and is never destroyed, so that no exit handler runs after the driver's own.
template <class Class> Class& the_one() {
  static Class& object = *new Class;
  return object;
}

template <class Class> struct ModelGlue {
  static void build(void*, const quire_config* config, const quire_builder* builder, quire_status* status) noexcept {
    guarded(status, [&] {
      const ModelConfig known_config(*config);
      Builder known_builder(*builder);
      const Value logits = the_one<Class>().build(known_config, known_builder);
      known_builder.output("logits", logits);
    });
  }
};

template <class Class> struct SamplerGlue {
  static void* open(void*, const quire_sampler_request* given, quire_status* status) noexcept {
    return guarded(status, [&]() -> void* {
      const quire_sampler_request request = known_struct(given, "the sampler request");
      return static_cast<Sampler*>(std::make_unique<Class>(SamplerRequest(request)).release());
    });
  }
  static void* clone(void* state, quire_status* status) noexcept {
    return guarded(status, [&]() -> void* {
      const Class& original = *static_cast<const Class*>(static_cast<const Sampler*>(state));
      return static_cast<Sampler*>(std::make_unique<Class>(original).release());
    });
  }
  static int32_t choose(void* state, float* logits, uint32_t vocab_size, uint32_t position,
                        quire_status* status) noexcept {
    return guarded(status, [&] { return static_cast<Sampler*>(state)->choose({logits, vocab_size}, position); });
  }
  static void close(void* state) noexcept { delete static_cast<Sampler*>(state); }

  static constexpr quire_sampler table() {
    quire_sampler table{sizeof(quire_sampler), nullptr, &open, nullptr, &choose, &close};
    if constexpr (std::is_copy_constructible_v<Class>) table.clone = &clone;
    return table;
  }
};

template <class Class> struct BackendGlue {
  static Instance& at(void* instance) noexcept { return *static_cast<Instance*>(instance); }

  static uint32_t device_count(void*, quire_status* status) noexcept {
    return guarded(status, [] { return the_one<Class>().device_count(); });
  }
  static void device_info(void*, uint32_t device, quire_device_info* out, quire_status* status) noexcept {
    guarded(status, [&] { *out = the_one<Class>().device_info(device); });
  }
  static void* create(void*, const quire_create_options* options, quire_status* status) noexcept {
    return guarded(status, [&]() -> void* {
      return the_one<Class>().create(known_struct(options, "the create options")).release();
    });
  }
  static void destroy(void* instance) noexcept { delete static_cast<Instance*>(instance); }
  static void memory(void* instance, quire_memory_info* out, quire_status* status) noexcept {
    guarded(status, [&] { *out = at(instance).memory(); });
  }
  static uint32_t compile(void* instance, const quire_program* program, const quire_limits* limits,
                          quire_status* status) noexcept {
    return guarded(status, [&] {
      const KnownProgram known(program);
      return at(instance).compile(known.get(), known_struct(limits, "the limits"));
    });
  }
  static uint64_t kv_block_bytes(void* instance, uint32_t program, uint32_t group, quire_status* status) noexcept {
    return guarded(status, [&] { return at(instance).kv_block_bytes(program, group); });
  }
  static void kv_create(void* instance, const quire_kv_config* config, quire_status* status) noexcept {
    guarded(status, [&] { at(instance).kv_create(known_struct(config, "the KV configuration")); });
  }
  static uint64_t submit(void* instance, const quire_step* step, quire_status* status) noexcept {
    return guarded(status, [&] { return at(instance).submit(known_struct(step, "the step")); });
  }
  static void sample(void* instance, uint64_t ticket, const quire_sampling* given, quire_status* status) noexcept {
    guarded(status, [&] {
      const quire_sampling sampling = known_struct(given, "the sampling");
      const KnownElements<quire_sampling_row> rows(sampling.rows, sampling.num_rows, sampling.row_size, "sampling row");
      at(instance).sample(ticket, {rows.data(), sampling.num_rows});
    });
  }
  static void wait(void* instance, uint64_t ticket, quire_sampled_row* rows, uint32_t num_rows,
                   quire_status* status) noexcept {
    guarded(status, [&] { at(instance).wait(ticket, {rows, num_rows}); });
  }
  static void copy_blocks(void* instance, const quire_block_copy* copies, uint32_t count,
                          quire_status* status) noexcept {
    guarded(status, [&] { at(instance).copy_blocks({copies, count}); });
  }
  static void swap_out(void* instance, const quire_block_copy* copies, uint32_t count, quire_status* status) noexcept {
    guarded(status, [&] { at(instance).swap_out({copies, count}); });
  }
  static void swap_in(void* instance, const quire_block_copy* copies, uint32_t count, quire_status* status) noexcept {
    guarded(status, [&] { at(instance).swap_in({copies, count}); });
  }
  static void read_output(void* instance, uint32_t program, uint32_t index, void* out, uint64_t bytes,
                          quire_status* status) noexcept {
    guarded(status, [&] { at(instance).read_output(program, index, {static_cast<std::byte*>(out), bytes}); });
  }
  static uint32_t profile(void* instance, const quire_step* step, uint32_t repetitions, quire_op_time* out,
                          uint32_t capacity, quire_status* status) noexcept {
    return guarded(status, [&] {
      return at(instance).profile(known_struct(step, "the step"), repetitions, {out, capacity});
    });
  }
  static void ceilings(void* instance, double* bytes_per_second, double* flops_per_second,
                       quire_status* status) noexcept {
    guarded(status, [&] { at(instance).ceilings(*bytes_per_second, *flops_per_second); });
  }
  static uint32_t idle(void* instance, uint32_t microseconds, quire_status* status) noexcept {
    return guarded(status, [&]() -> uint32_t { return at(instance).idle(microseconds) ? 1 : 0; });
  }

  static uint32_t counters(void* instance, quire_counter* out, uint32_t capacity, quire_status* status) noexcept {
    return guarded(status, [&] { return at(instance).counters({out, capacity}); });
  }

  static constexpr quire_backend table() {
    return {sizeof(quire_backend), nullptr,    &device_count, &device_info, &create, &destroy,     &memory,   &compile,
            &kv_block_bytes,       &kv_create, &submit,       &sample,      &wait,   &copy_blocks, &swap_out, &swap_in,
            &read_output,          &profile,   &ceilings, &idle,       &counters};
  }
};

template <class Class> inline constexpr quire_sampler sampler_table = SamplerGlue<Class>::table();
template <class Class> inline constexpr quire_backend backend_table = BackendGlue<Class>::table();

constexpr quire_plugin datum(uint32_t kind, const char* id, const char* version, const void* table) {
  return {sizeof(quire_plugin), QUIRE_ABI_MAJOR, QUIRE_ABI_MINOR, kind, 0, id, version, table};
}

} // namespace glue

// The datum of a backend that is linked into the host instead of exported.
template <class Class> constexpr quire_plugin backend_plugin(const char* id, const char* version) {
  static_assert(std::is_base_of_v<Backend, Class>);
  return glue::datum(QUIRE_PLUGIN_BACKEND, id, version, &glue::backend_table<Class>);
}

} // namespace quire

// ---- Exports: one a library, at namespace scope ----

#define QUIRE_EXPORT_PLUGIN(kind, id, version, table)                                                                  \
  extern "C" __attribute__((visibility("default"))) const quire_plugin quire_plugin_v1;                                \
  __attribute__((used)) constexpr quire_plugin quire_plugin_v1 = ::quire::glue::datum(kind, id, version, table)

// Class derives from quire::Model; architectures are the names that it builds, e.g. "LlamaForCausalLM", "llama".
#define QUIRE_MODEL_PLUGIN(Class, id, version, ...)                                                                    \
  static_assert(std::is_base_of_v<::quire::Model, Class>);                                                             \
  static constexpr const char* quire_model_architectures[] = {__VA_ARGS__, nullptr};                                   \
  static constexpr quire_model quire_model_table = {sizeof(quire_model), nullptr, quire_model_architectures,           \
                                                    &::quire::glue::ModelGlue<Class>::build};                          \
  QUIRE_EXPORT_PLUGIN(QUIRE_PLUGIN_MODEL, id, version, &quire_model_table)

// Class derives from quire::Sampler and is constructed from const quire::SamplerRequest&.
#define QUIRE_SAMPLER_PLUGIN(Class, id, version)                                                                       \
  static_assert(std::is_base_of_v<::quire::Sampler, Class>);                                                           \
  QUIRE_EXPORT_PLUGIN(QUIRE_PLUGIN_SAMPLER, id, version, &::quire::glue::sampler_table<Class>)

// Class derives from quire::Backend and has a default constructor.
#define QUIRE_BACKEND_PLUGIN(Class, id, version)                                                                       \
  static_assert(std::is_base_of_v<::quire::Backend, Class>);                                                           \
  QUIRE_EXPORT_PLUGIN(QUIRE_PLUGIN_BACKEND, id, version, &::quire::glue::backend_table<Class>)
