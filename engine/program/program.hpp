// A program with all the data it refers to: the strings, constants and mapped files behind the plain structs of
// plugin.h.
//
// Ids are 1-based, as in the ABI. Pointers inside stay valid while the Program lives, also when it is moved; view() is
// valid until the next change. Built by ProgramBuilder from a model plugin, checked by validate(), carried out by a
// backend. Threads: confined to one thread while it is built, read by any afterwards.
#pragma once

#include <quire/plugin.h>

#include <cassert>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace quire {

class Program {
 public:
  Program() = default;
  Program(Program&&) noexcept = default;
  Program& operator=(Program&&) noexcept = default;

  std::string name;
  std::vector<quire_value> values;   // id i is values[i - 1]
  std::vector<quire_weight> weights; // id i is weights[i - 1]
  std::vector<quire_op> ops;
  std::vector<quire_kv_layer> kv_layers;
  std::vector<quire_kv_group> kv_groups;
  std::vector<quire_output> outputs; // outputs[0] is the logits [R, vocab_size]
  uint32_t vocab_size = 0;
  uint32_t max_context = 0; // tokens

  // A copy of the text that lives as long as the program.
  const char* keep(std::string_view text) { return strings_.emplace_back(text).c_str(); }
  // Memory of the program's own, zeroed, aligned for any element type.
  std::span<std::byte> allocate(std::size_t bytes) {
    blobs_.push_back(std::make_unique<std::byte[]>(bytes));
    return {blobs_.back().get(), bytes};
  }
  // Whatever the weights' planes point into, kept open as long as the program.
  void keep_alive(std::shared_ptr<const void> owner) { owners_.push_back(std::move(owner)); }

  const quire_value& value(uint32_t id) const {
    assert(id >= 1 && id <= values.size());
    return values[id - 1];
  }
  const quire_weight& weight(uint32_t id) const {
    assert(id >= 1 && id <= weights.size());
    return weights[id - 1];
  }

  // What a backend's compile takes.
  quire_program view() const {
    quire_program program{};
    program.struct_size = sizeof(quire_program);
    program.name = name.c_str();
    program.values = values.data();
    program.weights = weights.data();
    program.ops = ops.data();
    program.kv_layers = kv_layers.data();
    program.kv_groups = kv_groups.data();
    program.outputs = outputs.data();
    program.num_values = static_cast<uint32_t>(values.size()), program.value_size = sizeof(quire_value);
    program.num_weights = static_cast<uint32_t>(weights.size()), program.weight_size = sizeof(quire_weight);
    program.num_ops = static_cast<uint32_t>(ops.size()), program.op_size = sizeof(quire_op);
    program.num_kv_layers = static_cast<uint32_t>(kv_layers.size()), program.kv_layer_size = sizeof(quire_kv_layer);
    program.num_kv_groups = static_cast<uint32_t>(kv_groups.size()), program.kv_group_size = sizeof(quire_kv_group);
    program.num_outputs = static_cast<uint32_t>(outputs.size()), program.output_size = sizeof(quire_output);
    program.vocab_size = vocab_size;
    program.max_context = max_context;
    return program;
  }

 private:
  std::deque<std::string> strings_; // a deque: growth moves no string
  std::vector<std::unique_ptr<std::byte[]>> blobs_;
  std::vector<std::shared_ptr<const void>> owners_;
};

} // namespace quire
