// Made-up configurations, weights and networks for tests of programs: no file, no model.
#pragma once

#include "program/builder.hpp"
#include "quire/error.hpp"
#include "quire/model.hpp"

#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

namespace quire::test {

// Flat keys, as quire_config gives them.
class MadeUpConfig {
 public:
  using Entry = std::variant<bool, int64_t, double, std::string>;
  std::map<std::string, Entry, std::less<>> entries;
  std::map<std::string, uint64_t, std::less<>> lengths;
  bool from_gguf = false;

  quire_config view() {
    quire_config config{};
    config.struct_size = sizeof(config);
    config.self = this;
    config.from_gguf = from_gguf ? 1 : 0;
    config.integer = [](void* self, const char* key, int64_t* out) { return get<int64_t>(self, key, out); };
    config.real = [](void* self, const char* key, double* out) {
      int64_t whole = 0;
      if (get<int64_t>(self, key, &whole) != 0) return *out = static_cast<double>(whole), 1;
      return get<double>(self, key, out);
    };
    config.boolean = [](void* self, const char* key, int32_t* out) {
      bool flag = false;
      const int32_t found = get<bool>(self, key, &flag);
      if (found != 0) *out = flag ? 1 : 0;
      return found;
    };
    config.string = [](void* self, const char* key, const char** out) {
      const auto& known = static_cast<MadeUpConfig*>(self)->entries;
      const auto at = known.find(key);
      if (at == known.end() || !std::holds_alternative<std::string>(at->second)) return 0;
      return *out = std::get<std::string>(at->second).c_str(), 1;
    };
    config.length = [](void* self, const char* key, uint64_t* out) {
      const auto& known = static_cast<MadeUpConfig*>(self)->lengths;
      const auto at = known.find(key);
      return at != known.end() ? (*out = at->second, 1) : 0;
    };
    return config;
  }

 private:
  template <class T> static int32_t get(void* self, const char* key, T* out) {
    const auto& known = static_cast<MadeUpConfig*>(self)->entries;
    const auto at = known.find(key);
    if (at == known.end() || !std::holds_alternative<T>(at->second)) return 0;
    return *out = std::get<T>(at->second), 1;
  }
};

// A «file» that has each weight it is asked for, zeroed, as F32; but for those that `absent` names.
struct MadeUpWeights {
  std::vector<std::string> absent; // substrings of names
  bool has_optional = false;       // optional ones exist too
  std::vector<std::string> asked;  // in order
  std::vector<std::unique_ptr<std::vector<float>>> data;

  bool bind(quire_weight& wanted, bool optional) {
    asked.emplace_back(wanted.name);
    bool missing = optional && !has_optional;
    for (const std::string& part : absent) missing = missing || asked.back().find(part) != std::string::npos;
    if (missing && optional) return false;
    if (missing) throw Error("model.safetensors: tensor `" + asked.back() + "` is missing");
    data.push_back(
        std::make_unique<std::vector<float>>((wanted.experts != 0 ? wanted.experts : 1) * wanted.rows * wanted.cols));
    wanted.format = QUIRE_F32;
    wanted.planes[0] = {data.back()->data(), data.back()->size() * sizeof(float)};
    return true;
  }
};

// The source of a program of this configuration and these weights, which must outlive it.
inline ProgramSource made_up_source(MadeUpConfig& config, MadeUpWeights& weights) {
  ProgramSource source;
  source.name = "made-up";
  source.config_name = "config.json";
  source.config = config.view();
  source.bind = [&weights](quire_weight& wanted, bool optional) { return weights.bind(wanted, optional); };
  return source;
}

// One attention layer with a cache and a gated block: every op of a dense model once.
//   ops: 0 embed, 1 norm, 2 linear qkv, 3 rope k, 4 kv_store, 5 rope q, 6 attend, 7 linear o, 8 norm + add, 9 linear
//   gate and up, 10 glu, 11 linear down, 12 add, 13 norm, 14 gather_rows, 15 linear logits
inline Value build_small_network(Builder& b, uint32_t dim = 8, uint32_t heads = 2, uint32_t kv_heads = 1,
                                 uint32_t head_dim = 4, uint32_t hidden = 12, uint32_t vocab = 16) {
  const Weight table = b.matrix("table", vocab, dim);
  const Rotation rotation = b.rotation(QUIRE_ROPE_HALF, 10000, head_dim);
  const Value x = b.embed(table);
  const Value h = b.norm(x, b.vector("norm.0", dim), 1e-5);
  const uint32_t q_dim = heads * head_dim, kv_dim = kv_heads * head_dim;
  const Value qkv = b.linear(h, {b.matrix("q", q_dim, dim),
                                 {b.matrix("k", kv_dim, dim), b.vector("k.bias", kv_dim)},
                                 b.matrix("v", kv_dim, dim)});
  const Value q = b.view(qkv, 0, heads, head_dim);
  const Value k = b.view(qkv, q_dim, kv_heads, head_dim);
  const Value v = b.view(qkv, q_dim + kv_dim, kv_heads, head_dim);
  const KvLayer kv = b.kv_layer(kv_heads, head_dim, head_dim);
  b.kv_store(kv, b.rope(k, rotation), v);
  const Value attended = b.attend(kv, b.rope(q, rotation));
  const Value y = b.linear(attended, {b.matrix("o", dim, q_dim)});
  auto [g, s] = b.add_norm(x, y, b.vector("norm.1", dim), 1e-5);
  const Value gate_up = b.linear(g, {b.matrix("gate", hidden, dim), b.matrix("up", hidden, dim)});
  const Value gate = b.view(gate_up, 0, 1, hidden), up = b.view(gate_up, hidden, 1, hidden);
  const Value z = b.add(s, b.linear(b.glu(gate, up, QUIRE_ACT_SILU), {b.matrix("down", dim, hidden)}));
  return b.linear(b.gather_rows(b.norm(z, b.vector("norm.2", dim), 1e-5)), {table});
}

// The small network as a program, and what it points into.
struct SmallProgram {
  MadeUpConfig config{{{"max_position_embeddings", int64_t{64}}}, {}, false};
  MadeUpWeights weights;
  Program program;

  SmallProgram() {
    ProgramBuilder recorder(made_up_source(config, weights));
    Builder b(recorder.table());
    b.output("logits", build_small_network(b));
    program = recorder.finish();
  }
};

} // namespace quire::test
