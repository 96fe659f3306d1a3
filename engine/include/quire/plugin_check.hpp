// What both sides of the plugin ABI need around plugin.h: the words for its enumerators, status as exception and back,
// and the receiver's check that refuses, by name, what it does not know.
//
// The growth rule: zero means absent, so a receiver may ignore bytes beyond the fields it knows only while they are
// zero. check_program and check_struct say so for programs and for structs that begin with struct_size. Errors:
// Failure, one sentence. Threads: pure functions, [any].
#pragma once

#include <quire/plugin.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace quire {

// An error that crosses the ABI as a status: a code of quire_code and one sentence for the user.
class Failure : public std::runtime_error {
 public:
  Failure(int32_t code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
  int32_t code() const noexcept { return code_; }

 private:
  int32_t code_;
};

inline void set_status(quire_status* status, int32_t code, const char* sentence) noexcept {
  status->code = code;
  std::size_t length = std::min(std::strlen(sentence), sizeof(status->message) - 1);
  // A sentence that is cut is cut before a UTF-8 character, never inside one.
  if (sentence[length] != '\0')
    while (length > 0 && (static_cast<unsigned char>(sentence[length]) & 0xC0) == 0x80) --length;
  std::memcpy(status->message, sentence, length);
  status->message[length] = '\0';
}

// For a catch (...) block: the exception in flight becomes a status.
inline void set_status_from_exception(quire_status* status) noexcept {
  try {
    throw;
  } catch (const Failure& failure) {
    set_status(status, failure.code() != QUIRE_OK ? failure.code() : QUIRE_FAILED, failure.what());
  } catch (const std::bad_alloc&) {
    set_status(status, QUIRE_OUT_OF_MEMORY, "out of host memory");
  } catch (const std::exception& error) {
    set_status(status, QUIRE_FAILED, error.what());
  } catch (...) {
    set_status(status, QUIRE_FAILED, "an exception that is no std::exception");
  }
}

// The caller's side of a verb: `CallStatus status; table->verb(..., status); status.check();`
class CallStatus {
 public:
  // Passing it to a verb forgets what the one before said.
  operator quire_status*() noexcept {
    status_.code = QUIRE_OK;
    status_.message[0] = '\0';
    return &status_;
  }
  bool ok() const noexcept { return status_.code == QUIRE_OK; }
  int32_t code() const noexcept { return status_.code; }
  const char* message() const noexcept { return status_.message; }
  void check() const {
    if (!ok()) throw Failure(status_.code, status_.message);
  }

 private:
  quire_status status_{};
};

// ---- Words ----

// The op's one word, as in file names and listings; "unknown" beyond QUIRE_OP_KIND_COUNT.
inline const char* op_word(uint32_t kind) noexcept {
  static constexpr std::array<const char*, QUIRE_OP_KIND_COUNT> words = {
      "none", "embed", "norm", "linear",      "rope",  "kv_store",      "attend",
      "glu",  "add",   "mul",  "gather_rows", "route", "expert_linear", "collective"};
  return kind < words.size() ? words[kind] : "unknown";
}

// A format's elements and bytes a block; blocks run along K. Source of the block sizes: the GGUF specification.
struct BlockFormat {
  const char* name; // as GGUF writes it
  uint32_t block_elements;
  uint32_t block_bytes;
};

// nullptr beyond QUIRE_FORMAT_COUNT.
inline const BlockFormat* block_format(uint32_t format) noexcept {
  static constexpr std::array<BlockFormat, QUIRE_FORMAT_COUNT> formats = {{{"F32", 1, 4},
                                                                           {"F16", 1, 2},
                                                                           {"BF16", 1, 2},
                                                                           {"Q4_0", 32, 18},
                                                                           {"Q4_1", 32, 20},
                                                                           {"Q5_0", 32, 22},
                                                                           {"Q5_1", 32, 24},
                                                                           {"Q8_0", 32, 34},
                                                                           {"Q2_K", 256, 84},
                                                                           {"Q3_K", 256, 110},
                                                                           {"Q4_K", 256, 144},
                                                                           {"Q5_K", 256, 176},
                                                                           {"Q6_K", 256, 210}}};
  return format < formats.size() ? &formats[format] : nullptr;
}

// Bytes an element of a KV cache; 0 for what is no format of one.
constexpr uint32_t kv_element_bytes(uint32_t kv_format) noexcept {
  switch (kv_format) {
  case QUIRE_F32:
    return 4;
  case QUIRE_F16:
  case QUIRE_BF16:
    return 2;
  case QUIRE_KV_E4M3:
    return 1;
  default:
    return 0;
  }
}

// ---- The receiver's check ----

// True if bytes [known, given) of a struct are all zero, so that nothing is asked for that this receiver does not know.
inline bool only_zeros_beyond(const void* element, std::size_t known, std::size_t given) noexcept {
  const auto* bytes = static_cast<const unsigned char*>(element);
  return given <= known || std::all_of(bytes + known, bytes + given, [](unsigned char byte) { return byte == 0; });
}

inline std::string abi_text() {
  std::string text = "plugin ABI ";
  return text.append(std::to_string(QUIRE_ABI_MAJOR)).append(".").append(std::to_string(QUIRE_ABI_MINOR));
}

// A copy of a struct as this receiver knows it: missing fields are zero, unknown ones must be. `what` names it for the
// error.
template <class T> T known_part(const void* given, std::size_t given_size, const std::string& what) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (!only_zeros_beyond(given, sizeof(T), given_size))
    throw Failure(QUIRE_UNSUPPORTED, what + " uses a field that " + abi_text() + " does not have: update what reads it");
  T known{};
  std::memcpy(&known, given, std::min(given_size, sizeof(T)));
  return known;
}

// The same for a struct that begins with its struct_size.
template <class T> T known_struct(const T* given, const char* what) {
  T known = known_part<T>(given, given->struct_size, what);
  known.struct_size = sizeof(T);
  return known;
}

// An array of structs at the element size that this receiver knows: the giver's own memory where the sizes agree, else
// a copy.
template <class T> class KnownElements {
 public:
  KnownElements(const T* given, uint32_t count, uint32_t given_size, const char* what) : data_(given) {
    if (count == 0 || given_size == sizeof(T)) return;
    if (given_size == 0) throw Failure(QUIRE_INVALID, std::string(what) + " elements have size 0");
    const auto* bytes = reinterpret_cast<const unsigned char*>(given);
    copy_.reserve(count);
    for (uint32_t i = 0; i < count; ++i)
      copy_.push_back(
          known_part<T>(bytes + std::size_t{i} * given_size, given_size, std::string(what) + " " + std::to_string(i)));
    data_ = copy_.data();
  }
  const T* data() const noexcept { return data_; }

 private:
  const T* data_;
  std::vector<T> copy_;
};

// Bytes of the parameters of an op in quire_op::u; 0 for kinds without any.
inline std::size_t op_parameter_bytes(uint32_t kind) noexcept {
  switch (kind) {
  case QUIRE_OP_EMBED:
    return sizeof(quire_embed);
  case QUIRE_OP_NORM:
    return sizeof(quire_norm);
  case QUIRE_OP_LINEAR:
    return sizeof(quire_linear);
  case QUIRE_OP_ROPE:
    return sizeof(quire_rope);
  case QUIRE_OP_KV_STORE:
    return sizeof(quire_kv_store);
  case QUIRE_OP_ATTEND:
    return sizeof(quire_attend);
  case QUIRE_OP_GLU:
    return sizeof(quire_glu);
  case QUIRE_OP_MUL:
    return sizeof(quire_mul);
  case QUIRE_OP_ROUTE:
    return sizeof(quire_route);
  case QUIRE_OP_EXPERT_LINEAR:
    return sizeof(quire_expert_linear);
  case QUIRE_OP_COLLECTIVE:
    return sizeof(quire_collective);
  default:
    return 0;
  }
}

// Refuses an op that this receiver does not know: its kind, or a parameter that its kind has gained since.
inline void check_op(const quire_op& op, uint32_t index) {
  const std::string name =
      "op " + std::to_string(index) + " (" + op_word(op.kind) + ", layer " + std::to_string(op.layer) + ")";
  if (op.kind == QUIRE_OP_NONE || op.kind >= QUIRE_OP_KIND_COUNT)
    throw Failure(QUIRE_UNSUPPORTED, name + " has kind " + std::to_string(op.kind) + ", which " + abi_text() + " does not have");
  if (!only_zeros_beyond(&op.u, op_parameter_bytes(op.kind), sizeof(op.u)))
    throw Failure(QUIRE_UNSUPPORTED, name + " uses a parameter that " + abi_text() + " does not have");
}

// A program at the struct sizes of this receiver; refuses unknown ops and fields. References the giver's memory where
// it can.
class KnownProgram {
 public:
  explicit KnownProgram(const quire_program* given)
      : program_(known_struct(given, "the program")),
        values_(given->values, given->num_values, given->value_size, "value"),
        weights_(given->weights, given->num_weights, given->weight_size, "weight"),
        ops_(given->ops, given->num_ops, given->op_size, "op"),
        kv_layers_(given->kv_layers, given->num_kv_layers, given->kv_layer_size, "kv layer"),
        kv_groups_(given->kv_groups, given->num_kv_groups, given->kv_group_size, "kv group"),
        outputs_(given->outputs, given->num_outputs, given->output_size, "output") {
    program_.values = values_.data(), program_.value_size = sizeof(quire_value);
    program_.weights = weights_.data(), program_.weight_size = sizeof(quire_weight);
    program_.ops = ops_.data(), program_.op_size = sizeof(quire_op);
    program_.kv_layers = kv_layers_.data(), program_.kv_layer_size = sizeof(quire_kv_layer);
    program_.kv_groups = kv_groups_.data(), program_.kv_group_size = sizeof(quire_kv_group);
    program_.outputs = outputs_.data(), program_.output_size = sizeof(quire_output);
    for (uint32_t i = 0; i < program_.num_ops; ++i) check_op(program_.ops[i], i);
  }
  KnownProgram(const KnownProgram&) = delete;
  KnownProgram& operator=(const KnownProgram&) = delete;
  const quire_program& get() const noexcept { return program_; }

 private:
  quire_program program_;
  KnownElements<quire_value> values_;
  KnownElements<quire_weight> weights_;
  KnownElements<quire_op> ops_;
  KnownElements<quire_kv_layer> kv_layers_;
  KnownElements<quire_kv_group> kv_groups_;
  KnownElements<quire_output> outputs_;
};

} // namespace quire
